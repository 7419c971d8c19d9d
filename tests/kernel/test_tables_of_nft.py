"""Tables that nft changed under us: asleep, owned, or with chains and rules that iptables cannot print."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.command import Result, istio_init
from support.processes import wait_until
from support.rules import nft_generation

from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

SIDECAR = ("-b", "*", "-i", "*", "-d", "15090,15021,15020")
NATIVE, NFT, LEGACY = ("--native-nftables",), ("--force-iptables-binary", "nft"), ("--force-iptables-binary", "legacy")
TABLE = "inet istio-proxy-nat"
SLEEP = f"add table {TABLE} {{ flags dormant; }}"

BESIDE = """
    table ip nat {
        chain mine { type nat hook output priority -90; tcp dport 7 accept; }
    }
"""
"""A base chain that iptables does not know the name of."""

UNPRINTABLE = """
    table ip nat {
        chain OUTPUT { type nat hook output priority -100; numgen inc mod 2 0 accept; }
    }
"""
"""A rule for which iptables has no match."""


def apply(pod: Pod, *flags: str) -> Result:
    return istio_init("apply", "--netns", pod.name, *flags, *SIDECAR)


def clean(pod: Pod) -> None:
    istio_init("clean", "--netns", pod.name).ok()


def listed(namespace: Namespace, table: str) -> str:
    return namespace.run("nft", "-s", "-a", "list", "table", *table.split())


@pytest.mark.parametrize("written", [False, True], ids=["empty", "as wanted"])
def test_a_table_of_ours_that_sleeps_is_not_as_wanted(pod: Pod, written: bool) -> None:
    if written:
        apply(pod, *NATIVE).ok()
    pod.inside.run("nft", SLEEP)

    assert "applied" in apply(pod, *NATIVE).ok().stdout

    assert "dormant" not in listed(pod.inside, TABLE)
    assert "as wanted already" in apply(pod, *NATIVE).ok().stdout
    pod.inside.run("nft", SLEEP)
    clean(pod)
    assert pod.inside.run("nft", "list", "tables") == ""


@pytest.fixture
def owner(pod: Pod) -> Iterator[None]:
    """A program that owns a table with the name of one of ours."""
    argv = ("ip", "netns", "exec", pod.name, "nft", "-i")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as program:
        assert program.stdin is not None
        program.stdin.write(f"add table {TABLE} {{ flags owner; }}\n")
        program.stdin.flush()
        wait_until(lambda: TABLE in pod.inside.run("nft", "list", "tables"))
        yield


@pytest.mark.parametrize("flags", [NATIVE, NFT])
def test_a_table_that_a_program_owns_is_named_with_what_to_do(pod: Pod, owner: None, flags: tuple[str, ...]) -> None:
    refused = apply(pod, *flags)

    assert refused.status == 1
    assert f"table {TABLE} belongs to another program" in refused.stderr
    assert "stop that program" in refused.stderr


def test_rules_are_not_written_where_the_kernel_would_not_evaluate_them(pod: Pod, both_backends: None) -> None:
    pod.inside.run("nft", "add table ip nat { flags dormant; }")

    refused = apply(pod, *NFT)

    assert refused.status == 1
    assert "table ip nat is dormant" in refused.stderr
    _, _, command = refused.stderr.partition("wake it with ")
    pod.inside.run(*command.partition(";")[0].split())
    apply(pod, *NFT).ok()
    pod.inside.run("nft", "add table ip nat { flags dormant; }")
    assert apply(pod, *NFT).status == 1
    clean(pod)
    assert "ISTIO_" not in pod.inside.run("nft", "list", "ruleset")


def test_base_chains_that_nft_added_to_a_table_of_iptables_stay(pod: Pod, both_backends: None) -> None:
    pod.inside.run("nft", "-f", "-", stdin=BESIDE)
    (before,) = chains_of(pod.inside, "mine")

    for flags in (NFT, NATIVE, NFT):
        assert "applied" in apply(pod, *flags).ok().stdout
        generation = nft_generation(pod.inside)
        assert "as wanted already" in apply(pod, *flags).ok().stdout
        assert nft_generation(pod.inside) == generation
        assert chains_of(pod.inside, "mine") == [before]

    clean(pod)
    assert chains_of(pod.inside, "mine") == [before]
    assert "ISTIO_" not in listed(pod.inside, "ip nat")


def chains_of(namespace: Namespace, name: str) -> list[str]:
    """The chains of iptables' table that have this name, with all that they hold."""
    parts = listed(namespace, "ip nat").split("\tchain ")[1:]
    return [part.partition("\t}")[0] for part in parts if part.startswith(f"{name} ")]


def test_a_table_that_iptables_cannot_print_is_left_to_whom_it_belongs(pod: Pod, both_backends: None) -> None:
    pod.inside.run("nft", "-f", "-", stdin=UNPRINTABLE)
    table, generation = listed(pod.inside, "ip nat"), nft_generation(pod.inside)

    refused = apply(pod, *NFT)

    assert refused.status == 1
    assert "iptables-nft-save cannot print table ip nat" in refused.stderr
    assert nft_generation(pod.inside) == generation

    done = apply(pod).ok()
    assert "native nftables is" in done.stderr
    generation = nft_generation(pod.inside)
    assert "as wanted already (native" in apply(pod).ok().stdout
    assert nft_generation(pod.inside) == generation

    assert "legacy" in apply(pod, *LEGACY).ok().stdout
    assert TABLE not in pod.inside.run("nft", "list", "tables")
    clean(pod)
    assert listed(pod.inside, "ip nat") == table
