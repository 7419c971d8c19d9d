"""One configuration, live through one backend: what is sent, what the kernel does, and what was predicted."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from istio_init.config.model import Config, Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import render_save
from istio_init.dialects.iptables.targets import Redirect, Tproxy
from istio_init.inspector.arguments import arguments
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.family import Family
from istio_init.system import netlink
from istio_init.prove.live_trace import arrived_at, traced
from istio_init.system.nft_trace import Passage
from istio_init.trace.engine import Trace, Tracer
from istio_init.trace.observed import Observed, Place, disagreement
from istio_init.trace.packet import Direction, Packet
from istio_init.wording.arguments import packet_arguments
from judge.draw import Draw, foreign_texts
from judge.lab import POD, Lab
from judge.shots import Shot, Targets, fire

QUIET = 0.15
"""Seconds without news after which all is taken to be told."""

GIVEN_UP = 40
"""So many connections in a row that cannot be sent end a case."""


class Verdict(NamedTuple):
    """A connection that was sent, in what the kernel differs from the prediction, if it does, and the end."""

    packet: Packet
    differs: str | None
    kind: str = ""


class Case:
    """Make it with a seed: the same one makes the same rules for both backends, with connections for each."""

    def __init__(self, seed: str, backend: str) -> None:
        self.seed = seed
        self.backend = backend
        self.draw = Draw(seed)
        self.config: Config = self.draw.config()
        servers: tuple[IPv4Address | IPv6Address, ...] = ()
        if self.draw.maybe():
            servers = (IPv4Address("10.1.2.3"), IPv6Address("fd00::a"))
        self.around = Surroundings(True, servers)
        wanted = sidecar.rules(self.config, self.around)
        count = self.draw.random.choice([0, 0, 1, 3, 8])
        self.foreign = {family: foreign_texts(self.draw, rules, count) for family, rules in wanted.items()}
        self.draw = Draw(f"{seed}/{backend}")
        self.rules: dict[Family, RuleSet] = {}

    def run(self, count: int) -> Iterator[Verdict]:
        """Send so many connections and judge each."""
        with Lab.create(self.backend) as lab:
            lab.apply(self.config, self.around, self.foreign)
            for port in {self.config.inbound_capture_port, 15006}:
                lab.listen(port)
            self.rules, marks = lab.rules(), lab.local_marks()
            self._tracers = {family: Tracer(rules, marks[family]) for family, rules in self.rules.items()}
            self._numbers = lab.inside(netlink.nft_rule_numbers)
            self._links = lab.inside(lambda: dict(socket.if_nameindex()))
            targets = Targets(self.draw, self.rules, marks)
            yield from (
                self._by_trace(lab, targets, count) if self.backend == "nft" else self._by_counters(lab, targets, count)
            )

    def _by_trace(self, lab: Lab, targets: Targets, count: int) -> Iterator[Verdict]:
        """Send everything, and then sort what the kernel told by connection."""
        shots = list(_sent(lab, targets, count))
        found: dict[tuple[Family, str, int], list[Passage]] = {}
        for passage in lab.listener.passages(quiet=QUIET, timeout=20):
            headers = passage.headers
            family = Family.IPV4 if headers.source.version == 4 else Family.IPV6
            if headers.begins:
                found.setdefault((family, headers.protocol, headers.source_port), []).append(passage)
        for shot in shots:
            passages = found.get(shot.key, [])
            yield self._judged(shot, passages, traced(passages, self._numbers, shot.family))

    def _by_counters(self, lab: Lab, targets: Targets, count: int) -> Iterator[Verdict]:
        """Send one after the other, and see which rules counted it."""
        before = {family: lab.counters(family) for family in Family}
        for shot in _sent(lab, targets, count):
            passages: list[Passage] = []
            for quiet in (QUIET / 10, QUIET):  # A packet may still be on its way when the first look is taken.
                passages += [each for each in lab.listener.passages(quiet=quiet) if _belongs(each, shot)]
                after = lab.counters(shot.family)
                verdict = self._judged(shot, passages, _counted(before[shot.family], after, passages))
                if verdict.differs is None:
                    break
            before[shot.family] = after
            yield verdict

    def _judged(self, shot: Shot, passages: list[Passage], seen: Observed) -> Verdict:
        """Compare with the prediction for the packet as the kernel saw it first."""
        if not passages:
            destination = ip_address(shot.destination)
            packet = Packet(shot.direction, shot.protocol, destination, destination)
            return Verdict(packet, f"the kernel tells nothing of {shot}")
        first = passages[0]
        link = first.leaves_by if shot.direction is Direction.OUTBOUND else first.entered_by
        packet = Packet(
            shot.direction,
            shot.protocol,
            first.headers.source,
            first.headers.destination,
            first.headers.source_port,
            first.headers.destination_port,
            shot.uid if shot.direction is Direction.OUTBOUND else None,
            shot.gid if shot.direction is Direction.OUTBOUND else None,
            self._links[link or 0],
            first.mark,
            "INVALID" if shot.invalid else "NEW",
        )
        found = self._tracers[shot.family].trace(packet)
        if _goes_on(found):
            return Verdict(packet, _before_input(found, seen), "for somebody else")
        return Verdict(packet, disagreement(found, seen) or _marks(found, passages, seen), found.delivered.kind)

    def __str__(self) -> str:
        lines = [f"# backend {self.backend}, seed {self.seed}"]
        lines.append(" ".join(arguments(self.config).words("istio-init apply")))
        for family, text in self.foreign.items():
            lines += [f"# {family.value}: rules of others, for restore --noflush", text.rstrip()] if text else []
        for family, rules in self.rules.items():
            lines += [f"# {family.value}: the live rules", render_save(rules).rstrip()]
        return "\n".join(lines)


def _counted(before: dict[Place, int], after: dict[Place, int], passages: list[Passage]) -> Observed:
    """What the counters tell that rose."""
    counts = tuple((place, count - before[place]) for place, count in after.items() if count != before[place])
    return Observed(None, counts, arrived_at(passages))


def case_of(verdict: Verdict, case: Case) -> str:
    """All that is needed to see a disagreement again."""
    return f"{case}\nistio-init trace {packet_arguments(verdict.packet)}\n=> {verdict.differs}\n"


def _sent(lab: Lab, targets: Targets, count: int) -> Iterator[Shot]:
    """Connections that could be sent, as they are."""
    failed = 0
    for shot in targets.shots():
        where = lab.inside if shot.direction is Direction.OUTBOUND else lab.outside
        if where(lambda: fire(shot)):  # noqa: B023 - called at once
            count, failed = count - 1, 0
            yield shot
        else:
            failed += 1
        if count == 0 or failed == GIVEN_UP:
            return


def _belongs(passage: Passage, shot: Shot) -> bool:
    headers = passage.headers
    version = 4 if shot.family is Family.IPV4 else 6
    same = headers.source.version == version and headers.protocol == shot.protocol
    return same and headers.source_port == shot.source_port and headers.begins


def _goes_on(found: Trace) -> bool:
    """Whether an inbound packet stays one for somebody else: routing, which is off, takes it before INPUT."""
    if found.packet.direction is Direction.OUTBOUND or str(found.packet.destination) in POD.values():
        return False
    before = [hop for leg in found.legs for hop in leg.hops if hop.matched and hop.hook == "PREROUTING"]
    taken = any(isinstance(hop.rule.entry.rule.target, Redirect | Tproxy) for hop in before)
    stopped = found.delivered.kind in ("drop", "unknown") and not _reaches_input(found)
    return not taken and not stopped


def _reaches_input(found: Trace) -> bool:
    return any(hop.hook == "INPUT" for leg in found.legs for hop in leg.hops)


def _before_input(found: Trace, seen: Observed) -> str | None:
    predicted = tuple(
        (hop.table.value, hop.rule.chain, hop.rule.number)
        for leg in found.legs
        for hop in leg.hops
        if hop.matched and hop.hook == "PREROUTING"
    )
    actual = seen.counts if seen.legs is None else Counter(place for leg in seen.legs for place in leg).items()
    if Counter(predicted) != Counter(dict(actual)):
        return f"the kernel's rules are {actual}, predicted before INPUT are {predicted}"
    return None


def _marks(found: Trace, passages: list[Passage], seen: Observed) -> str | None:
    """Compare the mark in the end."""
    if seen.port is None or found.delivered.kind == "unknown" or passages[-1].family is not None:
        return None
    mark = passages[-1].mark
    return f"the mark is {mark:#x}, predicted is {found.state.mark:#x}" if mark != found.state.mark else None
