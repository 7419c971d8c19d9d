"""Random matches of iptables: what a rule asks of a packet."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple

from judge.wild_pools import DSCPS, ICMP_TYPES, LENGTHS_OF_PACKETS, PEER_MACS, TOSES, TTLS, Draw

BEFORE = frozenset(["PREROUTING", "INPUT"])
INSIDE = frozenset(["PREROUTING", "INPUT", "FORWARD"])
OUTSIDE = frozenset(["FORWARD", "OUTPUT", "POSTROUTING"])
OWN = frozenset(["OUTPUT", "POSTROUTING"])
ANYWHERE = INSIDE | OUTSIDE
STATES = ("NEW", "NEW", "INVALID", "ESTABLISHED", "RELATED", "UNTRACKED", "RELATED,ESTABLISHED", "NEW,UNTRACKED")
SPAN = "2020-01-01T00:00:00 --datestop 2037-01-01T00:00:00"


class Spot(NamedTuple):
    """Where a rule is to stand, and what is known of its packets."""

    draw: Draw
    family: int
    table: str
    hooks: frozenset[str]
    proto: str
    sets: tuple[tuple[str, int], ...]
    """ipset's sets of this family by their names and how many fields they test."""


def no(draw: Draw, chance: float = 0.2) -> str:
    """Now and then a negation."""
    return "! " if draw.maybe(chance) else ""


def protocol(draw: Draw, family: int) -> tuple[str, str]:
    """What a rule says of the protocol, and what is then known of it."""
    icmp = "icmp" if family == 4 else "ipv6-icmp"
    name = draw.one((9, "tcp"), (5, "udp"), (2, icmp), (7, ""))
    if name and draw.maybe(0.08):
        return f"! -p {name}", ""
    return (f"-p {name}", name) if name else ("", "")


def plain(spot: Spot) -> list[str]:
    """Addresses and interfaces, which every rule can test."""
    draw, found = spot.draw, []
    if draw.maybe(0.2):
        found.append(f"{no(draw)}-s {draw.net(spot.family)}")
    if draw.maybe(0.3):
        found.append(f"{no(draw, 0.3)}-d {draw.net(spot.family)}")
    for option, hooks, chance in (("-i", INSIDE, 0.2), ("-o", OUTSIDE, 0.4)):
        if spot.hooks <= hooks and draw.maybe(0.2):
            # The legacy store's text says nothing of a rule for no device at all, which is the negation of +.
            link = draw.choice(("eth0", "lo", "net1", "eth+", "foo", "+"))
            found.append(f"{no(draw, chance) if link != '+' else ''}{option} {link}")
    return found


def _tcp(spot: Spot) -> str:
    draw = spot.draw
    flags = ("SYN,ACK,FIN,RST SYN", "ALL SYN", "ACK ACK", "SYN,RST SYN,RST", "ALL NONE", "FIN FIN", "SYN SYN")
    return draw.one(
        (8, f"-m tcp {no(draw)}--dport {draw.ports()}"),
        (3, f"-m tcp {no(draw)}--sport {draw.ports()}"),
        (2, f"-m tcp {no(draw, 0.3)}--tcp-flags {draw.choice(flags)}"),
        (1, f"-m tcp {no(draw)}--syn"),
        (1, f"-m tcp --sport {draw.ports()} --dport {draw.ports()}"),
        (0.3, f"-m tcp {no(draw)}--tcp-option {draw.choice([2, 3, 8, 77])}"),
    )


def _udp(spot: Spot) -> str:
    side = spot.draw.one((3, "dport"), (1, "sport"))
    return f"-m udp {no(spot.draw)}--{side} {spot.draw.ports()}"


def _multiport(spot: Spot) -> str:
    ports = ",".join(spot.draw.ports() for _ in range(spot.draw.randint(1, 4)))
    side = spot.draw.one((4, "dports"), (1, "sports"), (1, "ports"))
    return f"-m multiport {no(spot.draw)}--{side} {ports}"


def _icmp(spot: Spot) -> str:
    draw = spot.draw
    name, option = ("icmp", "--icmp-type") if spot.family == 4 else ("icmp6", "--icmpv6-type")
    kinds = [str(each) for each in ICMP_TYPES[spot.family]] + ["echo-request", f"{ICMP_TYPES[spot.family][2]}/3"]
    kinds += ["any"] if spot.family == 4 else []
    return f"-m {name} {no(draw)}{option} {draw.choice(kinds)}"


def _owner(spot: Spot) -> str:
    draw = spot.draw
    kind = draw.one((4, "--uid-owner"), (3, "--gid-owner"), (1, "--socket-exists"), (1, "both"))
    value = draw.one((4, f"{draw.number()}"), (1, "1000-1337"), (0.5, "0-999"))
    if kind == "--socket-exists":
        return f"-m owner {no(draw)}{kind}"
    if kind == "both":
        return f"-m owner {no(draw)}--uid-owner {value} {no(draw)}--gid-owner {draw.number()}"
    return f"-m owner {no(draw, 0.35)}{kind} {value}"


def _conntrack(spot: Spot) -> str:
    draw = spot.draw
    address, port = draw.net(spot.family), draw.ports()
    return "-m conntrack " + draw.one(
        (6, f"{no(draw)}--ctstate {draw.choice((*STATES, 'DNAT', 'SNAT', 'NEW,DNAT'))}"),
        (1, f"{no(draw)}--ctstatus {draw.choice(['NONE', 'EXPECTED', 'SEEN_REPLY', 'ASSURED', 'CONFIRMED'])}"),
        (1, f"--ctdir {draw.choice(['ORIGINAL', 'REPLY'])}"),
        (1.5, f"{no(draw)}--ctorigdst {address}"),
        (0.7, f"{no(draw)}--ctorigsrc {address}"),
        (0.7, f"{no(draw)}--ctrepl{draw.choice(['src', 'dst'])} {address}"),
        (1.5, f"{no(draw)}--ctproto {draw.choice(['tcp', 'udp'])}"),
        (1, f"--ctproto {draw.choice([6, 17])} {no(draw)}--ctorigdstport {port}"),
        (0.5, f"--ctproto 6 {no(draw)}--ctreplsrcport {port}"),
        (0.5, f"{no(draw, 0.5)}--ctorigdstport {port}"),
        (0.3, f"{no(draw)}--ctexpire 0:{draw.choice([29, 60, 100000])}"),
        (1, f"--ctstate NEW --ctorigdst {address} {no(draw)}--ctproto tcp"),
    )


def _addrtype(spot: Spot) -> str:
    draw = spot.draw
    kinds = ["LOCAL", "LOCAL", "UNICAST", "MULTICAST", "UNREACHABLE", "LOCAL,UNICAST"]
    kind = draw.choice(kinds + (["BROADCAST", "ANYCAST", "BLACKHOLE", "PROHIBIT"] if spot.family == 4 else []))
    if draw.maybe(0.4) and spot.hooks <= INSIDE:
        kind += " --limit-iface-in"
    elif draw.maybe(0.4) and spot.hooks <= OUTSIDE:
        kind += " --limit-iface-out"
    return f"-m addrtype {no(draw)}--{draw.choice(['dst', 'dst', 'src'])}-type {kind}"


def _set(spot: Spot) -> str:
    draw = spot.draw
    name, fields = draw.choice(spot.sets)
    sides = ",".join(draw.choice(["src", "dst", "dst"]) for _ in range(fields))
    return f"-m set {no(draw)}--match-set {name} {sides}"


def _socket_match(spot: Spot) -> str:
    options = [" --transparent", " --nowildcard", " --restore-skmark"]
    return "-m socket" + "".join(each for each in options if spot.draw.maybe(0.4))


def _iprange(spot: Spot) -> str:
    draw = spot.draw
    low, high = sorted((draw.address(spot.family), draw.address(spot.family)), key=_as_number)
    return f"-m iprange {no(draw)}--{draw.choice(['src', 'dst'])}-range {low}-{high}"


def _as_number(address: str) -> tuple[int, ...]:
    return tuple(socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address))


def _length(spot: Spot) -> str:
    low = spot.draw.choice(LENGTHS_OF_PACKETS)
    return (
        f"-m length {no(spot.draw)}--length {spot.draw.choice([str(low), f'{low}:', f':{low}', f'{low}:{low + 40}'])}"
    )


def _hops(spot: Spot) -> str:
    name = "ttl" if spot.family == 4 else "hl"
    how = spot.draw.choice(["eq", "lt", "gt"])
    return f"-m {name} --{name}-{how} {spot.draw.choice(TTLS)}"


def _tos(spot: Spot) -> str:
    draw = spot.draw
    if draw.maybe():
        return f"-m dscp {no(draw)}--dscp {draw.choice(DSCPS):#x}"
    return f"-m tos {no(draw)}--tos {draw.choice(TOSES):#x}{draw.choice(['', '/0xfc', '/0xff'])}"


def _open(spot: Spot) -> str:
    draw = spot.draw
    algorithm = "-m string --algo bm --to 200"
    return draw.choice(
        [
            "-m limit --limit 1/sec --limit-burst 3",
            "-m statistic --mode random --probability 0.5",
            f"-m statistic --mode nth --every {draw.randint(1, 3)} --packet 0",
            f"-m recent --name r{draw.randint(0, 1)} {draw.choice(['--set', '--rcheck', '--update --seconds 60'])}",
            f"-m time --datestart {SPAN}",
            "-m time --timestart 00:00:00 --timestop 12:00:00",
            '-m u32 --u32 "6&0xFF=6"',
            '-m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0"',
            f"{algorithm} --string x",
            "-m quota --quota 200",
            "-m cgroup --cgroup 1",
            "-m hashlimit --hashlimit-upto 1/sec --hashlimit-mode srcip --hashlimit-name h",
            "-m connlimit --connlimit-upto 5",
            "-m cpu --cpu 0",
            "-m helper --helper ftp",
            "-m devgroup --src-group 0" if spot.hooks <= INSIDE else "-m connlabel --label 1",
            "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 1",
            "-m physdev ! --physdev-is-bridged",
            "-m ecn --ecn-ip-ect 0",
        ]
    )


def _mark(spot: Spot) -> str:
    return f"-m mark {no(spot.draw, 0.35)}--mark {spot.draw.masked()}"


def _connmark(spot: Spot) -> str:
    return f"-m connmark {no(spot.draw)}--mark {spot.draw.masked()}"


def _rpfilter(spot: Spot) -> str:
    options = (" --loose", " --validmark", " --accept-local", " --invert")
    return "-m rpfilter" + "".join(each for each in options if spot.draw.maybe(0.3))


def _header(spot: Spot) -> str:
    """What few packets have."""
    draw = spot.draw
    if spot.family == 4:
        return draw.choice(["-f", "! -f"])
    return draw.choice(["-m frag --fragid 0:7", "-m ipv6header --soft --header none", "-m hbh --hbh-len 0"])


Match = tuple[float, Callable[[Spot], bool], Callable[[Spot], str]]

MATCHES: tuple[Match, ...] = (
    (6, lambda spot: spot.proto == "tcp", _tcp),
    (6, lambda spot: spot.proto == "udp", _udp),
    (2, lambda spot: spot.proto in ("tcp", "udp"), _multiport),
    (6, lambda spot: "icmp" in spot.proto, _icmp),
    (4, lambda spot: spot.hooks <= OWN, _owner),
    (3, lambda spot: True, _mark),
    (1, lambda spot: True, _connmark),
    (3, lambda spot: True, _conntrack),
    (1, lambda spot: True, lambda spot: f"-m state {no(spot.draw)}--state {spot.draw.choice(STATES)}"),
    (1.5, lambda spot: True, _addrtype),
    (3, lambda spot: bool(spot.sets), _set),
    (2, lambda spot: spot.hooks <= BEFORE, _socket_match),
    (0.7, lambda spot: True, _iprange),
    (0.7, lambda spot: True, _length),
    (0.7, lambda spot: True, _hops),
    (0.7, lambda spot: True, _tos),
    (
        0.5,
        lambda spot: True,
        lambda spot: f"-m pkttype {no(spot.draw)}--pkt-type {spot.draw.choice(['unicast', 'broadcast', 'multicast'])}",
    ),
    (1, lambda spot: spot.hooks == {"PREROUTING"} and spot.table in ("raw", "mangle"), _rpfilter),
    (
        0.3,
        lambda spot: spot.hooks <= INSIDE or spot.hooks <= OUTSIDE,
        lambda spot: (
            f"-m policy --dir {'in' if spot.hooks <= INSIDE else 'out'} --pol {spot.draw.choice(['none', 'ipsec'])}"
        ),
    ),
    (0.5, lambda spot: spot.hooks <= INSIDE, lambda spot: f"-m mac {no(spot.draw)}--mac-source {PEER_MACS['eth0']}"),
    (0.5, lambda spot: True, lambda spot: "-m comment --comment \"a 'b' -j DROP\""),
    (0.2, lambda spot: True, _header),
    (
        0.2,
        lambda spot: spot.proto == "tcp",
        lambda spot: f"-m tcpmss {no(spot.draw)}--mss {spot.draw.choice([536, 1000])}:9000",
    ),
    (0.35, lambda spot: True, _open),
)


def matches(spot: Spot, low: int, high: int) -> list[str]:
    """Some that may stand here."""
    possible = [(weight, make) for weight, fits, make in MATCHES if fits(spot)]
    return [spot.draw.one(*possible)(spot) for _ in range(spot.draw.randint(low, high))]
