"""What is judged again when the rules change, and how much of judging one sandbox gets."""

from __future__ import annotations

from time import thread_time

import pytest

from hutch.egress.fence.bucket import Bucket
from hutch.egress.fence.guarded import Guarded, Room
from hutch.egress.fence.judging import Judge
from hutch.egress.fence.permit import Permit
from hutch.egress.fence.refusal import Refused
from hutch.model import NetworkRules

GOOD = "25.25.25.10"
REQUEST = b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n"


def guarded(rules: NetworkRules) -> Guarded:
    made = Guarded("sbx_a", "10.0.0.2", rules, Room(20_000, []))
    made.names.add("good.test", [GOOD], 1e9)
    return made


@pytest.mark.parametrize("opened", [NetworkRules(public=True), NetworkRules(allow=[GOOD])])
@pytest.mark.parametrize("narrowed", [NetworkRules(), NetworkRules(allow=["good.test"])])
def test_what_was_open_by_address_ends_with_its_rule(opened: NetworkRules, narrowed: NetworkRules) -> None:
    sandbox = guarded(opened)
    judge = Judge(sandbox, (GOOD, 443), 1)
    assert judge.admit()
    judge.feed(b"anything")
    judge.again()
    sandbox.permit = Permit(narrowed)  # where it has a name now, that was never judged
    with pytest.raises(Refused, match="changed"):
        judge.again()


def test_what_has_not_said_its_name_yet_is_judged_by_the_new_rules() -> None:
    sandbox = guarded(NetworkRules(allow=["good.test"]))
    judge = Judge(sandbox, (GOOD, 80), 1)
    judge.admit()
    sandbox.permit = Permit(NetworkRules(allow=["other.test"]))
    judge.again()
    with pytest.raises(Refused, match="not in policy"):
        judge.feed(REQUEST)


@pytest.mark.parametrize(("head", "piece"), [(b"", REQUEST), (CHUNKED, b"1\r\nx\r\n")])
def test_a_flood_of_requests_or_of_pieces_ends(head: bytes, piece: bytes) -> None:
    sandbox = guarded(NetworkRules(allow=["good.test"]))
    sandbox.judging = Bucket(0.0, 0.1)  # however slow this machine is
    judge = Judge(sandbox, (GOOD, 80), 1)
    judge.admit()
    began = thread_time()
    judge.feed(head + piece)
    with pytest.raises(Refused, match="than can be judged"):
        while thread_time() - began < 5:
            judge.feed(piece * 100)
    assert thread_time() - began < 1
    with pytest.raises(Refused, match="than can be judged"):  # a new connection gets no more
        other = Judge(sandbox, (GOOD, 80), 1)
        other.admit()
        other.feed(REQUEST)


def test_private_addresses_are_told_where_a_rule_lets_them_through_by_themselves() -> None:
    permit = Permit(NetworkRules(allow=["git.corp.test", "db.corp.test:5432", "10.20.0.0/16:443"], public=True))
    assert permit.tells("git.corp.test", "10.20.0.5") and permit.tells("other.test", "1.2.3.4")
    for name, address in (
        ("git.corp.test", "10.21.0.5"),
        ("db.corp.test", "10.20.0.5"),
        ("other.test", "10.20.0.5"),
        ("git.corp.test", "169.254.169.254"),
    ):
        assert not permit.tells(name, address)
