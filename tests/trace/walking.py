"""Namespaces, packets and rules for tests of the tracer: a pod with two interfaces, of which everything is known."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from istio_init.dialects.iptables.ipset import parse_ipset_save
from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.chains import BaseChain, Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import (
    DEFAULT_TABLE,
    LOCAL_TABLE,
    MAIN_TABLE,
    Address,
    Host,
    Link,
    Listener,
    Route,
    RoutingRule,
)
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import Hook, Origin, Rule, Statement, Store
from istio_init.netfilter.stages import Netfilter
from istio_init.trace.result import Trace
from istio_init.trace.tracer import Tracer

ETH0 = ("10.1.2.3", "10.1.2.4", "fd00:1::4", "fd00:1::3", "fe80::2")
NET1 = ("10.9.0.3", "fd00:9::3")
LOOPBACK = ("127.0.0.1", "::1")

TYPES = {each.name.lower(): each for each in AddressType}


def address(text: str) -> int:
    """An address as a number."""
    return int(ip_address(text))


def route(text: str) -> Route:
    """A route as ip(8) writes it: an optional type, a network, ``dev``, ``table``, ``metric``."""
    words = text.split()
    kind = TYPES[words.pop(0)] if words[0] in TYPES else AddressType.UNICAST
    destination = ip_network({"default": "0.0.0.0/0", "default6": "::/0"}.get(words[0], words[0]))
    options = dict(zip(words[1::2], words[2::2], strict=True))
    table = int(options.get("table", LOCAL_TABLE if kind is AddressType.LOCAL else MAIN_TABLE))
    return Route(table, destination, kind, options.get("dev"), metric=int(options.get("metric", 0)))


ROUTES = tuple(
    route(text)
    for text in (
        *(f"local {each} dev eth0" for each in ETH0),
        *(f"local {each} dev net1" for each in NET1),
        "local 127.0.0.0/8 dev lo",
        "local ::1 dev lo",
        f"broadcast 10.1.255.255 dev eth0 table {LOCAL_TABLE}",
        "10.1.0.0/16 dev eth0",
        "10.9.0.0/24 dev net1",
        "default dev eth0",
        "fd00:1::/64 dev eth0",
        "fd00:9::/64 dev net1",
        "default6 dev eth0",
    )
)
RULES = tuple(RoutingRule(*each) for each in ((0, LOCAL_TABLE), (32766, MAIN_TABLE), (32767, DEFAULT_TABLE)))


def host(
    *routes: str, rules: tuple[RoutingRule, ...] = (), sockets: tuple[Listener, ...] = (), **settings: Any
) -> Host:
    """The pod, with more routes, routing rules and sockets. It does not forward, and believes every source address."""
    everything = (*(route(each) for each in routes), *ROUTES)
    defaults: dict[str, Any] = {
        "forwards": dict.fromkeys(Family, False),
        "reverse_path_filter": dict.fromkeys(["lo", "eth0", "net1"], 0),
        "route_localnet": dict.fromkeys(["lo", "eth0", "net1"], False),
        "accept_local": dict.fromkeys(["lo", "eth0", "net1"], False),
        "src_valid_mark": dict.fromkeys(["lo", "eth0", "net1"], False),
    }
    links = {"lo": LOOPBACK, "eth0": ETH0, "net1": NET1}
    return Host(
        tuple(Link(name, number, True, _addresses(each)) for number, (name, each) in enumerate(links.items(), 1)),
        dict.fromkeys(Family, tuple(sorted((*rules, *RULES), key=lambda rule: rule.priority))),
        {
            family: tuple(each for each in everything if each.destination.version == (4, 6)[family is Family.IPV6])
            for family in Family
        },
        sockets,
        **{**defaults, **settings},
    )


def _addresses(texts: tuple[str, ...]) -> tuple[Address, ...]:
    return tuple(ip_address(each) for each in texts)


def packet(destination: str, port: int = 80, *, to: str = "outbound", **facts: Any) -> Packet:
    """A TCP packet: from the pod's application, or to it from a neighbour."""
    is_ipv6 = ":" in destination
    outbound = to == "outbound"
    own, peer = ("fd00:1::3", "fd00:1::1") if is_ipv6 else ("10.1.2.3", "10.1.0.1")
    defaults: dict[str, Any] = {
        "protocol": 6,
        "source": own if outbound else peer,
        "source_port": 21000,
        "uid": 1000 if outbound else None,
        "gid": 1000 if outbound else None,
        "interface": "eth0",
        "length": 60,
        "ttl": 64,
    }
    values = {**defaults, **facts}
    values["source"] = ip_address(values["source"])
    return Packet(Direction(to), destination=ip_address(destination), destination_port=port, **values)


def inbound(destination: str, port: int = 80, **facts: Any) -> Packet:
    """A TCP packet that comes in via eth0 from a neighbour."""
    return packet(destination, port, to="inbound", **facts)


def save(
    text: str, *, family: Family = Family.IPV4, store: Store = Store.NFT, sets: str | None = None
) -> tuple[Table, ...]:
    """Tables of lines such as ``*filter``, ``:OUTPUT DROP`` and ``-A OUTPUT -j DROP``; other built-in chains accept."""
    lines: list[str] = []
    declared: set[str] = set()
    for line in map(str.strip, text.strip().splitlines()):
        if line.startswith("*"):
            lines += ["COMMIT", line] if lines else [line]
            declared = set()
        elif line.startswith(":"):
            name, *policy = line[1:].split()
            declared.add(name)
            lines.append(f":{name} {policy[0] if policy else '-'} [0:0]")
        else:
            name = line.split()[1]
            if name not in declared:
                declared.add(name)
                lines.append(f":{name} {'ACCEPT' if name.isupper() and name in Hook.__members__ else '-'} [0:0]")
            lines.append(line)
    known = None if sets is None else parse_ipset_save(sets)
    return lower(parse_save("\n".join([*lines, "COMMIT", ""]), family).rules, store, known)


def base(
    hook: Hook,
    *bodies: tuple[Statement, ...],
    priority: int = 0,
    type: ChainType = ChainType.FILTER,
    drops: bool = False,
) -> Chain:
    """A base chain of nft, called as its hook; each body is a rule."""
    return chain(hook.value, *bodies, base=BaseChain(hook, priority, type, drops))


def chain(name: str, *bodies: tuple[Statement, ...], base: BaseChain | None = None, tracks: bool = False) -> Chain:
    """A chain of rules by their statements."""
    rules = [
        Rule(body, Origin(Store.NFT, "inet", "t", name, number, f"rule {number} of {name}"), None, tracks)
        for number, body in enumerate(bodies, 1)
    ]
    return Chain(name, tuple(rules), base)


def table(*chains: Chain, family: str = "inet", name: str = "t", is_dormant: bool = False) -> Table:
    """A table of nft."""
    named = {
        each.name: each.replace(
            rules=tuple(rule.replace(origin=rule.origin.replace(table=name, family=family)) for rule in each.rules)
        )
        for each in chains
    }
    return Table(Store.NFT, family, name, named, is_dormant=is_dormant)


def trace(packet: Packet, *tables: Table, on: Host | None = None, tracks: bool | None = None) -> Trace:
    """Trace a packet through tables on a host."""
    known = None if tracks is None else dict.fromkeys(Family, tracks)
    return Tracer(Netfilter(tables, None, known), on if on is not None else host()).trace(packet)


def matched(trace: Trace) -> list[list[str]]:
    """The rules that matched, leg by leg, as table, chain and number."""
    return [
        [f"{hop.rule.origin.table} {hop.rule.origin.chain} {hop.rule.origin.number}" for hop in leg.hops if hop.matched]
        for leg in trace.legs
    ]
