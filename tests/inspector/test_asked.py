"""explain compares live rules with what the pod asked for, and takes nothing on the pod's word that hides a bypass."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.asking import proxy_that_says
from support.command import PROGRAM, Result, environment, execute, istio_init
from support.injected import ANNOTATED, STATUS, TRAFFIC, ambient, arguments, by_cni, by_init_container
from support.privileges import need_sight_of_all

from istio_init.cli.asked import asked_by, asked_in
from istio_init.cli.source import live_snapshot
from istio_init.inspector.asked import Asked, Held
from istio_init.inspector.drift import Drift
from istio_init.inspector.explain import explain
from istio_init.netfilter.family import Family
from istio_init.observe.manifest import manifest
from istio_init.testing.entering import User
from istio_init.testing.pods import APP, Pod

from .sidecar import Sidecar

PLUGIN = {STATUS: '{"initContainers":["istio-validation","istio-proxy"]}'}
INIT = {STATUS: '{"initContainers":["istio-init"]}'}
NAMED = {"POD_NAME": "payment-7f9c", "POD_NAMESPACE": "shop"}


@pytest.fixture(scope="module")
def sidecar(real_kernel: None) -> Iterator[Sidecar]:
    """A pod that is programmed again by each test."""
    with Sidecar.create(families=(Family.IPV4,)) as made:
        yield made


def explained(sidecar: Sidecar, *flags: str) -> tuple[int, dict[str, Any]]:
    """The exit status of ``explain --check``, and all that it says."""
    done = istio_init("explain", "--netns", sidecar.inside.name, "--check", "--format", "json", *flags)
    return done.status, json.loads(done.stdout)


def program(sidecar: Sidecar, *words: str) -> None:
    """Program the pod as an init container does; empty lists as in the template."""
    inside = ("ip", "netns", "exec", sidecar.inside.name)
    execute(*inside, *PROGRAM, "istio-iptables", "--reconcile", *words).ok()


def held(sidecar: Sidecar, asked: Asked | None = None) -> Held:
    """What was asked for beside the rules, by the pod itself or by this."""
    snapshot = live_snapshot(None, None, sidecar.inside.name, asks=asked is None)
    found = explain(snapshot, asked=asked or asked_in(snapshot), with_impacts=False).held
    assert found is not None
    return found


@pytest.mark.parametrize(("annotations", "changed"), ANNOTATED)
def test_rules_of_every_annotation_are_those_that_were_asked_for(
    sidecar: Sidecar, annotations: dict[str, str], changed: dict[str, str]
) -> None:
    program(sidecar, *arguments(changed))

    with proxy_that_says(sidecar.inside, {**INIT, **annotations}, NAMED):
        found = held(sidecar)
    assert found.asked.name == "shop/payment-7f9c"
    assert found.drift == Drift(True)
    assert found.unasked is None


def test_what_differs_is_told_with_where_it_was_asked_for_and_a_command_that_gives_it(sidecar: Sidecar) -> None:
    program(sidecar, *arguments({}))
    annotations = {**PLUGIN, f"{TRAFFIC}excludeOutboundPorts": "3306"}
    with proxy_that_says(sidecar.inside, annotations, NAMED) as pid:
        status, said = explained(sidecar)
        done = istio_init("explain", "--netns", sidecar.inside.name).ok()
        # The order of excluded ports is the plugin's here, and rules in another order are moved.
        added = {each["text"] for each in said["drift"]["changes"] if each["change"] == "missing"}
        assert {text for text in added if "3306" in text} == {
            "-p tcp -m tcp --dport 3306 -j RETURN",
            "-p udp -m udp --dport 3306 -j RETURN",
        }
        assert status == 3
        assert said["asked"]["argv"][-4:] == ["-d", "15020,15021,15090", "-o", "3306"]
        text = " ".join(done.stdout.split())
        assert (
            f"Asked for by: annotations in the proxy's /etc/istio/pod, and its environment (pid {pid}); the pod" in text
        )
        assert "calls itself shop/payment-7f9c" in text
        assert "compare them with its manifest" in text
        execute(*PROGRAM, *shlex.split(said["drift"]["command"])[1:]).ok()
        assert explained(sidecar)[1]["drift"]["equal"]


def test_the_plugins_own_way_is_no_drift(sidecar: Sidecar) -> None:
    program(sidecar, *arguments({"-d": "15020,15021,15090", "-o": "15020"}))
    with proxy_that_says(sidecar.inside, PLUGIN):
        assert explained(sidecar)[1]["drift"]["equal"]
    with proxy_that_says(sidecar.inside, {}):
        assert explained(sidecar)[1]["drift"]["equal"]


def test_a_setting_of_the_mesh_is_told_and_is_no_drift(sidecar: Sidecar) -> None:
    program(sidecar, *arguments({"-x": "169.254.169.254/32"}))
    with proxy_that_says(sidecar.inside, INIT):
        status, said = explained(sidecar)
        assert (status, said["drift"]["equal"]) == (0, True)
        assert said["asked"]["unasked"] == ["-x", "169.254.169.254/32"]
    with proxy_that_says(sidecar.inside, PLUGIN):
        status, said = explained(sidecar)
        assert (status, said["drift"]["equal"], said["asked"]["unasked"]) == (3, False, [])


def test_rules_that_were_lost_are_missing_whatever_else_the_mesh_has(sidecar: Sidecar) -> None:
    program(sidecar, *arguments({}))
    sidecar.iptables("-t", "nat", "-D", "PREROUTING", "-p", "tcp", "-j", "ISTIO_INBOUND")
    with proxy_that_says(sidecar.inside, INIT):
        status, said = explained(sidecar)
    assert status == 3
    assert [each["text"] for each in said["drift"]["changes"]] == ["-p tcp -j ISTIO_INBOUND"]


def test_an_expectation_wins(sidecar: Sidecar, tmp_path: Path) -> None:
    program(sidecar, *arguments({}))
    (tmp_path / "pod.json").write_text(json.dumps(by_cni({f"{TRAFFIC}excludeOutboundPorts": "3306"})))
    with proxy_that_says(sidecar.inside, {f"{TRAFFIC}excludeOutboundPorts": "3306"}):
        expect = "-b '*' -i '*' -d 15090,15021,15020"
        for more in ((), ("--pod", str(tmp_path / "pod.json"))):
            status, said = explained(sidecar, "--expect", expect, *more)
            assert (status, said["drift"]["equal"], said["asked"]) == (0, True, None)


@pytest.mark.parametrize(
    ("annotation", "changed", "code"),
    [
        ("includeInboundPorts", {"-b": ""}, "no-inbound-capture"),
        ("includeOutboundIPRanges", {"-i": ""}, "no-outbound-capture"),
        ("excludeOutboundIPRanges", {"-x": "0.0.0.0/0"}, "all-excluded"),
    ],
)
def test_what_a_pod_asked_for_hides_no_bypass(
    sidecar: Sidecar, annotation: str, changed: dict[str, str], code: str
) -> None:
    program(sidecar, *arguments(changed))
    with proxy_that_says(sidecar.inside, {**INIT, TRAFFIC + annotation: next(iter(changed.values()))}):
        status, said = explained(sidecar)
        assert said["drift"]["equal"]
        assert status == 3
        [finding] = [each for each in said["findings"] if each["code"] == code]
        assert (finding["severity"], finding["evidence"][0]) == ("error", "the pod asked for it, by its own word")


def test_rules_where_none_were_asked_for_are_drift(sidecar: Sidecar) -> None:
    program(sidecar, *arguments({}))
    with proxy_that_says(sidecar.inside, {"sidecar.istio.io/interceptionMode": "NONE"}):
        status, said = explained(sidecar)
    assert (status, said["drift"]["equal"], said["asked"]["argv"]) == (3, False, None)
    assert said["drift"]["note"] == "the rules redirect traffic, and the pod asked for no redirection"


def test_a_pod_of_an_ambient_mesh_has_what_its_manifest_asks_for(real_kernel: None) -> None:
    with Pod.create() as pod:
        istio_init("apply", "--ambient", "--netns", pod.inside.name).ok()
        snapshot = live_snapshot(None, None, pod.inside.name)
        for annotations, is_equal in (({}, True), ({"ambient.istio.io/dns-capture": "false"}, False)):
            asked = asked_by(manifest(json.dumps(ambient(annotations)), "pod.json").pod)
            found = explain(snapshot, asked=asked, with_impacts=False)
            assert found.drift is not None
            assert found.drift.is_equal == is_equal
            assert (found.repair is None) == is_equal


@pytest.mark.parametrize("role", ["router", "waypoint"])
def test_to_a_gateway_nothing_is_redirected(sidecar: Sidecar, role: str) -> None:
    sidecar.inside.run("nft", "flush", "ruleset")
    with proxy_that_says(sidecar.inside, {}, role=role):
        assert held(sidecar).drift == Drift(True)
    with proxy_that_says(sidecar.inside, {}):
        assert held(sidecar).drift != Drift(True)


class TestDeception:
    def test_the_word_of_an_application_is_not_taken(self, sidecar: Sidecar) -> None:
        program(sidecar, *arguments({}))
        lie = {f"{TRAFFIC}excludeOutboundIPRanges": "0.0.0.0/0"}
        for name in ("envoy", "pilot-agent"):
            with proxy_that_says(sidecar.inside, lie, user=APP, name=name):
                said = explained(sidecar)[1]
                assert (said["asked"], said["drift"]) == (None, None), name
                assert "excludeOutbound" not in json.dumps(said)

    def test_of_two_that_ask_for_different_things_neither_is_believed(self, sidecar: Sidecar) -> None:
        program(sidecar, *arguments({}))
        lie = {f"{TRAFFIC}excludeOutboundIPRanges": "0.0.0.0/0"}
        with proxy_that_says(sidecar.inside, {}), proxy_that_says(sidecar.inside, lie, user=User(1337, 1337)):
            status, said = explained(sidecar)
        assert (status, said["drift"]) == (0, None)
        assert said["asked"]["problem"] == "several processes that look like the proxy ask for different things"

    @pytest.mark.parametrize("value", ["--ambient", "10.0.0.0/8 -j ACCEPT", "\x1b]0;owned\x07", "'; reboot #"])
    def test_a_value_that_no_rule_can_hold_is_shown_and_nothing_else(self, sidecar: Sidecar, value: str) -> None:
        program(sidecar, *arguments({}))
        with proxy_that_says(sidecar.inside, {f"{TRAFFIC}excludeOutboundIPRanges": value}, {"POD_NAME": "\x1b[2J"}):
            done = istio_init("explain", "--netns", sidecar.inside.name).ok()
            assert "no rules can be made of it" in " ".join(done.stdout.split())
            assert "\x1b" not in done.stdout
            assert (held(sidecar).drift, held(sidecar).config) == (None, None)

    @pytest.mark.parametrize(
        "text",
        ["no lines\x00 of it", 'a="b"\n' * 200_000, f'{TRAFFIC}excludeOutboundPorts="33'],
        ids=["no", "long", "cut"],
    )
    def test_files_that_say_nothing_or_too_much(self, sidecar: Sidecar, text: str) -> None:
        program(sidecar, *arguments({}))
        with proxy_that_says(sidecar.inside, text, {"ISTIO_DUAL_STACK": "x" * 100_000}):
            status, said = explained(sidecar)
        assert status == 0
        assert said["drift"] is None or said["drift"]["equal"]

    def test_much_that_is_asked_for_is_told_in_short(self, sidecar: Sidecar) -> None:
        program(sidecar, *arguments({}))
        many = {f"{TRAFFIC}excludeOutboundIPRanges": ",".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(5000))}
        with proxy_that_says(sidecar.inside, many, {"POD_NAME": "n" * 100_000}):
            done = istio_init("explain", "--netns", sidecar.inside.name).ok()
        assert "and 4800 more; --format json has all" in done.stdout
        assert len(done.stdout) < 40_000


def test_a_snapshot_holds_what_was_asked_for(sidecar: Sidecar, tmp_path: Path) -> None:
    program(sidecar, *arguments({}))
    annotations = {**INIT, f"{TRAFFIC}excludeOutboundPorts": "3306", "vault.example/token": "secret"}
    taken = str(tmp_path / "pod.tar")
    with proxy_that_says(sidecar.inside, annotations, {**NAMED, "PASSWORD": "secret"}):
        live = istio_init("explain", "--netns", sidecar.inside.name).ok().stdout
        istio_init("snapshot", "--netns", sidecar.inside.name, "-o", taken).ok()
        istio_init("snapshot", "--redact", "--netns", sidecar.inside.name, "-o", f"{taken}.redacted").ok()

    found = istio_init("explain", "--file", taken).ok().stdout
    hidden = istio_init("explain", "--file", f"{taken}.redacted").ok().stdout

    asked, again = (text[text.index("Asked for by:") : text.index("This makes")] for text in (live, found))
    assert asked == again and "--dport 3306" in again and "calls itself shop/payment-7f9c" in " ".join(again.split())
    assert "payment" not in hidden and "--dport 3306" in hidden
    assert b"secret" not in Path(taken).read_bytes()


class TestManifests:
    def test_a_pod_that_is_not_here_is_not_found(self, tmp_path: Path) -> None:
        need_sight_of_all()
        (tmp_path / "pod.json").write_text(json.dumps(by_cni({})))
        done = istio_init("explain", "--pod", str(tmp_path / "pod.json"))
        assert done.status == 4
        assert "shop/payment-7f9c is not found on this node: " in done.stderr

    def test_a_pod_is_found_by_its_address(self, sidecar: Sidecar, tmp_path: Path) -> None:
        program(sidecar, *arguments({}))
        made = by_init_container({}, {})
        address = f"10.213.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # Other pods of tests have the usual one.
        sidecar.inside.run("ip", "addr", "add", f"{address}/32", "dev", "lo")
        made["status"]["podIP"], made["status"]["podIPs"] = address, [{"ip": address}]
        (tmp_path / "pod.json").write_text(json.dumps(made))
        done = istio_init("explain", "--pod", str(tmp_path / "pod.json"), "--format", "json").ok()
        said = json.loads(done.stdout)
        assert said["target"] == f"pid {sidecar.proxy.pid}"
        assert said["drift"]["equal"]
        assert said["asked"]["source"] == f"the init container istio-init in {tmp_path}/pod.json"

    def test_rules_in_a_file_are_compared_with_a_manifest_from_standard_input(self, tmp_path: Path) -> None:
        (tmp_path / "rules").write_text(istio_init("render", *arguments({"-o": "3306"})).ok().stdout)
        made = json.dumps(by_init_container({}, {}))
        done = _with_input(made, "explain", "--file", str(tmp_path / "rules"), "--pod", "-", "--format", "json").ok()
        changes = json.loads(done.stdout)["drift"]["changes"]
        assert {(each["change"], "3306" in each["text"]) for each in changes} == {("extra", True)}

    @pytest.mark.parametrize(("text", "said"), [("kind: Service", "no pod in it"), ("[", "not JSON")])
    def test_what_is_no_manifest_is_refused(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "pod.yaml").write_text(text)
        for words in (("explain",), ("render",)):
            done = istio_init(*words, "--pod", str(tmp_path / "pod.yaml"))
            assert (done.status, done.stdout) == (2, "")
            assert said in done.stderr


def _with_input(text: str, *words: str) -> Result:
    done = subprocess.run(
        [*PROGRAM, *words], input=text, capture_output=True, text=True, timeout=120, env=environment(), check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)
