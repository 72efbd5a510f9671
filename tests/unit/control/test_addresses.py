"""Which addresses the server lets itself be sent to."""

from __future__ import annotations

import pytest

from hutch.control.addresses import is_public, resolve
from hutch.errors import InputFailed


@pytest.mark.parametrize("address", ["1.1.1.1", "140.82.121.4", "2606:4700:4700::1111"])
def test_public_ones(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "198.18.0.1", "192.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1",
        "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:db8::1", "::127.0.0.1", "not an address",
    ],
)  # fmt: skip
def test_private_ones_in_every_disguise(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
async def test_a_host_at_a_private_address_is_refused(host: str) -> None:
    with pytest.raises(InputFailed):
        await resolve(host, 80, allow_private=False)


async def test_private_addresses_can_be_allowed() -> None:
    assert await resolve("127.0.0.1", 80, allow_private=True) == "127.0.0.1"


async def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(InputFailed, match="cannot be resolved"):
        await resolve("no-such-host.invalid", 80, allow_private=False)
