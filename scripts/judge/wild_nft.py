"""Random native tables of nf_tables, and rules that nft puts into iptables' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from judge.wild_pools import (
    DSCPS,
    ICMP_TYPES,
    LENGTHS_OF_PACKETS,
    PEER_MACS,
    TTLS,
    Draw,
)

NFT = ("nft", "-f", "-")
HOOKS = {
    "filter": ("prerouting", "input", "forward", "output", "postrouting"),
    "nat": ("prerouting", "input", "output", "postrouting"),
    "route": ("output",),
}
BUSY = {"output": 5, "prerouting": 4, "input": 3, "postrouting": 2, "forward": 1}
PRIORITIES = (-450, -350, -300, -250, -200, -175, -150, -120, -100, -50, 0, 0, 10, 50, 60, 100, 120, 150, 200, 300)
STATES = ("new", "new", "invalid", "untracked", "established,related", "new,untracked")
IN = frozenset(["prerouting", "input", "forward"])
OUT = frozenset(["forward", "output", "postrouting"])
Hooks = frozenset[str]


class Place(NamedTuple):
    """Where a rule is to stand."""

    draw: Draw
    family: str
    kind: str
    hooks: Hooks
    sets: Sequence[tuple[str, str]]
    """Names and keys of sets, such as `ip daddr`."""
    dynamic: str = ""
    """A set to which packets add."""


def _no(draw: Draw, chance: float = 0.25) -> str:
    return "!= " if draw.maybe(chance) else ""


def family_of(place: Place) -> int:
    """The family of a table, or one of both."""
    return {"ip": 4, "ip6": 6}.get(place.family) or place.draw.family()


def _proto(family: int) -> str:
    return "ip" if family == 4 else "ip6"


def listed(draw: Draw, make: Callable[[], str], high: int = 4) -> str:
    """An anonymous set or map, in which each key stands once."""
    made = [make() for _ in range(draw.randint(1, high))]
    return "{ " + ", ".join({each.split(" : ")[0]: each for each in made}.values()) + " }"


def _address(place: Place) -> str:
    draw, family = place.draw, family_of(place)
    side = draw.one((3, "daddr"), (1, "saddr"))
    value = draw.one(
        (4, draw.net(family)),
        (1, listed(draw, lambda: draw.address(family))),
        (1, "10.0.0.0-10.200.0.0" if family == 4 else "fd00::-fd00:5::"),
    )
    if draw.maybe(0.1):
        mask, low = ("255.255.0.255", "10.1.0.3") if family == 4 else ("ffff:ffff::f", "fd00:1::3")
        return f"{_proto(family)} {side} & {mask} {draw.choice(['==', '!='])} {low}"
    return f"{_proto(family)} {side} {_no(draw)}{value.replace('0.0.0.0/0', '0.0.0.0/2').replace('::/0', '::/2')}"


def _ports(place: Place) -> str:
    draw = place.draw
    of = draw.one((5, "tcp"), (3, "udp"), (3, "th"))
    side = draw.one((4, "dport"), (1, "sport"))
    value = draw.one(
        (5, f"{_no(draw)}{draw.ports('-')}"),
        (2, _no(draw) + listed(draw, lambda: draw.ports("-") if draw.maybe(0.2) else str(draw.port()))),
        (1, f"{draw.choice(['<', '>', '<=', '>='])} {draw.port()}"),
        (0.5, f"& {draw.choice([1, 0xFF00, 0x3FFF])} {draw.choice(['==', '!='])} {draw.choice([0, 1, 80])}"),
    )
    return (
        f"meta l4proto {draw.choice(['tcp', 'udp', '{ tcp, udp }'])} " if of == "th" else ""
    ) + f"{of} {side} {value}"


def _owner(place: Place) -> str:
    draw = place.draw
    value = draw.one(
        (4, f"{_no(draw)}{draw.number()}"),
        (1, f"{_no(draw)}1000-1337"),
        (1, f"{draw.choice(['<', '>', '>='])} 1000"),
        (1, _no(draw) + listed(draw, lambda: str(draw.number()))),
    )
    return f"meta {draw.choice(['skuid', 'skuid', 'skgid'])} {value}"


def _mark(place: Place, key: str = "meta mark") -> str:
    draw = place.draw
    how = draw.one((3, "plain"), (2, "masked"), (1, "list"), (0.7, "compare"), (0.5, "range"))
    if how == "masked":
        return f"{key} & {draw.choice([0xFFF, 0xFF, 0x1]):#x} {draw.choice(['==', '!='])} {draw.mark():#x}"
    if how == "list":
        return f"{key} {_no(draw)}{listed(draw, lambda: f'{draw.mark():#x}')}"
    if how == "compare":
        return f"{key} {draw.choice(['<', '>', '<=', '>='])} {draw.mark():#x}"
    return f"{key} {_no(draw)}" + ("0x100-0x600" if how == "range" else f"{draw.mark():#x}")


def _links(place: Place) -> str:
    draw = place.draw
    keys = [each for each, hooks in (("i", IN), ("o", OUT)) if place.hooks <= hooks] or ["i", "o"]
    key = draw.choice(keys)
    if draw.maybe(0.2):
        return f"meta {key}if {_no(draw, 0.4)}{draw.choice(['lo', 'eth0', 'net1'])}"
    if draw.maybe(0.1):
        return f"meta {key}iftype {draw.choice(['ether', 'loopback'])}"
    name = draw.one((5, '"lo"'), (5, '"eth0"'), (2, '"net1"'), (1, '"eth*"'), (1, '{ "lo", "eth0" }'), (0.5, '"foo"'))
    return f"meta {key}ifname {_no(draw, 0.4)}{name}"


def _state(place: Place) -> str:
    draw = place.draw
    address, state = family_of(place), draw.choice(STATES)
    return draw.one(
        (5, f"ct state {_no(draw)}{state}"),
        (1, f"ct direction {draw.choice(['original', 'reply'])}"),
        (1.5, f"ct status {_no(draw)}{draw.choice(['dnat', 'snat', 'confirmed', 'assured'])}"),
        (1, f"ct original {_proto(address)} daddr {draw.address(address)}"),
        (0.5, f"ct protocol {draw.choice(['tcp', 'udp'])}"),
        (1.5, _mark(place, "ct mark")),
        (0.4, f"ct {draw.choice(['original', 'reply'])} {_proto(address)} saddr {draw.address(address)}"),
        (0.3, f"ct zone {_no(draw)}{draw.choice([0, 1])}"),
        (0.2, f"ct original packets {draw.choice(['<', '>='])} 1"),
        (0.2, f"ct expiration {draw.choice(['<', '>'])} 25s"),
        (0.1, f"ct count over {draw.choice([0, 3])}"),
        (0.1, f"ct l3proto {_no(draw)}ipv4"),
    )


def _header(place: Place) -> str:
    draw, family = place.draw, family_of(place)
    six, flags = family == 6, draw.choice(["syn", "ack", "fin", "rst"])
    return draw.one(
        (2, f"tcp flags & (syn|ack|fin|rst) {draw.choice(['==', '!='])} {flags}"),
        (1, f"tcp flags {flags}"),
        (1, f"tcp flags != {flags}"),
        (1, f"{'ip6 hoplimit' if six else 'ip ttl'} {draw.choice(['', '!= ', '< ', '> '])}{draw.choice(TTLS)}"),
        (1, f"{_proto(family)} dscp {_no(draw)}{draw.choice(DSCPS):#x}"),
        (1, f"meta length {draw.choice(['', '!= ', '< ', '>= '])}{draw.choice(LENGTHS_OF_PACKETS)}"),
        (1, f"{'icmpv6' if six else 'icmp'} type {_no(draw)}{draw.choice(ICMP_TYPES[family])}"),
        (0.5, f"{'ip6 length' if six else 'ip length'} {draw.choice(['<', '>'])} 50"),
        (0.5, f"{'ip6 nexthdr' if six else 'ip protocol'} {_no(draw)}{draw.choice(['tcp', 'udp'])}"),
        (0.3, f"tcp window {draw.choice(['<', '>'])} 1000"),
        (0.3, f"@th,16,16 {draw.port()}"),
        (0.3, f"udp length {draw.choice(['<', '>'])} 20"),
        (0.2, f"tcp option {draw.choice(['maxseg', 'sack-perm', 'timestamp'])} {draw.choice(['exists', 'missing'])}"),
        (0.2, f"ip frag-off & 0x1fff {draw.choice(['==', '!='])} 0" if not six else "exthdr frag missing"),
        (0.2, f"{_proto(family)} version {'6' if six else '4'}"),
        (0.2, f"ether saddr {_no(draw)}{PEER_MACS['eth0']}" if place.hooks <= IN else "tcp sequence 1"),
        (0.2, f"@nh,{'192,32' if six else '128,32'} & 0xff {draw.choice(['==', '!='])} 3"),
    )


def _routing(place: Place) -> str:
    draw, family = place.draw, family_of(place)
    link = " . iif" if place.hooks <= IN else (" . oif" if place.hooks <= OUT else "")
    kind = draw.choice(["local", "unicast", "broadcast", "unreachable"])
    early = place.hooks <= {"prerouting"}
    return draw.one(
        (3, f"fib daddr{draw.choice(['', link])} type {_no(draw)}{kind}"),
        (2, f"fib saddr type {_no(draw)}{kind}"),
        (1, f"fib daddr . mark type {kind}"),
        (early, f"fib saddr . iif oif {draw.choice(['missing', 'exists', 'eth0', 'lo'])}"),
        (early, f"fib saddr oifname {_no(draw)}{draw.choice(['eth0', 'lo', 'net1'])}"),
        (1, f"rt {_proto(family)} nexthop {draw.address(family)}"),
    )


def _meta(place: Place) -> str:
    draw = place.draw
    return draw.one(
        (4, f"meta l4proto {_no(draw)}{draw.choice(['tcp', 'tcp', 'udp', 'icmp', 'ipv6-icmp'])}"),
        (1, f"meta l4proto {_no(draw)}{{ tcp, udp }}"),
        (1, f"meta pkttype {_no(draw)}{draw.choice(['host', 'broadcast', 'multicast', 'other'])}"),
        (0.6, f"meta priority {draw.choice(['0:0', '0:1', '0:6', 'none'])}"),
        (1, f"meta nfproto {draw.choice(['ipv4', 'ipv6'])}" if place.family == "inet" else "meta l4proto udp"),
        (0.4, f"meta protocol {draw.choice(['ip', 'ip6']) if place.family == 'inet' else place.family}"),
        (0.2, f"meta cpu {draw.choice(['0', '< 64'])}"),
        (0.2, "meta random < 2147483648"),
        (0.2, "limit rate 1/second"),
        (0.2, 'meta hour "00:00"-"12:00"'),
        (0.2, "numgen inc mod 2 0"),
        (0.2, "quota over 100 bytes"),
        (0.1, f"jhash {_proto(family_of(place))} saddr mod 2 0"),
        (0.2, f"meta {draw.choice(['iifgroup', 'oifgroup'])} {_no(draw)}0"),
        (0.2, f'meta {draw.choice(["iifkind", "oifkind"])} {_no(draw)}"veth"'),
        (0.1, "meta cgroup 0"),
        (0.1, "rt ipsec missing"),
    )


def _socket_match(place: Place) -> str:
    draw = place.draw
    return draw.one(
        (3, f"socket transparent {draw.choice([0, 1])}"),
        (1, f"socket mark {_no(draw)}{draw.mark():#x}"),
        (1, f"socket wildcard {draw.choice([0, 1])}"),
    )


def _lookup(place: Place) -> str:
    name, key = place.draw.choice(place.sets)
    return f"{key} {_no(place.draw)}@{name}"


def _concatenation(place: Place) -> str:
    draw, family = place.draw, family_of(place)
    if draw.maybe(0.35):
        owners = listed(draw, lambda: f"{draw.number()} . {draw.mark():#x}", 5)
        links = listed(draw, lambda: f"{draw.choice(['tcp', 'udp'])} . {draw.choice(['lo', 'eth0'])}")
        key = "iifname" if place.hooks <= IN else "oifname"
        return draw.choice([f"meta skuid . meta mark {owners}", f"meta l4proto . meta {key} {_no(draw)}{links}"])
    pairs = listed(draw, lambda: f"{draw.address(family)} . {draw.port()}", 5)
    return (
        f"{_proto(family)} {draw.choice(['daddr', 'saddr'])} . {draw.choice(['tcp', 'udp'])} dport {_no(draw)}{pairs}"
    )


MATCHES: tuple[tuple[float, Callable[[Place], bool], Callable[[Place], str]], ...] = (
    (4, lambda place: True, _address),
    (7, lambda place: True, _ports),
    (3, lambda place: place.hooks <= {"output", "postrouting"}, _owner),
    (0.3, lambda place: True, _owner),
    (3, lambda place: True, _mark),
    (3, lambda place: True, _links),
    (2.5, lambda place: True, _state),
    (1.5, lambda place: True, _header),
    (1.2, lambda place: True, _routing),
    (5, lambda place: True, _meta),
    (1.5, lambda place: place.hooks <= {"prerouting", "input"}, _socket_match),
    (0.2, lambda place: place.hooks <= {"output"}, _socket_match),
    (3, lambda place: bool(place.sets), _lookup),
    (1, lambda place: True, _concatenation),
)


def tests(place: Place, low: int, high: int) -> list[str]:
    """Some matches that may stand here."""
    possible = [(weight, make) for weight, fits, make in MATCHES if fits(place)]
    return [place.draw.one(*possible)(place) for _ in range(place.draw.randint(low, high))]
