"""render: arguments in, rules out; what it does not know it asks for, and what it leaves out it says."""

from __future__ import annotations

import json
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from support.injected import AMBIENT, ANNOTATED, TRAFFIC, ambient, arguments, by_init_container, initial, pod, proxy

import istio_init
from istio_init.cli.expect import expectation
from istio_init.cli.render import render
from istio_init.config.parse import Names
from istio_init.errors import IstioInitError

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((resources.files(istio_init) / "schemas" / "render.schema.json").read_text(encoding="utf-8"))


def rendered(*words: str, env: dict[str, str] | None = None, stdin: str | None = None) -> tuple[str, str]:
    """What is printed, and what is said beside it."""
    done = CliRunner().invoke(render, words, env=env, input=stdin, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout, done.stderr


def as_json(*words: str, stdin: str | None = None) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(rendered(*words, "--format", "json", stdin=stdin)[0])
    jsonschema.Draft202012Validator(SCHEMA).validate(said)
    return said


@pytest.mark.parametrize(("annotations", "changed"), ANNOTATED)
def test_arguments_of_a_manifest(annotations: dict[str, str], changed: dict[str, str]) -> None:
    made = json.dumps(by_init_container(annotations, changed, ISTIO_META_DNS_CAPTURE="true"))
    line, _ = rendered("--pod", "-", "--format", "args", stdin=made)

    wanted = ["ISTIO_META_DNS_CAPTURE=true", *arguments(changed), "--log_output_level=default:info"]
    assert shlex.split(line) == wanted
    assert expectation(line, Names()) == expectation(shlex.join(wanted), Names())


@pytest.mark.parametrize(("annotations", "line"), AMBIENT)
def test_arguments_of_a_pod_in_an_ambient_mesh(annotations: dict[str, str], line: str) -> None:
    made = json.dumps(ambient(annotations))

    assert rendered("--pod", "-", "--format", "args", stdin=made)[0] == f"{line}\n"
    assert as_json("--pod", "-", stdin=made)["iptables"] == as_json(*line.split())["iptables"]


def test_a_container_that_only_validates_is_rendered_as_what_it_validates() -> None:
    made = json.dumps(pod({}, proxy(), init=(initial(arguments({}), name="istio-validation"),)))

    line, _ = rendered("--pod", "-", "--format", "args", stdin=made)
    assert "--skip-rule-apply" not in line
    assert "--run-validation" not in line


def test_a_pod_that_asks_for_none_has_no_rules(tmp_path: Path) -> None:
    (tmp_path / "pod.json").write_text(json.dumps(pod({"sidecar.istio.io/interceptionMode": "NONE"}, proxy())))
    for form in ("args", "iptables", "nft"):
        text, said = rendered("--pod", str(tmp_path / "pod.json"), "--format", form)
        assert (text, "asks for no redirection" in said) == ("", True)
    found = as_json("--pod", str(tmp_path / "pod.json"))
    assert (found["argv"], found["iptables"], found["families"]) == (None, {}, [])


def test_a_file_does_not_need_a_name(tmp_path: Path) -> None:
    (tmp_path / "pod.json").write_text(json.dumps(pod({f"{TRAFFIC}excludeOutboundPorts": "3306"}, proxy())))
    assert "--dport 3306" in rendered("--pod", str(tmp_path / "pod.json"))[0]


class TestWhereThePodDecides:
    @pytest.mark.parametrize(
        ("words", "families"),
        [
            ("", ["ipv4"]),
            ("--dual-stack", ["ipv4", "ipv6"]),
            ("--address fd00::1", ["ipv4", "ipv6"]),
            ("--address fd00::1 --address 10.0.0.1", ["ipv4"]),
            ("--address fd00::1 --address 10.0.0.1 --dual-stack", ["ipv4", "ipv6"]),
            ("--address 10.0.0.1 --dual-stack", ["ipv4"]),
        ],
    )
    def test_addresses_decide_on_ipv6(self, words: str, families: list[str]) -> None:
        assert as_json("-b", "*", *words.split())["families"] == families

    def test_name_servers_are_asked_for(self) -> None:
        text, said = rendered("-i", "*", "--redirect-dns")
        assert "15053" not in text
        assert "no name server is known here, so no DNS is captured: give --nameserver" in said
        text, said = rendered("-i", "*", "--redirect-dns", "--nameserver", "10.96.0.10")
        assert "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053" in text
        assert said == ""

    def test_routing_is_told(self) -> None:
        routing = ["ip -4 route add local default dev lo table 133", "ip -4 rule add fwmark 0x539 lookup 133"]
        assert as_json("-b", "*", "-m", "TPROXY")["routing"] == routing
        assert all(f"# with: {line}\n" in rendered("-b", "*", "-m", "TPROXY")[0] for line in routing)

    def test_the_environment_counts_and_a_flag_beats_it(self) -> None:
        env = {"ISTIO_INBOUND_PORTS": "80"}
        assert "-b 80" in rendered("-i", "*", "--format", "args", env=env)[0]
        assert "-b 90" in rendered("-b", "90", "--format", "args", env=env)[0]
        assert "-b 90" in rendered("ISTIO_INBOUND_PORTS=90", "-i", "*", "--format", "args", env=env)[0]


NOT_DONE = [
    (["-x", "10.96.3.4/12"], "'10.96.3.4/12': bits behind the prefix are cut, which leaves 10.96.0.0/12"),
    (["-x", "fd00::/8"], "IPv6 is not captured, so no rule holds fd00::/8"),
    (["-i", "10.0.0.0/8,fd00::/8"], "IPv6 is not captured, so no rule holds fd00::/8"),
    (["--dual-stack", "--address", "10.0.0.1"], "IPv6 is not captured though --dual-stack asks for it"),
    (["ISTIO_DUAL_STACK=yes", "-b", "*"], "ISTIO_DUAL_STACK 'yes': not a boolean, so it counts as false"),
    (["-m", "redirect"], "not REDIRECT or TPROXY; REDIRECT is used"),
]


@pytest.mark.parametrize(("words", "said"), NOT_DONE)
def test_what_is_not_done_is_said(words: list[str], said: str) -> None:
    assert f"warning: {said}" in (text := rendered(*words)[1]) or said in text
    assert any(said in note for note in as_json(*words)["notes"])


REFUSED = [
    ([], "give the arguments of istio-iptables, --ambient with its own, or --pod"),
    (["--pod", "pod.json", "-b", "*"], "give arguments, or --pod"),
    (["--pod", "nowhere.json"], "nowhere.json: it cannot be read: No such file or directory"),
    (["-x", "10.0.0.0/8", "10.1.0.0/16"], "'10.1.0.0/16' belongs to no flag, and would be ignored"),
    (["--ambient", "-b", "*"], "unknown shorthand flag: 'b' in -b"),
    (["--nonsense"], "unknown flag: --nonsense"),
    (["-b", "*", "--address", "10.0.0"], "'10.0.0' does not appear to be an IPv4 or IPv6 address"),
    (["-b", "*", "--address", "fe80::1"], "loopback and link-local addresses do not count"),
    (["-b", "*", "--format", "xml"], "'xml' is not one of"),
    (["-b", "70000"], "-b/--istio-inbound-ports '70000': not a port"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_is_refused(words: list[str], said: str) -> None:
    with pytest.raises((IstioInitError, click.ClickException)) as caught:
        rendered(*words)
    error = caught.value
    assert isinstance(error, IstioInitError | click.ClickException)
    assert said in error.message
    assert error.exit_code == 2
