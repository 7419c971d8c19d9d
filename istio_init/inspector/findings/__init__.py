"""What is wrong with a namespace: one function for each check, and all of them over a snapshot."""

from __future__ import annotations

from istio_init.inspector.findings import applications, dropped, fate, listening, namespace, rules, stores
from istio_init.inspector.findings.model import Finding, Severity, View

CHECKS = (
    namespace.mesh_bypassed,
    namespace.loopback_down,
    listening.no_listener,
    listening.not_transparent,
    applications.not_the_proxy,
    applications.ports_swapped,
    rules.half_applied,
    stores.both_backends,
    stores.both_modes,
    rules.duplicates,
    fate.captured_otherwise,
    dropped.captured_dropped,
    dropped.all_excluded,
    rules.shadowed,
    rules.ports_narrow_nothing,
    rules.exclude_without_all,
    rules.no_inbound_capture,
    rules.no_outbound_capture,
    rules.mode_leftovers,
    rules.leftover_routing,
    rules.guardrails,
    stores.unfaithful_reader,
    namespace.exempt_process,
    namespace.proxy_not_exempt,
    namespace.reserved_port,
    namespace.loopback_only,
    applications.uncaptured_port,
    applications.no_such_interface,
    applications.bridged_containers,
    namespace.ipv6_not_captured,
    namespace.ipv6_not_ready,
    namespace.tproxy_routing,
    namespace.ambient_routing,
    namespace.dns,
    namespace.host_namespace,
    namespace.conntrack_full,
    namespace.invalid_packets,
    namespace.zero_counters,
)

SEVERITIES = (Severity.ERROR, Severity.WARNING, Severity.INFO)
"""The worst first."""


def findings(view: View) -> tuple[Finding, ...]:
    """Everything that is wrong, the worst first."""
    found = [finding for check in CHECKS for finding in check(view)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))
