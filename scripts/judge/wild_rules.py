"""Random rule sets: routing, sets, sockets, and rules of all stores, from a seed."""

from __future__ import annotations

from typing import NamedTuple

from judge import wild_iptables, wild_scenes, wild_tables
from judge.wild_lab import Listener
from judge.wild_load import Batch
from judge.wild_pools import FAMILIES, IDS, LISTENED, PEER, STRANGERS, TABLES, Draw, local_addresses

SETS = {
    "hash:ip": 1,
    "hash:net": 1,
    "hash:ip,port": 2,
    "bitmap:port": 1,
    "hash:net,port": 2,
    "hash:ip,port,ip": 3,
    "hash:net,iface": 2,
    "bitmap:ip": 1,
}
"""Kinds of ipset's sets, and how many fields each has."""

FEWER = (
    "sysctl -qw net.ipv4.conf.all.promote_secondaries=1; ip addr del 10.1.2.3/16 dev eth0; "
    "ip route replace default via 10.1.0.1 dev eth0"
)

SHAPES = {4: "inet", 6: "inet6"}


class Plan(NamedTuple):
    """What is to be made live, in this order."""

    setup: list[str]
    listeners: list[Listener]
    batches: list[Batch]


def plan(draw: Draw) -> Plan:
    """A rule set."""
    size = draw.choice([3, 6, 10, 16, 22])
    sets: dict[int, list[tuple[str, int]]] = {4: [], 6: []}
    setup = _sysctls(draw) + _addresses(draw) + (_routing(draw) if draw.maybe(0.6) else [])
    if draw.maybe(0.35):
        setup += _ipsets(draw, sets)
    parts: list[list[Batch]] = []
    nft, legacy, native = draw.one(
        (3, (True, False, False)),
        (2, (False, True, False)),
        (3, (False, False, True)),
        (2, (True, True, False)),
        (3, (True, False, True)),
        (1, (False, True, True)),
        (1, (True, True, True)),
    )
    for store, wanted in (("nft", nft), ("legacy", legacy)):
        families = draw.families() if wanted else []
        if wanted and draw.maybe(0.3):
            for family in families:
                made, routing = wild_scenes.batches(draw, store, family)
                parts.append(made)
                setup += routing
        parts += [wild_iptables.batches(draw, store, family, sets[family], size) for family in families]
    if native:
        parts.append(wild_tables.batches(draw, size))
    draw.shuffle(parts)
    if nft and draw.maybe(0.25):
        labels = [batch.label.split() for part in parts for batch in part]
        for family in FAMILIES:
            if tables := [words[1] for words in labels if words[0] == f"nft{family}"]:
                parts.append([wild_tables.intruders(draw, family, tables)])
    return Plan(setup, _listeners(draw), [batch for part in parts for batch in part])


def _sysctls(draw: Draw) -> list[str]:
    found = []
    if draw.maybe(0.5):
        found += ["sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv6.conf.all.forwarding=1"]
    for chance, name in (
        (0.2, "net.ipv4.conf.all.rp_filter"),
        (0.1, "net.ipv4.conf.eth0.rp_filter"),
    ):
        if draw.maybe(chance):
            found.append(f"sysctl -qw {name}={draw.randint(1, 2)}")
    for chance, name in (
        (0.25, "net.ipv4.conf.all.route_localnet"),
        (0.1, "net.ipv4.conf.eth0.route_localnet"),
        (0.15, "net.ipv4.conf.all.src_valid_mark"),
        (0.1, "net.ipv4.conf.all.accept_local"),
        (0.1, "net.ipv4.ip_nonlocal_bind"),
        (0.1, "net.ipv4.conf.lo.accept_local"),
        (0.1, "net.ipv4.conf.lo.route_localnet"),
        (0.05, "net.ipv4.conf.eth0.forwarding"),
        (0.05, "net.ipv6.conf.eth0.forwarding"),
    ):
        if draw.maybe(chance):
            found.append(f"sysctl -qw {name}=1")
    for chance, name in (
        (0.07, "net.ipv4.ip_early_demux"),
        (0.1, "net.netfilter.nf_conntrack_tcp_loose"),
        (0.05, "net.netfilter.nf_conntrack_checksum"),
    ):
        if draw.maybe(chance):
            found.append(f"sysctl -qw {name}=0")
    return found


def _addresses(draw: Draw) -> list[str]:
    """Now and then the pod has others."""
    found = []
    for chance, command in (
        (0.06, "ip addr add 8.8.8.8/32 dev lo"),
        (0.06, "ip addr add 10.1.7.7/16 dev eth0"),
        (0.04, "ip addr add 192.0.2.77/24 dev eth0 scope link"),
        (0.04, "ip addr add 10.9.0.77/24 dev net1"),
        (0.04, FEWER),
        (0.06, "ip -6 addr add 2001:db8::8/128 dev lo nodad"),
        (0.05, "ip -6 addr add fd00:5::5/64 dev eth0 nodad"),
        (0.04, "ip -6 addr del fd00:1::3/64 dev eth0"),
        (0.04, "ip -6 addr change fd00:1::3/64 dev eth0 preferred_lft 0 valid_lft forever"),
        (0.015, "ip link set net1 down"),
    ):
        if draw.maybe(chance):
            found += command.split("; ")
    return found


def _routing(draw: Draw) -> list[str]:
    found = []
    for family in draw.families():
        ip = f"ip -{family}"
        tables = draw.some(TABLES, 1, 2)
        found += [f"{ip} route add {_route(draw, family)} table {table}" for table in tables]
        for _ in range(draw.randint(1, 3)):
            where = draw.one(
                (6, f"lookup {draw.choice(tables)}"), (0.5, "unreachable"), (0.5, "blackhole"), (0.3, "prohibit")
            )
            pref = f" pref {draw.choice([100, 500, 32000, 32764])}" if draw.maybe() else ""
            found.append(f"{ip} rule add {_selector(draw, family)}{pref} {where}")
        if draw.maybe(0.15):
            found.append(f"{ip} rule add {_selector(draw, family)} pref 50 goto {draw.choice([100, 500, 32766])}")
        if draw.maybe(0.3):
            to = draw.choice(STRANGERS[family])
            kind = draw.one(
                (2, f"{to} via {PEER['net1', family]} dev net1"), (1, f"unreachable {to}"), (1, f"blackhole {to}")
            )
            kind = draw.one((3, kind), (1, f"local {to} dev lo"), (1, f"throw {to}"), (0.5, f"prohibit {to}"))
            kind = f"anycast {to} dev eth0" if family == 4 and draw.maybe(0.05) else kind
            found.append(f"{ip} route add {kind}")
    return found


def _route(draw: Draw, family: int) -> str:
    peer = PEER["net1", family]
    return draw.one(
        (6, "local default dev lo"),
        (1, "unreachable default"),
        (1, "blackhole default"),
        (0.7, "prohibit default"),
        (1, "throw default"),
        (2, f"default via {peer} dev net1"),
        (0.7, f"default via {peer} dev net1 src {local_addresses(family)[0]}"),
        (0.7, f"local {STRANGERS[family][0]} dev lo"),
        (0.7, f"local {'0.0.0.0/1' if family == 4 else '::/1'} dev lo"),
    )


def _selector(draw: Draw, family: int) -> str:
    value = draw.mark() or 0x539
    mark = f"fwmark {value:#x}" + draw.one((7, ""), (2, "/0xffffffff"), (1, f"/{value | 0x100:#x}"))
    if draw.maybe(0.1):
        mark = f"fwmark {draw.masked()}"
    low = draw.number()
    return draw.one(
        (6, mark),
        (0.4, f"not {mark}"),
        (1, f"from {draw.address(family)}"),
        (1, f"to {draw.net(family)}"),
        (1, f"uidrange {low}-{draw.choice([low, low + 337])}"),
        (1, f"iif {draw.choice(['lo', 'eth0', 'net1'])}"),
        (0.5, f"oif {draw.choice(['eth0', 'net1'])}"),
        (1, f"iif {draw.choice(['lo', 'eth0'])} {mark}"),
        (0.5, f"ipproto {draw.choice(['tcp', 'udp'])} dport {draw.port()}"),
        (0.5, f"{mark} ipproto tcp"),
        (0.3, f"dsfield 0x10 {mark}"),
    )


def _ipsets(draw: Draw, sets: dict[int, list[tuple[str, int]]]) -> list[str]:
    found = []
    for number in range(draw.randint(1, 4)):
        family = draw.family()
        name = f"set{number}"
        kind, fields = draw.choice(list(SETS.items()))
        options = f" family {SHAPES[family]}" if kind.startswith("hash") else ""
        options += {"bitmap:port": " range 0-65535", "bitmap:ip": " range 10.1.0.0/16"}.get(kind, "")
        options += draw.choice(["", "", " skbinfo", " timeout 3000", " counters"])
        found.append(f"ipset create {name} {kind}{options}")
        for _ in range(draw.randint(1, 4)):
            mark = (
                f" skbmark {draw.mark():#x}/0xffffffff skbprio 0:{draw.randint(0, 6)}" if "skbinfo" in options else ""
            )
            nomatch = " nomatch" if kind.startswith("hash:net") and draw.maybe(0.15) else ""
            found.append(f"ipset add {name} {_member(draw, kind, family)}{mark}{nomatch} -exist")
        for each in FAMILIES if kind == "bitmap:port" else (family if kind != "bitmap:ip" else 4,):
            sets[each].append((name, fields))
    simple = [name for name, fields in sets[4] if fields == 1]
    if simple and draw.maybe(0.3):
        found.append("ipset create list list:set")
        found += [f"ipset add list {name}" for name in simple]
        sets[4].append(("list", 1))
    return found


def _member(draw: Draw, kind: str, family: int) -> str:
    address, port = draw.address(family), draw.port()
    proto = draw.choice(["tcp", "udp"])
    net = draw.net(family).replace("0.0.0.0/0", "0.0.0.0/1").replace("::/0", "::/1")
    return {
        "hash:ip": address,
        "bitmap:ip": "10.1.2.3" if draw.maybe() else "10.1.0.0/24",
        "hash:net": net,
        "hash:ip,port": f"{address},{proto}:{port}",
        "hash:net,port": f"{net},{proto}:{port}",
        "hash:ip,port,ip": f"{address},{proto}:{port},{draw.address(family)}",
        "hash:net,iface": f"{net},{draw.choice(['eth0', 'lo'])}",
        "bitmap:port": f"{port}-{port + draw.choice([0, 1, 20])}",
    }[kind]


def _listeners(draw: Draw) -> list[Listener]:
    found = []
    for protocol in ("tcp", "udp"):
        for family in FAMILIES:
            everywhere = "0.0.0.0" if family == 4 else "::"
            for port in LISTENED:
                here = local_addresses(family)
                address = draw.one((7, everywhere), (1, here[0]), (1, here[4]), (1.5, ""))
                far = f"{PEER['eth0', family]} {draw.port()}" if protocol == "udp" and draw.maybe(0.04) else None
                if address:
                    found.append(Listener(protocol, address, port, draw.maybe(0.7), draw.choice(IDS), far))
    return found
