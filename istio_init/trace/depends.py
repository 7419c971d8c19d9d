"""On which assumed values a trace's outcome hinges."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.dialects.iptables.matches import Ctstate, IdRange, Mark, Multiport, Owner, PortMatch, PortRange
from istio_init.netfilter.family import Family
from istio_init.trace.packet import Direction, protocol_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.matches import Address
    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.trace.engine import Trace, Tracer
    from istio_init.trace.packet import Packet

LAST_PORT, LAST_ID = 65535, 2**32 - 2
STRANGERS = {Family.IPV4: 0xC6336401, Family.IPV6: (0x20010DB8 << 96) | 1}
OTHER_MARK, OTHER_INTERFACE = 0xDEAD, "other0"


def depends_on(trace: Trace, tracer: Tracer, rules: RuleSet, assumed: Iterable[str]) -> tuple[str, ...]:
    """The assumed fields for which some value that the rules tell apart would give another outcome.

    A connection's first packet is new; only where rules look for packets of no connection could it be otherwise.
    """
    found = candidates(rules)
    if trace.packet.direction is Direction.INBOUND:
        found["interface"].discard("lo")  # What enters by it was sent from here.
    return tuple(
        field
        for field in assumed
        if any(
            _outcome(tracer, trace.packet, field, value) != (trace.outcome, trace.delivered)
            for value in sorted(found.get(field, ()), key=str)
        )
    )


def _outcome(tracer: Tracer, packet: Packet, field: str, value: object) -> tuple[object, object]:
    trace = tracer.trace(packet.replace(**{field: value}))
    return trace.outcome, trace.delivered


def candidates(rules: RuleSet) -> dict[str, set[object]]:
    """For each field the values at which some rule's test changes its answer, and one of no rule."""
    found: dict[str, set[object]] = {
        "uid": {65533},
        "gid": {65533},
        "source_port": {65533},
        "destination_port": {65533},
        "interface": {OTHER_INTERFACE, "lo"},
        "mark": {0, OTHER_MARK},
        "ctstate": set(),
        "source": {_address(rules.family, STRANGERS[rules.family])},
        "destination": {_address(rules.family, STRANGERS[rules.family])},
        "protocol": {"tcp", "udp", "icmp"},
    }
    for _, _, _, entry in rules.entries():
        rule = entry.rule
        for field, address in (("source", rule.source), ("destination", rule.destination)):
            found[field].update(_addresses(rules.family, address) if address is not None else ())
        found["protocol"].update([protocol_name(rule.protocol.name)] if rule.protocol is not None else ())
        found["interface"].update(each.name.rstrip("+") for each in (rule.in_interface, rule.out_interface) if each)
        for match in rule.matches:
            match match:
                case Owner(uid, _, gid, _):
                    found["uid"].update(_around(uid, LAST_ID))
                    found["gid"].update(_around(gid, LAST_ID))
                case PortMatch(_, source, destination):
                    found["source_port"].update(_around(source.ports if source else None, LAST_PORT))
                    found["destination_port"].update(_around(destination.ports if destination else None, LAST_PORT))
                case Multiport(side, ports, _):
                    values = {value for each in ports for value in _around(each, LAST_PORT)}
                    for field in ("source", "destination"):
                        found[f"{field}_port"].update(values if side in (field, "either") else ())
                case Mark(value, mask, _):
                    found["mark"].update([value & mask, (value ^ mask) & mask])
                case Ctstate(states, _):
                    found["ctstate"].update(each for each in states if each == "INVALID")
                case _:
                    pass
    found["interface"].discard("")
    return found


def _around(numbers: IdRange | PortRange | None, last: int) -> set[int]:
    """The ends of a range, and the numbers next to them."""
    if numbers is None:
        return set()
    ends = (numbers.first - 1, numbers.first, numbers.last, numbers.last + 1)
    return {number for number in ends if 0 <= number <= last}


def _addresses(family: Family, test: Address) -> set[object]:
    """The ends of a network, and the addresses next to them."""
    first, last = int(test.network.network_address), int(test.network.broadcast_address)
    ends = (first - 1, first, last, last + 1)
    return {_address(family, number) for number in ends if 0 <= number < 2**family.bits}


def _address(family: Family, number: int) -> IPv4Address | IPv6Address:
    return IPv4Address(number) if family is Family.IPV4 else IPv6Address(number)
