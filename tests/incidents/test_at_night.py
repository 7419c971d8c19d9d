"""Incidents that were staged by hand, and of which too little, too much, or the wrong thing was said once."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from inspector.sidecar import ANY, INBOUND, OUTBOUND

from istio_init.inspector.explain import Explanation, explain
from istio_init.inspector.findings.model import View
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.prove.beside import beside, stood_in
from istio_init.prove.intent import inferred
from istio_init.report.impact_text import impact_lines
from istio_init.testing.entering import ROOT
from istio_init.testing.pods import PROXY as PROXY_USER
from istio_init.testing.traffic import Endpoint

from .states import AMBIENT, EVERYWHERE, State, check, make, of_ztunnel, proxy
from .ward import INJECTED, SERVER, Ward

DNS = f"{INJECTED} --redirect-dns"
PROXY = ((ANY[Family.IPV4], OUTBOUND), (ANY[Family.IPV4], INBOUND), (ANY[Family.IPV6], OUTBOUND))
WITH_HEALTH = proxy(*PROXY, (ANY[Family.IPV6], INBOUND), (ANY[Family.IPV4], 15021))

STATES = {
    "a chain was flushed": State(
        INJECTED, "iptables -t nat -F ISTIO_OUTPUT", {"half-applied": "ipv4 nat (nft): ISTIO_OUTPUT has no rules"}
    ),
    "both families' inbound chains were flushed": State(
        INJECTED,
        "for t in iptables ip6tables; do $t -t nat -F ISTIO_INBOUND; done",
        {"half-applied": "ipv6 nat (nft): ISTIO_INBOUND has no rules"},
    ),
    "nat was flushed, and with it what captures DNS": State(
        DNS, "iptables -t nat -F; iptables -t nat -X", {"half-applied": "missing: -A PREROUTING -p tcp"}
    ),
    "a route refuses the name server": State(
        INJECTED,
        f"ip route add unreachable {SERVER}/32",
        {"refusing-route": f"ipv4: unreachable {SERVER}/32, which holds the name server {SERVER}"},
        "error",
    ),
    "a route refuses the services": State(
        INJECTED, "ip route add prohibit 10.96.0.0/12", {"refusing-route": "ipv4: prohibit 10.96.0.0/12"}, "warning"
    ),
    "health checks are captured": State(
        INJECTED.replace("-d 15090,15021,15020", "-d 9100"),
        WITH_HEALTH,
        {"health-captured": "15021 is not excluded"},
        "warning",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_one_cause_is_named_and_nothing_else(ward: Ward, name: str) -> None:
    check(ward, STATES[name])


def impact(said: Explanation) -> list[str]:
    """The first lines, in words."""
    return [words for words, _ in impact_lines(said.impacts, is_captured=True)]


def without(seen: Snapshot, version: int) -> Snapshot:
    """A pod that has no address of a version."""
    left = [
        each.replace(addresses=tuple(address for address in each.addresses if address.version != version))
        for each in seen.interfaces
    ]
    return seen.replace(interfaces=tuple(left))


def commands(said: Explanation) -> list[str]:
    return [command for finding in said.findings for command in finding.commands]


def test_what_a_route_refuses_is_said_of_queries_first(ward: Ward) -> None:
    make(ward, INJECTED, f"ip route add unreachable {SERVER}/32")

    assert "DNS: all dropped (no route)" in impact(ward.look())


def test_a_pod_whose_ipv6_is_off_is_no_problem(ward: Ward) -> None:
    make(ward, INJECTED, proxy(*PROXY[:2]))

    seen = without(ward.observe(), 6)

    assert explain(seen).findings == ()
    intent = inferred(View(seen))
    assert intent is not None
    assert not intent.around.ipv6
    assert "IPv6 is not probed" in intent.notes[0]


def test_a_loopback_interface_without_ipv6_loses_what_goes_out(ward: Ward) -> None:
    make(ward, INJECTED, "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1")

    said = ward.look()

    assert "Outbound TCP, ipv6: all dropped (nat ISTIO_REDIRECT 1, as lo has no address ::1)" in impact(said)
    [finding] = said.findings
    assert finding.evidence[0] == "lo has no address ::1"


def test_servers_that_are_captured_and_no_longer_asked_are_no_problem(ward: Ward) -> None:
    make(ward, DNS, "true")
    seen = ward.observe()

    fewer, other = seen.replace(dns_servers=()), seen.replace(dns_servers=(ip_address(SERVER), ip_address("10.1.1.1")))

    assert explain(fewer).findings == ()
    said = explain(other)
    assert [each.kind.code for each in said.findings] == ["dns-servers-differ"]
    assert "DNS: proxied to port 15053, but to 10.1.1.1: direct (no rule matches)" in impact(said)


def test_verify_does_not_prove_dns_that_bypasses_the_proxy(ward: Ward) -> None:
    make(ward, DNS, "true")

    intent = inferred(View(ward.observe().replace(dns_servers=(ip_address("10.1.1.1"),))))

    assert intent is not None
    assert intent.problems == ("DNS queries to 10.1.1.1, which resolv.conf names, are not captured",)


def test_no_command_spreads_a_configuration_that_breaks_inbound_connections(ward: Ward) -> None:
    make(ward, f"{INJECTED.replace(' --dual-stack', '')} -k eth0", "true")

    said = ward.look()

    assert {each.kind.code for each in said.findings} == {"virtual-uplink", "ipv6-not-captured"}
    assert not commands(said)


def test_verify_says_that_it_stood_in_for_a_proxy_that_does_not_listen(ward: Ward) -> None:
    make(ward, INJECTED, proxy(PROXY[0]))

    assert stood_in(View(ward.observe())) == (
        "nothing in the pod listens on port 15001 over ipv6: verify listened there itself; until the proxy does, real "
        "connections fail",
        "nothing in the pod listens on port 15006: verify listened there itself; until the proxy does, real "
        "connections fail",
    )


def test_verify_says_that_its_probes_had_a_way_out_that_the_pod_lacks(ward: Ward) -> None:
    make(ward, INJECTED, "ip route del default")

    [said] = stood_in(View(ward.observe()))

    assert said.startswith("ipv4: no default route, only routes to ")
    assert said.endswith("probes went to an interface of verify's own, and real connections fail")


def test_without_ztunnel_it_is_ztunnel_that_is_to_be_looked_at(ward: Ward) -> None:
    make(ward, AMBIENT, proxy())

    [finding] = ward.look().findings

    assert finding.kind.code == "no-listener"
    assert finding.fix.startswith("See whether ztunnel runs on the pod's node")


def test_guardrails_of_a_pod_without_rules_are_not_taken_away_first(ward: Ward) -> None:
    ward.run("for t in iptables ip6tables; do for p in udp tcp; do $t -I OUTPUT -p $p -j DROP; done; done")

    codes = {each.kind.code: each for each in ward.look().findings}

    assert list(codes) == ["mesh-bypassed", "guardrails"]
    assert codes["guardrails"].fix.startswith("Program the pod first")
    assert codes["guardrails"].commands == ()


def test_a_sidecar_programmed_over_an_ambient_pod_is_told_of_in_one_store_too(ward: Ward) -> None:
    """As istio-iptables of an older release does it, which empties the chain that both have."""
    ward.program(INJECTED)
    saved = ward.run("iptables-save -t nat")
    ward.run("nft flush ruleset")
    ward.program_ambient()
    of_ztunnel(ward)
    ward.inside.run("iptables-nft-restore", "-n", stdin=saved)

    said = {each.kind.code: each for each in ward.look().findings}

    assert said["both-modes"].evidence == ("sidecar: nft, ipv4", "ambient: nft, ipv4 and ipv6")
    assert not [line for each in said.values() for line in each.commands if " apply " in line]


def test_of_two_commands_none_undoes_the_other(ward: Ward) -> None:
    line = INJECTED.replace(" --dual-stack", "").replace("-d 15090,15021,15020", "-d 9100")
    make(ward, line, WITH_HEALTH)

    first, second = ward.look().findings

    assert {first.kind.code, second.kind.code} == {"ipv6-not-captured", "health-captured"}
    [command] = {*first.commands, *second.commands}
    assert ward.paste(command) == 0
    assert ward.look().findings == ()


def test_rules_that_were_all_appended_twice_are_read_as_if_they_were_there_once(ward: Ward) -> None:
    make(ward, INJECTED, "iptables-save -t nat | grep -v ^: | iptables-nft-restore -n")

    said = ward.look()

    assert [each.kind.code for each in said.findings] == ["duplicate-rule"]
    assert "-x" not in str(said.arguments)


def test_another_default_route_in_the_table_is_told_of_and_no_command_that_would_fail(ward: Ward) -> None:
    make(
        ward,
        f"{INJECTED} -m TPROXY",
        f"ip route del local default dev lo table 133; ip route add default via {SERVER} table 133",
    )

    [finding] = ward.look().findings

    assert finding.evidence == ("ipv4: table 133 has no local default route on lo, but another default route",)
    assert finding.fix.startswith("Find out whose routing that is")
    assert not [command for command in finding.commands if " apply " in command]


def test_queries_of_a_family_in_which_nobody_answers_are_told(ward: Ward) -> None:
    ward.inside.write_resolv_conf("fd00:77::1")
    ward.closing.callback(ward.inside.write_resolv_conf, SERVER)
    assert ward.paste(f"istio-init apply --netns {ward.inside.name} --redirect-dns --dual-stack") == 0
    seen = ward.observe()
    left = [each for each in seen.listeners if (each.port, each.address.version) != (15053, 6)]

    [finding] = explain(seen.replace(listeners=tuple(left))).findings

    assert finding.evidence == tuple(f"nothing listens on {name} 15053 where ipv6 arrives" for name in ("udp", "tcp"))


def test_a_proxy_that_listens_elsewhere_is_not_told_to_be_started(ward: Ward) -> None:
    make(ward, INJECTED, proxy(*PROXY, ("::1", INBOUND)))

    [finding] = ward.look().findings

    assert finding.fix.startswith("Have the proxy listen on all addresses of both families")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{INJECTED} -k eth0", "The pod's own uplink is named as a virtual interface: eth0: "),
        (f"{INJECTED} -x 0.0.0.0/0", "All connections of a direction are excluded from capture: ipv4 nat (nft): "),
        (INJECTED.replace("-d 15090", "-d 8080,15090"), "An application's port is not captured: tcp "),
    ],
)
def test_verify_says_what_goes_past_the_proxy_as_it_is_configured(ward: Ward, line: str, said: str) -> None:
    make(ward, line, "true")

    [note] = beside(View(ward.observe()))

    assert note.startswith(said)


def test_verify_says_that_the_proxy_loops(ward: Ward) -> None:
    make(ward, INJECTED, proxy(*EVERYWHERE, user=ROOT))

    [said] = beside(View(ward.observe()))

    assert said.startswith("The proxy does not run with an exempt user or group: pid ")


def test_verify_says_whose_traffic_goes_past_the_proxy(ward: Ward) -> None:
    make(ward, INJECTED, "true")
    ward.guests.append(ward.sidecar.start(PROXY_USER, Endpoint("127.0.0.1", 7001), name="report-job"))

    [said] = beside(View(ward.observe()))

    assert said.startswith("A process that is not the proxy runs with the proxy's user or group: pid ")


TAKEN = {
    "TPROXY, another's mark": (f"{INJECTED} -m TPROXY", "ip rule add pref 100 fwmark 1337 lookup 51820", "0x539"),
    "TPROXY, all": (f"{INJECTED} -m TPROXY", "ip rule add pref 100 lookup 51820", "0x539"),
    "ambient": (AMBIENT, "ip rule add pref 100 fwmark 0x111/0xfff lookup 51820", "0x111"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_routing_of_others_for_the_mesh_s_mark_is_told_and_not_taken_for_ours(ward: Ward, name: str) -> None:
    line, rule, mark = TAKEN[name]
    make(ward, line, of_ztunnel if line == AMBIENT else "true")
    ward.run(f"{rule}; ip route add default via {SERVER} table 51820")

    [finding] = ward.look().findings

    assert finding.evidence == (f"ipv4: another routing rule takes what is marked {mark} first: via eth0",)
    assert not [command for command in finding.commands if " apply " in command]


def test_stores_that_hold_the_same_are_put_right_by_a_command(ward: Ward) -> None:
    target = f"--netns {ward.inside.name}"
    assert ward.paste(f"istio-init apply {target} --native-nftables --dual-stack") == 0
    ward.program(INJECTED)

    [finding] = ward.look().findings

    assert finding.kind.code == "both-backends"
    [command] = finding.commands
    assert ward.paste(command) == 0
    assert ward.look().findings == ()


def test_rules_that_capture_nothing_are_no_redirection(ward: Ward) -> None:
    make(ward, f"{INJECTED} -b '' -i ''", "true")

    [finding] = ward.look().findings

    assert finding.kind.code == "mesh-bypassed"
    assert finding.evidence[0] == "Istio's rules are there, but capture neither outbound nor inbound traffic"
    assert finding.commands == ()


def test_no_command_is_made_of_rules_that_lack_a_direction(ward: Ward) -> None:
    make(ward, INJECTED.replace(" --dual-stack", ""), "iptables -t nat -D ISTIO_OUTPUT -j ISTIO_REDIRECT")

    said = ward.look()

    assert {each.kind.code for each in said.findings} == {"no-outbound-capture", "ipv6-not-captured"}
    assert commands(said) == []


def test_a_rule_that_leads_to_another_table_in_one_family_is_told_with_both_tables(ward: Ward) -> None:
    make(ward, f"{INJECTED} -m TPROXY", "ip rule del fwmark 1337; ip rule add fwmark 1337 lookup 51820")

    [finding] = ward.look().findings

    assert finding.evidence == ("ipv4: the routing rule for mark 0x539 leads to table 51820, not 133",)
    [command] = finding.commands
    assert ward.paste(command) == 0
    assert ward.look().findings == ()


def test_the_user_to_run_as_is_the_one_that_the_rules_exempt(ward: Ward) -> None:
    make(ward, INJECTED.replace("-u 1337", "-u 2000 -g 2000"), "true")

    [finding] = [each for each in ward.look().findings if each.kind.code == "proxy-not-exempt"]

    assert finding.fix.startswith("Run it as user 2000, whom the rules exempt")
