"""A connection really sent where others have a hand in it, and what is not sent at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from inspector.sidecar import Inhabitant, Socket
from support.command import Result, istio_init

from istio_init.netfilter.family import Family
from istio_init.testing import Pod
from istio_init.testing.pods import APP, HOSTS
from istio_init.testing.traffic import Endpoint

V4 = HOSTS[Family.IPV4]


@pytest.fixture
def pod(real_kernel: None) -> Iterator[Pod]:
    with Pod.create(families=(Family.IPV4,)) as made:
        istio_init("apply", "--netns", made.name, "--force-iptables-binary", "nft").ok()
        yield made


def live(pod: Pod, words: str) -> Result:
    return istio_init("trace", *words.split(), "--netns", pod.name, "--live")


DEBIAN = """
table inet filter {
    chain input { type filter hook input priority filter; }
    chain forward { type filter hook forward priority filter; }
    chain output { type filter hook output priority filter; }
}
"""

CAPITALS = """
table inet filter {
    chain INPUT { type filter hook output priority -10; }
    chain PREROUTING { type filter hook output priority 20; }
}
table ip foreign {
    chain INPUT { type filter hook output priority -10; }
}
"""


@pytest.mark.parametrize("chains", [DEBIAN, CAPITALS], ids=["as-debian-has-them", "named-like-other-hooks"])
@pytest.mark.parametrize("destination", [f"{V4.peer}:80", f"{V4.pod}:8080"], ids=["to-the-world", "to-itself"])
def test_chains_of_others_are_no_part_of_the_way_whatever_their_names(pod: Pod, chains: str, destination: str) -> None:
    pod.inside.run("nft", "-f", "-", stdin=chains)

    done = live(pod, f"outbound tcp {destination} --uid 1337")

    assert done.ok().stdout.splitlines()[-1].startswith("agree: the kernel does what was predicted")


def test_an_interface_that_is_not_there_is_refused_before_anything_is_sent(pod: Pod) -> None:
    done = live(pod, f"outbound tcp {V4.far}:80 --interface nope")

    assert done.status == 2
    assert "'nope': there is no such interface" in " ".join(done.stderr.split())
    assert "sending" not in done.stderr


@pytest.mark.parametrize(
    ("words", "port"),
    [
        (f"outbound tcp {V4.far}:80 --uid 1337", 80),
        (f"outbound tcp {V4.far}:80", 15001),
        (f"outbound tcp {V4.pod}:8080 --uid 1337", 15006),
    ],
    ids=["to-the-world", "to-the-proxy", "to-itself"],
)
def test_a_packet_is_followed_though_its_source_port_changes(pod: Pod, words: str, port: int) -> None:
    pod.inside.run("iptables-nft", *"-t nat -A POSTROUTING -p tcp -j MASQUERADE --random".split())

    done = live(pod, words)

    assert done.ok().stdout.splitlines()[-1].endswith(f"; it ends at port {port}")


def test_no_connection_stays_behind_where_somebody_answered(pod: Pod) -> None:
    listener = Socket(Endpoint(V4.pod, 8080))
    application = Inhabitant(pod.inside, APP, listener)
    try:
        live(pod, f"outbound tcp {V4.pod}:8080").ok()
        left = pod.inside.run("ss", "--no-header", "--tcp", "--numeric", "state", "all", "exclude", "listening")
    finally:
        application.kill()

    assert left == ""


def test_answers_to_another_source_port_are_no_disagreement_where_counters_tell(both_backends: None) -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        istio_init("apply", "--netns", pod.name, "--force-iptables-binary", "legacy").ok()
        pod.inside.run("iptables-legacy", *"-t nat -A POSTROUTING -p tcp -j MASQUERADE --random".split())
        pod.inside.run("iptables-legacy", *"-t filter -A INPUT -p tcp".split())

        done = live(pod, f"outbound tcp {V4.far}:80 --uid 1337")

    assert done.ok().stdout.splitlines()[-1].endswith("; it ends at port 80")
