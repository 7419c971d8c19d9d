"""How native rules and those of ambient pods differ from what a configuration means."""

from __future__ import annotations

from ipaddress import IPv4Network

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import ALL, Config
from istio_init.inspector.drift import Drift, ambient_drift, native_ambient_drift, native_drift
from istio_init.mesh.meaning import settle
from istio_init.mesh.native import Raised
from istio_init.mesh.policy import ambient, native
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family

from .test_native import sidecar_of

V4, V6 = Family
INJECTED = Config(inbound_ports=ALL, outbound_ranges=ALL)


def told(drift: Drift) -> list[tuple[Family, str, str, str]]:
    return [
        (family.family, change.kind.value, change.chain, change.text)
        for family in drift.families
        for change in family.changes
    ]


class TestNative:
    def test_rules_are_as_expected(self) -> None:
        drift = native_drift(sidecar_of(), settle(INJECTED, (), ipv6=False))

        assert (drift.is_equal, told(drift)) == (True, [])

    def test_a_range_that_is_missing_is_told_in_its_family(self) -> None:
        config = INJECTED.replace(outbound_exclude_ranges=(IPv4Network("10.0.0.0/8"),))

        drift = native_drift(sidecar_of(), settle(config, (), ipv6=False))

        assert not drift.is_equal
        assert told(drift) == [(V4, "add", "ISTIO_OUTPUT", "-d 10.0.0.0/8 -j RETURN")]

    def test_ipv6_that_is_wanted_lacks_the_rules_with_addresses(self) -> None:
        drift = native_drift(sidecar_of(), settle(INJECTED.replace(dual_stack=True), (), ipv6=True))

        assert {(family, kind) for family, kind, *_ in told(drift)} == {(V6, "add")}
        assert all("::" in text for *_, text in told(drift))


class TestAmbient:
    def test_iptables_rules_are_as_expected(self) -> None:
        live = {family: recognise(rules) for family, rules in ambient.rules(AmbientConfig()).items()}

        assert ambient_drift(live, AmbientConfig()).is_equal

    def test_what_is_captured_beside_the_expectation_is_told(self) -> None:
        live = {family: recognise(rules) for family, rules in ambient.rules(AmbientConfig(ipv6=False)).items()}

        drift = ambient_drift(live, AmbientConfig(ipv6=False, bypass_inbound_capture=True))

        assert [(kind, chain) for _, kind, chain, _ in told(drift)] == [("remove", "ISTIO_PRERT")] * 2

    def test_native_rules_are_compared_in_both_families(self) -> None:
        built = {family: recognise(rules) for family, rules in native.ambient_rules(AmbientConfig(ipv6=False)).items()}
        found = Raised(built, {}, ipv6=False)

        assert native_ambient_drift(found, AmbientConfig(ipv6=False)).is_equal
        assert {family for family, *_ in told(native_ambient_drift(found, AmbientConfig()))} == {V6}
