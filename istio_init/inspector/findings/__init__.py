"""What is wrong with a namespace: one function for each check, and all of them over a snapshot."""

from __future__ import annotations

from istio_init.inspector.findings import (
    applications,
    catalogue,
    connections,
    dns,
    dropped,
    fate,
    listening,
    marked,
    namespace,
    partly,
    rules,
    stores,
    uplink,
)
from istio_init.inspector.findings.model import Finding, Severity, View

CHECKS = (
    namespace.mesh_bypassed,
    namespace.loopback_down,
    uplink.no_route,
    uplink.refusing_route,
    uplink.virtual_uplink,
    listening.no_listener,
    listening.not_transparent,
    connections.stopped_proxy,
    connections.accept_queue_full,
    applications.not_the_proxy,
    applications.ports_swapped,
    rules.half_applied,
    stores.both_backends,
    stores.both_modes,
    rules.duplicates,
    fate.captured_otherwise,
    uplink.proxy_redirected,
    dropped.captured_dropped,
    dropped.all_excluded,
    partly.some_dropped,
    rules.shadowed,
    rules.ports_narrow_nothing,
    rules.exclude_without_all,
    rules.no_inbound_capture,
    rules.no_outbound_capture,
    rules.mode_leftovers,
    rules.leftover_routing,
    rules.guardrails,
    stores.unfaithful_reader,
    connections.open_bypass,
    namespace.exempt_process,
    namespace.proxy_not_exempt,
    namespace.reserved_port,
    namespace.loopback_only,
    applications.owner_groups,
    applications.uncaptured_port,
    applications.health_captured,
    applications.no_such_interface,
    applications.bridged_containers,
    namespace.ipv6_not_captured,
    namespace.ipv6_not_ready,
    marked.tproxy_routing,
    marked.ambient_routing,
    dns.queries,
    namespace.host_namespace,
    namespace.conntrack_full,
    namespace.invalid_packets,
    namespace.zero_counters,
)

SEVERITIES = (Severity.ERROR, Severity.WARNING, Severity.INFO)
"""The worst first."""


def findings(view: View) -> tuple[Finding, ...]:
    """Everything that is wrong, the worst first."""
    found = _told_once([finding for check in CHECKS for finding in check(view)])
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _told_once(found: list[Finding]) -> list[Finding]:
    """Without what another finding says better: of a rule that stops all, that it stops some."""
    told = [line for each in found if each.kind is not catalogue.SOME_DROPPED for line in each.evidence]
    kept = []
    for each in found:
        if each.kind is catalogue.SOME_DROPPED:
            lines = tuple(line for line in each.evidence if not any(_rule(line) in other for other in told))
            each = each.replace(evidence=lines)
        if each.evidence:
            kept.append(each)
    return kept


def _rule(line: str) -> str:
    """The rule at the beginning of a line of evidence, with its place."""
    if "  [" in line:
        return line.split("  [", 1)[0]
    return line.partition(": istio-init trace")[0].rpartition(": ")[0]  # A rule without counters, and its fate.
