"""How live rules differ from those that a configuration calls for, in order."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.arguments import arguments
from istio_init.inspector.findings.fate import strays
from istio_init.mesh.meaning import Meaning, resolve, settle
from istio_init.mesh.native import AMBIENT, SIDECAR
from istio_init.mesh.policy import ambient, merged, native, sidecar
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff
from istio_init.plan.model import Change, Kind
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv6Address

    from istio_init.config.model import Config
    from istio_init.inspector.findings.model import View
    from istio_init.mesh.native import Raised

    Servers = tuple[IPv4Address | IPv6Address, ...]


class FamilyDrift(Value):
    """What differs in one family: missing, extra and moved rules, and the foreign ones beside them."""

    family: Family
    changes: tuple[Change, ...]


class Drift(Value):
    """``note`` says what explains the difference better than its rules, for example an older release."""

    is_equal: bool
    families: tuple[FamilyDrift, ...] = ()
    note: str | None = None


OTHER_KIND = "the rules are those of {live}, and not of {expected}"
A_SIDECAR, AN_AMBIENT_POD = "a sidecar", "an ambient pod"


def drift(view: View, expected: Config | AmbientConfig, *, servers: Servers | None = None) -> Drift:
    """Compare with the rules that ``expected`` means in this namespace; ``servers`` are its name servers if not those
    of the snapshot.
    """
    if isinstance(expected, AmbientConfig):
        if view.inferred is not None:
            found = compare(view.rules, ambient.rules(expected))
            return found.replace(note=OTHER_KIND.format(live=A_SIDECAR, expected=AN_AMBIENT_POD))
        raised = _raised(view, AMBIENT)
        return native_ambient_drift(raised, expected) if raised is not None else ambient_drift(view.rules, expected)
    found = _sidecar_drift(view, expected, view.snapshot.dns_servers if servers is None else servers)
    if view.ambient is not None:
        return found.replace(note=OTHER_KIND.format(live=AN_AMBIENT_POD, expected=A_SIDECAR))
    return found


def _raised(view: View, prefix: str) -> Raised | None:
    """The native rules of a kind of pod, where these are the ones that are looked at."""
    if view.backend is not RuleStore.NATIVE:
        return None
    return next((each for each in view.snapshot.raised if each.prefix == prefix), None)


def _sidecar_drift(view: View, expected: Config, servers: Servers) -> Drift:
    if view.inferred is not None and view.is_older:
        live, wanted = arguments(view.inferred.config), arguments(expected)
        if live == wanted:
            lost = ", but connections go astray: see the findings" if strays(view) else ""
            return Drift(
                False, note=f"programmed by an older release ({view.release}) with the expected configuration{lost}"
            )
        return Drift(False, note=f"programmed by an older release ({view.release}), with: {live}")
    meaning = _meaning(view, expected, servers)
    if (raised := _raised(view, SIDECAR)) is not None:
        return native_drift(raised, meaning)
    return compare(view.rules, sidecar.rules(meaning.config, meaning.around))


def native_drift(found: Raised, meaning: Meaning) -> Drift:
    """Compare a sidecar's native nftables rules, raised, with those that a configuration means."""
    policy = merged.sidecar_rules if found.is_ours else native.sidecar_rules
    return compare(found.rules, policy(meaning.config, meaning.around))


def ambient_drift(live: Mapping[Family, RuleSet], expected: AmbientConfig) -> Drift:
    """Compare the recognised rules of an ambient pod, in one store, with those that a configuration means."""
    return compare(live, ambient.rules(expected))


def native_ambient_drift(found: Raised, expected: AmbientConfig) -> Drift:
    """The same for native nftables rules, raised."""
    policy = merged.ambient_rules if found.is_ours else native.ambient_rules
    return compare(found.rules, policy(expected))


def compare(live: Mapping[Family, RuleSet], built: Mapping[Family, RuleSet]) -> Drift:
    """Compare recognised rules with wanted ones, in iptables' words."""
    families = []
    equal = True
    for family in Family:
        plan = diff(live.get(family, RuleSet(family)), built.get(family, RuleSet(family)))
        equal &= not plan.edits
        changes = tuple(change for change in plan.changes if change.kind is not Kind.KEEP)
        if changes:
            families.append(FamilyDrift(family, changes))
    return Drift(equal, tuple(families))


def _meaning(view: View, expected: Config, servers: Servers) -> Meaning:
    """What the configuration means in the namespace; for a file, as its rules tell."""
    if view.snapshot.is_live:
        return resolve(expected, view.snapshot.addresses, servers)
    around = view.inferred.around if view.inferred else Surroundings()
    return settle(expected, around.dns_servers, ipv6=around.ipv6)
