"""Which releases of Istio program rules of this form (read from their sources)."""

from __future__ import annotations

from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.role import Role
from istio_init.mesh.roles.shapes import shape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.netfilter.family import Family

OLDEST, NEWEST = 14, 99
"""Minor versions of Istio 1: the oldest whose rules are known, and no end."""

OLDEST_AMBIENT = 21
"""The first that captures within the pod of an ambient mesh."""

OLDEST_NATIVE, OLDEST_AMBIENT_NATIVE = 27, 28
"""The first with native nftables, for sidecars and for ambient pods."""


def release_span(live: Mapping[Family, RuleSet], *, native: bool = False) -> str:
    """For example ``Istio 1.14 to 1.22``, ``Istio 1.25 or later``; ``native`` rules are those of nftables, raised."""
    return _span(live, OLDEST_NATIVE if native else OLDEST)


def ambient_release_span(live: Mapping[Family, RuleSet], *, native: bool = False) -> str:
    """The same for the rules of a pod in an ambient mesh."""
    return _span(live, OLDEST_AMBIENT_NATIVE if native else OLDEST_AMBIENT)


def _span(live: Mapping[Family, RuleSet], oldest: int) -> str:
    newest = NEWEST
    for rules in live.values():
        for low, high in _bounds(rules):
            oldest, newest = max(oldest, low), min(newest, high)
    if newest == NEWEST:
        return f"Istio 1.{oldest} or later"
    if oldest > newest:
        return "a mixture of releases"
    return f"Istio 1.{oldest} to 1.{newest}" if oldest < newest else f"Istio 1.{oldest}"


def is_older(span: str) -> bool:
    """Whether a span ends before today's rules."""
    return not span.endswith("or later")


def _bounds(rules: RuleSet) -> list[tuple[int, int]]:
    bounds = []
    for table, chain, _, entry in rules.entries():
        form = shape(entry.rule)
        match entry.role:
            case Role.OUTBOUND_JUMP if form == ">ISTIO_OUTPUT":
                bounds.append((25, NEWEST))
            case Role.OUTBOUND_JUMP if form.startswith("-p udp"):
                bounds.append((24, 24))
            case Role.OUTBOUND_JUMP:
                bounds.append((OLDEST, 24))
            case Role.PROXY_TO_SELF if form.startswith(("!-d -o uid", "!-d -o gid")):
                bounds.append((OLDEST, 17))
            case Role.PROXY_TO_SELF if "gid" in form:
                bounds.append((18, NEWEST))
            case Role.DROP_INVALID_JUMP:
                bounds.append((23, NEWEST))
            case Role.OLDER_DROP_INVALID:
                bounds.append((OLDEST, 22))
            case Role.OLDER_DNS_REDIRECT | Role.OLDER_DNS_PROXY_BYPASS | Role.OLDER_DNS_ZONE:
                built_in = not chain.name.startswith("ISTIO_")
                bounds.append((OLDEST, 22) if built_in else (24, 24))
            case Role.AMBIENT_INBOUND:
                bounds.append((OLDEST_AMBIENT, 24) if table is Table.MANGLE else (25, NEWEST))
            case Role.DNS_REDIRECT if (table, chain.name) == (Table.NAT, "ISTIO_OUTPUT"):
                bounds.append((OLDEST, 24))
            case _:
                pass
    return bounds
