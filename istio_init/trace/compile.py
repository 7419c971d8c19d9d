"""Rules as functions over a packet's state.

A test answers True, False, or None: a match that is not known here, of which nobody can tell.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import (
    Address,
    Comment,
    Connmark,
    Ctstate,
    IdRange,
    Interface,
    Mark,
    Match,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
    PortTest,
    Protocol,
)
from istio_init.trace.packet import CT_BITS, PORT_PROTOCOLS, State, protocol_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.dialects.iptables.rules import Chain, Entry, Rule

    Test = Callable[[State], bool | None]


class CompiledRule:
    """A rule with its tests, and what each of them is, to say why it does not match."""

    __slots__ = ("chain", "entry", "number", "parts", "tests")

    def __init__(self, chain: str, number: int, entry: Entry) -> None:
        self.chain = chain
        self.number = number
        self.entry = entry
        compiled = _compile(entry.rule)
        self.parts = tuple([part for part, _ in compiled])
        self.tests = tuple([test for _, test in compiled])


def compile_chain(chain: Chain) -> tuple[CompiledRule, ...]:
    """The rules of a chain, ready to be asked."""
    return tuple([CompiledRule(chain.name, number, entry) for number, entry in enumerate(chain.entries, 1)])


def _compile(rule: Rule) -> list[tuple[object, Test]]:
    found: list[tuple[object, Test]] = []
    if rule.protocol is not None:
        found.append((rule.protocol, _protocol(rule.protocol)))
    if rule.in_interface is not None:
        found.append((rule.in_interface, _interface(rule.in_interface, "in_interface")))
    if rule.out_interface is not None:
        found.append((rule.out_interface, _interface(rule.out_interface, "out_interface")))
    if rule.source is not None:
        found.append((rule.source, _address(rule.source, source=True)))
    if rule.destination is not None:
        found.append((rule.destination, _address(rule.destination, source=False)))
    found += [(match, test) for match in rule.matches for test in _match(match)]
    return found


def _protocol(test: Protocol) -> Test:
    name, negated = protocol_name(test.name), test.negated
    return lambda state: (state.protocol == name) is not negated


def _interface(test: Interface, field: str) -> Test:
    name, negated = test.name, test.negated
    prefix = name[:-1] if name.endswith("+") else None

    def check(state: State) -> bool:
        # Where there is no interface the kernel compares with an empty name, which "+" alone matches.
        actual: str = getattr(state, field) or ""
        return (actual.startswith(prefix) if prefix is not None else actual == name) is not negated

    return check


def _address(test: Address, *, source: bool) -> Test:
    network, mask, negated = int(test.network.network_address), int(test.network.netmask), test.negated
    if source:
        return lambda state: (state.source & mask == network) is not negated
    return lambda state: (state.destination & mask == network) is not negated


def _match(match: Match) -> list[Test]:
    match match:
        case PortMatch(_, source, destination):
            tests: list[Test] = []
            if source is not None:
                tests.append(_port(source, source=True))
            if destination is not None:
                tests.append(_port(destination, source=False))
            return tests
        case Multiport():
            return [_multiport(match)]
        case Owner(uid, uid_negated, gid, gid_negated):
            tests = []
            if uid is not None:
                tests.append(_id(uid, uid_negated, "uid"))
            if gid is not None:
                tests.append(_id(gid, gid_negated, "gid"))
            return tests
        case Mark(value, mask, negated):
            return [lambda state: (state.mark & mask == value) is not negated]
        case Connmark(value, mask, negated):
            # Without a connection the test fails, negated or not (xt_connmark).
            return [lambda state: state.tracked and (state.connmark & mask == value) is not negated]
        case Ctstate(states, negated):
            bits = sum(CT_BITS[each] for each in states)
            return [lambda state: (state.ct & bits != 0) is not negated]
        case Comment():
            return []
        case OpaqueMatch():
            return [lambda _: None]


def _port(test: PortTest, *, source: bool) -> Test:
    first, last, negated = test.ports.first, test.ports.last, test.negated
    if source:
        return lambda state: (first <= state.sport <= last) is not negated
    return lambda state: (first <= state.dport <= last) is not negated


def _multiport(match: Multiport) -> Test:
    ranges = [(each.first, each.last) for each in match.ports]
    side, negated = match.side, match.negated

    def check(state: State) -> bool:
        if state.protocol not in PORT_PROTOCOLS:
            return False
        ports = {"source": (state.sport,), "destination": (state.dport,)}.get(side, (state.sport, state.dport))
        return any(low <= port <= high for port in ports for low, high in ranges) is not negated

    return check


def _id(ids: IdRange, negated: bool, field: str) -> Test:
    """A packet without a socket fails a test and passes its negation (xt_owner, owner_mt)."""
    first, last = ids.first, ids.last
    if field == "uid":
        return lambda state: (state.uid is not None and first <= state.uid <= last) is not negated
    return lambda state: (state.gid is not None and first <= state.gid <= last) is not negated
