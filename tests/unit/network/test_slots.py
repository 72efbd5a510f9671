"""Names and addresses of slots."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from hutch.network.base import Services
from hutch.network.slots import LinuxSlotPool


@pytest.fixture
def pool() -> LinuxSlotPool:
    services = Services(llm=1, identity=4, tcp=2, dns=3, uid=61184, broker=61185, resolver=None)
    pool = LinuxSlotPool("ab12", "10.200.0.0/14", 0, services)
    pool._subnet = IPv4Network("10.200.16.0/20")  # what `start` claims
    return pool


def test_names_fit_into_what_linux_allows(pool: LinuxSlotPool) -> None:
    last = pool.slot(1023)
    assert last.namespace == "hutch-ab12-1023"
    assert last.link == "hab12x1023"
    assert len(last.link) <= 15


def test_addresses_of_all_slots_are_different_and_inside(pool: LinuxSlotPool) -> None:
    slots = [pool.slot(index) for index in range(1024)]
    addresses = {address for slot in slots for address in (slot.host_address, slot.guest_address)}
    assert len(addresses) == 2048
    assert all(IPv4Address(address) in IPv4Network("10.200.16.0/20") for address in addresses)
    for slot in slots:
        network = IPv4Network(f"{slot.host_address}/{slot.prefix}", strict=False)
        assert IPv4Address(slot.guest_address) in list(network.hosts())


@pytest.mark.parametrize("index", [-1, 1024])
def test_an_index_outside_is_no_slot(pool: LinuxSlotPool, index: int) -> None:
    with pytest.raises(ValueError, match="no slot"):
        pool.slot(index)
