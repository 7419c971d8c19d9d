"""The packet trace of something that was sent, through the rules that are live in a namespace."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from istio_init.inspector.findings.model import View
from istio_init.inspector.reader import reader_of
from istio_init.netfilter.family import Family
from istio_init.netfilter.stages import NFT_FAMILIES, Netfilter
from istio_init.observe.snapshot import Snapshot
from istio_init.prove.reason import DECIDING
from istio_init.report.trace_text import trace_lines
from istio_init.system.places import HERE
from istio_init.testing.namespaces import Namespace
from istio_init.testing.watching import Sending, Sent
from istio_init.trace.describe import filled
from istio_init.trace.result import Kind, Trace
from istio_init.trace.tracer import Tracer


def traces(sending: Sending, sent: Sent, receiver: Namespace) -> list[str]:
    """The way of what was sent through the sender's rules, and through the receiver's if it leaves for there."""
    lines, kept = _traces(sending.namespace, sending, sent, outbound=True)
    if receiver is sending.namespace:
        return lines
    if kept is not None:
        return [*lines, f"It never leaves {sending.namespace.label}: a rule there sends it to port {kept}."]
    return lines + _traces(receiver, sending, sent, outbound=False)[0]


def _traces(namespace: Namespace, sending: Sending, sent: Sent, *, outbound: bool) -> tuple[list[str], int | None]:
    """The way through one namespace's rules, and the port of its own that a redirect leads to."""
    snapshot = namespace.call(_observe)
    address = ip_address(sending.destination.host)
    family = Family.IPV4 if address.version == 4 else Family.IPV6
    netfilter = snapshot.netfilter
    if not _has_rules(netfilter, family):
        return [f"{namespace.label} has no {family.value} rules."], None
    trace, lines = _trace(snapshot, netfilter, sending, sent, outbound=outbound)
    kept = trace.delivered.port if trace.delivered.kind is Kind.REDIRECT else None
    return [f"In the rules of {namespace.label}:", *(f"  {line}" for line in lines)], kept


def _observe() -> Snapshot:
    from istio_init.observe.namespace import observe

    return observe(HERE, known=(), versions=False)


def _has_rules(netfilter: Netfilter, family: Family) -> bool:
    """Whether any store holds rules that see packets of a family."""
    tables = [table for table in netfilter.tables if table.family in NFT_FAMILIES[family]]
    return any(chain.rules for table in tables for chain in table.chains.values())


def _trace(
    snapshot: Snapshot, netfilter: Netfilter, sending: Sending, sent: Sent, *, outbound: bool
) -> tuple[Trace, list[str]]:
    fields: dict[str, Any] = {
        "direction": "outbound" if outbound else "inbound",
        "proto": sending.protocol,
        "dst": sending.destination.host,
        "dport": sending.destination.port,
    }
    if sent.source is not None:
        fields |= {"src": sent.source.host, "sport": sent.source.port}
    if outbound:
        fields |= {"uid": sending.user.uid, "gid": sending.user.gid, "mark": sending.mark}
    packet, _ = filled(fields, snapshot.host)
    # The listeners that were there for the attempt are gone by now.
    trace = Tracer(netfilter, snapshot.host.replace(listeners=None)).trace(packet)
    unknown = [*snapshot.missing_rules, *(each for each in snapshot.unread if each.part in DECIDING)]
    return trace, trace_lines(trace, reader_of(View(snapshot)), caveats=tuple(map(str, unknown)))
