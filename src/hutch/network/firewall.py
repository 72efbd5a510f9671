"""The node's nftables table: what each slot may reach. It stands on the host's side of the links, out of the guests'
reach.

Packets of a guest are judged once, in prerouting, where all of them pass whether they are for the host or for
elsewhere, and after the redirects (of LLM calls, names, and connections to names) have been made. (A reject there
needs Linux 5.9, and works even while the host does not forward.) Which chain judges is looked up in one map by link
*and* source address, so that a forged source finds nothing and is dropped, and so that a change of one sandbox's
policy is one transaction. Slots without rules of their own share a chain; each with rules has one.

Connections to names: only while an address stands in `resolved` for this guest, which the fence has asked for before it
told the guest the address, is a connection there led to the fence. Everything else is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network

from hutch.model import AllowAll, DenyAll, NetworkPolicy, NetworkRules
from hutch.model.private import never
from hutch.model.rules import CLOSED
from hutch.network.base import IDENTITY_ADDRESS, LLM_ADDRESS, Services, Slot
from hutch.network.chains import OPEN_CHAIN, PASSING_CHAIN, downward, forwarded, upward
from hutch.network.nflog import SNAP, group_of
from hutch.network.nft import Nft, NftError
from hutch.network.resolver import host_resolver

MAX_RESOLVED = 262144
"""Elements of `resolved`: 500 sandboxes of 500 addresses."""

HELD, FRESH = 1024, 250
"""Connections at once, and new ones a second, of a sandbox without rules of its own."""

ALLOWED, REFUSED, ANSWER = "allowed", "refused", "answer"
"""What the kernel's log says of a packet."""

RULES = """
table inet {table} {{
  map judges {{
    type ifname . ipv4_addr : verdict
  }}
  map limits {{
    type ifname : verdict
  }}
  set open {{
    comment "slots that may have answers from outside"
    type ifname . ipv4_addr
  }}
  set named {{
    comment "slots that ask the fence for names"
    type ifname . ipv4_addr
  }}
  set asked {{
    comment "name servers that a slot's policy names: questions to them are the fence's to answer"
    type ifname . ipv4_addr . ipv4_addr
  }}
  set resolved {{
    comment "guest, address, port: led to the fence"
    type ipv4_addr . ipv4_addr . inet_service; flags timeout; size {resolved}
  }}
  set closed {{
    type ipv4_addr; flags interval; auto-merge
    elements = {{ {closed} }}
  }}
  set sealed {{
    comment "what no rule of a sandbox opens: `closed` without the private networks that the operator allows"
    type ipv4_addr; flags interval; auto-merge
    elements = {{ {sealed} }}
  }}
  set held {{
    type ipv4_addr; flags dynamic; size 4096
  }}
  set fresh {{
    type ipv4_addr; flags dynamic, timeout; timeout 10s; size 4096
  }}
  set doors {{
    comment "new connections to the LLM gateway and to the door for identities, which the node itself answers"
    type ipv4_addr; flags dynamic, timeout; timeout 10s; size 4096
  }}
  set told {{
    type ipv4_addr; flags dynamic, timeout; timeout 60s; size 4096
  }}
  set refusals {{
    comment "how many packets of each guest were refused, those included that nobody is told of"
    type ipv4_addr; flags dynamic; size 4096
  }}
  set noted {{
    type ipv4_addr; flags dynamic, timeout; timeout 60s; size 4096
  }}
  set answered {{
    type ipv4_addr; flags dynamic, timeout; timeout 60s; size 4096
  }}
  chain llm {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{links}" ip daddr {llm} tcp dport 80 redirect to :{services.llm}
    iifname "{links}" ip daddr {identity} tcp dport 80 redirect to :{services.identity}
    iifname . ip saddr @named ip daddr {llm} meta l4proto {{ tcp, udp }} th dport 53 redirect to :{services.dns}
    iifname . ip saddr . ip daddr @asked meta l4proto {{ tcp, udp }} th dport 53 redirect to :{services.dns}
    iifname . ip saddr @named ip saddr . ip daddr . tcp dport @resolved redirect to :{services.tcp}
    {names}
  }}
  chain guests {{
    type filter hook prerouting priority dstnat + 50; policy accept;
    iifname "{links}" jump judge
  }}
  chain judge {{
    meta nfproto ipv6 drop
    iifname . ip saddr vmap @judges
    drop
  }}
  chain always {{
    ct direction reply ct state established accept
    ct state new ct status dnat ct original ip daddr {{ {llm}, {identity} }} meta l4proto tcp \
      update @doors {{ ip saddr limit rate over {fresh}/second burst {burst} packets }} goto refuse
    ct status dnat ct original ip daddr {llm} tcp dport {services.llm} accept
    ct status dnat ct original ip daddr {identity} tcp dport {services.identity} accept
  }}
  chain deny_all {{
    jump always
    goto refuse
  }}
  chain allow_all {{
    jump always
    ct state new update @fresh {{ ip saddr limit rate over {fresh}/second burst {burst} packets }} goto refuse
    ct state new add @held {{ ip saddr ct count over {held} }} goto refuse
    ct status dnat ct original ip daddr {llm} meta l4proto {{ tcp, udp }} th dport 53 accept
    goto {everything}
  }}
  chain {everything} {{
    fib daddr type != unicast goto refuse
    ip daddr @closed goto refuse
    goto {passing}
  }}
  chain {passing} {{
    ct state new update @noted {{ ip saddr limit rate 20/second burst 100 packets }} log prefix "{allowed}" {told}
    accept
  }}
  chain refuse {{
    update @refusals {{ ip saddr counter }}
    update @told {{ ip saddr limit rate 10/second burst 50 packets }} log prefix "{refused}" {told}
    meta l4proto tcp reject with tcp reset
    meta l4proto udp reject with icmpx port-unreachable
    reject with icmpx admin-prohibited
  }}
  chain inbound {{
    type filter hook forward priority filter - 10; policy accept;
    oifname "{links}" ct direction reply ct state established,related oifname . ip daddr @open accept
    oifname "{links}" drop
  }}
  chain segments {{
    comment "links of slots take larger packets than the way beyond them"
    type filter hook forward priority mangle; policy accept;
    iifname "{links}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    oifname "{links}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  }}
  chain downward {{
    type filter hook postrouting priority filter; policy accept;
    oifname "{links}" udp sport 53 ct direction reply ct original ip daddr {llm} \
      update @answered {{ ip daddr limit rate 20/second burst 100 packets }} log prefix "{answer}" {told}
    oifname vmap @limits
  }}
  chain gateway {{
    comment "the LLM gateway, the door for identities and the fence are for guests and the host only"
    type filter hook input priority filter - 10; policy accept;
    iifname != {{ "lo", "{links}" }} meta l4proto {{ tcp, udp }} th dport {{ {ports} }} drop
  }}
  chain inward {{
    comment "users of the host do not reach sandboxes past the gateway; what the node hands over leads nowhere else"
    type filter hook output priority filter - 10; policy accept;
    oifname "{links}" ct direction original meta skuid != {{ 0, {dialer} }} reject with icmpx admin-prohibited
    oifname != "{links}" meta skuid {dialer} reject with icmpx admin-prohibited
  }}
  chain fence {{
    comment "whoever takes over the fence or the broker still reaches nothing private"
    type filter hook output priority filter - 10; policy accept;
    meta skuid != {{ {services.uid}, {services.broker} }} accept
    ct direction reply accept
    {upstream}
    meta nfproto ipv6 drop
    fib daddr type != unicast reject with icmpx admin-prohibited
    ip daddr @closed reject with icmpx admin-prohibited
  }}
  chain outward {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{links}" masquerade
  }}
}}
"""


NAMES = """iifname "{links}" ip daddr {llm} udp dport 53 dnat ip to {resolver}
    iifname "{links}" ip daddr {llm} tcp dport 53 dnat ip to {resolver}"""
"""A sandbox asks the node's address for names; with an open network its questions reach the host's name server."""

UPSTREAM = "ip daddr {0[0]} meta l4proto {{ tcp, udp }} th dport {0[1]} accept"


class Firewall:
    """The table `hutch_<node>`. Its methods block for about 0.1 ms: call them from one thread. They raise
    `NftError`."""

    def __init__(
        self,
        node: str,
        subnet: str,
        services: Services,
        dialer: int,
        private: Sequence[IPv4Network] = (),
    ) -> None:
        self._table = f"hutch_{node}"
        self._links = f"h{node}x*"
        self._subnet = subnet
        self._services = services
        self._dialer = dialer
        self._private = private
        self._group = group_of(node)
        self._nft = Nft()
        self._policies: dict[Slot, NetworkPolicy] = {}

    def install(self, keep: Iterable[Slot], policies: Mapping[int, NetworkPolicy]) -> None:
        """Put the table in place, or in the place of an earlier one in one step. The slots in `keep` that were judged
        in the earlier one are so in this one: by the rules in `policies` (by index), where they had some."""
        earlier = self._read()
        resolver, services = host_resolver(), self._services
        rules = RULES.format(
            names=NAMES.format(links=self._links, llm=LLM_ADDRESS, resolver=resolver) if resolver else "",
            upstream=UPSTREAM.format(services.resolver) if services.resolver else "",
            table=self._table,
            links=self._links,
            dialer=self._dialer,
            llm=LLM_ADDRESS,
            identity=IDENTITY_ADDRESS,
            services=services,
            ports=f"{services.llm}, {services.identity}, {services.tcp}, {services.dns}",
            subnet=self._subnet,
            closed=", ".join((*map(str, CLOSED), self._subnet)),
            sealed=", ".join((*map(str, never(self._private)), self._subnet)),
            resolved=MAX_RESOLVED,
            everything=OPEN_CHAIN,
            passing=PASSING_CHAIN,
            allowed=ALLOWED,
            refused=REFUSED,
            answer=ANSWER,
            told=f"group {self._group} snaplen {SNAP}",
            held=HELD,
            fresh=FRESH,
            burst=2 * FRESH,
        )
        self._policies = {slot: _kept(earlier[_key(slot)], policies, slot) for slot in keep if _key(slot) in earlier}
        commands = [f"add table inet {self._table}", f"delete table inet {self._table}", rules]
        for slot, policy in self._policies.items():
            commands += self._addition(slot, policy)
        self._nft.run("\n".join(commands))

    def set_policy(self, slot: Slot, policy: NetworkPolicy) -> None:
        """From now on the slot is judged by this policy; before the first one, all its packets are dropped."""
        self._nft.run("\n".join((*self._removal(slot), *self._addition(slot, policy))))
        self._policies[slot] = policy

    def forget(self, slot: Slot) -> None:
        """Drop all the slot's packets from now on."""
        if commands := self._removal(slot):
            counted = f"element inet {self._table} refusals {{ {slot.guest_address} }}"
            self._nft.run("\n".join((*commands, f"add {counted}", f"delete {counted}")))  # if it is there
        self._policies.pop(slot, None)

    def refusals(self) -> dict[str, int]:
        """How many packets were refused, by the guest's address."""
        objects = self._nft.query(f"list set inet {self._table} refusals")
        elements = [each["elem"] for item in objects for each in item.get("set", {}).get("elem", [])]
        return {each["val"]: each["counter"]["packets"] for each in elements}

    def remove(self) -> None:
        """Remove the table."""
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}")
        self._policies.clear()

    def close(self) -> None:
        self._nft.close()

    def _addition(self, slot: Slot, policy: NetworkPolicy) -> list[str]:
        key, table = _key(slot), f"inet {self._table}"
        if not isinstance(policy, NetworkRules):
            commands = [f"add element {table} judges {{ {key} : goto {policy.mode} }}"]
            return commands + [f"add element {table} open {{ {key} }}"] * isinstance(policy, AllowAll)
        commands = [*self._chain(_up(slot), upward(policy, self._services))]
        if lines := downward(policy):
            commands += self._chain(_down(slot), lines)
            commands.append(f'add element {table} limits {{ "{slot.link}" : jump {_down(slot)} }}')
        commands.append(f"add element {table} judges {{ {key} : goto {_up(slot)} }}")
        commands.append(f"add element {table} named {{ {key} }}")
        commands += [f"add element {table} asked {{ {each} }}" for each in _asked(slot, policy)]
        return commands + [f"add element {table} open {{ {key} }}"] * forwarded(policy)

    def _chain(self, name: str, lines: list[str]) -> list[str]:
        chain = f"inet {self._table} {name}"
        return [f"add chain {chain}", *(f"add rule {chain} {line}" for line in lines)]

    def _removal(self, slot: Slot) -> list[str]:
        policy = self._policies.get(slot)
        if policy is None:
            return []
        key, table = _key(slot), f"inet {self._table}"
        commands = [f"delete element {table} judges {{ {key} }}"]
        if isinstance(policy, AllowAll) or (isinstance(policy, NetworkRules) and forwarded(policy)):
            commands.append(f"delete element {table} open {{ {key} }}")
        if isinstance(policy, NetworkRules):
            commands.append(f"delete element {table} named {{ {key} }}")
            commands += [f"delete element {table} asked {{ {each} }}" for each in _asked(slot, policy)]
            chains = [_up(slot)]
            if downward(policy):
                commands.append(f'delete element {table} limits {{ "{slot.link}" }}')
                chains.append(_down(slot))
            commands += [f"{verb} chain {table} {chain}" for chain in chains for verb in ("flush", "delete")]
        return commands

    def _read(self) -> dict[str, str]:
        """The chains that judge: of an earlier daemon, whose sandboxes go on."""
        try:
            objects = self._nft.query(f"list map inet {self._table} judges")
        except NftError:  # there is no such table
            return {}
        elements = [element for item in objects for element in item.get("map", {}).get("elem", [])]
        return {" . ".join(key["concat"]): verdict["goto"]["target"] for key, verdict in elements}


def table_exists(node: str) -> bool:
    """Whether a node of this id has its table in the kernel."""
    nft = Nft()
    try:
        tables = nft.query("list tables inet")
    finally:
        nft.close()
    return any(item.get("table", {}).get("name") == f"hutch_{node}" for item in tables)


def _kept(chain: str, policies: Mapping[int, NetworkPolicy], slot: Slot) -> NetworkPolicy:
    """The policy that such a chain stood for; nothing, where the rules that it had are not known."""
    if chain == "allow_all":
        return AllowAll()
    rules = policies.get(slot.index)
    return rules if chain == _up(slot) and isinstance(rules, NetworkRules) else DenyAll()


def _key(slot: Slot) -> str:
    return f"{slot.link} . {slot.guest_address}"


def _asked(slot: Slot, rules: NetworkRules) -> list[str]:
    return [f"{_key(slot)} . {server}" for server in dict.fromkeys(rules.name_servers)]


def _up(slot: Slot) -> str:
    return f"up{slot.index}"


def _down(slot: Slot) -> str:
    return f"down{slot.index}"
