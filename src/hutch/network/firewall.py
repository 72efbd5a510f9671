"""The node's nftables table: what each slot may reach. It stands on the host's side of the links, out of the guests'
reach.

Packets of a guest are judged once, in prerouting, where all of them pass whether they are for the host or for
elsewhere, and after the redirect of LLM calls has been made. (A reject there needs Linux 5.9, and works even while
the host does not forward.) Which chain judges is looked up in one map by link *and* source address, so that a forged
source finds nothing and is dropped, and so that a change of one sandbox's policy is one element of one transaction. A
finer policy is one more chain.
"""

from __future__ import annotations

from hutch.model import NetworkPolicy
from hutch.network.base import LLM_ADDRESS, Slot
from hutch.network.nft import Nft, NftError
from hutch.network.resolver import host_resolver

CLOSED = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # carrier-grade NAT; some clouds' metadata
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local; cloud metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments; Oracle's metadata
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "224.0.0.0/3",  # multicast, reserved, broadcast
)
"""Never reachable from a sandbox."""

OPEN = "allow_all"

RULES = """
table inet {table} {{
  map judges {{
    type ifname . ipv4_addr : verdict
    {policies}
  }}
  set open {{
    comment "slots that may have answers from outside"
    type ifname . ipv4_addr
    {open}
  }}
  set closed {{
    type ipv4_addr; flags interval; auto-merge
    elements = {{ {closed} }}
  }}
  chain llm {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{links}" ip daddr {llm} tcp dport 80 redirect to :{port}
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
    ct status dnat ct original ip daddr {llm} tcp dport {port} accept
  }}
  chain deny_all {{
    jump always
    goto refuse
  }}
  chain allow_all {{
    jump always
    ct status dnat ct original ip daddr {llm} meta l4proto {{ tcp, udp }} th dport 53 accept
    fib daddr type != unicast goto refuse
    ip daddr @closed goto refuse
    accept
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
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
  chain gateway {{
    comment "the LLM gateway is for guests and the host only"
    type filter hook input priority filter - 10; policy accept;
    iifname != {{ "lo", "{links}" }} tcp dport {port} drop
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


class Firewall:
    """The table `hutch_<node>`. Its methods block for about 0.1 ms: call them from one thread. They raise
    `NftError`."""

    def __init__(self, node: str, subnet: str, gateway_port: int) -> None:
        self._table = f"hutch_{node}"
        self._links = f"h{node}x*"
        self._subnet = subnet
        self._gateway_port = gateway_port
        self._nft = Nft()
        self._modes: dict[str, str] = {}

    def install(self, keep: list[Slot]) -> None:
        """Put the table in place, or in the place of an earlier one in one step. The policies that the slots in `keep`
        had in the earlier one stay in force."""
        earlier = self._read()
        self._modes = {key: earlier[key] for key in map(_key, keep) if key in earlier}
        resolver = host_resolver()
        rules = RULES.format(
            names=NAMES.format(links=self._links, llm=LLM_ADDRESS, resolver=resolver) if resolver else "",
            table=self._table,
            links=self._links,
            llm=LLM_ADDRESS,
            port=self._gateway_port,
            subnet=self._subnet,
            closed=", ".join((*CLOSED, self._subnet)),
            policies=_elements([f"{key} : goto {mode}" for key, mode in self._modes.items()]),
            open=_elements([key for key, mode in self._modes.items() if mode == OPEN]),
        )
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}\n{rules}")

    def set_policy(self, slot: Slot, policy: NetworkPolicy) -> None:
        """From now on the slot is judged by this policy; before the first one, all its packets are dropped."""
        key = _key(slot)
        self._nft.run("\n".join((*self._removal(key), *self._addition(key, policy.mode))))
        self._modes[key] = policy.mode

    def forget(self, slot: Slot) -> None:
        """Drop all the slot's packets from now on."""
        key = _key(slot)
        if commands := self._removal(key):
            self._nft.run("\n".join(commands))
        self._modes.pop(key, None)

    def remove(self) -> None:
        """Remove the table."""
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}")
        self._modes.clear()

    def close(self) -> None:
        self._nft.close()

    def _addition(self, key: str, mode: str) -> list[str]:
        commands = [f"add element inet {self._table} judges {{ {key} : goto {mode} }}"]
        return commands + [f"add element inet {self._table} open {{ {key} }}"] * (mode == OPEN)

    def _removal(self, key: str) -> list[str]:
        mode = self._modes.get(key)
        commands = [f"delete element inet {self._table} judges {{ {key} }}"] * (mode is not None)
        return commands + [f"delete element inet {self._table} open {{ {key} }}"] * (mode == OPEN)

    def _read(self) -> dict[str, str]:
        """The policies that are in force: of an earlier daemon, whose sandboxes go on."""
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


def _key(slot: Slot) -> str:
    return f"{slot.link} . {slot.guest_address}"


def _elements(items: list[str]) -> str:
    return f"elements = {{ {', '.join(items)} }}" if items else ""
