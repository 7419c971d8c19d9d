"""Sockets: what TPROXY needs, what it gives, and what rules ask of them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.host import Host, Listener, RoutingRule
from istio_init.netfilter.packet import Packet
from istio_init.netfilter.rules import Assign, End, Hook, Test, Tproxy, Verdict
from istio_init.trace.result import Kind, Outcome, SocketDecider

from .walking import address, base, host, inbound, packet, save, table, trace

TO_LO = RoutingRule(100, 133, mark=0x539)


def listening(*sockets: Listener) -> Host:
    return host("local default dev lo table 133", "local default6 dev lo table 133", rules=(TO_LO,), sockets=sockets)


def socket(text: str, port: int = 15006, *, transparent: bool | None = True, dual: bool = False) -> Listener:
    return Listener(6, ip_address(text), port, transparent, dual)


RULE = "*mangle\n-A PREROUTING -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff"

SOCKETS: dict[str, tuple[tuple[Listener, ...], Kind]] = {
    "none": ((), Kind.DROP),
    "for everything": ((socket("0.0.0.0"),), Kind.TPROXY),
    "for the first address of the interface": ((socket("10.1.2.3"),), Kind.TPROXY),
    "for another address": ((socket("127.0.0.1"),), Kind.DROP),
    "on another port": ((socket("0.0.0.0", 15001),), Kind.DROP),
    "of another protocol": ((socket("0.0.0.0").replace(protocol=17),), Kind.DROP),
    "not transparent": ((socket("0.0.0.0", transparent=False),), Kind.DROP),
    "of IPv6": ((socket("::"),), Kind.DROP),
    "of IPv6 and IPv4": ((socket("::", dual=True),), Kind.TPROXY),
    "a closer one that is not transparent": ((socket("0.0.0.0"), socket("10.1.2.3", transparent=False)), Kind.DROP),
    "nobody could look at it": ((socket("0.0.0.0", transparent=None),), Kind.UNKNOWN),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_tproxy_needs_a_transparent_socket_that_listens(name: str) -> None:
    sockets, kind = SOCKETS[name]
    found = trace(inbound("10.1.2.3"), *save(RULE), on=listening(*sockets))
    assert found.delivered.kind is kind
    if kind is Kind.TPROXY:
        assert found.delivered.port == 15006
        assert (found.state.destination_port, found.state.mark) == (80, 0x539)
    if kind is Kind.DROP:
        assert isinstance(found.delivered_by, SocketDecider)
        assert (found.delivered_by.address, found.delivered_by.port) == (address("10.1.2.3"), 15006)


def test_a_socket_is_taken_to_be_there_where_none_are_known() -> None:
    assert trace(inbound("10.1.2.3"), *save(RULE), on=Host()).delivered.kind is Kind.TPROXY


def test_nft_leaves_the_rule_where_there_is_no_socket() -> None:
    proxy = Tproxy(None, 15006, drops=False)
    rule = base(Hook.PREROUTING, (proxy, Assign(Field.MARK, (), 0x539), End(Verdict.ACCEPT)), (End(Verdict.REJECT),))
    assert trace(inbound("10.1.2.3"), table(rule), on=listening()).delivered.kind is Kind.REJECT
    found = trace(inbound("10.1.2.3"), table(rule), on=listening(socket("0.0.0.0")))
    assert (found.delivered, found.state.mark) == (Outcome(Kind.TPROXY, 15006), 0x539)


ROUTED: dict[str, tuple[str, str, Kind]] = {
    "for another machine, with a mark that leads here": ("0x539", "10.9.0.77", Kind.TPROXY),
    "for another machine, without": ("0x1", "10.9.0.77", Kind.DROP),
    "for this machine, without": ("0x1", "10.1.2.3", Kind.TPROXY),
}


@pytest.mark.parametrize("name", ROUTED)
def test_what_has_a_socket_is_still_routed(name: str) -> None:
    mark, destination, kind = ROUTED[name]
    on = listening(socket("0.0.0.0")).replace(forwards=dict.fromkeys(Family, True))
    found = trace(inbound(destination), *save(RULE.replace("0x539", mark)), on=on)
    assert found.delivered.kind is kind


def test_a_socket_keeps_its_packet_from_a_later_redirect() -> None:
    rules = save(f"{RULE}\n*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 9")
    found = trace(inbound("10.1.2.3"), *rules, on=listening(socket("0.0.0.0")))
    assert (found.delivered, found.state.destination_port) == (Outcome(Kind.TPROXY, 15006), 9)


def test_what_a_mark_sends_back_by_lo_can_be_proxied_there() -> None:
    rules = save(f"{RULE.replace('-p tcp', '-i lo -p tcp')}\n-A OUTPUT -p tcp -j MARK --set-mark 0x539")
    found = trace(packet("8.8.8.8"), *rules, on=listening(socket("0.0.0.0")))
    assert (found.outcome.kind, found.delivered) == (Kind.DIRECT, Outcome(Kind.TPROXY, 15006))
    assert [leg.interface for leg in found.legs] == ["eth0", "lo"]


ASKED: dict[str, tuple[Field, tuple[Listener, ...], bool | None]] = {
    "none": (Field.SOCKET_FOUND_ANY, (), False),
    "one for everything does not count": (Field.SOCKET_FOUND, (socket("0.0.0.0", 80),), False),
    "unless it is asked to": (Field.SOCKET_FOUND_ANY, (socket("0.0.0.0", 80),), True),
    "one for the address": (Field.SOCKET_FOUND, (socket("10.1.2.3", 80),), True),
    "a transparent one": (Field.SOCKET_TRANSPARENT, (socket("10.1.2.3", 80),), True),
    "one that is not": (Field.SOCKET_TRANSPARENT, (socket("10.1.2.3", 80, transparent=False),), False),
    "nobody could look at it": (Field.SOCKET_TRANSPARENT, (socket("10.1.2.3", 80, transparent=None),), None),
}


@pytest.mark.parametrize("name", ASKED)
def test_rules_ask_for_the_socket_that_would_take_the_packet(name: str) -> None:
    field, sockets, holds = ASKED[name]
    rule = table(base(Hook.PREROUTING, (Test(field, ((1, 1),)), End(Verdict.DROP))))
    kinds = {True: Kind.DROP, False: Kind.DIRECT, None: Kind.UNKNOWN}
    assert trace(inbound("10.1.2.3"), rule, on=host(sockets=sockets)).delivered.kind is kinds[holds]


@pytest.mark.parametrize(
    ("field", "facts", "kind"),
    [
        (Field.SOCKET_FOUND_ANY, {}, Kind.DROP),
        (Field.SOCKET_FOUND_ANY, {"uid": None, "gid": None}, Kind.DIRECT),
        (Field.SOCKET_FOUND, {}, Kind.UNKNOWN),
        (Field.SOCKET_TRANSPARENT_ANY, {}, Kind.UNKNOWN),
        (Field.SOCKET_TRANSPARENT_ANY, {"uid": None, "gid": None}, Kind.DIRECT),
    ],
)
def test_the_socket_of_what_is_sent_is_the_one_that_sends_it(field: Field, facts: dict[str, Any], kind: Kind) -> None:
    rule = table(base(Hook.OUTPUT, (Test(field, ((1, 1),)), End(Verdict.DROP))))
    sent = packet("10.1.2.3", interface="lo", **facts)
    assert trace(sent, rule, on=host(sockets=(socket("10.1.2.3", 80),))).delivered.kind is kind


OWNERS: dict[str, tuple[Packet, bool]] = {
    "of the user": (packet("8.8.8.8", uid=1337), False),
    "of another user": (packet("8.8.8.8", uid=1000), True),
    "without a socket": (packet("8.8.8.8", uid=None, gid=None), True),
}


@pytest.mark.parametrize("name", OWNERS)
def test_a_packet_without_a_socket_passes_a_negated_owner(name: str) -> None:
    sent, dropped = OWNERS[name]
    found = trace(sent, *save("*filter\n-A OUTPUT -m owner ! --uid-owner 1337 -j DROP"))
    assert (found.delivered.kind is Kind.DROP) is dropped


def test_a_bound_socket_sends_by_its_interface_whatever_rules_say() -> None:
    redirect = save("*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001")
    found = trace(packet("8.8.8.8", bound="eth0"), *redirect)
    assert (found.state.destination, found.state.via) == (address("127.0.0.1"), ("eth0",))


def test_a_connected_socket_of_udp_may_take_a_packet_before_those_that_listen() -> None:
    rules = save("*mangle\n-A PREROUTING -p udp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 1")
    on = host(sockets=(Listener(17, ip_address("0.0.0.0"), 15006, True),), connected=(53,))
    for port, kind in ((53, Kind.UNKNOWN), (54, Kind.TPROXY)):
        assert trace(inbound("10.1.2.3", port, protocol=17), *rules, on=on).delivered.kind is kind


def test_a_socket_of_one_interface_may_not_take_a_packet() -> None:
    rules = save("*mangle\n-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 1")
    proxy = Listener(6, ip_address("0.0.0.0"), 15006, True)
    for sockets, kind in (((proxy,), Kind.TPROXY), ((proxy.replace(is_of_interface=True),), Kind.UNKNOWN)):
        assert trace(inbound("10.1.2.3"), *rules, on=host(sockets=sockets)).delivered.kind is kind
