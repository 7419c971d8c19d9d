"""Native rules as we write them: raised, they are what iptables has, with lists merged."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from unit.strategies import configs, surroundings

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Config, Surroundings
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.nft.ruleset import Ruleset
from istio_init.mesh.native import raised
from istio_init.mesh.native_names import AMBIENT, SIDECAR
from istio_init.mesh.policy import ambient, merged, sidecar
from istio_init.mesh.policy.nftables import tables
from istio_init.netfilter.family import Family

law = settings(derandomize=True, deadline=None, database=None, max_examples=200, suppress_health_check=[*HealthCheck])


def texts(rules: RuleSet) -> dict[str, list[str]]:
    return {f"{table.value} {chain.name}": [rule_text(rule) for rule in chain.rules] for table, chain in rules.chains()}


ADJACENT = (ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16"))
"""One interval, and no network."""


@law
@given(configs, surroundings)
@example(Config(outbound_exclude_ranges=ADJACENT), Surroundings())
@example(Config(outbound_ranges=ADJACENT, outbound_exclude_ranges=ADJACENT), Surroundings(ipv6=True))
def test_a_sidecars_rules_are_raised_to_what_iptables_has(config: Config, around: Surroundings) -> None:
    written = Ruleset(tables(sidecar.clauses(config, around), around.families, SIDECAR))
    found = raised(written, SIDECAR)

    assert found is not None
    assert (found.is_ours, found.unread) == (True, ())
    wanted = merged.sidecar_rules(config, around)
    assert {family: texts(rules) for family, rules in found.rules.items()} == {
        family: texts(rules) for family, rules in wanted.items()
    }
    assert found.captured.keys() == wanted.keys()


@law
@given(st.booleans(), st.booleans(), st.booleans(), st.sampled_from([(), ("vm0",), ("vm0", "tap+", "vm1")]))
def test_an_ambient_pods_are_too(dns: bool, ipv6: bool, bypass: bool, names: tuple[str, ...]) -> None:
    config = AmbientConfig(redirect_dns=dns, ipv6=ipv6, bypass_inbound_capture=bypass, virtual_interfaces=names)
    found = raised(Ruleset(tables(ambient.clauses(config), config.families, AMBIENT)), AMBIENT)

    assert found is not None
    wanted = merged.ambient_rules(config)
    assert {family: texts(rules) for family, rules in found.rules.items()} == {
        family: texts(rules) for family, rules in wanted.items()
    }
    assert Family.IPV4 in found.captured
