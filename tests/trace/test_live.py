"""A connection really sent: the kernel's way beside the predicted one, and nothing left of the watching."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.command import PROGRAM, environment, execute, istio_init
from support.processes import wait_until
from support.rules import everything, program

import istio_init as package
from istio_init.netfilter.family import Family
from istio_init.testing import Namespace, Pod
from istio_init.testing.pods import HOSTS

pytestmark = pytest.mark.kernel

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((Path(package.__file__).parent / "schemas" / "trace.schema.json").read_text())
V4, V6 = HOSTS[Family.IPV4], HOSTS[Family.IPV6]


@pytest.fixture(scope="module")
def pod(backend: str) -> Iterator[Pod]:
    with Pod.create() as made:
        istio_init(
            "apply", "--netns", made.name, "--force-iptables-binary", backend, "--dual-stack", "-x", "10.99.0.0/16"
        ).ok()
        yield made


class Sent(NamedTuple):
    """What is sent, and at which port it is to end."""

    what: str
    words: str
    port: int


SENT = [
    Sent("an application's connection", f"outbound tcp {V4.far}:80", 15001),
    Sent("the same in IPv6", f"outbound tcp [{V6.far}]:80", 15001),
    Sent("the proxy's own", f"outbound tcp {V4.far}:80 --uid 1337", 80),
    Sent("by group alone", f"outbound tcp {V6.far.join('[]')}:80 --gid 1337", 80),
    Sent("to a range that is left out", "outbound tcp 10.99.0.1:443", 443),
    Sent("to itself via lo", f"outbound tcp {V4.pod}:8080", 8080),
    Sent("the proxy to the pod's own address", f"outbound tcp {V4.pod}:8080 --uid 1337", 15006),
    Sent("the proxy to the pod's own address in IPv6", f"outbound tcp [{V6.pod}]:8080 --uid 1337", 15006),
    Sent("passed through to the application", f"outbound tcp {V4.pod}:8080 --src {V4.passthrough} --uid 1337", 8080),
    Sent("a datagram", f"outbound udp {V4.far}:53", 53),
]  # fmt: skip


def live(pod: Pod, words: str) -> dict[str, Any]:
    done = istio_init("trace", *words.split(), "--netns", pod.name, "--live", "--format", "json").ok()
    said: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(said, SCHEMA)
    return said


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.what.replace(" ", "-"))
def test_the_kernel_takes_the_predicted_way_to_the_predicted_port(pod: Pod, backend: str, sent: Sent) -> None:
    said = live(pod, sent.words)

    assert said["live"]["agrees"], said["live"]["differs"]
    assert (said["live"]["counters"] is None) == (backend == "nft")
    assert said["live"]["port"] == sent.port
    assert said["delivered"]["port"] == (sent.port if said["delivered"]["kind"] == "redirect" else None)
    names = ("store", "family", "table", "chain", "rule")
    matched = [[{name: hop[name] for name in names} for hop in leg["hops"] if hop["matched"]] for leg in said["legs"]]
    assert said["live"]["legs"] == (matched if backend == "nft" else [[] for _ in matched])
    if backend == "legacy":
        rose = [{name: each[name] for name in names} for each in said["live"]["counters"]]
        assert {tuple(each.values()) for each in rose} == {tuple(each.values()) for leg in matched for each in leg}


def test_tproxy_is_followed_to_the_listener_that_must_be_there(backend: str) -> None:
    with Pod.create() as pod:
        istio_init("apply", "--netns", pod.name, "--force-iptables-binary", backend, "-m", "TPROXY").ok()

        said = live(pod, f"outbound tcp {V4.pod}:8080 --uid 1337")

    assert said["live"]["agrees"], said["live"]["differs"]


def test_it_says_what_it_does_before_it_does_it_and_leaves_nothing(pod: Pod) -> None:
    before = everything(pod.inside), pod.inside.run("nft", "list", "tables")

    done = istio_init("trace", "outbound", "tcp", f"{V4.far}:80", "--netns", pod.name, "--live").ok()

    assert done.stderr == (
        f"sending tcp to {V4.far}:80 as user 1000, group 1000 from netns {pod.name}; "
        "the table inet istio-init-trace is there meanwhile\n"
    )
    assert "agree: the kernel does what was predicted; it ends at port 15001" in done.stdout
    assert (everything(pod.inside), pod.inside.run("nft", "list", "tables")) == before


def test_a_native_rule_of_somebody_else_is_predicted_too(real_kernel: None) -> None:
    with Pod.create() as pod:
        istio_init("apply", "--netns", pod.name).ok()
        pod.inside.run("nft", "-f", "-", stdin=NATIVE_DROP)

        done = istio_init("trace", "outbound", "tcp", f"{V4.far}:80", "--netns", pod.name, "--live")

    assert done.ok().stdout.splitlines()[-2].startswith("=> dropped: rule 1 of inet node out (tcp dport 15001 drop)")
    assert done.stdout.splitlines()[-1] == "agree: the kernel does what was predicted; stopped on the way"


NATIVE_DROP = "table inet node { chain out { type filter hook output priority 10; tcp dport 15001 drop; }; }\n"


def start_until_its_table_is_seen(pod: Pod, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A run whose table is there. It is so for a moment only, which a busy machine may miss: then once more."""
    for _ in range(20):
        argv = [*PROGRAM, *words]
        child = subprocess.Popen(argv, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None:
            if "istio-init-trace" in pod.inside.run("nft", "list", "tables"):
                return child
    raise AssertionError("its table was never seen")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_the_table_goes_with_a_run_that_is_ended(real_kernel: None, number: signal.Signals) -> None:
    with Pod.create() as pod:
        words = ("trace", "outbound", "tcp", f"{V4.far}:80", "--netns", pod.name, "--live")
        child = start_until_its_table_is_seen(pod, words)
        child.send_signal(number)
        child.wait(timeout=60)

        wait_until(lambda: "istio-init-trace" not in pod.inside.run("nft", "list", "tables"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("inbound tcp 10.0.0.1:80", "an inbound connection has to be sent from outside"),
        ("outbound icmp 10.0.0.1", "tcp or udp to a port"),
        ("outbound tcp 10.0.0.1", "tcp or udp to a port"),
        ("outbound udp 224.0.0.1:80", "the copies of a multicast packet cannot be told apart"),
        ("outbound udp [ff02::1]:80", "the copies of a multicast packet cannot be told apart"),
        ("outbound tcp 10.0.0.1:80 --no-socket", "not with --no-socket"),
        ("outbound tcp 10.0.0.1:80 --ctstate INVALID", "not with --ctstate"),
        ("outbound tcp 10.0.0.1:80 --expect -b80", "not with --batch, --file, --expect"),
    ],
)
def test_what_cannot_be_sent_is_refused(words: str, why: str) -> None:
    done = istio_init("trace", *words.split(), "--live")

    assert done.status == 2
    assert why in " ".join(done.stderr.split())


def test_a_source_that_is_not_the_pods_is_refused(real_kernel: None) -> None:
    with Pod.create() as pod:
        done = istio_init(
            "trace", "outbound", "tcp", f"{V4.far}:80", "--src", "192.0.2.1", "--netns", pod.name, "--live"
        )

    assert done.status == 1
    assert "no connection can come from 192.0.2.1" in done.stderr
    assert "give an address of the namespace" in done.stderr


def test_an_ip6tables_rule_of_somebody_else_is_followed_too(backend: str) -> None:
    with Pod.create() as pod:
        istio_init("apply", "--netns", pod.name, "--force-iptables-binary", backend, "--dual-stack").ok()
        _ahead(pod.inside, backend)

        said = live(pod, f"outbound tcp [{V6.far}]:443")

    assert said["live"]["agrees"]
    assert said["live"]["port"] == 443


def _ahead(namespace: Namespace, backend: str) -> None:
    rule = "-t nat -I OUTPUT -p tcp --dport 443 -j ACCEPT"
    namespace.run(program(backend, Family.IPV6), *rule.split())


def test_without_privilege_it_says_what_it_takes(real_kernel: None) -> None:
    argv = (
        "--reuid",
        "1000",
        "--regid",
        "1000",
        "--clear-groups",
        *PROGRAM,
        "trace",
        *"outbound tcp 127.0.0.1:80".split(),
    )
    with Pod.create() as pod:
        done = execute("ip", "netns", "exec", pod.name, "setpriv", *argv, "--live")

    assert done.status == 5
    assert "bug" not in done.stderr


def test_the_root_of_a_user_namespace_may_send_from_its_own_network(real_kernel: None) -> None:
    trace = f"{' '.join(PROGRAM)} trace outbound tcp 127.0.0.1:80 --uid 0 --gid 0 --live"

    done = execute("unshare", "--user", "--map-root-user", "--net", "sh", "-c", f"ip link set lo up; {trace}").ok()

    assert "agree: the kernel does what was predicted" in done.stdout


def test_where_nothing_was_predicted_nothing_is_confirmed(real_kernel: None) -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        rule = "-t nat -A OUTPUT -p tcp -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 15001"
        pod.inside.run("iptables-nft", *rule.split())

        said = live(pod, f"outbound tcp {V4.far}:80")

    assert said["delivered"]["kind"] == "unknown"
    assert said["live"]["agrees"] is None


def test_another_way_out_than_the_one_that_was_asked_about_is_a_disagreement(real_kernel: None) -> None:
    with Pod.create(families=(Family.IPV4,)) as pod:
        words = f"trace outbound tcp {V4.far}:80 --interface lo --live --netns {pod.name}"
        done = istio_init(*words.split())

    assert done.status == 3
    assert done.stdout.splitlines()[-1] == "DISAGREE: it left via eth0, not via lo"


@pytest.mark.parametrize(("priority", "outcome"), [(5, "direct"), (4, "redirect")])
def test_a_priority_that_the_socket_is_given_decides_as_predicted(pod: Pod, priority: int, outcome: str) -> None:
    for line in (
        "add table inet other",
        "add chain inet other out { type filter hook output priority -300 ; }",
        "add rule inet other out tcp dport 443 meta priority 5 notrack",
    ):
        pod.inside.run("nft", *line.split())
    try:
        said = live(pod, f"outbound tcp {V4.far}:443 --priority {priority}")
    finally:
        pod.inside.run("nft", "delete", "table", "inet", "other")

    assert said["live"]["agrees"], said["live"]["differs"]
    assert said["delivered"]["kind"] == outcome
