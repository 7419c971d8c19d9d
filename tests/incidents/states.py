"""How states of a pod are made, and how what is said of them is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from inspector.natives import SIDECAR as NATIVE
from inspector.sidecar import ANY, INBOUND, OUTBOUND, Socket
from inspector.test_outcomes import DOCKER, KUBE_PROXY
from inspector.test_stores import ztunnel

from istio_init.cli.expect import expected_config
from istio_init.config.parse import Names
from istio_init.mesh.mode import Mode
from istio_init.netfilter.family import Family
from istio_init.testing.pods import APP, HOSTS, PROXY
from istio_init.testing.traffic import Endpoint

from .ward import INJECTED, Ward

V4 = Family.IPV4
TPROXY = f"{INJECTED} -m TPROXY"
AMBIENT = "ambient"
LINKERD = (
    "iptables -t nat -N PROXY_INIT_OUTPUT; iptables -t nat -A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN; "
    "iptables -t nat -A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-ports 4140; "
    "iptables -t nat -A OUTPUT -j PROXY_INIT_OUTPUT"
)
NET1 = (
    "ip link add net1 type veth peer name far0; ip addr add 10.9.0.2/24 dev net1; ip link set net1 up; "
    "ip link set far0 up; ip route replace default via 10.9.0.1"
)
FIREWALL = (
    "iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT; "
    "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; "
)
FORWARDS = "sysctl -qw net.ipv4.ip_forward=1"


def proxy(*addresses: tuple[str, int], user: object = PROXY, name: str = "envoy") -> Callable[[Ward], None]:
    """Another proxy than the usual one."""

    def replace(ward: Ward) -> None:
        ward.replace_proxy(user, *(Socket(Endpoint(*each)) for each in addresses), name=name)  # type: ignore[arg-type]

    return replace


def guest(name: str, *ports: int) -> Callable[[Ward], None]:
    """One more application."""

    def move_in(ward: Ward) -> None:
        addresses = [Endpoint(HOSTS[V4].pod, port) for port in ports]
        ward.guests.append(ward.sidecar.start(APP, *addresses, name=name))

    return move_in


def of_ztunnel(ward: Ward) -> None:
    """The sockets that ztunnel opens in a pod."""
    ward.replace_proxy(PROXY)
    ward.closing.enter_context(ztunnel(ward.inside))


def docker(ward: Ward) -> None:
    ward.inside.run("iptables-nft-restore", "-n", stdin=DOCKER)


def kube_proxy(ward: Ward) -> None:
    """Its rules, on a machine that forwards."""
    ward.inside.run("iptables-nft-restore", "-n", stdin=KUBE_PROXY)
    ward.run(FORWARDS)


def in_legacy(ward: Ward) -> None:
    """The same rules in the other store alone."""
    ward.run("nft flush ruleset")
    ward.program(INJECTED, store="legacy")


def natively(ward: Ward) -> None:
    ward.inside.run("nft", "-f", "-", stdin=NATIVE)
    ward.run("ip addr add ::6/128 dev lo")


def ambient_in_legacy(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.program_ambient(store="legacy")


def ambient_without_routing(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.run("ip rule del pref 32764")


def docker_in_ambient(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.run(bridge("br-12ab"))


def by_ztunnel(*scripts: str) -> Callable[[Ward], None]:
    """In a pod of an ambient mesh, in which shells do this."""

    def damage(ward: Ward) -> None:
        of_ztunnel(ward)
        for script in scripts:
            ward.run(script)

    return damage


def half_ambient(ward: Ward) -> None:
    of_ztunnel(ward)
    ward.run("iptables -t nat -F ISTIO_PRERT")


def bridge(name: str) -> str:
    return f"ip link add {name} type veth peer name far0; ip addr add 172.17.0.1/16 dev {name}; ip link set {name} up"


EVERYWHERE = tuple((host, port) for host in ANY.values() for port in (OUTBOUND, INBOUND))


class State(NamedTuple):
    """``line`` are the arguments behind the rules; ``said`` are the codes of findings with a text of their evidence."""

    line: str
    damage: str | Callable[[Ward], None]
    said: dict[str, str]
    severity: str | None = None


def make(ward: Ward, line: str, damage: str | Callable[[Ward], None]) -> None:
    if line == AMBIENT:
        ward.program_ambient()
    elif line:
        ward.program(line)
    if callable(damage):
        damage(ward)
    else:
        ward.run(damage)


def check(ward: Ward, state: State) -> None:
    """Make a state, and see that it is named and nothing else is, and that what is to be pasted helps."""
    make(ward, state.line, state.damage)

    said = ward.look()

    found = {each.kind.code: each for each in said.findings}
    assert set(found) == set(state.said), [(code, each.evidence) for code, each in found.items()]
    if said.arguments is not None and said.mode is not Mode.AMBIENT:
        expected_config(str(said.arguments), Names())  # Nothing is given that would be refused.
    for code, text in state.said.items():
        assert any(text in line for line in found[code].evidence), found[code].evidence
    if state.severity is not None:
        [finding] = found.values()
        assert finding.severity.value == state.severity
    pasted = [each for finding in said.findings for each in finding.commands if " apply " in each]
    for command in dict.fromkeys(pasted):
        assert ward.paste(command) == 0
    if pasted:
        assert not {each.kind.code for each in ward.look().findings} - set(state.said)
