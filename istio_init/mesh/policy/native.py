"""The policies as Istio's native nftables states them, in iptables' words: what `istio_init.mesh.native` raises live
rules to, so that both can be compared.

A rule without an address holds for both families, whichever were asked for. Matches stand in one order.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

from istio_init.config.model import ALL
from istio_init.dialects.iptables.matches import PortMatch
from istio_init.dialects.iptables.rules import Entry, RuleSet
from istio_init.dialects.iptables.targets import Tproxy
from istio_init.dialects.role import Role
from istio_init.mesh.policy import ambient, sidecar
from istio_init.mesh.policy.builder import TCP
from istio_init.mesh.raising import in_order
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.config.ambient import AmbientConfig
    from istio_init.config.model import Config, Surroundings
    from istio_init.dialects.iptables.rules import Chain, Rule

_RANGES = frozenset({Role.OUTBOUND_EXCLUDED_RANGE, Role.OUTBOUND_INCLUDED_RANGE})
_INCLUDED = frozenset({Role.OUTBOUND_CAPTURE_ALL, Role.VIRTUAL_INTERFACE_CAPTURE})
"""Rules of a range, which is one family's: also where it is all of that family, and no address is tested."""

_NOWHERE: dict[Family, IPv4Address | IPv6Address] = {
    Family.IPV4: IPv4Address("0.0.0.0"),
    Family.IPV6: IPv6Address("::"),
}
"""Stands for a name server of a family that has none; rules of it are left out again."""


def sidecar_rules(config: Config, around: Surroundings) -> dict[Family, RuleSet]:
    """The rules of a sidecar, in both families."""
    servers = around.dns_servers
    missing = [each for each in _NOWHERE.values() if not any(each.version == server.version for server in servers)]
    if not servers or config.capture_all_dns:
        missing = []
    built = sidecar.rules(config, around.replace(ipv6=True, dns_servers=(*servers, *missing)))
    of_family = _RANGES if config.outbound_ranges is ALL else _RANGES | _INCLUDED
    return _as_written(built, around.families, missing, of_family)


def ambient_rules(config: AmbientConfig) -> dict[Family, RuleSet]:
    """The rules of a pod in an ambient mesh, in both families."""
    return _as_written(ambient.rules(config.replace(ipv6=True)), config.families)


def _as_written(
    built: Mapping[Family, RuleSet],
    asked: tuple[Family, ...],
    missing: Iterable[IPv4Address | IPv6Address] = (),
    of_family: frozenset[Role] = frozenset(),
) -> dict[Family, RuleSet]:
    absent = {ip_network(each) for each in missing}

    def written(chain: Chain, family: Family) -> Iterator[Entry]:
        for entry in chain.entries:
            rule = entry.rule
            addresses = [each.network for each in (rule.source, rule.destination) if each is not None]
            is_of_family = bool(addresses) or isinstance(rule.target, Tproxy) or entry.role in of_family
            if (family in asked or not is_of_family) and not any(each in absent for each in addresses):
                yield entry.replace(rule=_rule(rule, entry.role))

    found = {}
    for family, rules in built.items():
        tables = {
            table: {
                name: chain.replace(entries=_interleaved(tuple(written(chain, family)), family, asked))
                for name, chain in chains.items()
            }
            for table, chains in rules.tables.items()
        }
        found[family] = RuleSet(family, tables)
    return found


def _interleaved(entries: tuple[Entry, ...], family: Family, asked: tuple[Family, ...]) -> tuple[Entry, ...]:
    """One chain holds both families' rules: what is inserted as number 3 comes before IPv4's, which was number 2."""
    if family is not Family.IPV4 or Family.IPV6 not in asked:
        return entries
    for index, entry in enumerate(entries[:-1]):
        if entry.role is Role.TPROXY_PASSTHROUGH and entries[index + 1].role is Role.TPROXY_APP_LOOPBACK:
            return (*entries[:index], entries[index + 1], entry, *entries[index + 2 :])
    return entries


def _rule(rule: Rule, role: Role | None) -> Rule:
    """``-m tcp`` without a port is not written; invalid packets are looked for among TCP's alone."""
    if role is Role.DROP_INVALID_JUMP:
        rule = rule.replace(protocol=TCP)
    if role is not None and role.value.startswith("ambient-"):
        rule = rule.replace(matches=tuple([each for each in rule.matches if each != PortMatch("tcp")]))
    return in_order(rule)
