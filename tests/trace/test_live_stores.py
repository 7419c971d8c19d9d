"""What is predicted is what the kernel does, whatever holds the rules: either store, native tables, or several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from support.command import istio_init
from support.rules import program

from istio_init.config.ambient import AmbientConfig
from istio_init.dialects.iptables.rules import as_in_kernel
from istio_init.dialects.iptables.save import render_save
from istio_init.mesh.policy import ambient
from istio_init.netfilter.family import Family
from istio_init.testing import Pod
from istio_init.testing.pods import HOSTS

V4, V6 = HOSTS[Family.IPV4], HOSTS[Family.IPV6]
FIELDS = ("store", "family", "table", "chain", "rule")

SIDECAR = """
table inet istio-proxy-nat {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        meta l4proto tcp counter jump istio-inbound
    }
    chain output {
        type nat hook output priority -100; policy accept;
        counter jump istio-output
    }
    chain istio-inbound {
        tcp dport 15008 counter return
        meta l4proto tcp counter jump istio-in-redirect
    }
    chain istio-redirect {
        meta l4proto tcp counter redirect to :15001
    }
    chain istio-in-redirect {
        meta l4proto tcp counter redirect to :15006
    }
    chain istio-output {
        oifname "lo" ip saddr 127.0.0.6 counter return
        oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
        oifname "lo" meta skuid != 1337 counter return
        meta skuid 1337 counter return
        oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
        oifname "lo" meta skgid != 1337 counter return
        meta skgid 1337 counter return
        ip daddr 127.0.0.1 counter return
        ip daddr { 10.99.0.0/16, 10.98.1.1 } counter return
        counter jump istio-redirect
    }
}
"""

TPROXY = """
table inet istio-proxy-mangle {
    chain prerouting {
        type filter hook prerouting priority mangle; policy accept;
        meta l4proto tcp counter jump istio-inbound
        meta l4proto tcp meta mark 1337 counter ct mark set meta mark
    }
    chain output {
        type route hook output priority mangle; policy accept;
        meta l4proto tcp oifname "lo" meta mark 1337 counter return
        ip daddr != 127.0.0.1 meta l4proto tcp oifname "lo" meta skuid 1337 counter meta mark set 1338
        ip daddr != 127.0.0.1 meta l4proto tcp oifname "lo" meta skgid 1337 counter meta mark set 1338
        meta l4proto tcp ct mark 1337 counter meta mark set ct mark
    }
    chain istio-inbound {
        meta l4proto tcp meta mark 1337 counter return
        meta l4proto tcp ip saddr 127.0.0.6 iifname "lo" counter return
        meta l4proto tcp iifname "lo" meta mark != 1338 counter return
        tcp dport 15008 counter return
        meta l4proto tcp ct state established,related counter jump istio-divert
        meta l4proto tcp counter jump istio-tproxy
    }
    chain istio-divert {
        counter meta mark set 1337
        counter accept
    }
    chain istio-tproxy {
        meta l4proto tcp ip daddr != 127.0.0.1 counter tproxy ip to :15006 meta mark set 1337 accept
    }
}
"""

AMBIENT = """
table inet istio-ambient-nat {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump istio-prerouting
    }
    chain output {
        type nat hook output priority -100; policy accept;
        jump istio-output
    }
    chain istio-prerouting {
        meta l4proto tcp ip saddr 169.254.7.127 accept
        meta l4proto tcp ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff accept
        ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
        ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
    }
    chain istio-output {
        meta l4proto tcp ip daddr 169.254.7.127 accept
        oifname != "lo" udp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
        ip daddr != 127.0.0.1 tcp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
        meta l4proto tcp meta mark & 0xfff == 0x111 accept
        oifname "lo" ip daddr != 127.0.0.1 accept
        oifname "lo" ip6 daddr != ::1 accept
        ip daddr != 127.0.0.1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
        ip6 daddr != ::1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
    }
}
table inet istio-ambient-mangle {
    chain prerouting {
        type filter hook prerouting priority mangle; policy accept;
        jump istio-prerouting
    }
    chain output {
        type route hook output priority mangle; policy accept;
        jump istio-output
    }
    chain istio-prerouting {
        meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
    }
    chain istio-output {
        ct mark & 0xfff == 0x111 meta mark set ct mark
    }
}
table inet istio-ambient-raw {
    chain output {
        type filter hook output priority raw; policy accept;
        udp dport 53 meta mark & 0xfff == 0x539 ct zone set 1
    }
}
"""

KUBEVIRT = """
table ip nat {
    map ports {
        type inet_service : verdict
        elements = { 2222 : jump KUBEVIRT_SSH, 8080 : accept }
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        iifname "eth0" counter jump KUBEVIRT_PREINBOUND
    }
    chain output {
        type nat hook output priority -100; policy accept;
        ip daddr 127.0.0.1 counter dnat to 10.0.2.2
        ip daddr 10.98.0.0/16 tcp dport vmap @ports
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.0.2.2 counter masquerade
    }
    chain KUBEVIRT_PREINBOUND {
        tcp dport { 22, 80, 8000-8080 } counter dnat to 10.0.2.2
    }
    chain KUBEVIRT_SSH {
        meta l4proto tcp counter redirect to :22
    }
}
table inet guard {
    set allowed {
        type ipv4_addr . inet_service
        elements = { 10.0.0.1 . 443 }
    }
    chain first {
        type filter hook output priority -400; policy accept;
        meta l4proto tcp counter
    }
    chain out {
        type filter hook output priority 400; policy accept;
        ip daddr . tcp dport @allowed accept
        tcp dport 9999 counter reject with tcp reset
        tcp dport 9998 drop
    }
}
"""

MEANWHILE = "table inet both { chain in { type filter hook input priority -1; tcp dport 15001 counter accept; }; }\n"


def native(*texts: str) -> Callable[[Pod], None]:
    """Load rules of nft."""

    def load(pod: Pod) -> None:
        pod.inside.run("nft", "-f", "-", stdin="".join(texts))

    return load


def sidecar(*words: str) -> Callable[[Pod], None]:
    """Program a sidecar's rules."""

    def load(pod: Pod) -> None:
        istio_init("apply", "--netns", pod.name, "--dual-stack", *words).ok()

    return load


def iptables_nft(*rules: str) -> Callable[[Pod], None]:
    """Add rules with iptables-nft."""

    def load(pod: Pod) -> None:
        for rule in rules:
            pod.inside.run("iptables-nft", *rule.split())

    return load


def in_turn(*states: Callable[[Pod], None]) -> Callable[[Pod], None]:
    """One state on top of another."""

    def load(pod: Pod) -> None:
        for state in states:
            state(pod)

    return load


def ambient_in(backend: str) -> Callable[[Pod], None]:
    """Load an ambient pod's rules into a store of iptables."""

    def load(pod: Pod) -> None:
        for family, rules in ambient.rules(AmbientConfig()).items():
            pod.inside.run(f"{program(backend, family)}-restore", stdin=render_save(as_in_kernel(rules)))

    return load


STATES: dict[str, Callable[[Pod], None]] = {
    "a sidecar's native rules": native(SIDECAR),
    "those of TPROXY": native(SIDECAR, TPROXY),
    "ambient in iptables-nft": ambient_in("nft"),
    "ambient in legacy": ambient_in("legacy"),
    "ambient in native tables": native(AMBIENT),
    "rules in both stores": in_turn(
        sidecar("--force-iptables-binary", "legacy"),
        iptables_nft("-A OUTPUT -p tcp --dport 443 -j REJECT", "-t mangle -A PREROUTING -i lo -j MARK --set-mark 7"),
        native(MEANWHILE),
    ),
    "KubeVirt's native tables": native(KUBEVIRT),
    "KubeVirt's beside a sidecar's": in_turn(native(SIDECAR), native(KUBEVIRT)),
    "a switch from iptables to native": in_turn(sidecar(), native(SIDECAR)),
}

TIED = ("a switch from iptables to native", "KubeVirt's beside a sidecar's")
"""States with nat chains of the same priority, whose order the kernel does not tell: the rules may be others' then."""

PACKETS = (
    f"tcp {V4.far}:443",
    f"tcp [{V6.far}]:80",
    f"tcp {V4.far}:80 --uid 1337",
    f"tcp {V4.far}:80 --gid 1337",
    f"tcp {V4.pod}:8080",
    f"tcp {V4.pod}:8080 --uid 1337",
    f"tcp [{V6.pod}]:8080 --uid 1337",
    "tcp 10.99.0.1:443",
    f"udp {V4.far}:53",
)
MARKED = (
    f"tcp {V4.far}:80 --mark 0x539",
    f"tcp {V4.far}:80 --mark 0x111",
    f"udp {V4.far}:53 --mark 0x539",
)
MAPPED = (
    "tcp 127.0.0.1:8080",
    "tcp 10.98.1.1:2222",
    "tcp 10.98.1.1:8080 --uid 1337",
    "tcp 10.98.1.1:7070 --uid 1337",
    "tcp 10.0.0.1:443",
    "tcp 10.0.0.1:9999 --uid 1337",
    "tcp 10.0.0.1:9998 --uid 1337",
)
SENT = [
    (state, words)
    for state in STATES
    for words in PACKETS + MARKED * state.startswith("ambient") + MAPPED * state.startswith("KubeVirt")
]


@pytest.fixture(scope="module")
def pods(both_backends: None) -> Iterator[Callable[[str], Pod]]:
    """A pod in each state, made when it is asked for."""
    made: dict[str, Pod] = {}
    with ExitStack() as stack:

        def pod(name: str) -> Pod:
            if name not in made:
                made[name] = stack.enter_context(Pod.create())
                STATES[name](made[name])
            return made[name]

        yield pod


class Said(NamedTuple):
    """What the command printed."""

    trace: dict[str, Any]
    live: dict[str, Any]


def live(pod: Pod, words: str) -> Said:
    done = istio_init("trace", "outbound", *words.split(), "--netns", pod.name, "--live", "--format", "json")
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert done.status == 0, said["live"]["differs"]
    return Said(said, said["live"])


@pytest.mark.parametrize(("state", "words"), SENT)
def test_the_kernel_does_what_is_predicted(pods: Callable[[str], Pod], state: str, words: str) -> None:
    said = live(pods(state), words)

    assert said.live["agrees"], said.trace["causes"]
    if state in TIED:
        return
    hops = [[hop for hop in leg["hops"] if hop["matched"]] for leg in said.trace["legs"]]
    matched = [[{name: hop[name] for name in FIELDS} for hop in leg] for leg in hops]
    assert said.live["legs"] == [[place for place in leg if place["store"] == "nft"] for leg in matched]
    counted = {tuple(place[name] for name in FIELDS) for place in said.live["counters"] or ()}
    assert counted == {tuple(place.values()) for leg in matched for place in leg if place["store"] == "legacy"}


def test_an_order_that_nobody_told_is_seen(both_backends: None) -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        in_turn(
            sidecar("--force-iptables-binary", "legacy"),
            iptables_nft("-t nat -A OUTPUT -p tcp --dport 443 -j REDIRECT --to-ports 15443"),
        )(pod)

        said = live(pod, f"tcp {V4.far}:443")

    assert said.trace["delivered"]["outcome"] == "undecidable"
    assert said.live["agrees"] is None
    assert said.live["port"] in (15001, 15443)
