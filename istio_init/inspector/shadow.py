"""Which rules of a chain see no packet any more, because an earlier rule takes all that they could match.

Chains may hold many thousand rules that differ in a destination or a port alone. So rules are kept in groups of such,
and only what could cover a rule is looked at.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import Address, Comment, PortMatch, PortTest
from istio_init.dialects.iptables.rules import Rule
from istio_init.inspector.cover import covers, covers_address, covers_port, ends

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.dialects.iptables.rules import Chain


def shadows(chain: Chain, chains: Mapping[str, Chain]) -> dict[int, int]:
    """By the index of each rule that sees no packet, that of the first rule which leaves it none.

    ``chains`` are those of the same table, to follow jumps.
    """
    found = {}
    groups: dict[Rule, _Group] = {}
    for index, later in enumerate(chain.rules):
        before = [
            earlier
            for rest, group in groups.items()
            if covers(rest, later) and (earlier := group.find(later)) is not None and ends(rest, later, chains)
        ]
        if before:
            found[index] = min(before)
        rest, port = _split(later)
        groups.setdefault(rest, _Group()).add(index, later.destination, port)
    return found


def _split(rule: Rule) -> tuple[Rule, PortTest | None]:
    """A rule without its destination, destination port and comments; and that port."""
    matches = tuple(match for match in rule.matches if not isinstance(match, Comment))
    tests = [match for match in matches if isinstance(match, PortMatch)]
    port = None
    if len(tests) == 1 and tests[0].source is None:
        port = tests[0].destination
        matches = tuple(PortMatch(each.protocol) if isinstance(each, PortMatch) else each for each in matches)
    return rule.replace(destination=None, matches=matches), port


class _Group:
    """Rules that differ in destination and destination port alone."""

    def __init__(self) -> None:
        self._ports: dict[Address | None, _Ports] = {}
        self._lengths: set[int] = set()
        self._negated: list[Address] = []

    def add(self, index: int, destination: Address | None, port: PortTest | None) -> None:
        """Add a rule."""
        if destination is not None and destination not in self._ports:
            if destination.negated:
                self._negated.append(destination)
            else:
                self._lengths.add(destination.network.prefixlen)
        self._ports.setdefault(destination, _Ports()).add(index, port)

    def find(self, later: Rule) -> int | None:
        """The first rule whose destination and port take all that those of ``later`` do."""
        wanted = [match.destination for match in later.matches if isinstance(match, PortMatch)] or [None]
        found = [
            index
            for destination in self._around(later.destination)
            for port in wanted
            if (index := self._ports[destination].find(port)) is not None
        ]
        return min(found, default=None)

    def _around(self, destination: Address | None) -> Iterator[Address | None]:
        """The destinations in the group that hold a destination."""
        if None in self._ports:
            yield None
        if destination is None:
            return
        yield from (each for each in self._negated if covers_address(each, destination))
        if not destination.negated:
            for length in self._lengths:
                if length <= destination.network.prefixlen:
                    wider = Address(destination.network.supernet(new_prefix=length))
                    if wider in self._ports:
                        yield wider


class _Ports:
    """The first rule for each port test."""

    def __init__(self) -> None:
        self._exact: dict[PortTest | None, int] = {}
        self._wide: list[PortTest] = []

    def add(self, index: int, port: PortTest | None) -> None:
        """Add a rule; a repeated test counts where it stands first."""
        if port not in self._exact:
            self._exact[port] = index
            if port is not None and (port.negated or port.ports.first != port.ports.last):
                self._wide.append(port)

    def find(self, port: PortTest | None) -> int | None:
        """The first rule whose test holds for all ports that this one does."""
        found = [self._exact[each] for each in (None, port) if each in self._exact]
        found += [self._exact[each] for each in self._wide if covers_port(each, port)]
        return min(found, default=None)
