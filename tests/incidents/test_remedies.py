"""What a finding says to do is done as it stands, in the pod that it was found in: it cures, or does no harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
from inspector.natives import SIDECAR as NATIVE
from inspector.test_stores import ztunnel
from support.rules import program

from istio_init.cli.expect import expected_config
from istio_init.config.parse import Names
from istio_init.inspector.explain import Explanation, explain
from istio_init.inspector.findings import catalogue
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.testing.pods import APP, PROXY
from istio_init.testing.traffic import Endpoint

from .ward import INJECTED, Ward

TPROXY = f"{INJECTED} -m TPROXY"
IPV4_ALONE = INJECTED.replace(" --dual-stack", "")
DNS = f"{INJECTED} --redirect-dns"
AMBIENT, NATIVELY, NO_RULES = "ambient", "native", "none"
"""In place of arguments: other rules, and none."""

GUARDRAILS = (
    "for t in iptables ip6tables; do for c in INPUT FORWARD OUTPUT; do for p in udp tcp; do $t -I $c -p $p -j DROP; "
    "done; done; done"
)
KUMA = "iptables -t nat -N KUMA_MESH_OUTBOUND; iptables -t nat -A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND; "
KUMA_RULE = "iptables -t nat -A KUMA_MESH_OUTBOUND -p tcp -m owner ! --uid-owner 5678 -j REDIRECT --to-ports 15001"


def _two_stores(ward: Ward) -> None:
    for family in Family:
        tool = program("nft", family)
        ward.inside.run(f"{program('legacy', family)}-restore", stdin=ward.run(f"{tool}-save -t nat"))


def _legacy_guardrails(ward: Ward) -> None:
    for family in Family:
        tool = program("legacy", family)
        ward.run(f"for c in INPUT FORWARD OUTPUT; do for p in udp tcp; do {tool} -I $c -p $p -j DROP; done; done")


def _ambient_too(ward: Ward) -> None:
    ward.program_ambient(store="legacy")


def _no_proxy(ward: Ward) -> None:
    ward.replace_proxy(APP, name="app")


def _guest(name: str, user: object, port: int) -> Callable[[Ward], None]:
    def move_in(ward: Ward) -> None:
        ward.guests.append(ward.sidecar.start(user, Endpoint("127.0.0.1", port), name=name))  # type: ignore[arg-type]

    return move_in


def _by_ztunnel(ward: Ward) -> None:
    ward.replace_proxy(PROXY)
    ward.closing.enter_context(ztunnel(ward.inside))


def _with_health(ward: Ward) -> None:
    ward.guests.append(ward.sidecar.start(PROXY, Endpoint("0.0.0.0", 15021), name="pilot-agent"))


def _servers(ward: Ward) -> None:
    ward.inside.write_resolv_conf("10.77.0.53")
    ward.closing.callback(ward.inside.write_resolv_conf, "10.77.0.1")


class Case(NamedTuple):
    """A pod that something is wrong with, and the code of that.

    ``line`` are the arguments that its rules were made with, ``damage`` what a shell then does in it; ``without`` says
    that the command comes without ``--expect``. ``expect`` None is for pods that were never a sidecar's.
    """

    code: str
    line: str
    damage: str | Callable[[Ward], None]
    cured: bool = False
    without: bool = False
    expect: str | None = INJECTED


CASES = {
    "no rules": Case("mesh-bypassed", NO_RULES, "true", cured=True),
    "no rules, ambient": Case("mesh-bypassed", NO_RULES, _by_ztunnel, expect=None),
    "lo is down": Case("loopback-down", INJECTED, "ip link set lo down", cured=True, without=True),
    "lo has no address": Case("loopback-down", INJECTED, "ip addr del 127.0.0.1/8 dev lo", cured=True, without=True),
    "no way out": Case("no-route", INJECTED, "ip route del default"),
    "a route refuses": Case("refusing-route", INJECTED, "ip route add unreachable 10.96.0.0/12"),
    "health checks are captured": Case(
        "health-captured", INJECTED.replace("-d 15090,15021,15020", "-d 9100"), _with_health, cured=True, without=True
    ),
    "proxy is dead": Case("no-listener", INJECTED, _no_proxy),
    "a chain was flushed": Case("half-applied", INJECTED, "iptables -t nat -F ISTIO_INBOUND", cured=True),
    "a jump was lost": Case("half-applied", INJECTED, "ip6tables -t nat -F PREROUTING", cured=True),
    "half of it, ambient": Case("half-applied", AMBIENT, "iptables -t nat -F ISTIO_OUTPUT", expect=None),
    "two stores": Case("both-backends", INJECTED, _two_stores, cured=True, without=True),
    "two modes": Case("both-modes", INJECTED, _ambient_too),
    "a jump stands twice": Case("duplicate-rule", INJECTED, "iptables -t nat -A OUTPUT -j ISTIO_OUTPUT", cured=True),
    "a foreign rule": Case("foreign-ahead", INJECTED, "iptables -t nat -I OUTPUT -p tcp --dport 443 -j ACCEPT"),
    "a foreign rule, ambient": Case(
        "foreign-ahead", AMBIENT, "iptables -t nat -I OUTPUT -p tcp --dport 443 -j ACCEPT", expect=None
    ),
    "a policy drops": Case("captured-dropped", INJECTED, "iptables -P INPUT DROP"),
    "a rule of ours was changed": Case(
        "captured-otherwise", INJECTED, "iptables -t nat -I ISTIO_REDIRECT -p tcp -j RETURN", cured=True
    ),
    "a rule that is open": Case(
        "undecided-rule",
        INJECTED,
        "iptables -t nat -I OUTPUT -p tcp -m statistic --mode random --probability .5 -j ACCEPT",
    ),
    "a shadowed range": Case("shadowed-rule", f"{INJECTED} -x 192.0.2.0/24,192.0.2.128/25", "true", expect=None),
    "ports beside all ranges": Case("ports-narrow-nothing", f"{INJECTED} -q 80", "true", expect=None),
    "no inbound capture": Case("no-inbound-capture", f"{INJECTED} -b ''", "true", cured=True),
    "no outbound capture": Case("no-outbound-capture", f"{INJECTED} -i ''", "true", cured=True),
    "all is excluded": Case("all-excluded", f"{INJECTED} -x 0.0.0.0/0", "true", cured=True),
    "routing of the other mode": Case(
        "mode-leftovers",
        INJECTED,
        "ip rule add fwmark 1337 lookup 133; ip route add local default dev lo table 133",
        cured=True,
        without=True,
    ),
    "guardrails stayed": Case("guardrails", INJECTED, GUARDRAILS, cured=True, without=True),
    "guardrails stayed in the other store": Case("guardrails", INJECTED, _legacy_guardrails, cured=True, without=True),
    "guardrails without rules": Case("guardrails", NO_RULES, GUARDRAILS, cured=True),
    "a job runs as the proxy": Case("exempt-process", INJECTED, _guest("report-job", PROXY, 7001)),
    "the proxy runs as somebody else": Case("proxy-not-exempt", INJECTED, _guest("envoy", APP, 7002)),
    "a port of the proxy's": Case("reserved-port", INJECTED, _guest("metrics", APP, 15090)),
    "on loopback alone": Case("loopback-only", INJECTED, _guest("admin", APP, 9000)),
    "ipv6 is left out": Case(
        "ipv6-not-captured", INJECTED.replace(" --dual-stack", ""), "true", cured=True, without=True
    ),
    "::6 was lost": Case("ipv6-not-ready", INJECTED, "ip addr del ::6/128 dev lo", cured=True, without=True),
    "ipv6 is off on lo": Case(
        "ipv6-not-ready", INJECTED, "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1", cured=True, without=True
    ),
    "the routing was lost": Case(
        "tproxy-routing", TPROXY, "ip rule del fwmark 1337", cured=True, without=True, expect=TPROXY
    ),
    "the routing was lost, ambient": Case(
        "tproxy-routing", AMBIENT, "ip rule del pref 32764", cured=True, without=True, expect=None
    ),
    "other name servers": Case("dns-servers-differ", DNS, _servers, cured=True, without=True),
    "native, and IPv4 half": Case(
        "half-applied", NATIVELY, "nft flush chain inet istio-proxy-nat istio-in-redirect", cured=True
    ),
    "another mesh, too": Case("foreign-ahead", INJECTED, f"{KUMA}{KUMA_RULE.replace('-A', '-I', 1)}"),
}


def made(ward: Ward, name: str) -> Case:
    case = CASES[name]
    if case.line == NATIVELY:
        ward.inside.run("nft", "-f", "-", stdin=NATIVE)
        ward.run("ip addr add ::6/128 dev lo")
    elif case.line == AMBIENT:
        ward.program_ambient()
    elif case.line != NO_RULES:
        ward.program(case.line)
    if callable(case.damage):
        case.damage(ward)
    else:
        ward.run(case.damage)
    return case


def expecting(seen: Snapshot, line: str | None) -> Explanation:
    """What explain says, compared with arguments."""
    return explain(seen, expected_config(line, Names())[0] if line is not None else None, with_impacts=False)


def commands(explanation: Explanation) -> list[str]:
    """Everything that is there to be pasted."""
    found = [command for finding in explanation.findings for command in finding.commands]
    return list(dict.fromkeys([*found, *filter(None, [explanation.repair])]))


def proxied(explanation: Explanation) -> set[tuple[object, object]]:
    """What of the traffic the proxy gets."""
    return {(each.traffic, each.family) for each in explanation.impacts if each.parts[0].is_proxied}


@pytest.mark.parametrize("name", CASES)
def test_a_remedy_is_pasted_and_cures_or_does_no_harm(ward: Ward, name: str) -> None:
    case = made(ward, name)
    target = f"--netns {ward.inside.name}"

    seen = ward.observe()
    bare, asked = explain(seen), expecting(seen, case.expect)

    assert case.code in [finding.kind.code for finding in bare.findings]
    assert all(target in line for each in bare.findings for line in each.evidence if "istio-init " in line)
    for command in {*commands(bare), *commands(asked)}:
        assert "\n" not in command
        assert target in command or f"ip netns exec {ward.inside.name} " in command
        assert "clean" not in command and "--replace-other" not in command
    if "ambient" in name:
        pasted = [*commands(bare), *commands(expecting(seen, INJECTED))]
        assert not [command for command in pasted if re.search(r"istio-init (apply(?!.* --ambient)|clean)", command)]
    if not case.without:
        assert not [command for command in commands(bare) if " apply " in command]
    run = commands(bare if case.without else asked)
    for command in run:
        if command.startswith("ip netns exec"):
            ward.run(command.split(" ", 4)[4] if " sh -c " not in command else command.split("sh -c ", 1)[1].strip("'"))
        else:
            assert ward.paste(command) in ((0,) if " apply " in command else (0, 126))
    if not run:
        assert not case.cured
        return
    after = ward.look()
    assert proxied(after) >= proxied(bare)
    assert not case.cured or case.code not in [finding.kind.code for finding in after.findings]


def test_a_pod_of_another_mesh_is_neither_bypassed_nor_told_to_be_programmed(ward: Ward) -> None:
    ward.run(f"{KUMA}{KUMA_RULE}")

    found = ward.look()

    assert found.facts == "no redirection of Istio's, but of Kuma"
    assert not found.findings
    assert not commands(expecting(ward.observe(), INJECTED))


def test_every_kind_that_can_be_built_is_built() -> None:
    others = {
        "stopped-proxy": "has no command: a debugger may hold it",
        "not-all-followed": "takes thousands of rules",
        "exclude-without-all": "is about what is expected, not about the pod",
        "no-dns-listener": "has no command, as no-listener",
        "host-namespace": "is not in a namespace of its own",
        "conntrack-full": "is the whole machine's",
        "invalid-packets": "needs packets of no connection",
        "unfaithful-reader": "needs an old reader",
        "zero-counters": "has a command that never ends",
        **dict.fromkeys(("not-transparent", "not-the-proxy", "ports-swapped"), "has no command"),
        **dict.fromkeys(("virtual-uplink", "proxy-redirected"), "has no command"),
        **dict.fromkeys(("accept-queue-full", "some-dropped", "open-bypass", "owner-groups"), "has no command"),
        **dict.fromkeys(("uncaptured-port", "no-such-interface", "bridged-containers"), "has no command"),
    }

    assert {case.code for case in CASES.values()} | set(others) == {kind.code for kind in catalogue.KINDS}
