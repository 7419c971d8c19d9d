"""How live rules differ from those that a configuration calls for, in order."""

from __future__ import annotations

from istio_init.config.model import Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.inspector.arguments import arguments
from istio_init.inspector.findings.fate import strays
from istio_init.inspector.release import is_older, release_span
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff
from istio_init.plan.model import Change, Kind
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.inspector.findings.model import View


class FamilyDrift(Value):
    """What differs in one family: missing, extra and moved rules, and the foreign ones beside them."""

    family: Family
    changes: tuple[Change, ...]


class Drift(Value):
    """``note`` says what explains the difference better than its rules, for example an older release."""

    is_equal: bool
    families: tuple[FamilyDrift, ...] = ()
    note: str | None = None


def drift(view: View, expected: Config) -> Drift:
    """Compare with the rules that ``expected`` means in this namespace."""
    if view.inferred is not None and is_older(span := release_span(view.rules)):
        live, wanted = arguments(view.inferred.config), arguments(expected)
        if live == wanted:
            lost = ", but connections go astray: see the findings" if strays(view) else ""
            return Drift(False, note=f"programmed by an older release ({span}) with the expected configuration{lost}")
        return Drift(False, note=f"programmed by an older release ({span}), with: {live}")
    built = sidecar.rules(_decided(view, expected), _around(view, expected))
    families = []
    equal = True
    for family in Family:
        plan = diff(view.rules.get(family, RuleSet(family)), built.get(family, RuleSet(family)))
        equal &= not plan.edits
        changes = tuple(change for change in plan.changes if change.kind is not Kind.KEEP)
        if changes:
            families.append(FamilyDrift(family, changes))
    return Drift(equal, tuple(families))


def _around(view: View, expected: Config) -> Surroundings:
    """The surroundings as the namespace has them; for a file, as its rules tell."""
    inferred = view.inferred.around if view.inferred else Surroundings()
    if not view.snapshot.is_live:
        return inferred
    ipv6 = sidecar.captures_ipv6(view.snapshot.addresses, dual_stack=expected.dual_stack)
    return Surroundings(bool(ipv6), view.snapshot.dns_servers if expected.redirect_dns else ())


def _decided(view: View, expected: Config) -> Config:
    """DNS capture is off where no server is named, as in programming."""
    if expected.redirect_dns and not expected.capture_all_dns and not _around(view, expected).dns_servers:
        return expected.replace(redirect_dns=False)
    return expected
