"""The rules that Istio's sidecar policy states, as iptables-save shows them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from istio_init.config.model import Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.matches import IdRange, PortRange
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.family import Family

NAT, MANGLE, RAW = Table.NAT, Table.MANGLE, Table.RAW
TPROXY = InterceptionMode.TPROXY
IPV4_ONLY = Surroundings()
DUAL = Surroundings(ipv6=True)

LOOPBACK = "-d 127.0.0.1/32 -j RETURN"

Chains = dict[str, list[str]]


def ports(*numbers: int | tuple[int, int]) -> tuple[PortRange, ...]:
    return tuple([PortRange(*each) if isinstance(each, tuple) else PortRange(each, each) for each in numbers])


def ids(*numbers: int | tuple[int, int]) -> tuple[IdRange, ...]:
    return tuple([IdRange(*each) if isinstance(each, tuple) else IdRange(each, each) for each in numbers])


def nets(*texts: str) -> tuple[Any, ...]:
    return tuple([ip_network(text) for text in texts])


def servers(*texts: str, ipv6: bool = False) -> Surroundings:
    return Surroundings(ipv6, tuple([ip_address(text) for text in texts]))


def build(config: Config, around: Surroundings = IPV4_ONLY, family: Family = Family.IPV4) -> RuleSet:
    return sidecar.rules(config, around)[family]


def chain(rules: RuleSet, table: Table, name: str) -> list[str]:
    """The texts of a chain; an empty list where there is no such chain."""
    found = rules.chain(table, name)
    return [] if found is None else [rule_text(rule) for rule in found.rules]


def shown(config: Config, table: Table, name: str, around: Surroundings = IPV4_ONLY) -> list[str]:
    return chain(build(config, around), table, name)


def everything(rules: RuleSet) -> dict[str, list[str]]:
    return {f"{table.value} {found.name}": [rule_text(rule) for rule in found.rules] for table, found in rules.chains()}
