"""From the live rules of a pod in an ambient mesh back to the configuration that they came from."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.dialects.role import Role
from istio_init.mesh.policy import ambient, merged, native
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from istio_init.dialects.iptables.rules import Rule, RuleSet
    from istio_init.mesh.native import Raised

    Policy = Callable[[AmbientConfig], Mapping[Family, RuleSet]]

_INBOUND = (Role.AMBIENT_INBOUND, Role.AMBIENT_PROBE)
_DNS = (Role.AMBIENT_DNS, Role.AMBIENT_DNS_ZONE)


class InferredAmbient(Value):
    """The configuration behind live rules; ``exact`` tells whether the policy gives just these rules for it."""

    config: AmbientConfig
    exact: bool


def infer_ambient(live: Mapping[Family, RuleSet], policy: Policy = ambient.rules) -> InferredAmbient | None:
    """The configuration of the recognised rules of one backend; None where there is no rule of an ambient pod's.

    ``policy`` gives the rules that a configuration means, as what was read would have them.
    """
    captured = {family: rules for family, rules in live.items() if any(_roles(rules))}
    if not captured:
        return None
    found = [entry for rules in captured.values() for *_, entry in rules.entries()]
    roles = {entry.role for entry in found}
    config = AmbientConfig(
        redirect_dns=bool(roles & set(_DNS)),
        ipv6=Family.IPV6 in captured,
        bypass_inbound_capture=not roles & set(_INBOUND),
        virtual_interfaces=tuple(dict.fromkeys(_interfaces(captured))),
        **_probes(captured),  # type: ignore[arg-type]
    )
    built = policy(config)
    exact = all(family in captured and not diff(captured[family], built[family]).edits for family in config.families)
    return InferredAmbient(config, exact)


def infer_ambient_native(found: Raised) -> InferredAmbient | None:
    """The configuration of native nftables rules, raised; None where there is no rule of an ambient pod's."""
    return infer_ambient(found.captured, merged.ambient_rules if found.is_ours else native.ambient_rules)


def _roles(rules: RuleSet) -> Iterator[Role]:
    for *_, entry in rules.entries():
        if entry.role is not None and entry.role.value.startswith("ambient-"):
            yield entry.role


def _rules(rules: RuleSet, *roles: Role) -> Iterator[Rule]:
    return (entry.rule for *_, entry in rules.entries() if entry.role in roles)


def _interfaces(captured: Mapping[Family, RuleSet]) -> Iterator[str]:
    """The interfaces, in the order of the family that names most."""
    virtual = (Role.AMBIENT_VIRTUAL_INTERFACE, Role.AMBIENT_VIRTUAL_INTERFACE_RETURN)
    named = [[*_rules(rules, *virtual)] for rules in captured.values()]
    for rule in max(named, key=len):
        if rule.in_interface is not None:
            yield rule.in_interface.name


def _probes(captured: Mapping[Family, RuleSet]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for family, rules in captured.items():
        for rule in _rules(rules, Role.AMBIENT_PROBE, Role.AMBIENT_PROBE_ANSWER):
            address = rule.source or rule.destination
            if address is not None:
                fields[f"probe_{family.value}"] = address.network.network_address
    return fields
