"""What routing makes of a packet that came in: delivered here, forwarded, or dropped (net/ipv4/route.c)."""

from __future__ import annotations

from enum import Enum

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.rules import Cause
from istio_init.trace.facts import LINK_LOCAL
from istio_init.trace.packet_fields import DESTINATION, DPORT, MARK, PROTOCOL, SOURCE, SPORT, TOS
from istio_init.trace.result import ReversePathDecider, RoutingDecider
from istio_init.trace.routing import FAILURES, LOOPBACK_DEVICE, Found, Query
from istio_init.trace.state import Unsure, not_given
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from istio_init.trace.facts import Facts
    from istio_init.trace.routing import Tables
    from istio_init.trace.state import Values

HERE = {
    Family.IPV4: frozenset([AddressType.LOCAL, AddressType.BROADCAST]),
    Family.IPV6: frozenset([AddressType.LOCAL, AddressType.ANYCAST]),
}
"""Types of routes that deliver here; others than to one host lead nowhere (ip_route_input_slow)."""


EVERY_HOST = frozenset([0xE0000001, 0xFF02 << 112 | 1])
"""224.0.0.1 and ff02::1, the groups that every host is a member of."""


class End(Enum):
    """Where a packet that came in goes on."""

    HERE = "here"
    ONWARDS = "onwards"
    NOWHERE = "nowhere"

    __hash__ = object.__hash__


class Arrival(Value):
    """One answer: ``device`` where it goes onwards, ``decided_by`` where it does not go on."""

    end: End
    device: str | None = None
    decided_by: RoutingDecider | ReversePathDecider | None = None


IS_HERE = Arrival(End.HERE)

Arrivals = tuple[tuple[Arrival, ...], tuple[Cause, ...]]
"""The answers that are possible, and why it is not one alone."""


class Arriving:
    """Asks the routing of a family for packets that came in via an interface."""

    def __init__(self, facts: Facts, tables: Tables) -> None:
        self.facts = facts
        self.host = facts.host
        self.tables = tables

    def arrive(self, values: Values, interface: str, *, has_socket: bool) -> Arrivals:
        """What becomes of the packet. One that has a socket already is never sent onwards."""
        source, destination = values[SOURCE], values[DESTINATION]
        unsure = next((number for number in (source, destination) if isinstance(number, Unsure)), None)
        if unsure is not None:
            onwards = () if has_socket or self._forwards(interface) is False else (Arrival(End.ONWARDS),)
            return (IS_HERE, *onwards, _nowhere("no route")), (unsure.cause,)
        answers: dict[Arrival, None] = {}
        causes: dict[Cause, None] = {}
        for answer in self._answers(values, interface, source, destination):
            if isinstance(answer, Cause):
                causes[answer] = None
            elif has_socket and answer.end is End.ONWARDS:
                answers[_nowhere("what a socket here takes is not forwarded")] = None
            else:
                answers[answer] = None
        return tuple(answers), tuple(causes) if len(answers) > 1 else ()

    def _answers(self, values: Values, interface: str, source: int, destination: int) -> Iterator[Arrival | Cause]:
        """Possible answers, and causes for which there are several."""
        facts = self.facts
        if facts.family is Family.IPV4:
            martian = yield from self._martians(interface, source, destination)
            if martian:
                return
        if destination in EVERY_HOST:
            yield from self._taken(Found(AddressType.LOCAL, LOOPBACK_DEVICE), values, interface)
            return
        if facts.is_multicast(destination):
            yield IS_HERE
            yield _nowhere("the host is no member of the group")
            yield not_given("whether the host is a member of the group")
            return
        # Routes to link-local addresses, and to ::1, count on the incoming interface alone (rt6_need_strict).
        is_strict = facts.family is Family.IPV6 and (destination >> 118 == LINK_LOCAL or destination == 1)
        query = Query(
            destination,
            source,
            in_interface=interface,
            out_interface=interface if is_strict else None,
            mark=values[MARK],
            tos=values[TOS],
            protocol=values[PROTOCOL],
            sport=values[SPORT],
            dport=values[DPORT],
        )
        found, causes = self.tables.look_up(query)
        yield from causes
        for each in found:
            yield from self._taken(each, values, interface)

    def _martians(self, interface: str, source: int, destination: int) -> Generator[Arrival | Cause, None, bool]:
        """Addresses that no packet may have that comes from outside. Returns whether that is the answer."""
        facts = self.facts
        is_broadcast = destination == 0xFFFFFFFF or (source == 0 and destination == 0)
        may_be_nobody = is_broadcast or destination >> 8 == 0xE00000  # ip_mc_validate_source
        if facts.is_multicast(source) or source == 0xFFFFFFFF or (source == 0 and not may_be_nobody):
            yield _nowhere(f"{interface} takes no packets from such a source (martian)")
            return True
        if is_broadcast:
            yield IS_HERE
            return True
        if destination == 0:
            yield _nowhere(f"{interface} takes no packets to such a destination (martian)")
            return True
        if facts.is_loopback(destination) or facts.is_loopback(source):
            allowed = _setting(self.host.route_localnet, interface)
            if allowed is not True:
                yield _nowhere(f"{interface} takes no packets of the loopback network (martian)")
            if allowed is None:
                yield not_given(f"route_localnet of {interface}")
            return allowed is False
        return False

    def _taken(self, found: Found, values: Values, interface: str) -> Iterator[Arrival | Cause]:
        """What a route makes of the packet, if its source is believed."""
        if found.type in FAILURES:
            yield _nowhere(found.words)
            return
        answer = IS_HERE
        if found.type not in HERE[self.facts.family]:
            if found.type is not AddressType.UNICAST and self.facts.family is Family.IPV4:
                yield _nowhere("its route leads to no one host")
                return
            forwards = self._forwards(interface)
            if forwards is not True:
                yield _nowhere("this host does not forward")
            if forwards is None:
                yield not_given("whether the host forwards")
            if forwards is False:
                return
            answer = Arrival(End.ONWARDS, found.device)
        towards = answer.device or LOOPBACK_DEVICE
        believed = self._is_believed(values, interface, towards) if self.facts.family is Family.IPV4 else True
        if believed is not True:
            words = f"{interface} takes no packets from there (rp_filter)"
            yield Arrival(End.NOWHERE, None, ReversePathDecider(interface, words))
        if isinstance(believed, Cause):
            yield believed
        if believed is not False:
            yield answer

    def _forwards(self, interface: str) -> bool | None:
        host, family = self.host, self.facts.family
        if family is Family.IPV4 and host.forwards_from is not None and interface in host.forwards_from:
            return host.forwards_from[interface]
        return (host.forwards or {}).get(family)

    def _is_believed(self, values: Values, interface: str, towards: str) -> bool | Cause:
        """Whether the source may come by that interface (fib_validate_source)."""
        mode = (self.host.reverse_path_filter or {}).get(interface)
        answers = {
            each: self._is_valid(values, interface, towards, each) for each in ((0, 1, 2) if mode is None else (mode,))
        }
        if len(set(answers.values())) == 1:
            return next(iter(answers.values()))
        return not_given(f"rp_filter of {interface}")

    def _is_valid(self, values: Values, interface: str, towards: str, mode: int) -> bool | Cause:
        host, source, mark = self.host, values[SOURCE], values[MARK]
        if mode == 0 and source not in self.facts.local and not self.tables.checks_every_source:
            return True
        uses_mark = _setting(host.src_valid_mark, interface) if mark != 0 else False
        if uses_mark is None:
            return not_given(f"src_valid_mark of {interface}")
        query = Query(
            source,
            values[DESTINATION],
            in_interface=towards,
            mark=mark if uses_mark else 0,
            tos=values[TOS],
            protocol=values[PROTOCOL],
            sport=values[DPORT],
            dport=values[SPORT],
        )
        found, causes = self.tables.look_up(query)
        answers = {self._allows(each, interface, mode) for each in found}
        return answers.pop() if len(answers) == 1 else causes[0]

    def _allows(self, back: Found, interface: str, mode: int) -> bool | Cause:
        """Whether a route back allows its destination to have sent what came in via the interface."""
        if back.type in FAILURES:
            return mode == 0
        if back.type is not AddressType.UNICAST:
            accepts_local = _setting(self.host.accept_local, interface)
            if back.type is not AddressType.LOCAL or accepts_local is False:
                return False
            if accepts_local is None:
                return not_given(f"accept_local of {interface}")
        if mode == 0 or interface == (back.named or back.device):
            return True
        return mode == 2 and bool(self.facts.addresses.get(interface))


def _setting(settings: Mapping[str, bool] | None, interface: str) -> bool | None:
    return None if settings is None else settings.get(interface)


def _nowhere(words: str) -> Arrival:
    return Arrival(End.NOWHERE, None, RoutingDecider(words))
