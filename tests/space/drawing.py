"""Random models of netfilter, hosts and packets, drawn from small pools so that values often collide."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

from istio_init.netfilter.chains import BaseChain, Chain, ChainType, Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType, CtState, Field
from istio_init.netfilter.host import Host, Link, Listener, Route, RoutingRule
from istio_init.netfilter.names import exactly, with_prefix
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import (
    AnyOf,
    Assign,
    AssignFrom,
    Cause,
    Dispatch,
    Elements,
    End,
    Forget,
    Hook,
    Key,
    Lookup,
    Nat,
    NatKind,
    Never,
    Note,
    Openness,
    Origin,
    Rule,
    Store,
    Test,
    Tproxy,
    Undecided,
    Unknowable,
    Untrack,
    Verdict,
    Zone,
)
from istio_init.netfilter.stages import Netfilter

ADDRESSES = {
    Family.IPV4: ("10.1.2.3", "10.1.2.4", "10.1.9.9", "192.168.0.5", "127.0.0.1", "127.0.0.6", "8.8.8.8", "224.0.0.1"),
    Family.IPV6: ("fd00:1::3", "fd00:1::4", "fd00:1::99", "2001:db8::5", "::1", "fe80::1", "2600::8", "ff02::1"),
}
NETWORKS = {
    Family.IPV4: ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "127.0.0.0/8", "192.168.0.0/24", "10.1.2.3/32"),
    Family.IPV6: ("::/0", "fd00::/8", "fd00:1::/64", "::1/128", "2001:db8::/32", "fd00:1::3/128"),
}
PORTS = (0, 53, 80, 443, 8000, 8010, 15001, 15006, 40000)
IDS = (0, 1000, 1337, 1500)
MARKS = (0, 1, 0x539, 0x53A, 0x4000, 0xFFFFFFFF)
MASKS = (0xFFFFFFFF, 0x4000, 0xFF, 0x3, 0xFFF)
PROTOCOLS = (6, 6, 17, 132, 1, 58, 47)
INTERFACES = ("eth0", "net1", "lo", "eth7", "veth2")
FILTERS = ((Hook.PREROUTING, -300), (Hook.PREROUTING, -150), (Hook.INPUT, 0), (Hook.FORWARD, 0), (Hook.OUTPUT, -300),
           (Hook.OUTPUT, 0), (Hook.POSTROUTING, -150), (Hook.INPUT, -150))  # fmt: skip
NATS = ((Hook.PREROUTING, -100), (Hook.OUTPUT, -100), (Hook.INPUT, 100), (Hook.POSTROUTING, 100))
CALLED = ("ONE", "TWO", "THREE")


class Drawing:
    """Draws for one family."""

    def __init__(self, seed: object) -> None:
        self.random = Random(str(seed))
        self.family = self.random.choice(list(Family))

    def maybe(self, chance: float = 0.5) -> bool:
        """True now and then."""
        return self.random.random() < chance

    def netfilter(self) -> Netfilter:
        """Some base chains of each type, which call others."""
        chains: dict[str, Chain] = {}
        bases = [BaseChain(*self.random.choice(FILTERS), ChainType.FILTER, self.maybe(0.03)) for _ in range(3)]
        bases += [BaseChain(*self.random.choice(NATS), ChainType.NAT) for _ in range(2)]
        bases += [BaseChain(Hook.OUTPUT, -150, ChainType.ROUTE)] if self.maybe() else []
        for number, base in enumerate(bases):
            name = f"{base.type.value}{number}"
            chains[name] = self._chain(name, CALLED, base)
        for place, name in enumerate(CALLED):
            chains[name] = self._chain(name, CALLED[place + 1 :], None)
        tracks = {self.family: self.maybe(0.9)}
        return Netfilter([Table(self.random.choice(list(Store)), "inet", "t", chains)], tracks=tracks)

    def _chain(self, name: str, called: tuple[str, ...], base: BaseChain | None) -> Chain:
        rules = []
        for number in range(1, self.random.choice((1, 2, 3, 5))):
            body = tuple(self._body(called, base))
            rules.append(Rule(body, Origin(Store.NFT, "inet", "t", name, number, f"{name} {number}")))
        return Chain(name, tuple(rules), base)

    def _body(self, called: tuple[str, ...], base: BaseChain | None) -> list[Any]:
        body: list[Any] = [self.condition() for _ in range(self.random.choice((0, 1, 1, 2, 3)))]
        for _ in range(self.random.choice((0, 0, 1))):
            body.append(self._effect())
            if self.maybe(0.2):
                body.append(self.condition())
        is_nat = base is not None and base.type is ChainType.NAT
        if is_nat and self.maybe(0.6):
            assert base is not None
            nat = self._nat(base.hook)
            if nat.ports is not None:  # As every tool demands.
                body.append(Test(Field.PROTOCOL, ((6, 6),)))
            return [*body, nat]
        if base is not None and base.hook is Hook.PREROUTING and base.priority == -150 and self.maybe(0.3):
            proxy = self.random.choice((Tproxy(None, 15006, 0x539, 0xFFFFFFFF), Tproxy(0, None, 1, 1, drops=False)))
            return [*body, proxy, End(Verdict.ACCEPT)]
        if self.maybe(0.8):
            body.append(self._end(called))
        return body

    def _end(self, called: tuple[str, ...]) -> Any:
        kinds: list[Any] = [Verdict.ACCEPT, Verdict.RETURN, Verdict.RETURN]
        kinds += [Verdict.DROP, Verdict.REJECT, Verdict.QUEUE] if self.maybe(0.2) else []
        kinds += [Verdict.JUMP, Verdict.JUMP, Verdict.GOTO] if called else []
        verdict = self.random.choice(kinds)
        if verdict is Verdict.QUEUE and self.maybe():
            return Unknowable(Cause(Openness.NOT_MODELLED, "a target"))
        end = End(verdict, self.random.choice(called) if verdict in (Verdict.JUMP, Verdict.GOTO) else None)
        if self.maybe(0.1):
            other = End(Verdict.ACCEPT)
            boxes = (((self._ports(),), end), ((self._ports(),), other))
            return Dispatch((Key(Field.DPORT),), boxes, is_complete=self.maybe(0.8))
        return end

    def condition(self) -> Any:
        """One test."""
        kind = self.random.random()
        if kind < 0.04:
            return Undecided(Cause(Openness.OPEN, self.random.choice(("limit", "statistic"))))
        if kind < 0.06:
            return Never()
        if kind < 0.12:
            options = tuple(tuple(self._test() for _ in range(self.random.choice((1, 2)))) for _ in range(2))
            return AnyOf(options, negated=self.maybe(0.3))
        if kind < 0.2:
            keys = (Key(Field.DESTINATION), Key(Field.DPORT)) if self.maybe() else (Key(Field.DPORT),)
            boxes = tuple(tuple([self._within(key.field) for key in keys]) for _ in range(3))
            return Lookup(keys, Elements("set", boxes, is_complete=self.maybe(0.9)), self.maybe(0.2), self.maybe(0.1))
        return self._test()

    def _test(self) -> Test:
        weighted = (Field.PROTOCOL, Field.DPORT, Field.DESTINATION, Field.SOURCE, Field.UID, Field.MARK) * 2
        rare = (Field.SPORT, Field.GID, Field.CT_MARK, Field.CT_STATE, Field.IN_INTERFACE, Field.OUT_INTERFACE,
                Field.CT_ORIG_DESTINATION, Field.CT_ORIG_DPORT, Field.CT_STATUS, Field.SOCKET, Field.TOS, Field.CT_ZONE,
                Field.DESTINATION_TYPE, Field.SOURCE_TYPE, Field.NFPROTO, Field.TCP_FLAGS, Field.LENGTH, Field.PKTTYPE,
                Field.CT_REPLY_SOURCE, Field.CT_DIRECTION, Field.RETURN_INTERFACE, Field.SOCKET_FOUND_ANY)  # fmt: skip
        field = self.random.choice((*weighted, *rare))
        mask = self.random.choice(MASKS) if field in (Field.MARK, Field.CT_MARK) and self.maybe(0.7) else None
        if field in (Field.CT_STATE, Field.CT_STATUS):
            mask = self.random.choice((8, 1, 512, 32, 64))
            return Test(field, ((mask, mask),), mask, self.maybe(0.3))
        within = self._within(field)
        if mask is not None:
            within = tuple((low & mask, low & mask) for low, _ in within)
        return Test(field, within, mask, self.maybe(0.25), self.maybe(0.15))

    def _within(self, field: Field) -> tuple[tuple[int, int], ...]:
        pick = self.random.choice
        if field in (Field.DPORT, Field.SPORT, Field.CT_ORIG_DPORT):
            return self._ports()
        if "INTERFACE" in field.name:
            return exactly(pick(INTERFACES)) if self.maybe(0.7) else with_prefix(pick(("eth", "e", "v")))
        if field in (Field.SOURCE, Field.DESTINATION, Field.CT_ORIG_DESTINATION, Field.CT_REPLY_SOURCE):
            network = ip_network(pick(NETWORKS[self.family]))
            return ((int(network.network_address), int(network.broadcast_address)),)
        pools: dict[Field, tuple[int, ...]] = {
            Field.PROTOCOL: PROTOCOLS, Field.UID: IDS, Field.GID: IDS, Field.MARK: MARKS, Field.CT_MARK: MARKS,
            Field.NFPROTO: (2, 10), Field.TCP_FLAGS: (2, 16), Field.LENGTH: (64,), Field.SOCKET: (0, 1),
            Field.DESTINATION_TYPE: (1, 2, 3, 5), Field.SOURCE_TYPE: (1, 2), Field.CT_ZONE: (0, 1),
            Field.TOS: (0, 16), Field.PKTTYPE: (0, 1, 2), Field.CT_DIRECTION: (0, 1), Field.SOCKET_FOUND_ANY: (0, 1),
        }  # fmt: skip
        number = pick(pools[field])
        return ((number, number),)

    def _ports(self) -> tuple[tuple[int, int], ...]:
        low = self.random.choice(PORTS)
        return ((low, low),) if self.maybe(0.7) else ((low, min(low + 500, 65535)),)

    def _effect(self) -> Any:
        mark, mask = self.random.choice(MARKS), self.random.choice(MASKS)
        kept = ~mask & 0xFFFFFFFF
        options: list[Any] = [Assign(Field.MARK, ((Field.MARK, kept),), mark & mask)] * 4
        options += [
            Assign(Field.CT_MARK, ((Field.CT_MARK, kept),), mark & mask),
            Assign(Field.CT_MARK, ((Field.CT_MARK, kept), (Field.MARK, mask))),
            Assign(Field.MARK, ((Field.MARK, kept), (Field.CT_MARK, mask))),
            Assign(Field.MARK, ((Field.MARK, 0xFFFFFFFF),), mark),
            AssignFrom(Field.MARK, (Key(Field.DPORT),), (((self._ports(),), 1), ((self._ports(),), 0x539))),
            Forget(Field.CT_MARK, Cause(Openness.NOT_MODELLED, "a mark")),
            Assign(Field.TOS, (), 16),
            Untrack(),
            Zone(1),
            Note("log"),
        ]
        return self.random.choice(options)

    def _nat(self, hook: Hook) -> Nat:
        ports = self.random.choice((None, (15001, 15001), (8000, 8010)))
        if hook in (Hook.PREROUTING, Hook.OUTPUT):
            address = int(ip_address(self.random.choice(ADDRESSES[self.family][:5])))
            several = int(ip_address(ADDRESSES[self.family][0]))
            options = [Nat(NatKind.REDIRECT, None, ports), Nat(NatKind.DNAT, (address, address), ports)]
            if hook is Hook.PREROUTING:
                options.append(Nat(NatKind.DNAT, (several, several + 1), ports))
            return self.random.choice(options)
        address = int(ip_address(ADDRESSES[self.family][0]))
        return Nat(NatKind.SNAT, (address, address), ports)

    def host(self) -> Host:
        """A namespace of which little, or much, is known."""
        pick, own = self.random.choice, [ip_address(each) for each in ADDRESSES[self.family]]
        marks = {self.family: frozenset([0x539])}
        links = (
            Link("lo", 1, True, (own[4],)),
            Link("eth0", 2, True, (own[0], own[1])),
            Link("net1", 3, True, (own[3],)),
            Link("eth7", 4, True, ()),
        )
        if self.maybe(0.4):
            return pick((Host(), Host(local_marks=marks), Host(links=links, local_marks=marks)))
        settings = [link.name for link in links]
        return Host(
            links=links,
            rules={self.family: self._routing_rules()},
            routes={self.family: self._routes(links)},
            listeners=pick((None, self._listeners())),
            forwards=pick((None, {self.family: True}, {self.family: False})),
            reverse_path_filter=pick((None, {name: pick((0, 1, 2)) for name in settings})),
            route_localnet=pick((None, dict.fromkeys(settings, True), dict.fromkeys(settings, False))),
            accept_local=pick((None, dict.fromkeys(settings, False))),
            src_valid_mark=pick((None, dict.fromkeys(settings, False), dict.fromkeys(settings, True))),
        )

    def _routing_rules(self) -> tuple[RoutingRule, ...]:
        pick, networks = self.random.choice, NETWORKS[self.family]
        extra = [
            RoutingRule(90, None, AddressType.THROW, mark=pick((0x539, 1)), goes_to=pick((210, 220, 32766))),
            RoutingRule(100, 133, mark=pick((0x539, 1)), mask=pick((0xFFFFFFFF, 0xFFF, 1))),
            RoutingRule(200, 254, uids=(1000, 1400), negated=self.maybe(0.3)),
            RoutingRule(210, None, action=AddressType.PROHIBIT, source=ip_network(networks[5])),
            RoutingRule(220, 133, in_interface=pick(("lo", "eth0")), dports=(80, 443)),
        ]
        chosen = [rule for rule in extra if self.maybe(0.35)]
        return (RoutingRule(0, 255), *chosen, RoutingRule(32766, 254), RoutingRule(32767, 253))

    def _routes(self, links: tuple[Link, ...]) -> tuple[Route, ...]:
        networks = [ip_network(each) for each in NETWORKS[self.family]]
        routes = [Route(255, networks[3], AddressType.LOCAL, "lo")]
        routes += [
            Route(255, ip_network(address), AddressType.LOCAL, link.name)
            for link in links[1:]
            for address in link.addresses
        ]
        routes.append(Route(254, networks[2], AddressType.UNICAST, "eth0"))
        routes.append(Route(254, networks[4], AddressType.UNICAST, "net1"))
        routes += [Route(254, networks[0], AddressType.UNICAST, "eth0")] if self.maybe(0.8) else []
        routes += [Route(254, networks[1], AddressType.UNREACHABLE)] if self.maybe(0.2) else []
        kind, device = self.random.choice(((AddressType.LOCAL, "lo"), (AddressType.UNICAST, "net1")))
        return (*routes, Route(133, networks[0], kind, device))

    def _listeners(self) -> tuple[Listener, ...]:
        own = [ip_address(each) for each in ADDRESSES[self.family]]
        every = ip_address("0.0.0.0" if self.family is Family.IPV4 else "::")
        return (Listener(6, every, 15006, self.random.choice((True, False, None))), Listener(17, own[0], 53, True))

    def packet(self, direction: Direction) -> Packet:
        """One of the values that rules tell apart."""
        pick = self.random.choice
        protocol = pick(PROTOCOLS)
        has_ports = protocol in (6, 17, 132)
        outbound = direction is Direction.OUTBOUND
        has_socket = outbound and self.maybe(0.95)
        return Packet(
            direction,
            protocol,
            ip_address(pick(ADDRESSES[self.family])),
            ip_address(pick(ADDRESSES[self.family])),
            pick(PORTS) if has_ports else 0,
            pick(PORTS) if has_ports else 0,
            pick(IDS) if has_socket else None,
            pick(IDS) if has_socket else None,
            pick([name for name in INTERFACES if outbound or name != "lo"]),
            pick(MARKS) if self.maybe(0.4) else 0,
            CtState.NEW,
        )
