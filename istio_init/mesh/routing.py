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
    """Where it stands among the rules; None: where the kernel puts it."""

    def __str__(self) -> str:
        mark = f"{self.mark:#x}" if self.mask == MAX_MARK else f"{self.mark:#x}/{self.mask:#x}"
        return f"{self.family.value} fwmark {mark} lookup {self.table}, local default dev lo"


class Routing(Value):
    """The routing of a namespace, as far as it concerns the redirection."""

    mark_routes: tuple[MarkRoute, ...] = ()
    passthrough_ipv6: bool = False
    """``::6/128`` is an address of lo, so that Envoy can bind it as the source of inbound passthrough connections."""

    shared_tables: frozenset[tuple[Family, int]] = frozenset()
    """Of what is to be removed: tables whose route stays, because another routing rule leads to them."""


class LiveRouting(Value):
    """What the namespace's routing holds, as far as the redirection could own it.

    ``rules`` repeats a rule that the kernel holds several times.
    """

    rules: tuple[tuple[Family, int, int], ...] = ()
    local_tables: frozenset[tuple[Family, int]] = frozenset()
    passthrough_ipv6: bool = False
