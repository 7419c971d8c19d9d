"""How explain holds live rules to a configuration, and what its exit status says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.command import Result, istio_init

from istio_init.netfilter.family import Family
from istio_init.testing.pods import APP
from istio_init.testing.traffic import Endpoint

from .sidecar import Sidecar

V4, V6 = Family


@pytest.fixture
def pod(untouched: Sidecar) -> Sidecar:
    """A healthy pod that no test changes."""
    return untouched


class TestDrift:
    """How live rules differ from those of a configuration, in the order of the chains."""

    FLAGS = "-b * -d 15090,15021,15020 -i * --dual-stack"

    def changes(self, pod: Sidecar, *argv: str) -> list[tuple[str, str, str, str]]:
        drift = pod.explain(*argv)["drift"]
        return [(each["change"], each["family"], each["chain"], each["text"]) for each in drift["changes"]]

    def test_the_same_configuration_is_none(self, pod: Sidecar, tmp_path: Path) -> None:
        file = tmp_path / "expected"
        file.write_text("# as injected\nistio-iptables -b '*' -i '*' \\\n  -d 15090,15021,15020 --dual-stack\n")

        for argv in (("--expect", self.FLAGS), ("--expect-file", str(file))):
            assert pod.explain(*argv)["drift"] == {"equal": True, "note": None, "changes": [], "command": None}
            assert istio_init("explain", "--netns", pod.inside.name, "--check", *argv).status == 0

    def test_what_differs_is_told_in_order(self, healthy: Sidecar) -> None:
        for words in (
            "-D ISTIO_INBOUND -p tcp --dport 15021 -j RETURN",
            "-I ISTIO_INBOUND 2 -p tcp --dport 9090 -j RETURN",
            "-D ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN",
            "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN",
            "-A OUTPUT -p udp --dport 123 -j ACCEPT",
        ):
            healthy.iptables("-t", "nat", *words.split())

        found = self.changes(healthy, "--expect", self.FLAGS)

        assert found == [
            ("foreign", "ipv4", "OUTPUT", "-p udp -m udp --dport 123 -j ACCEPT"),
            ("missing", "ipv4", "ISTIO_INBOUND", "-p tcp -m tcp --dport 15021 -j RETURN"),
            ("extra", "ipv4", "ISTIO_INBOUND", "-p tcp -m tcp --dport 9090 -j RETURN"),
            ("moved", "ipv4", "ISTIO_OUTPUT", "-s 127.0.0.6/32 -o lo -j RETURN"),
        ]
        text = istio_init("explain", "--netns", healthy.inside.name, "--expect", self.FLAGS).ok().stdout
        assert [line.split()[0] for line in text.split("\nDrift\n")[1].split("\n\n")[0].split("\n")] == [
            "foreign:", "missing:", "extra:", "moved:", "This", "istio-init",
        ]  # fmt: skip

    def test_another_configuration_is_told_rule_by_rule(self, pod: Sidecar) -> None:
        found = self.changes(pod, "--expect", "-b 8080 -i * --dual-stack")

        assert found == [
            change
            for family in ("ipv4", "ipv6")
            for change in (
                ("missing", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 15090 -j RETURN"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 15021 -j RETURN"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 15020 -j RETURN"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -j ISTIO_IN_REDIRECT"),
            )
        ]

    def test_foreign_rules_alone_are_no_drift(self, healthy: Sidecar) -> None:
        healthy.iptables("-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")

        assert istio_init("explain", "--netns", healthy.inside.name, "--check", "--expect", self.FLAGS).status == 0

    @pytest.mark.parametrize("flag", ["--expect", "--expect-file"])
    def test_a_bad_configuration_is_refused_with_every_problem(self, tmp_path: Path, flag: str) -> None:
        line = "-b 80,http:x -p 70000 -i 10.0.0.0 -m TPROXY"
        file = tmp_path / "expected"
        file.write_text(line)

        done = istio_init("explain", "--file", os.devnull, flag, line if flag == "--expect" else str(file))

        assert (done.status, done.stdout) == (2, "")
        assert "3 problems in the configuration" in done.stderr
        for words in ("'http:x': not a range of ports", "'70000': not a port", "'10.0.0.0': a range needs a prefix"):
            assert words in done.stderr

    @pytest.mark.parametrize("line", ["-b * --unknown 1", "-b 'open", "-b"])
    def test_what_is_no_command_line_is_refused(self, line: str) -> None:
        done = istio_init("explain", "--file", os.devnull, "--expect", line)

        assert (done.status, done.stdout) == (2, "")
        assert "--expect" in done.stderr


class TestCheck:
    """With --check the exit status tells whether something is wrong now."""

    def check(self, pod: Sidecar, *argv: str) -> Result:
        return istio_init("explain", "--netns", pod.inside.name, "--check", *argv)

    def test_a_healthy_pod_passes(self, pod: Sidecar) -> None:
        assert self.check(pod).status == 0

    def test_an_error_fails(self, healthy: Sidecar) -> None:
        healthy.proxy.kill()

        done = self.check(healthy)

        assert done.status == 3
        assert "[no-listener]" in done.stdout
        assert istio_init("explain", "--netns", healthy.inside.name).status == 0

    def test_a_warning_passes(self, healthy: Sidecar) -> None:
        healthy.start(APP, Endpoint("127.0.0.1", 9000))
        healthy.iptables("-t", "nat", "-A", "OUTPUT", "-j", "ISTIO_OUTPUT")

        assert self.check(healthy).status == 0

    @pytest.mark.parametrize("form", ["text", "json", "list", "save", "html"])
    def test_drift_fails_whatever_the_format(self, pod: Sidecar, form: str) -> None:
        assert self.check(pod, "--format", form, "--expect", "-b 80 -i *").status == 3
