"""Looking changes nothing: no table comes to be, no counter is reset, no module is loaded but such as only tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from operator import ge
from pathlib import Path

import pytest
from support.command import PROGRAM, execute, istio_init
from support.rules import LEGACY_NAMES, program, routing

from istio_init.netfilter.family import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

from .sidecar import Sidecar

TELLING = frozenset(["inet_diag", "tcp_diag", "udp_diag", "nfnetlink_hook", "nf_conntrack_netlink"])
"""Modules through which the kernel tells of sockets, hooks and connections; asking loads them."""

FORMATS = ("text", "json", "list", "save", "html")


COUNTER = re.compile(r"(?<=\[)\d+(?=:\d+\])|(?<=:)\d+(?=\])|(?<=packets )\d+|(?<=bytes )\d+")
"""A counter, as iptables and nft print it."""


class State(dict[str, str]):
    """What a namespace holds. Counters of the same state may be greater: IPv6 sends messages of its own."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State) or self.keys() != other.keys():
            return False
        texts = all(COUNTER.sub("", self[name]) == COUNTER.sub("", other[name]) for name in self)
        return texts and all(map(ge, self.counters(), other.counters()))

    __hash__ = None

    def counters(self) -> list[int]:
        return [int(each) for name in sorted(self) for each in COUNTER.findall(self[name])]


def state(namespace: Namespace) -> State:
    """All that looking could change, to the byte, but the times that saves begin and end with.

    Legacy tables are printed only where there are some: their own program makes none otherwise, but python's might.
    """
    found = State(ruleset=namespace.run("nft", "list", "ruleset"), routing=routing(namespace))
    for family in Family:
        path = Path("/proc/self/net", LEGACY_NAMES[family])
        found[path.name] = namespace.call(lambda path=path: path.read_text() if path.exists() else "none")  # type: ignore[misc]
    for backend in ("nft", "legacy"):
        for family in Family:
            name = program(backend, family, "save")
            lines = namespace.run(name, "-c").splitlines(keepends=True)
            found[name] = "".join(line for line in lines if not line.startswith(("# Generated", "# Completed")))
    modules = Path("/proc/modules")
    names = [line.split()[0] for line in modules.open()] if modules.exists() else []
    found["modules"] = "\n".join(name for name in names if name not in TELLING)
    return found


@pytest.fixture(scope="module", params=["nothing", "without legacy tables", "both backends"])
def namespace(request: pytest.FixtureRequest, both_backends: None) -> Iterator[Namespace]:
    """A namespace with nothing at all, with a sidecar's rules in nft alone, and with rules of both backends."""
    with ExitStack() as stack:
        if request.param == "nothing":
            yield stack.enter_context(Pod.create()).inside
            return
        pod = stack.enter_context(Sidecar.create("--dual-stack", "-m", "TPROXY"))
        if request.param == "both backends":
            for family in Family:
                rules = "*nat\n:OTHER - [0:0]\n[7:420] -A OUTPUT -p udp -j OTHER\nCOMMIT\n"
                pod.inside.run(program("legacy", family, "restore"), "-c", stdin=rules)
        yield pod.inside


@pytest.mark.parametrize("form", FORMATS)
def test_explain_changes_nothing(namespace: Namespace, form: str) -> None:
    before = state(namespace)

    istio_init("explain", "--netns", namespace.name, "--format", form).ok()
    execute("ip", "netns", "exec", namespace.name, *PROGRAM, "explain", "--format", form).ok()

    assert state(namespace) == before


def test_comparing_changes_nothing(namespace: Namespace) -> None:
    before = state(namespace)

    istio_init("explain", "--netns", namespace.name, "--expect", "-b * -i *").ok()

    assert state(namespace) == before


def test_ps_changes_nothing(namespace: Namespace) -> None:
    namespace.spawn("sleep", "60")
    before = state(namespace)

    assert str(namespace.path.stat().st_ino) in istio_init("ps", "-o", "wide").ok().stdout

    assert state(namespace) == before


def test_a_namespace_without_legacy_tables_still_has_none(real_kernel: None) -> None:
    with Sidecar.create("--dual-stack") as pod:
        istio_init("explain", "--netns", pod.inside.name).ok()
        istio_init("ps").ok()

        kept = state(pod.inside)
        assert [kept[name] for name in LEGACY_NAMES.values()] in (["", ""], ["none", "none"])


def test_the_counters_that_are_printed_are_those_of_the_kernel(healthy: Sidecar) -> None:
    saved = healthy.inside.run("iptables-nft-save", "-c", "-t", "nat").splitlines()

    said = [rule for rule in healthy.explain()["rules"] if rule["family"] == "ipv4"]

    shown = [f"[{rule['packets']}:{rule['bytes']}] -A {rule['chain']} {rule['text']}" for rule in said]
    assert sorted(shown) == sorted(line for line in saved if line.startswith("["))
