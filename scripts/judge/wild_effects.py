"""What rules of nft's do: marks, verdicts, address translation."""

from __future__ import annotations

from judge.wild_nft import Place, family_of, listed
from judge.wild_pools import DSCPS, LISTENED, TTLS

Kind = tuple[float, tuple[str, str]]
"""A weight, what is done, and what has to be asked before."""


def effect(place: Place) -> tuple[str, str]:
    """What a rule does, and what has to be asked before."""
    kinds = [*_verdicts(place), *_marks(place), *_changes(place)]
    if place.kind == "nat":
        kinds = [(weight / 3, each) for weight, each in kinds] + _nat(place)
    elif "postrouting" not in place.hooks:
        kinds += _rejects(place)
    if place.kind == "filter" and place.hooks <= {"prerouting"}:
        kinds += _tproxy(place)
    if place.kind == "filter" and place.hooks <= {"prerouting", "output"}:
        zone = place.draw.choice(["ct zone", "ct original zone", "ct reply zone"])
        kinds += [(0.8, ("notrack", "")), (0.5, (f"{zone} set {place.draw.randint(1, 2)}", ""))]
    done, needed = place.draw.one(*kinds)
    return done.replace("  ", " "), needed


def _of(place: Place, family: int) -> str:
    return {4: "ip", 6: "ip6"}[family] if place.family == "inet" else ""


def _verdicts(place: Place) -> list[Kind]:
    draw = place.draw
    log = draw.choice(["log group 3", 'log prefix "wild"', "log level debug"])
    return [
        (3, ("accept", "")),
        (2.5, ("return", "")),
        (1, ("drop", "")),
        (1, ("", "")),
        (0.2, ("continue", "")),
        (0.3, (log, "")),
    ]


def _marks(place: Place) -> list[Kind]:
    draw = place.draw
    mark, mask = f"{draw.mark():#x}", f"{draw.choice([0xFFFFFF00, 0xFFF, 0xFFFFF000]):#x}"
    saved = [f"ct mark set {mark}", "ct mark set mark", "meta mark set ct mark", f"ct mark set ct mark or {mark}"]
    ports = listed(draw, lambda: f"{draw.port()} : {draw.mark():#x}")
    found: list[Kind] = [
        (3, (f"meta mark set {mark}", "")),
        (1, (f"meta mark set mark {draw.choice(['and', 'or', 'xor'])} {mark}", "")),
        (0.5, (f"meta mark set meta mark & {mask} | {draw.mark() & 0xFF:#x}", "")),
        (0.7, (f"meta mark set {mark} {draw.choice(['accept', 'return'])}", "")),
        (0.5, (f"meta mark set tcp dport map {ports}", "")),
        (1.2, (draw.choice(saved), "")),
        (0.3, (f"ct mark set ct mark & {mask} {draw.choice(['accept', ''])}".strip(), "")),
        (0.1, ("meta mark set numgen inc mod 2 offset 1", "")),
        (0.1, ("meta mark set meta cpu", "")),
    ]
    return found


def _changes(place: Place) -> list[Kind]:
    draw, family = place.draw, family_of(place)
    ip, port = {4: "ip", 6: "ip6"}[family], draw.choice(LISTENED)
    found: list[Kind] = [
        (0.4, (f"meta priority set 0:{draw.randint(0, 6)}", "")),
        (0.4, (f"{ip} dscp set {draw.choice(DSCPS):#x}", "")),
        (0.3, (f"{'ip ttl' if family == 4 else 'ip6 hoplimit'} set {draw.choice(TTLS)}", "")),
        (0.3, (f"tcp dport set {port}", "")),
        (0.2, (f"udp dport set {port}", "")),
        (0.15, (f"{ip} {draw.choice(['daddr', 'saddr'])} set {draw.address(family)}", "")),
        (0.1, ("meta nftrace set 1", "")),
        (0.2 * (place.hooks <= {"prerouting"}), (f"meta pkttype set {draw.choice(['host', 'multicast'])}", "")),
        (0.1, ("tcp option maxseg size set 1000", "")),
    ]
    if place.dynamic:
        found.append((1, (f"{draw.choice(['add', 'update'])} @{place.dynamic} {{ tcp dport }}", "")))
    return found


def _rejects(place: Place) -> list[Kind]:
    four = "icmp type host-unreachable" if place.family == "ip" else "icmpx type admin-prohibited"
    kind = "icmpv6 type no-route" if place.family == "ip6" else four
    if place.family == "inet":  # nft tests the family by itself.
        kind = place.draw.choice([kind, "icmp type host-unreachable", "icmpv6 type no-route"])
    reset: Kind = (0.3, ("reject with tcp reset", place.draw.choice(["meta l4proto tcp", ""])))
    return [(0.4, ("reject", "")), reset, (0.3, (f"reject with {kind}", ""))]


def _proto(place: Place) -> str:
    return place.draw.one((3, "meta l4proto tcp"), (1, "meta l4proto udp"), (1, "meta l4proto { tcp, udp }"))


def _tproxy(place: Place) -> list[Kind]:
    draw, family = place.draw, family_of(place)
    port = draw.one((8, draw.choice(LISTENED)), (1, 7777))
    mark = draw.one((2, ""), (3, f" meta mark set {draw.mark():#x}"))
    to = draw.one((4, f":{port}"), (1, f"{'127.0.0.1' if family == 4 else '[::1]'}:{port}"))
    of = _of(place, family) if to[0] != ":" or draw.maybe() else ""
    return [(6, (f"tproxy {of} to {to}{mark}{draw.choice(['', ' accept'])}", _proto(place)))]


def _nat(place: Place) -> list[Kind]:
    draw, family = place.draw, family_of(place)
    of, port, address = _of(place, family), draw.choice(LISTENED), draw.address(family)
    ip = {4: "ip", 6: "ip6"}[family]
    with_port = f"{address if family == 4 else f'[{address}]'}:{port}"
    found: list[Kind] = []
    if place.hooks <= {"prerouting", "output"}:
        ports = listed(draw, lambda: f"{draw.port()} : {draw.choice(LISTENED)}")
        places = listed(draw, lambda: f"{draw.address(family)} : {draw.address(family)}")
        both = listed(draw, lambda: f"{draw.port()} : {draw.address(family)} . {draw.choice(LISTENED)}")
        found += [
            (5, (f"redirect to :{port}", _proto(place))),
            (0.5, (f"redirect to :{port}-{port + 2}", _proto(place))),
            (0.5, ("redirect", "")),
            (1.5, (f"dnat {of} to {address}", "")),
            (2, (f"dnat {of} to {with_port}", _proto(place))),
            (0.7, (f"redirect to :tcp dport map {ports}", "meta l4proto tcp")),
            (0.5, (f"redirect to :th dport map {ports}", _proto(place))),
            (0.2, (f"meta mark set 0x7 redirect to :tcp dport map {ports}", "meta l4proto tcp")),
            (0.6, (f"dnat {of} to {ip} daddr map {places}", "")),
            (0.5, (f"dnat {of} to tcp dport map {both}", "")),
            (0.15, (f"dnat {of} to numgen inc mod 2 map {{ 0 : {address}, 1 : {draw.address(family)} }}", "")),
        ]
    if place.hooks <= {"postrouting", "input"}:
        found += [(2, (f"snat {of} to {address}", "")), (1, (f"snat {of} to {with_port}", _proto(place)))]
    if place.hooks <= {"postrouting"}:
        ranged: Kind = (0.5, ("masquerade to :20000-20010", _proto(place)))
        found += [(2, ("masquerade", "")), ranged, (0.2, ("masquerade random", ""))]
    return found
