"""Brings together what the fence and the firewall tell of a sandbox's connections: in its log, and the refused ones as
news to whoever runs a task in it."""

from __future__ import annotations

import asyncio
import time
from ipaddress import IPv4Address
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from hutch.egress.fence.dns_wire import BadMessage, parse_question, parse_told
from hutch.egress.fence.permit import PUBLIC
from hutch.egress.fence.questions import MAX_ADDRESSES
from hutch.egress.reports import UNTOLD, Reports
from hutch.errors import HutchError
from hutch.model import NetworkPolicy, NetworkRules
from hutch.model.egress import EgressEntry
from hutch.network.base import SlotPool
from hutch.network.ended import Ended, Place
from hutch.network.firewall import ALLOWED, ANSWER
from hutch.network.nflog import Packet
from hutch.node.activity import Activity, Kind
from hutch.node.egress_log import EgressLog
from hutch.node.entry import Entry, Registry
from hutch.node.journal import Journal
from hutch.node.passing import Begun, Later, Passing
from hutch.node.printable import fit
from hutch.node.refusals import Refusals
from hutch.node.resolutions import Resolutions
from hutch.node.tracing import Tracing

log = structlog.get_logger("hutch.node")

_LONGEST = 7 * 86400.0
COUNT_SECONDS = 5.0
TOLD_SECONDS = 0.5
"""After which the firewall has told of a packet, if it does."""
_DNS = 53
_LOST_SECONDS = 60.0
"""Between two complaints of the node's log."""
_DECISION = (
    *("kind", "name", "address", "port", "protocol", "rule", "reason", "secret"),
    *("sent", "received", "count"),
)
"""What the audit log tells of an entry."""


class Egress:
    """Called on the event loop; nothing here waits."""

    def __init__(
        self, registry: Registry, journal: Journal, egress_log: EgressLog, activity: Activity, tracing: Tracing
    ) -> None:
        self._registry = registry
        self._log = egress_log
        self._activity = activity
        self._tracing = tracing
        self._passing = Passing()
        self._resolved: WeakKeyDictionary[Entry, Resolutions] = WeakKeyDictionary()
        self._refused: WeakKeyDictionary[Entry, int] = WeakKeyDictionary()
        """Packets of those that run now of whose refusal something was told."""
        self._later = Later(self._over)
        self._ended = Reports(self._passed)
        self._lost_at = -_LOST_SECONDS
        self._refusals = Refusals(journal)

    def told(self, entry: dict[str, Any]) -> None:
        """The fence or the broker has let something through, or not. They read what guests send, so that their own word
        is checked."""
        sandbox = str(entry.pop("sandbox", None))
        began = entry.pop("began", None)
        if (found := self._registry.find(sandbox)) is None:
            return
        try:
            EgressEntry.model_validate(entry | {"seq": 0, "time": 0})
        except ValueError as error:
            log.error("the fence says what makes no sense", sandbox=sandbox, error=str(error)[:1000])
        else:
            if entry["kind"] == "name" and (addresses := entry.get("addresses")):
                self._resolutions(found).note(entry["name"], addresses)
            self._note(found, entry, _moment(began))

    def firewall(self, packet: Packet) -> None:
        """The firewall has; or a sandbox with an open network was told something about a name."""
        if packet.mark == ANSWER:
            self._answered(packet)
            return
        found = self._registry.at(packet.source)
        if found is None:
            return
        allowed = packet.mark == ALLOWED
        if not allowed:
            self._refused[found] = self._refused.get(found, 0) + 1
        entry: dict[str, Any] = {"kind": "connection", "allowed": allowed, "protocol": packet.protocol}
        if packet.port == _DNS and packet.data and (name := _name(packet.data)) is not None:
            entry |= {"kind": "name", "name": name}
        else:
            entry |= {"address": packet.target, "port": packet.port}
            entry["name"] = self._resolutions(found).name_of(packet.target)
        entry["reason"] = None if allowed else "not in policy"
        entry["rule"] = _rule(found.record.network, packet) if allowed else None
        entry = self._note(found, entry, time.time())
        if allowed and entry["kind"] == "connection" and not found.record.hidden:
            place = Place(packet.source, packet.source_port, packet.protocol, packet.target, packet.port)
            self._passing.began(place, Begun(found.id, time.time(), entry))

    def _answered(self, packet: Packet) -> None:
        found = self._registry.at(packet.target)
        if found is None:
            return
        try:
            name, addresses = parse_told(packet.data)
        except BadMessage:
            return
        name, addresses = name[:253], addresses[:MAX_ADDRESSES]
        resolutions = self._resolutions(found)
        resolutions.note(name, addresses)
        if resolutions.news(name, addresses):
            entry = {"kind": "name", "allowed": True, "name": name, "addresses": addresses, "rule": PUBLIC}
            self._note(found, entry, time.time())

    def _resolutions(self, found: Entry) -> Resolutions:
        return self._resolved.setdefault(found, Resolutions())

    def ended(self, ended: Ended) -> None:
        """A connection is over that the firewall has let pass. The next sandbox with its address has nothing to do with
        it, and it may be told when there is none."""
        self._later.add((ended, self._registry.at(ended.place.source)))

    def _over(self, what: tuple[Ended, Entry | None]) -> None:
        ended, found = what
        place, known = ended.place, self._passing.ended(ended.place)
        if known is not None:
            sandbox, entry = known.sandbox, known.entry | {"seconds": round(time.time() - known.at, 3)}
        elif ended.again or found is None or found.record.hidden:
            return
        else:
            entry = {"kind": "connection", "allowed": True, "protocol": place.protocol}
            entry |= {"address": place.target, "port": place.port, "rule": _rule(found.record.network, place)}
            entry["name"] = self._resolutions(found).name_of(place.target)
            sandbox = found.id
        counted = {"sent": ended.sent, "received": ended.received}
        entry |= {name: value for name, value in counted.items() if value is not None}
        self._ended.add(entry | {"sandbox": sandbox, "reason": "it has ended"})

    def lost(self) -> None:
        """The kernel had more ends to tell than were read."""
        if time.monotonic() - self._lost_at >= _LOST_SECONDS:
            self._lost_at = time.monotonic()
            log.warning("ends of connections past the fence were too many: of some the egress log has no bytes")

    async def count(self, slots: SlotPool) -> None:
        """Tell of what the firewall has refused and not told, which is most of a flood. Raises `InternalError`."""
        if not self._refused:
            return
        refused = await slots.refusals()
        await asyncio.sleep(TOLD_SECONDS)
        for found, told in list(self._refused.items()):
            more = refused.get(found.record.address, 0) - told if found.record.slot is not None else 0
            if more > 0 and not found.record.hidden:
                self._refused[found] += more
                entry = {"kind": "connection", "allowed": False, "reason": UNTOLD, "count": more}
                self._log.add(found.id, entry)
                self._refusals.add(found, entry)

    async def count_forever(self, slots: SlotPool) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            try:
                await self.count(slots)
            except HutchError as error:
                log.warning("refusals are not counted", error=str(error))

    async def stop(self) -> None:
        """Tell what is being told; nothing more comes."""
        self._later.flush()
        await self._refusals.stop()

    def forget(self, entry: Entry) -> None:
        """It does not run any more: what it is refused from now on is news again."""
        self._refusals.forget(entry)
        self._refused.pop(entry, None)
        self._resolved.pop(entry, None)

    def _passed(self, entry: dict[str, Any]) -> None:
        self._log.add(entry.pop("sandbox"), entry)

    def _note(self, found: Entry, entry: dict[str, Any], began: float) -> dict[str, Any]:
        """The entry as it is in the log."""
        if found.record.hidden:
            return entry
        port = _DNS if entry["kind"] == "name" else entry.get("port")
        if entry["kind"] != "secret" and port is not None:
            process = self._tracing.who(found, entry.get("address"), port, began)
            entry["process"] = process.model_dump(exclude_none=True) if process is not None else None
        entry = fit(entry)
        self._log.add(found.id, entry)
        self._activity.note(found.id, _kind(entry), _decision(entry), began, least=("kind", "rule", "reason", "secret"))
        if not entry["allowed"]:
            self._refusals.add(found, entry)
            if "secret" in entry:
                log.warning("a placeholder was refused", sandbox=found.id, target=str(entry.get("name"))[:300])
        return entry


def _moment(told: object) -> float:
    """The Unix time that the fence tells; now, where that makes no sense."""
    now = time.time()
    return told if isinstance(told, float) and now - _LONGEST < told <= now else now


def _kind(entry: dict[str, Any]) -> Kind:
    """As what it stands in the audit log."""
    if entry["kind"] == "secret":
        return ("secret", "used") if entry["allowed"] else ("secret", "refused")
    return ("connection", "allowed") if entry["allowed"] else ("connection", "refused")


def _decision(entry: dict[str, Any]) -> dict[str, Any]:
    told = {name: entry[name] for name in _DECISION if name in entry}
    if process := entry.get("process"):
        told |= {"pid": process["pid"], "process": process.get("path") or process["name"]}
    return told


def _name(data: bytes) -> str | None:
    try:
        return parse_question(data).name
    except (BadMessage, IndexError):
        return None


def _rule(policy: NetworkPolicy, packet: Packet | Place) -> str:
    rules = policy.addresses if isinstance(policy, NetworkRules) else []
    place = IPv4Address(packet.target)
    for rule in rules:
        if packet.port is None:
            covered = rule.everything and place in rule.network
        else:
            covered = rule.covers(place, packet.port, "udp" if packet.protocol == "udp" else "tcp")
        if covered:
            return rule.text
    return PUBLIC
