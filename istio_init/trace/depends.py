"""On which assumed values a trace's outcome hinges."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.model.matches import Ctstate, Mark, Multiport, Owner, PortMatch
from istio_init.model.netfilter import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.model.rules import RuleSet
    from istio_init.trace.engine import Trace, Tracer
    from istio_init.trace.packet import Packet


def depends_on(trace: Trace, tracer: Tracer, rules: RuleSet, assumed: Iterable[str]) -> tuple[str, ...]:
    """The assumed fields for which some value that the rules test would give another outcome."""
    candidates = _candidates(rules)
    return tuple(
        field
        for field in assumed
        if any(
            _outcome(tracer, trace.packet, field, value) != (trace.outcome, trace.delivered)
            for value in candidates.get(field, ())
        )
    )


def _outcome(tracer: Tracer, packet: Packet, field: str, value: object) -> tuple[object, object]:
    trace = tracer.trace(packet.replace(**{field: value}))
    return trace.outcome, trace.delivered


def _candidates(rules: RuleSet) -> dict[str, set[object]]:
    """For each field the values at which some rule's test changes its answer, and one of no rule."""
    found: dict[str, set[object]] = {
        "uid": {65533},
        "gid": {65533},
        "source_port": {65533},
        "interface": {"other0"},
        "mark": {0, 0xDEAD},
        "ctstate": {"NEW", "ESTABLISHED", "INVALID"},
        "source": {_address(rules.family, 0xC6336401 if rules.family is Family.IPV4 else 0x20010DB8 << 96)},
    }
    for _, _, _, entry in rules.entries():
        rule = entry.rule
        if rule.source is not None:
            found["source"].add(rule.source.network.network_address)
        found["interface"].update(each.name.rstrip("+") for each in (rule.in_interface, rule.out_interface) if each)
        for match in rule.matches:
            match match:
                case Owner(uid, _, gid, _):
                    found["uid"].update([uid.first] if uid else [])
                    found["gid"].update([gid.first] if gid else [])
                case PortMatch(_, source, _) if source is not None:
                    found["source_port"].add(source.ports.first)
                case Multiport("source" | "either", ports, _):
                    found["source_port"].update(each.first for each in ports)
                case Mark(value, _, _):
                    found["mark"].add(value)
                case Ctstate(states, _):
                    found["ctstate"].update(states)
                case _:
                    pass
    return found


def _address(family: Family, number: int) -> IPv4Address | IPv6Address:
    return IPv4Address(number) if family is Family.IPV4 else IPv6Address(number)
