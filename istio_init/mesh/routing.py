"""What the redirection needs besides rules: a routing rule with its table, and the passthrough address on lo."""

from __future__ import annotations

from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.value import Value


class MarkRoute(Value):
    """``ip rule fwmark MARK lookup TABLE`` with ``local default dev lo`` in that table."""

    family: Family
    mark: int
    table: int
    mask: int = MAX_MARK
    preference: int | None = None
    """Where it stands among the rules; None: where the kernel puts it, or wherever it stands."""

    has_route: bool = True
    """Whether the table gets its route, which it cannot where IPv6 is off on lo."""

    @property
    def selector(self) -> str:
        """The mark as ip(8) writes it, with its mask where not all bits count."""
        return f"{self.mark:#x}" if self.mask == MAX_MARK else f"{self.mark:#x}/{self.mask:#x}"

    def is_met_by(self, live: MarkRoute) -> bool:
        """Whether a live routing rule is the wanted one."""
        same = (self.family, self.mark, self.mask, self.table) == (live.family, live.mark, live.mask, live.table)
        return same and self.preference in (None, live.preference)

    def __str__(self) -> str:
        route = ", local default dev lo" if self.has_route else ""
        return f"{self.family.value} fwmark {self.selector} lookup {self.table}{route}"


class Routing(Value):
    """The routing of a namespace, as far as it concerns the redirection."""

    mark_routes: tuple[MarkRoute, ...] = ()
    passthrough_ipv6: bool = False
    """``::6/128`` is an address of lo, so that Envoy can bind it as the source of inbound passthrough connections."""

    shared_tables: frozenset[tuple[Family, int]] = frozenset()
    """Of what is to be removed: tables whose route stays, because another routing rule leads to them."""


class LiveRouting(Value):
    """What the namespace's routing holds, as far as the redirection could own it.

    ``rules`` are those that look at all bits of the mark, by family, mark and table; ``masked`` those that look at
    some, each with its preference. Both repeat a rule that the kernel holds several times.
    """

    rules: tuple[tuple[Family, int, int], ...] = ()
    local_tables: frozenset[tuple[Family, int]] = frozenset()
    passthrough_ipv6: bool = False
    masked: tuple[MarkRoute, ...] = ()

    @property
    def every(self) -> tuple[MarkRoute, ...]:
        """All rules, whatever bits of the mark they look at."""
        return (*(MarkRoute(*rule) for rule in self.rules), *self.masked)

    def holds(self, wanted: MarkRoute) -> bool:
        """Whether the routing rule is there."""
        return any(wanted.is_met_by(each) for each in self.every)

    def delivers(self, route: MarkRoute) -> bool:
        """Whether its table delivers locally."""
        return (route.family, route.table) in self.local_tables
