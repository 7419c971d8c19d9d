"""What of the live rules stands where it could take traffic away from the redirection, and connections that meet it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import islice

from istio_init.netfilter.chains import Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import contains, intersection
from istio_init.netfilter.names import name_of
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import TCP, WITH_PORTS
from istio_init.netfilter.rules import Dispatch, End, Hook, Lookup, Note, Test, Verdict
from istio_init.netfilter.stages import NAT_PRIORITIES, NFT_FAMILIES, Netfilter
from istio_init.trace.describe import FLAGS, filled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inspector.findings.evaluated import Evaluated
    from istio_init.netfilter.host import Host
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Rule

    Met = dict[Field, Intervals]
    """What tests leave of each field."""

SYN, ECE, CWR = (FLAGS[name] for name in ("SYN", "ECE", "CWR"))
ENTRIES = {Hook.OUTPUT: Direction.OUTBOUND, Hook.PREROUTING: Direction.INBOUND}
"""The hooks at which traffic is captured."""

CALLS = frozenset([Verdict.JUMP, Verdict.GOTO])
CHOSEN = {Field.TOS: range(0, 256, 4), Field.PRIORITY: range(7), Field.TCP_FLAGS: (SYN, SYN | ECE | CWR)}
"""What any program may choose of its packets, and the map takes to be as usual (ip(7), socket(7), tcp(7))."""

USUAL = {
    Field.PROTOCOL: (TCP, 17),
    Field.DPORT: (80, 443, 8080, 53),
    Field.SPORT: (40000,),
    Field.UID: (1000,),
    Field.GID: (1000,),
    Field.MARK: (0,),
    Field.TOS: (0,),
    Field.PRIORITY: (0,),
    Field.TCP_FLAGS: (SYN,),
}
DEEPEST = 16


def count(netfilter: Netfilter, family: Family) -> int:
    """How many rules packets of a family can meet."""
    return sum(len(chain.rules) for table in _of(netfilter, family) for chain in table.chains.values())


def ahead(evaluated: Evaluated, family: Family) -> Netfilter:
    """The live rules without those that are evaluated when the redirection has had what it takes.

    What stands behind it cannot change where captured traffic goes, but for firewalls: `captured_dropped` tells of
    those where they leave nothing.
    """
    tables = [_ahead(evaluated, table) for table in _of(evaluated.live, family)]
    live = evaluated.live
    return Netfilter(tables, live.order, {family: live.tracks_connections(family)})


def _of(netfilter: Netfilter, family: Family) -> Iterator[Table]:
    return (each for each in netfilter.tables if each.family in NFT_FAMILIES[family] and not each.is_dormant)


def _ahead(evaluated: Evaluated, table: Table) -> Table:
    chains: dict[str, Chain] = {}
    for name, chain in table.chains.items():
        if chain.base is not None and not is_behind(chain):
            rules = chain.rules
            if chain.base.type is ChainType.NAT:
                ours = [place for place, rule in enumerate(rules, 1) if evaluated.is_ours(rule)]
                rules = rules[: ours[-1]] if ours else rules
            chains[name] = chain.replace(rules=rules)
    left = list(chains.values())
    while left:
        for callee in {each for rule in left.pop().rules for each in _callees(rule)}:
            if callee in table.chains and callee not in chains:
                chains[callee] = table.chains[callee]
                left.append(chains[callee])
    return Table(table.store, table.family, table.name, chains)


def is_behind(chain: Chain) -> bool:
    """Whether a base chain sees packets only when nat has had them."""
    base = chain.base
    if base is None or base.type is ChainType.NAT:
        return base is not None and base.hook not in ENTRIES
    return base.hook not in ENTRIES or base.priority > NAT_PRIORITIES[base.hook]


def _callees(rule: Rule) -> Iterator[str]:
    for statement in rule.body:
        ends = [statement] if isinstance(statement, End) else []
        if isinstance(statement, Dispatch):
            ends = [end for _, end in statement.verdicts]
        yield from (end.chain for end in ends if end.chain is not None)


class Aimed:
    """Packets that meet the rules of others, as far as their own tests and those on the way to them tell."""

    def __init__(self, evaluated: Evaluated, netfilter: Netfilter, family: Family, most: int) -> None:
        self.evaluated = evaluated
        self.netfilter = netfilter
        self.family = family
        self.most = most

    def packets(self) -> list[Packet]:
        """A packet for each rule that does something, so many at most of each direction."""
        return [packet for hook in ENTRIES for packet in islice(dict.fromkeys(self._at(hook)), self.most)]

    def unusual(self) -> list[Packet]:
        """Those of them that are what no packet is unless its sender wants it, which no map shows."""
        return [each for each in self.packets() if each.tos or each.priority or each.tcp_flags not in (None, SYN)]

    def _at(self, hook: Hook) -> Iterator[Packet]:
        for table in _of(self.netfilter, self.family):
            for chain in table.chains.values():
                if chain.base is not None and chain.base.hook is hook:
                    for met in islice(self._rules(table, chain, {}, DEEPEST), self.most):
                        yield self._packet(met, ENTRIES[hook])

    def _rules(self, table: Table, chain: Chain, before: Met, depth: int) -> Iterator[Met]:
        for rule in chain.rules:
            if self.evaluated.is_ours(rule) or (met := _met(rule, before)) is None:
                continue
            callees = [each for each in _callees(rule) if each in table.chains]
            if callees and depth:
                for callee in callees:
                    yield from self._rules(table, table.chains[callee], met, depth - 1)
            elif _acts(rule):
                yield met

    def _packet(self, met: Met, direction: Direction) -> Packet:
        return aimed(met, direction, self.family, self.evaluated.host)


def _acts(rule: Rule) -> bool:
    """Whether a rule does anything, or could, to what matches."""
    return any(not isinstance(each, Test | Lookup | Note) for each in rule.body)


def _met(rule: Rule, before: Met) -> Met | None:
    """What a rule's tests leave of each field; None where that is nothing."""
    met = dict(before)
    for statement in rule.body:
        tests: list[tuple[Field, Intervals]] = []
        if isinstance(statement, Test) and statement.field in CHOSEN:
            tests = [(statement.field, _choices(statement))]
        elif isinstance(statement, Test) and statement.mask is None:
            tests = [(statement.field, _complement(statement) if statement.negated else statement.within)]
        elif isinstance(statement, Lookup) and not statement.negated and statement.elements.boxes:
            tests = [(key.field, box) for key, box in zip(statement.keys, statement.elements.boxes[0], strict=False)]
        for field, within in tests:
            rest = intersection(met[field], within) if field in met else within
            if not rest:
                return None
            met[field] = rest
    return met


def _choices(test: Test) -> Intervals:
    """What a test leaves of what a program may choose."""
    mask = -1 if test.mask is None else test.mask
    return tuple((each, each) for each in CHOSEN[test.field] if contains(test.within, each & mask) != test.negated)


def _complement(test: Test) -> Intervals:
    """What a negated test leaves, as far as numbers go."""
    left = []
    low = 0
    for first, last in test.within:
        if first > low:
            left.append((low, first - 1))
        low = last + 1
    return (*left, (low, max(low, (1 << 32) - 2)))


def aimed(met: Met, direction: Direction, family: Family, host: Host) -> Packet:
    """A packet that tests leave, as ordinary as they allow."""
    outbound = direction is Direction.OUTBOUND
    other = "198.51.100.1" if family is Family.IPV4 else "2001:db8::1"
    packet, _ = filled({"direction": direction.value, "proto": "tcp", "dst": other, "dport": 80}, host)
    if not outbound:
        version = packet.destination.version
        home = next((each for each in host.addresses if each.version == version and not each.is_loopback), None)
        packet = packet.replace(destination=home or packet.destination)
    address = IPv4Address if family is Family.IPV4 else IPv6Address
    changes: dict[str, object] = {}
    for field, name in (
        (Field.SOURCE, "source"),
        (Field.DESTINATION, "destination"),
        (Field.PROTOCOL, "protocol"),
        (Field.SPORT, "source_port"),
        (Field.DPORT, "destination_port"),
        (Field.MARK, "mark"),
        (Field.TOS, "tos"),
        (Field.TCP_FLAGS, "tcp_flags"),
        *(((Field.PRIORITY, "priority"),) if outbound else ()),
        *(((Field.UID, "uid"), (Field.GID, "gid"), (Field.OUT_INTERFACE, "interface")) if outbound else ()),
        *(() if outbound else ((Field.IN_INTERFACE, "interface"),)),
    ):
        within = met.get(field)
        if within is None:
            continue
        if field in (Field.SOURCE, Field.DESTINATION):
            if not contains(within, int(getattr(packet, name))):
                changes[name] = address(_inside(within))
        elif name == "interface":
            changes[name] = name_of(within[0][0]) or packet.interface
        else:
            usual = next((number for number in USUAL[field] if contains(within, number)), within[0][0])
            changes[name] = usual
    packet = packet.replace(**changes)
    if packet.protocol not in WITH_PORTS:
        packet = packet.replace(source_port=0, destination_port=0)
    return packet if packet.protocol == TCP else packet.replace(tcp_flags=None, length=None)


def _inside(within: Intervals) -> int:
    """An address that is no network's own."""
    low, high = within[0]
    return low + 1 if high > low else low
