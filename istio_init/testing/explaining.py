"""The packet trace of something that was sent, through the rules that are live in a namespace."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.report.trace_text import trace_lines
from istio_init.system.places import HERE
from istio_init.testing.namespaces import Namespace
from istio_init.testing.watching import Sending, Sent
from istio_init.trace.assume import FIELDS, filled, local_marks
from istio_init.trace.depends import depends_on
from istio_init.trace.engine import Tracer


def traces(sending: Sending, sent: Sent, receiver: Namespace) -> list[str]:
    """The way of what was sent through the sender's rules, and through the receiver's where that is another."""
    lines = _traces(sending.namespace, sending, sent, outbound=True)
    if receiver is not sending.namespace:
        lines += _traces(receiver, sending, sent, outbound=False)
    return lines


def _traces(namespace: Namespace, sending: Sending, sent: Sent, *, outbound: bool) -> list[str]:
    snapshot = namespace.call(_observe)
    address = ip_address(sending.destination.host)
    family = Family.IPV4 if address.version == 4 else Family.IPV6
    lines: list[str] = []
    for (backend, each), rules in snapshot.rules.items():
        if each is family and any(True for _ in rules.entries()):
            lines.append(f"In the rules of {namespace.label} ({backend}, {family.value}):")
            lines += [f"  {line}" for line in _trace(snapshot, rules, sending, sent, outbound=outbound)]
    return lines or [f"{namespace.label} has no {family.value} rules."]


def _observe() -> Snapshot:
    from istio_init.observe.namespace import observe

    return observe(HERE, known=(), versions=False)


def _trace(snapshot: Snapshot, rules: RuleSet, sending: Sending, sent: Sent, *, outbound: bool) -> list[str]:
    fields: dict[str, Any] = {
        "direction": "outbound" if outbound else "inbound",
        "proto": sending.protocol,
        "dst": sending.destination.host,
        "dport": sending.destination.port,
    }
    if sent.source is not None:
        fields |= {"src": sent.source.host, "sport": sent.source.port}
    if outbound:
        fields |= {"uid": sending.user.uid, "gid": sending.user.gid}
    marks = {rules.family: local_marks(snapshot, rules)}
    packet, assumed = filled(fields, snapshot, marks)
    tracer = Tracer(rules, marks[rules.family])
    trace = tracer.trace(packet)
    names = {field: name for name, field in FIELDS.items()}
    hinges = depends_on(trace, tracer, rules, [FIELDS[name] for name in assumed])
    return trace_lines(trace, tuple(names[field] for field in hinges))
