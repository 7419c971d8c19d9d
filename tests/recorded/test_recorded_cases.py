"""What the reference implementation left in the kernel, explained: every rule is known, and so is what made it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from support.command import drop_in
from support.rules import Tables, program, tables

from istio_init.inspector.explain import Explanation, explain
from istio_init.mesh.mode import Mode
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.system import places
from istio_init.testing.leftovers import ETC_NETNS
from istio_init.testing.namespaces import Namespace

from .cases import KEYS, Case, recorded, save_text


@contextlib.contextmanager
def place(case: Case) -> Iterator[Namespace]:
    """A namespace with the addresses and name servers of a case."""
    with Namespace.create("case") as namespace:
        commands = ["link add eth0 type veth peer name peer0", "link set eth0 up", "link set peer0 up"]
        commands += [f"addr add {each} dev eth0{' nodad' * (':' in each)}" for each in case["addrs"]]
        namespace.run("ip", "-batch", "-", stdin="\n".join(commands) + "\n")
        if case["resolv_conf"] is not None:
            namespace.write_resolv_conf()
            (ETC_NETNS / namespace.name / "resolv.conf").write_text(case["resolv_conf"])
        yield namespace


def load(namespace: Namespace, backend: str, state: Any) -> None:
    """Bring about a recorded state."""
    for family, key in KEYS.items():
        if state[key]:
            namespace.run(program(backend, family, "restore"), "--noflush", stdin=save_text(state[key]))
    commands = []
    for verb, lines in (("rule add", state["rules"]), ("route add", state["routes"]), ("addr add", state["lo"])):
        for line in lines:
            is_ipv6 = line.startswith("v6 ") or "::" in line
            words = line.removeprefix("v6 ").removeprefix("from all ")
            commands.append((is_ipv6, f"{verb} {words}{' dev lo' * (verb == 'addr add')}"))
    for is_ipv6, command in commands:
        namespace.run("ip", "-6" if is_ipv6 else "-4", *command.split())


def state_of(namespace: Namespace, backend: str) -> tuple[dict[Family, Tables], list[str]]:
    """The rules, and the routing besides what every namespace has."""
    script = """
        for f in -4 -6; do
            ip $f rule | grep -vE '^(0|32766|32767):' | sed 's/^[0-9]*://'
            ip $f route show table all | grep ' table ' | grep -v 'table local'
        done
        ip -o addr show dev lo | awk '{print $4}'
    """
    routing = namespace.run("sh", "-c", script).split("\n")
    return {family: tables(namespace, backend, family) for family in Family}, routing


def explained(namespace: Namespace) -> Explanation:
    """What explain says of a namespace."""
    where = places.of_netns(namespace.name)
    try:
        return namespace.call(lambda: explain(observe(where, (), versions=False)))
    finally:
        where.close()


@pytest.mark.parametrize("case", recorded(), ids=lambda case: str(case["name"]))
def test_every_rule_is_known_and_the_inferred_arguments_give_the_same_state(case: Case, backend: str) -> None:
    with place(case) as original:
        load(original, backend, case["expect"])
        said = explained(original)
        wanted = state_of(original, backend)

    assert [row.text for row in said.rows if row.role is None] == []
    assert said.snapshot.unread == ()
    if not case["expect"]["v4"]:
        assert (said.mode, said.arguments) == (Mode.NONE, None)
        return
    assert said.arguments is not None
    assert said.exact
    assert said.backend == backend
    forced = ("--force-iptables-binary", backend) if backend == "legacy" else ()
    with place(case) as fresh:
        drop_in(fresh, *said.arguments.argv, *forced, env=dict(said.arguments.env)).ok()
        assert state_of(fresh, backend) == wanted
