"""What becomes of connections is found out by following them: what goes astray, is dropped, or is undecidable."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import istio_init

from istio_init.dialects.iptables.tables import Table
from istio_init.inspector.findings import catalogue
from istio_init.netfilter.family import Family

from .proof import proves
from .sidecar import Sidecar
from .test_inference import OLDER, explained

DUAL = "--dual-stack"

FROM = "--src 10.77.0.2:40000 --interface eth0"
APP_OUT = f"{FROM} --uid 1000 --gid 1000"


def codes(pod: Sidecar, *flags: str) -> list[str]:
    return list(pod.findings(*flags))


class TestHarmless:
    """What takes nothing from the proxy is no problem, whatever it looks like."""

    @pytest.mark.parametrize(
        "words",
        [
            "-t nat -I OUTPUT -p udp --dport 123 -j ACCEPT",
            "-t nat -I OUTPUT -p icmp -j ACCEPT",
            "-t nat -I OUTPUT -m owner --uid-owner 1337 -o eth0 -j ACCEPT",
            "-t nat -I OUTPUT -o lo -m owner ! --uid-owner 1337 -m owner ! --gid-owner 1337 -j ACCEPT",
            "-t nat -I OUTPUT -d 127.0.0.1/32 -j ACCEPT",
            "-t nat -I OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-t nat -I PREROUTING -p tcp --dport 15021 -j ACCEPT",
            "-t nat -I OUTPUT -p tcp -m limit --limit 1/s -j LOG",
            "-t raw -I OUTPUT -p udp --dport 9 -j DROP",
        ],
    )
    def test_rules_that_take_nothing_from_the_proxy_are_no_problem(self, healthy: Sidecar, words: str) -> None:
        healthy.iptables(*words.split())

        assert healthy.findings() == {}

    def test_a_firewall_that_lets_some_in_is_no_problem(self, healthy: Sidecar) -> None:
        for words in (
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-A INPUT -s 10.0.0.0/8 -j ACCEPT",
            "-P INPUT DROP",
        ):
            healthy.iptables(*words.split())

        assert healthy.findings() == {}


class TestAstray:
    """Rules within the chains of Istio's count as well as those ahead of them."""

    @proves(catalogue.CAPTURED_OTHERWISE)
    @pytest.mark.parametrize(
        ("words", "evidence"),
        [
            (
                "ISTIO_OUTPUT -p tcp -m tcp --dport 443 -j ACCEPT",
                f"direct, not proxied to port 15001: istio-init trace outbound tcp 10.0.0.5:443 {APP_OUT}",
            ),
            (
                "ISTIO_INBOUND -p tcp -m tcp --dport 8080 -j ACCEPT",
                "direct, not proxied to port 15006: "
                "istio-init trace inbound tcp 10.77.0.2:8080 --src 10.0.0.1:40000 --interface eth0",
            ),
            (
                "ISTIO_REDIRECT -p tcp -j RETURN",
                f"direct, not proxied to port 15001: istio-init trace outbound tcp 10.0.0.5:80 {APP_OUT}",
            ),
            (
                "ISTIO_OUTPUT -j ISTIO_REDIRECT",
                "proxied to port 15001, not direct: "
                f"istio-init trace outbound tcp 10.0.0.5:80 {FROM} --uid 1000 --gid 1337",
            ),
        ],
    )
    def test_a_rule_in_a_chain_of_istio_that_leads_astray_is_told(
        self, healthy: Sidecar, words: str, evidence: str
    ) -> None:
        healthy.iptables("-t", "nat", "-I", *words.split())

        found = healthy.findings()

        assert any(
            line.endswith(f"{evidence} --netns {healthy.inside.name}") for line in found["captured-otherwise"]
        ), found

    def test_what_an_older_release_needs_is_missed(self) -> None:
        texts, _, _ = OLDER["1.20 as injected"]
        bypass = [f"-m owner --{kind}-owner 1337 -j RETURN" for kind in ("uid", "gid")]
        kept = [text for text in texts[Table.NAT]["ISTIO_OUTPUT"] if text not in bypass]
        lost = {**texts, Table.NAT: {**texts[Table.NAT], "ISTIO_OUTPUT": kept}}
        assert len(kept) == len(texts[Table.NAT]["ISTIO_OUTPUT"]) - 2

        whole, broken = (explained(each, expect="-b * -i * -d 15090,15021,15020") for each in (texts, lost))

        assert whole.findings == ()
        assert catalogue.CAPTURED_OTHERWISE in [each.kind for each in broken.findings]
        assert whole.drift is not None and broken.drift is not None
        assert str(whole.drift.note).endswith("with the expected configuration")
        assert "go astray" in str(broken.drift.note)

    @proves(catalogue.UNDECIDED_RULE)
    def test_a_rule_that_asks_what_only_the_kernel_knows_is_told(self, healthy: Sidecar) -> None:
        healthy.iptables(*"-t nat -I OUTPUT -p tcp -m statistic --mode random --probability 0.5 -j ACCEPT".split())

        [(code, [evidence])] = healthy.findings().items()

        assert code == "undecided-rule"
        assert evidence.startswith("ipv4 nat (nft): OUTPUT 1: -p tcp -m statistic ")

    def test_hardening_rules_are_no_problem(self, healthy: Sidecar) -> None:
        for words in ("--tcp-flags ALL NONE -j DROP", "-m conntrack --ctstate NEW ! --syn -j DROP"):
            healthy.iptables(*f"-t mangle -I PREROUTING -p tcp {words}".split())

        assert codes(healthy) == []

    @proves(catalogue.NO_OUTBOUND_CAPTURE)
    def test_inbound_capture_alone_is_told(self, healthy: Sidecar) -> None:
        for family in Family:
            healthy.iptables("-t", "nat", "-D", "ISTIO_OUTPUT", "-j", "ISTIO_REDIRECT", family=family)

        assert codes(healthy) == ["no-outbound-capture"]

    def test_a_lost_rule_for_inbound_connections_is_told(self, healthy: Sidecar) -> None:
        for family in Family:
            healthy.iptables("-t", "nat", "-D", "ISTIO_INBOUND", "-p", "tcp", "-j", "ISTIO_IN_REDIRECT", family=family)

        assert "no-inbound-capture" in codes(healthy)


class TestDropped:
    """A drop is told where nothing of a kind gets by."""

    @pytest.mark.parametrize(
        ("words", "evidence"),
        [
            (
                "-I INPUT -p tcp -j DROP",
                "ipv4 filter (nft): INPUT 1: -p tcp -j DROP  [0 packets]: outbound connections dropped",
            ),
            (
                "-t mangle -I INPUT -p tcp -j DROP",
                "ipv4 mangle (nft): INPUT 1: -p tcp -j DROP  [0 packets]: outbound connections dropped",
            ),
            (
                "-I OUTPUT -m owner --uid-owner 1337 -j DROP",
                "ipv4 filter (nft): OUTPUT 1: -m owner --uid-owner 1337 -j DROP  [0 packets]: "
                "the proxy's own connections dropped",
            ),
        ],
    )
    def test_a_drop_of_every_connection_of_a_kind_is_told(self, healthy: Sidecar, words: str, evidence: str) -> None:
        healthy.iptables(*words.split())

        [(code, lines)] = healthy.findings().items()

        assert code == "captured-dropped"
        assert lines[0].startswith(evidence)

    def test_a_file_is_followed_as_well(self, healthy: Sidecar, tmp_path: Path) -> None:
        healthy.iptables(*"-I INPUT -p tcp -m tcp --dport 15006 -j DROP".split())
        save = healthy.inside.run("iptables-nft-save")
        path = tmp_path / "save"
        path.write_text(save)

        said = istio_init("explain", "--file", str(path))

        assert "[captured-dropped]" in said.ok().stdout
