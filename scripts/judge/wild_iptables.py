"""Random tables of iptables, as text for iptables-restore."""

from __future__ import annotations

import re
from collections.abc import Sequence

from judge.wild_load import Batch
from judge.wild_matches import OUTSIDE, Spot, matches, plain, protocol
from judge.wild_pools import DSCPS, LISTENED, PEER, TOSES, TTLS, Draw

HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
BUSY = {"OUTPUT": 5, "PREROUTING": 4, "INPUT": 3, "POSTROUTING": 2, "FORWARD": 1}
NAMES = ("MESH_OUTPUT", "A", "b-2", "TTL", "HL", "CILIUM_PRE_mangle", "DOCKER", "accept")


class Table:
    """One table being drawn."""

    def __init__(self, draw: Draw, family: int, name: str, sets: Sequence[tuple[str, int]], rules: int) -> None:
        self.draw, self.family, self.name, self.sets = draw, family, name, tuple(sets)
        self.policies = {chain: "DROP" if self._drops() else "ACCEPT" for chain in HOOKS[name]}
        self.chains = draw.some(NAMES, 0, 3) if rules else []
        self.hooks: dict[str, frozenset[str]] = {chain: frozenset([chain]) for chain in HOOKS[name]}
        self.lines: list[str] = []
        weights = [BUSY[chain] for chain in HOOKS[name]]
        places = draw.choices(HOOKS[name], weights, k=rules)
        for chain in HOOKS[name]:
            self._fill(chain, places.count(chain), self.chains)
        for index, chain in enumerate(self.chains):
            self.hooks.setdefault(chain, frozenset(HOOKS[name]))
            self._fill(chain, draw.randint(0, 4), self.chains[index + 1 :])

    def _drops(self) -> bool:
        return self.name in ("filter", "security", "mangle") and self.draw.maybe(0.03)

    def needs(self) -> list[str]:
        """The chains that rules name."""
        built_in = [f":{chain} {policy} [0:0]" for chain, policy in self.policies.items()]
        return built_in + [f":{chain} - [0:0]" for chain in self.chains]

    def _fill(self, chain: str, count: int, onward: Sequence[str]) -> None:
        for _ in range(count):
            self.lines.append(f"-A {chain} {self._rule(chain, onward)}".rstrip())

    def _rule(self, chain: str, onward: Sequence[str]) -> str:
        draw = self.draw
        said, proto = protocol(draw, self.family)
        spot = Spot(draw, self.family, self.name, self.hooks[chain], proto, self.sets)
        jump = bool(onward) and draw.maybe(0.3)
        if jump:
            target = self._jump(chain, onward)
            tests = matches(spot, 0, 1)
        else:
            spot, target = self._target(spot)
            tests = matches(spot, 0 if said else 1, 2)
        if spot.proto != proto:
            said = f"-p {spot.proto}"
        if "TCPMSS" in target:
            tests.append("-m tcp --tcp-flags SYN,RST SYN")
        text = " ".join([*plain(spot), said, *tests, target]).replace("  ", " ").strip()
        return re.sub(r"! (-[sd]) \S+/0", r"\1 0.0.0.0/1" if self.family == 4 else r"\1 ::/1", text)

    def _jump(self, chain: str, onward: Sequence[str]) -> str:
        to = self.draw.choice(onward)
        self.hooks[to] = self.hooks.get(to, frozenset()) | self.hooks[chain]
        return f"{'-g' if self.draw.maybe(0.2) else '-j'} {to}"

    def _target(self, spot: Spot) -> tuple[Spot, str]:
        """A target, and the place with the protocol that it needs."""
        draw = self.draw
        kinds: list[tuple[float, str]] = [(3, "ACCEPT"), (3, "RETURN"), (1.3, "DROP"), (1.2, ""), (2.5, "MARK")]
        kinds += [(0.8, "CONNMARK"), (0.3, "LOG"), (0.3, "NFLOG"), (0.1, "NFQUEUE")]
        kinds += [(0.3, "CLASSIFY")] if spot.hooks <= OUTSIDE else []
        kinds += [(0.5, "SET")] if spot.sets else []
        if self.name == "filter":
            kinds.append((0.8, "REJECT"))
        if self.name == "raw":
            kinds += [(1.5, "CT"), (1, "NOTRACK"), (0.5, "TRACE")]
        if self.name == "mangle":
            kinds += [
                (1, "TOS"),
                (0.8, "DSCP"),
                (0.6, "TTL"),
                (0.15, "TCPMSS"),
                (0.1, "TEE"),
                (0.1, "HMARK"),
                (0.1, "CHECKSUM"),
            ]
            prefix = "DNPT" if spot.hooks <= {"PREROUTING", "OUTPUT"} else "SNPT"
            kinds.append((0.15, "ECN" if spot.family == 4 else prefix))
            kinds += [(6, "TPROXY")] if spot.hooks == {"PREROUTING"} else []
        if self.name == "nat":
            kinds = [(weight / 2, kind) for weight, kind in kinds if kind != "DROP"]
            kinds += [(5, "REDIRECT"), (2, "DNAT")] if spot.hooks <= {"PREROUTING", "OUTPUT"} else []
            kinds += [(2, "SNAT")] if spot.hooks <= {"POSTROUTING", "INPUT"} else []
            kinds += [(2, "MASQUERADE")] if spot.hooks == {"POSTROUTING"} else []
            kinds += [(0.6, "NETMAP")]
        kind = draw.one(*kinds)
        if kind in ("TPROXY", "TCPMSS", "ECN") or (
            kind in ("REDIRECT", "DNAT", "SNAT", "MASQUERADE") and draw.maybe(0.7)
        ):
            spot = spot if spot.proto in ("tcp", "udp") else spot._replace(proto=draw.one((3, "tcp"), (1, "udp")))
        if kind in ("TCPMSS", "ECN"):
            spot = spot._replace(proto="tcp")
        return spot, _target(kind, spot)


def _target(kind: str, spot: Spot) -> str:
    make = MAKERS.get(kind)
    text = make(spot) if make else ""
    name = "HL" if kind == "TTL" and spot.family == 6 else kind
    return f"-j {name} {text}".rstrip() if kind else ""


def _has_ports(spot: Spot) -> bool:
    return spot.proto in ("tcp", "udp")


def _redirect(spot: Spot) -> str:
    if not _has_ports(spot):
        return ""
    port = spot.draw.choice(LISTENED)
    return spot.draw.one((8, f"--to-ports {port}"), (1, f"--to-ports {port}-{port + 2}"), (1, ""), (0.3, "--random"))


def _to(spot: Spot, address: str) -> str:
    if not _has_ports(spot) or spot.draw.maybe(0.4):
        return address
    address = f"[{address}]" if spot.family == 6 else address
    port = spot.draw.choice(LISTENED)
    return f"{address}:{port}" if spot.draw.maybe(0.85) else f"{address}:{port}-{port + 1}"


def _dnat(spot: Spot) -> str:
    return f"--to-destination {_to(spot, spot.draw.address(spot.family))}"


def _snat(spot: Spot) -> str:
    return f"--to-source {_to(spot, spot.draw.address(spot.family))}"


def _masquerade(spot: Spot) -> str:
    return "--to-ports 20000" if _has_ports(spot) and spot.draw.maybe(0.4) else ""


def _netmap(spot: Spot) -> str:
    to = ("10.9.0.0/24", "8.8.8.0/24", "10.1.2.0/24") if spot.family == 4 else ("fd00:9::/64", "2001:db8::/64")
    return f"--to {spot.draw.choice(to)}"


def _tproxy(spot: Spot) -> str:
    draw = spot.draw
    port = draw.one((6, draw.choice(LISTENED)), (1, 0), (1, 7777))
    addresses = {4: ("127.0.0.1", "10.1.2.3", "0.0.0.0"), 6: ("::1", "fd00:1::3", "::")}[spot.family]
    text = f"--on-port {port}" + (f" --on-ip {draw.choice(addresses)}" if draw.maybe(0.3) else "")
    return text + (f" --tproxy-mark {draw.masked()}" if draw.maybe(0.6) else "")


def _mark(spot: Spot) -> str:
    draw = spot.draw
    how = draw.one((4, "set-xmark"), (1, "set-mark"), (0.7, "and-mark"), (0.7, "or-mark"), (0.7, "xor-mark"))
    return f"--{how} {draw.masked(0.5) if how.startswith('set') else f'{draw.mark():#x}'}"


def _connmark(spot: Spot) -> str:
    draw = spot.draw
    masks = f" --nfmask {draw.mark() or 0xFFFF:#x} --ctmask {draw.mark() or 0xFF:#x}" if draw.maybe(0.3) else ""
    return draw.one(
        (2, f"--save-mark{masks}"),
        (2, f"--restore-mark{masks}"),
        (2, f"--set-xmark {draw.masked()}"),
        (0.5, f"--and-mark {draw.mark():#x}"),
        (0.5, f"--or-mark {draw.mark():#x}"),
    )


def _ct(spot: Spot) -> str:
    way = spot.draw.choice(["", "-orig", "-reply"])
    return spot.draw.one((3, f"--zone{way} {spot.draw.randint(1, 2)}"), (2, "--notrack"), (0.3, "--ctevents new"))


def _tos(spot: Spot) -> str:
    value = spot.draw.choice(TOSES)
    return spot.draw.one((3, f"--set-tos {value:#x}"), (1, f"--set-tos {value:#x}/0x3f"), (1, f"--or-tos {value:#x}"))


def _hops(spot: Spot) -> str:
    name = "ttl" if spot.family == 4 else "hl"
    how = spot.draw.choice(["set", "inc", "dec"])
    return f"--{name}-{how} {spot.draw.choice(TTLS) if how == 'set' else spot.draw.choice([1, 63])}"


def _set(spot: Spot) -> str:
    name, fields = spot.draw.choice(spot.sets)
    sides = ",".join(spot.draw.choice(["src", "dst"]) for _ in range(fields))
    options = "".join(each for each in (" --map-mark", " --map-prio") if spot.draw.maybe())
    if spot.table == "mangle" and options and spot.draw.maybe():
        return f"--map-set {name} {sides}{options}"
    return f"--{spot.draw.choice(['add-set', 'add-set', 'del-set'])} {name} {sides}"


def _reject(spot: Spot) -> str:
    four = ("icmp-port-unreachable", "icmp-admin-prohibited", "icmp-host-unreachable")
    kinds = list(four if spot.family == 4 else ("icmp6-port-unreachable", "icmp6-adm-prohibited"))
    if spot.proto == "tcp":
        kinds += ["tcp-reset", "tcp-reset"]
    return f"--reject-with {spot.draw.choice(kinds)}" if spot.draw.maybe(0.7) else ""


MAKERS = {
    "REDIRECT": _redirect,
    "DNAT": _dnat,
    "SNAT": _snat,
    "MASQUERADE": _masquerade,
    "NETMAP": _netmap,
    "TPROXY": _tproxy,
    "MARK": _mark,
    "CONNMARK": _connmark,
    "CT": _ct,
    "TOS": _tos,
    "DSCP": lambda spot: f"--set-dscp {spot.draw.choice(DSCPS):#x}",
    "TTL": _hops,
    "LOG": lambda spot: '--log-prefix "wild: "',
    "NFLOG": lambda spot: "--nflog-group 3",
    "NFQUEUE": lambda spot: spot.draw.choice(["--queue-num 5", "--queue-num 5 --queue-bypass"]),
    "CLASSIFY": lambda spot: f"--set-class 0:{spot.draw.randint(0, 6)}",
    "SET": _set,
    "TCPMSS": lambda spot: "--set-mss 1000",
    "TEE": lambda spot: f"--gateway {PEER['eth0', spot.family]}",
    "HMARK": lambda spot: "--hmark-tuple src,dst --hmark-mod 4 --hmark-rnd 0x1 --hmark-offset 1",
    "CHECKSUM": lambda spot: "--checksum-fill",
    "ECN": lambda spot: "--ecn-tcp-remove",
    "DNPT": lambda spot: "--src-pfx 2001:db8::/64 --dst-pfx fd00:1::/64",
    "SNPT": lambda spot: "--src-pfx fd00:1::/64 --dst-pfx 2001:db8::/64",
    "REJECT": _reject,
}


def batches(draw: Draw, store: str, family: int, sets: Sequence[tuple[str, int]], size: int) -> list[Batch]:
    """Some tables of one store and family."""
    program = f"ip{'6' if family == 6 else ''}tables-{store}-restore"
    found = []
    for name in draw.some(list(HOOKS), 1, 4):
        table = Table(draw, family, name, sets, draw.randint(size // 3, size))
        argv = (program, "--noflush")
        label = f"{store}{family} {name}"
        found.append(Batch(label, argv, f"*{name}\n", tuple(table.needs()), tuple(table.lines), "COMMIT\n"))
    return found
