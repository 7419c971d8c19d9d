"""What rules tell of a configuration, option by option."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from istio_init.config.model import ALL, Config, Everything, InterceptionMode, Surroundings
from istio_init.dialects.iptables.matches import IdRange, IPNetwork, Mark, Owner, PortMatch, PortRange
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Redirect, Tproxy
from istio_init.dialects.role import Role
from istio_init.inspector.release import is_older, release_span
from istio_init.mesh.policy.ambient import INBOUND_PORT, OUTBOUND_PORT
from istio_init.mesh.policy.builder import OUTPUT
from istio_init.mesh.roles.recognise import resembles
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from istio_init.dialects.iptables.rules import Entry, Rule
    from istio_init.mesh.routing import LiveRouting

ANY_PORT = PortRange(0, 65535)
ANYWHERE: dict[Family, IPNetwork] = {Family.IPV4: IPv4Network("0.0.0.0/0"), Family.IPV6: IPv6Network("::/0")}
DEFAULT_TABLE = 133


def configuration(
    main: RuleSet, live: Mapping[Family, RuleSet], routing: LiveRouting | None
) -> tuple[Config, Surroundings]:
    """The configuration as one family tells it, with the ranges and name servers of all."""
    families = tuple(live)
    fields = {**_inbound(main), **_outbound(main, live, families), **_owners(main), **_interfaces(main)}
    mark = _tproxy_mark(main)
    fields["tproxy_mark"] = mark or 1337
    fields["tproxy_table"] = _table(routing, mark)
    fields["drop_invalid"] = _drops_invalid(main, older=is_older(release_span(live)))
    fields["dual_stack"] = Family.IPV6 in families
    fields["redirect_dns"] = _captures_dns(main)
    servers = _dns_servers(live, families)
    fields["capture_all_dns"] = None in servers
    around = Surroundings(Family.IPV6 in families, tuple(server for server in servers if server is not None))
    return Config(**fields), around  # type: ignore[arg-type]


def entries_of(rules: RuleSet, role: Role, table: Table | None = None, chain: str | None = None) -> list[Entry]:
    """The entries of a role, in order; of one table or chain alone where these are given."""
    return [
        entry
        for each, found, _, entry in rules.entries()
        if entry.role is role and (table is None or each is table) and (chain is None or found.name == chain)
    ]


def _rules(rules: RuleSet, role: Role) -> list[Rule]:
    return [entry.rule for entry in entries_of(rules, role)]


def _drops_invalid(rules: RuleSet, *, older: bool) -> bool:
    """Older releases made no chain for it, so that in REDIRECT mode nothing else tells whose the rule is."""
    if entries_of(rules, Role.DROP_INVALID_JUMP) or entries_of(rules, Role.OLDER_DROP_INVALID):
        return True
    found = {resembles(table, chain.name, entry.rule) for table, chain, _, entry in rules.entries()}
    return older and Role.OLDER_DROP_INVALID in found


def _redirect_port(rules: Iterable[Rule], default: int) -> int:
    for rule in rules:
        if isinstance(rule.target, Redirect) and rule.target.ports is not None:
            return rule.target.ports.first
    return default


def destination_ports(rule: Rule) -> PortRange:
    """The destination ports that a rule tests; all of them where it tests none."""
    for match in rule.matches:
        if isinstance(match, PortMatch) and match.destination is not None:
            return match.destination.ports
    return ANY_PORT


def _has_port_match(rule: Rule) -> bool:
    return any(isinstance(match, PortMatch) for match in rule.matches)


def _inbound(rules: RuleSet) -> dict[str, object]:
    captures = _rules(rules, Role.INBOUND_CAPTURE)
    ports: Everything | tuple[PortRange, ...] = tuple(map(destination_ports, captures))
    if captures and not _has_port_match(captures[-1]):
        ports = ALL
    tunnel = _rules(rules, Role.INBOUND_TUNNEL_PORT)
    tproxy = _rules(rules, Role.TPROXY_SAVE_MARK) or _rules(rules, Role.TPROXY_CAPTURE)
    if entries_of(rules, Role.INBOUND_JUMP, Table.NAT) and not entries_of(rules, Role.INBOUND_JUMP, Table.MANGLE):
        tproxy = []  # They are left over: what enters is redirected.
    return {
        "inbound_ports": ports if _rules(rules, Role.INBOUND_JUMP) else (),
        "inbound_exclude_ports": tuple(map(destination_ports, _rules(rules, Role.INBOUND_EXCLUDED_PORT))),
        "inbound_tunnel_port": destination_ports(tunnel[0]).first if tunnel else 15008,
        "inbound_capture_port": _redirect_port(_rules(rules, Role.INBOUND_REDIRECT), INBOUND_PORT),
        "proxy_port": _redirect_port(_rules(rules, Role.OUTBOUND_REDIRECT), OUTBOUND_PORT),
        "mode": InterceptionMode.TPROXY if tproxy else InterceptionMode.REDIRECT,
    }


def _outbound(main: RuleSet, live: Mapping[Family, RuleSet], families: tuple[Family, ...]) -> dict[str, object]:
    included: list[IPNetwork] = []
    excluded: list[IPNetwork] = []
    for family in families:
        for _, chain, _, entry in live[family].entries():
            network = entry.rule.destination.network if entry.rule.destination else ANYWHERE[family]
            if chain.name == OUTPUT and entry.role in (Role.OUTBOUND_CAPTURE_ALL, Role.OUTBOUND_INCLUDED_RANGE):
                included.append(network)
            elif chain.name == OUTPUT and entry.role is Role.OUTBOUND_EXCLUDED_RANGE:
                excluded.append(network)
    ranges: Everything | tuple[IPNetwork, ...] = tuple(included)
    if included == [ANYWHERE[family] for family in families]:
        ranges = ALL
    elif not _rules(main, Role.APP_LOOPBACK) and not any(each.network_address.is_loopback for each in included):
        # A loopback range of a family that is not captured leaves this trace alone.
        ranges = (*included, IPv6Network("::1/128"))
    ports = [
        rule for rule in _rules(main, Role.OUTBOUND_EXCLUDED_PORT) if rule.protocol and rule.protocol.name == "tcp"
    ]
    ipv4 = live[Family.IPV4] if Family.IPV4 in families else RuleSet(Family.IPV4)
    named = [rule.destination.network for rule in _rules(ipv4, Role.OUTBOUND_LOOPBACK) if rule.destination]
    loopback: list[IPNetwork] = [each for each in named if each.is_loopback]
    if named and not loopback:
        # A rule that was added by hand ahead of it has its place: no configuration has another network there.
        loopback += [each for each in excluded if each.version == 4 and each.is_loopback][:1]
        excluded = [each for each in excluded if each not in loopback]
    fields: dict[str, object] = {
        "outbound_ranges": ranges,
        "outbound_exclude_ranges": tuple(excluded),
        "outbound_ports": tuple(map(destination_ports, _rules(main, Role.OUTBOUND_INCLUDED_PORT))),
        "outbound_exclude_ports": tuple(map(destination_ports, ports)),
    }
    if loopback:
        fields["loopback_cidr"] = loopback[0]
    return fields


def _owners(rules: RuleSet) -> dict[str, object]:
    proxies = [
        match for rule in _rules(rules, Role.PROXY_TO_SELF) for match in rule.matches if isinstance(match, Owner)
    ]
    included = [
        match.gid
        for rule in _rules(rules, Role.OWNER_GROUPS_INCLUDED)
        for match in rule.matches
        if isinstance(match, Owner)
    ]
    excluded = [
        match.gid
        for rule in _rules(rules, Role.OWNER_GROUP_EXCLUDED)
        for match in rule.matches
        if isinstance(match, Owner)
    ]
    uids = tuple(match.uid for match in proxies if match.uid is not None)
    gids = tuple(match.gid for match in proxies if match.gid is not None)
    return {
        "proxy_uids": uids or (IdRange(1337, 1337),),
        "proxy_gids": gids or uids or (IdRange(1337, 1337),),
        "owner_groups": tuple(included) or ALL,
        "owner_groups_exclude": tuple(excluded),
    }


def _interfaces(rules: RuleSet) -> dict[str, object]:
    excluded = entries_of(rules, Role.EXCLUDED_INTERFACE_OUT, Table.NAT)
    virtual = entries_of(rules, Role.VIRTUAL_INTERFACE_RETURN, Table.NAT)
    return {
        "exclude_interfaces": tuple(e.rule.out_interface.name for e in excluded if e.rule.out_interface),
        "virtual_interfaces": tuple(e.rule.in_interface.name for e in reversed(virtual) if e.rule.in_interface),
    }


def _tproxy_mark(rules: RuleSet) -> int | None:
    for rule in _rules(rules, Role.TPROXY_CAPTURE):
        if isinstance(rule.target, Tproxy):
            return rule.target.mark
    for rule in _rules(rules, Role.TPROXY_SAVE_MARK):
        for match in rule.matches:
            if isinstance(match, Mark):
                return match.value
    return None


def _table(routing: LiveRouting | None, mark: int | None) -> int:
    if routing is None or mark is None:
        return DEFAULT_TABLE
    tables = [(family, table) for family, each, table in routing.rules if each == mark]
    local = [table for family, table in tables if (family, table) in routing.local_tables]
    others = [DEFAULT_TABLE] if any(table == DEFAULT_TABLE for _, table in tables) else [table for _, table in tables]
    return next(iter([*local, *others]), DEFAULT_TABLE)  # Somebody else may lead the same mark elsewhere.


_DNS_ROLES = (Role.DNS_ZONES_OUT_JUMP, Role.DNS_REDIRECT, Role.OLDER_DNS_REDIRECT, Role.OLDER_DNS_PROXY_BYPASS)


def _captures_dns(rules: RuleSet) -> bool:
    return any(entries_of(rules, role) for role in _DNS_ROLES)


def _dns_servers(
    live: Mapping[Family, RuleSet], families: tuple[Family, ...]
) -> tuple[IPv4Address | IPv6Address | None, ...]:
    """The servers whose queries are redirected, in order; None stands for any server."""
    found: dict[IPv4Address | IPv6Address | None, None] = {}
    for family in families:
        for role in (Role.DNS_REDIRECT, Role.OLDER_DNS_REDIRECT):
            for rule in _rules(live[family], role):
                found[rule.destination.network.network_address if rule.destination else None] = None
    return tuple(found)
