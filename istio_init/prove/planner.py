"""What the probes are chosen with: the policy says what has to become of a connection, the facts what can be sent.

No expectation is written down a second time: it is what the tracer says of the rules that the configuration calls for.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.config.model import ALL
from istio_init.dialects.iptables.matches import IdRange, PortRange
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import TCP
from istio_init.prove.ground import free_link, free_name
from istio_init.prove.model import Facts, Skipped
from istio_init.system.spots import CAPTURING, Ground, Ids, IPAddress, Link, Probe, Side
from istio_init.trace.describe import CLIENT_PORT, HEADERS, LENGTHS, OWN_TTL, SYN
from istio_init.trace.result import Kind, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.config.model import Config, Surroundings
    from istio_init.prove.subject import Subject

LOOPBACK: dict[Family, IPAddress] = {Family.IPV4: IPv4Address("127.0.0.1"), Family.IPV6: IPv6Address("::1")}
PASSTHROUGH: dict[Family, IPAddress] = {Family.IPV4: IPv4Address("127.0.0.6"), Family.IPV6: IPv6Address("::6")}
NOWHERE: dict[Family, IPAddress] = {Family.IPV4: IPv4Address("192.0.2.1"), Family.IPV6: IPv6Address("2001:db8::1")}
"""Addresses for documentation: for probes that must be captured and need no destination."""

APP_IDS = (1000, 1001, 1999, 2999, 3999, 10000, 20000, 30000, 65533)
APP_PORTS = (28080, 38080, 48080, 18080, 8080)
"""Where an application would listen; ports that few have, as a listener of ours holds one for a moment."""

ORDINARY_PORTS = (80, 8000, 18081, 28081)
MOST = 8
"""Of a long list so many entries are probed; they stand for all."""


class Planner:
    """Collects probes."""

    def __init__(self, subject: Subject, facts: Facts) -> None:
        self.subject = subject
        self.facts = facts
        self._tracer = subject.tracer()
        self.no_neighbour = facts.no_neighbour
        name = free_name(subject, facts)
        if self.no_neighbour is None and name is None:
            self.no_neighbour = "every name for an interface is taken, or excepted by the configuration"
        self.interface = name or "eth0"
        self.links: dict[Family, Link] = {}
        if self.no_neighbour is None:
            self.links = {family: free_link(family, subject, facts) for family in subject.families}
        self.further: list[IPAddress] = []
        self.beyond: list[IPAddress] = []
        self.probes: list[Probe] = []
        self.skipped: list[Skipped] = []

    def expected(self, packet: Packet) -> Outcome:
        """What the configuration's rules do with a packet in the end."""
        return self._tracer.trace(packet).delivered

    def own_address(self, family: Family) -> IPAddress | None:
        """An address of the namespace that clients could call."""
        return next((each for each in self.facts.addresses if each.version == family.version), None)

    def far(self, family: Family) -> tuple[IPAddress, Side | None] | None:
        """An address beyond the namespace, and whether a listener of ours can wait there; None: no route leads out."""
        link = self.links.get(family)
        if link is not None:
            return link.theirs, Side.NEIGHBOUR
        return (NOWHERE[family], None) if self.facts.reaches(NOWHERE[family]) else None

    def way_out(self, family: Family) -> tuple[IPAddress, Side | None] | None:
        """The same for a group's first probe, which lists the group as not probed where no route leads out."""
        found = self.far(family)
        if found is None:
            self.skip("outbound connections", f"no route leads out of the namespace; {self.no_neighbour}", family)
        return found

    def packet(
        self,
        ids: Ids,
        destination: IPAddress,
        port: int,
        *,
        protocol: int = TCP,
        source: IPAddress | None = None,
        mark: int = 0,
    ) -> Packet:
        """An outbound packet; its source is a guess, where none is given, as the kernel chooses it."""
        family = family_of(destination)
        link = self.links.get(family)
        own = self.own_address(family)
        local = destination.is_loopback or destination in (*self.facts.addresses, PASSTHROUGH[family])
        near = link is not None and destination in (link.theirs, *self.further, *self.beyond)
        guess = LOOPBACK[family] if destination.is_loopback else destination if local else own
        return _first(
            Direction.OUTBOUND,
            protocol,
            source or (link.ours if near and link else guess) or LOOPBACK[family],
            destination,
            port,
            "lo" if local else self.interface if near else self._link(),
            ids,
        ).replace(mark=mark, bound=self.interface if destination in self.beyond else None)

    def _link(self) -> str:
        return next((name for name in self.facts.interfaces if name != "lo"), "eth0")

    def inbound(self, destination: IPAddress, port: int, source: IPAddress | None = None) -> Packet:
        """A client's packet, which comes in by the link to the second namespace."""
        source = source or self.links[family_of(destination)].theirs
        return _first(Direction.INBOUND, TCP, source, destination, port, self.interface)

    def add(
        self,
        group: str,
        who: str,
        packets: Iterable[Packet],
        *,
        captured: bool | None = None,
        begins: Side = Side.POD,
        waits: Side | None = None,
        bind: IPAddress | None = None,
        is_transparent: bool = False,
        device: str | None = None,
    ) -> bool:
        """Add the first of the packets that the configuration captures, or leaves direct; whether there is one.

        Where ``captured`` is None, either will do: as the configuration has it.
        """
        for packet in packets:
            outcome = self.expected(packet)
            is_captured = outcome.kind in CAPTURING
            if is_captured if captured else outcome.kind is Kind.DIRECT or (is_captured and captured is None):
                self.probes.append(Probe(group, who, packet, outcome, begins, waits, bind, is_transparent, device))
                return True
        return False

    def skip(self, what: str, why: str, family: Family | None = None) -> None:
        """Say once that something is not probed."""
        if (entry := Skipped(what, why, family)) not in self.skipped:
            self.skipped.append(entry)

    def ground(self) -> Ground | None:
        """The second namespace, if a probe needs one."""
        needed = any(
            Side.NEIGHBOUR in (probe.begins, probe.waits) or probe.packet.interface == self.interface
            for probe in self.probes
        )
        if not (self.links and needed):
            return None
        return Ground(self.interface, self.links, tuple(self.further), tuple(self.beyond))

    def free_port(self, ports: tuple[int, ...] = APP_PORTS) -> list[int]:
        """Ports on which nothing listens, those of the configuration left out."""
        own = {self.subject.outbound_port, self.subject.inbound_port}
        return [port for port in ports if port not in self.facts.used and port not in own]


class SidecarPlanner(Planner):
    """Collects probes of a sidecar's redirection. ``cast`` are those who can send, by what they are called."""

    def __init__(self, config: Config, around: Surroundings, subject: Subject, facts: Facts) -> None:
        super().__init__(subject, facts)
        self.config = config
        self.around = around
        self.cast = _cast(config, facts)


def _first(
    direction: Direction,
    protocol: int,
    source: IPAddress,
    destination: IPAddress,
    port: int,
    interface: str,
    ids: tuple[int | None, int | None] = (None, None),
) -> Packet:
    """A connection's first packet, or a question, as this machine sends it."""
    is_tcp = protocol == TCP
    return Packet(
        direction,
        protocol,
        source,
        destination,
        CLIENT_PORT,
        port,
        ids[0],
        ids[1],
        interface,
        tcp_flags=SYN if is_tcp else None,
        length=HEADERS[family_of(destination)] + LENGTHS[TCP] if is_tcp else None,
        ttl=OWN_TTL,
    )


def family_of(address: IPAddress) -> Family:
    """The family of an address."""
    return Family.IPV4 if address.version == 4 else Family.IPV6


def _cast(config: Config, facts: Facts) -> dict[str, Ids]:
    """Who can send: an application and the proxy, told apart by user and by group; without privilege, we ourselves."""
    uid, gid = facts.identity
    if not facts.may >= {"SETUID", "SETGID"}:
        if _within(uid, config.proxy_uids):
            return {"user": facts.identity}
        return {"group" if _within(gid, config.proxy_gids) else "app": facts.identity}
    group_excluded = config.owner_groups_exclude if config.owner_groups is ALL else ()
    group_included = () if config.owner_groups is ALL else config.owner_groups
    users = [each for each in _ids((), config.proxy_uids) if facts.has_user(each)]
    groups = [each for each in _ids(group_included, (*config.proxy_gids, *group_excluded)) if facts.has_group(each)]
    found: dict[str, Ids] = {}
    if users and groups:
        found["app"] = users[0], groups[0]
    if groups and facts.has_user(proxy := config.proxy_uids[0].first):
        found["user"] = proxy, groups[0]
    if users and facts.has_group(proxy := config.proxy_gids[0].first):
        found["group"] = users[0], proxy
    return found


def _ids(included: tuple[IdRange, ...], excluded: tuple[IdRange, ...]) -> list[int]:
    """Ids that may stand for an application."""
    wanted = [number for each in included for number in (each.first, each.last)] if included else list(APP_IDS)
    return [each for each in wanted if not _within(each, excluded)]


def _within(number: int, ranges: Iterable[IdRange]) -> bool:
    return any(each.first <= number <= each.last for each in ranges)


def ports_of(ranges: Iterable[PortRange]) -> list[int]:
    """The first port of each range, each once."""
    return list(dict.fromkeys(max(1, each.first) for each in ranges))
