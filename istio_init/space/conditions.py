"""What a rule tests, as regions of a space."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import (
    Comment,
    Connmark,
    Ctstate,
    Mark,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
)
from istio_init.dialects.iptables.tables import Table
from istio_init.space.intervals import Intervals, difference, intersection, union
from istio_init.space.space import (
    CONNMARK,
    DESTINATION,
    DPORT,
    GID,
    INTERFACE,
    MARK,
    NEW,
    NO_ID,
    PROTOCOL,
    SOURCE,
    SPORT,
    TEMPLATE,
    TRACKING,
    TRANSLATED,
    UID,
    UNTRACKED,
    Space,
    Test,
    numbers,
)
from istio_init.trace.hooks import ENTERING
from istio_init.trace.packet import PORT_PROTOCOLS
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.matches import Address, Match, PortTest
    from istio_init.dialects.iptables.rules import Rule

STATES = {
    UNTRACKED: frozenset(["INVALID"]),
    TEMPLATE: frozenset(["NEW"]),
    NEW: frozenset(["NEW"]),
    TRANSLATED: frozenset(["NEW", "DNAT"]),
}
"""What ``--ctstate`` sees of the values of `TRACKING`."""


class Condition(Value):
    """When a rule matches: in any of these disjoint regions; ``certain`` is false where a test is not known."""

    tests: tuple[tuple[tuple[int, Intervals], ...], ...]
    certain: bool = True


def condition(space: Space, rule: Rule, table: Table, hook: str) -> Condition:
    """When a rule matches that is asked at a hook, be it in a chain that was called from there."""
    return _Asked(space, table, hook).condition(rule)


class _Asked:
    """One table and hook, where rules are asked."""

    def __init__(self, space: Space, table: Table, hook: str) -> None:
        self.space = space
        self.table = table
        self.hook = hook

    def condition(self, rule: Rule) -> Condition:
        tests: list[Test] = [{}]
        certain = True
        if rule.protocol is not None:
            named = numbers([self.space.protocols.number(rule.protocol.name)])
            tests = self._and(tests, PROTOCOL, named, rule.protocol.negated)
        tests = self._interfaces(tests, rule)
        for dimension, address in ((SOURCE, rule.source), (DESTINATION, rule.destination)):
            if address is not None:
                tests = self._and(tests, dimension, _network(address), address.negated)
        for match in rule.matches:
            further = self._match(match, tests)
            if further is None:
                certain = False
            else:
                tests = further
        return Condition(tuple(tuple(sorted(test.items())) for test in tests), certain)

    def _and(self, tests: list[Test], dimension: int, values: Intervals, negated: bool = False) -> list[Test]:
        size = self.space.size_of(dimension) if dimension not in (UID, GID, INTERFACE) else _ALL
        allowed = difference(size, values) if negated else values
        narrowed = []
        for test in tests:
            left = intersection(test[dimension], allowed) if dimension in test else allowed
            if left:
                narrowed.append({**test, dimension: left})
        return narrowed

    def _interfaces(self, tests: list[Test], rule: Rule) -> list[Test]:
        entering = self.hook in ENTERING
        for test, applies in ((rule.in_interface, entering), (rule.out_interface, not entering)):
            if test is not None and applies:
                found = numbers(self.space.interfaces.matching(test))
                tests = self._and(tests, INTERFACE, found, test.negated)
            elif test is not None:
                # The kernel compares with an empty name, which "+" alone matches.
                tests = tests if (test.name == "+") is not test.negated else []
        return tests

    def _match(self, match: Match, tests: list[Test]) -> list[Test] | None:
        marks = self.space.marks
        match match:
            case PortMatch(_, source, destination):
                for dimension, test in ((SPORT, source), (DPORT, destination)):
                    if test is not None:
                        tests = self._and(tests, dimension, _port(test), test.negated)
                return tests
            case Multiport():
                return self._multiport(match, tests)
            case Owner(uid, uid_negated, gid, gid_negated):
                for dimension, ids, negated in ((UID, uid, uid_negated), (GID, gid, gid_negated)):
                    if ids is not None:
                        found = intersection(((ids.first, ids.last),), ((0, NO_ID - 1),))
                        tests = self._and(tests, dimension, found, negated)
                return tests
            case Mark(value, mask, negated) if marks.known:
                return self._and(tests, MARK, marks.test(value, mask), negated)
            case Connmark(value, mask, negated) if marks.known:
                tests = self._and(tests, TRACKING, ((TEMPLATE, TRANSLATED),))
                return self._and(tests, CONNMARK, marks.test(value, mask), negated)
            case Ctstate(states, negated):
                matching = [each for each, seen in STATES.items() if not seen.isdisjoint(states)]
                return self._and(tests, TRACKING, numbers(matching), negated)
            case Comment():
                return tests
            case OpaqueMatch() if (match, self.table, self.hook) in self.space.unknown:
                answer = len(self.space.whole) - len(self.space.unknown)
                answer += self.space.unknown.index((match, self.table, self.hook))
                return self._and(tests, answer, ((1, 1),))
            case _:
                return None

    def _multiport(self, match: Multiport, tests: list[Test]) -> list[Test]:
        protocols = [number for number, name in enumerate(self.space.protocols.names) if name in PORT_PROTOCOLS]
        tests = self._and(tests, PROTOCOL, numbers(protocols))
        ports = union([((each.first, each.last),) for each in match.ports])
        if match.side != "either":
            return self._and(tests, SPORT if match.side == "source" else DPORT, ports, match.negated)
        if match.negated:
            return self._and(self._and(tests, SPORT, ports, True), DPORT, ports, True)
        by_source = self._and(tests, SPORT, ports)
        return by_source + self._and(self._and(tests, SPORT, ports, True), DPORT, ports)


_ALL: Intervals = ((0, 2**32 - 1),)
"""Every id, nobody's too, and every interface: what packets have at a later hook they need not begin with."""


def _network(address: Address) -> Intervals:
    network = address.network
    return ((int(network.network_address), int(network.broadcast_address)),)


def _port(test: PortTest) -> Intervals:
    return ((test.ports.first, test.ports.last),)
