"""What render prints is loaded by the programs that it is for, and is just what apply leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.command import PROGRAM, execute, istio_init
from support.rules import program

from istio_init.netfilter.family import Family
from istio_init.testing.pods import Pod

SIDECARS = {
    "injected": "-p 15001 -z 15006 -u 1337 -i * -b * -d 15090,15021,15020",
    "TPROXY": "-m TPROXY -i * -b * -x 10.0.0.0/8,fd00::/8 --dual-stack --drop-invalid",
    "lists": "-b 80,8000:8090 -i 10.96.0.0/12,fd01::/16 -q 443 -c eth1,net+ -k docker0 -o 3306 --dual-stack",
    "DNS": "-i * -b * --redirect-dns --capture-all-dns -u 1337,2000 -g 1337",
}
AMBIENT = {"ambient": "--ambient", "ambient, all": "--ambient --ipv6=false --bypass-inbound-capture -k k6t-net0"}
EVERY = {**SIDECARS, **AMBIENT}


@pytest.fixture(scope="module")
def pods(real_kernel: None) -> Iterator[tuple[Pod, Pod]]:
    """One to be programmed, and one into which the text is loaded."""
    with Pod.create(families=tuple(Family)) as one, Pod.create(families=tuple(Family)) as other:
        yield one, other


def rendered(line: str, *flags: str) -> str:
    return istio_init("render", *line.split(), *flags).ok().stdout


def held(pod: Pod) -> str:
    """All of nf_tables, without handles and counters."""
    return pod.inside.run("nft", "-s", "list", "ruleset")


def saved(pod: Pod, family: Family) -> list[str]:
    return [
        line for line in pod.inside.run(program("nft", family, "save")).splitlines() if line[:1] not in ("#", ":")
    ]  # fmt: skip


def applied(pod: Pod, line: str, *flags: str) -> None:
    """Program it as the arguments say: of istio-iptables, or of apply."""
    pod.inside.run("nft", "flush", "ruleset")
    if "--ambient" in line:
        istio_init("apply", "--netns", pod.inside.name, *line.split(), *flags).ok()
    else:
        inside = ("ip", "netns", "exec", pod.inside.name, *PROGRAM, "istio-iptables", "--reconcile", *flags)
        execute(*inside, *line.split()).ok()


@pytest.mark.parametrize("line", EVERY.values(), ids=EVERY)
def test_iptables_restore_takes_it_and_holds_what_apply_leaves(pods: tuple[Pod, Pod], line: str) -> None:
    one, other = pods
    applied(one, line, "--force-iptables-binary", "nft")
    other.inside.run("nft", "flush", "ruleset")
    for family in Family:
        text = rendered(line, "--family", family.value)
        other.inside.run(program("nft", family, "restore"), stdin=text)
        assert sorted(saved(one, family)) == sorted(saved(other, family))
    assert rendered(line) == "".join(rendered(line, "--family", family.value) for family in Family)


@pytest.mark.parametrize("line", EVERY.values(), ids=EVERY)
def test_nft_takes_it_and_holds_what_apply_leaves(pods: tuple[Pod, Pod], line: str) -> None:
    one, other = pods
    applied(one, line, "--native-nftables")
    other.inside.run("nft", "flush", "ruleset")
    text = rendered(line, "--format", "nft")
    for _ in "twice":
        other.inside.run("nft", "-f", "-", stdin=text)
    assert held(one) == held(other)
    assert rendered(f"{line} --native-nftables") == text
    said = json.loads(rendered(line, "--format", "json"))
    assert said["nft"] in text
    assert said["families"] == ["ipv4", *(["ipv6"] if said["iptables"].get("ipv6") else [])]
