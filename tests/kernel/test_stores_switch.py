"""From each store and mode to each other: exactly the wanted rules remain, and what others put there stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations, product
from typing import Any, NamedTuple

import pytest
from support.command import INJECTED, drop_in, istio_init
from support.rules import everything, has_rules_of_ours, nft_generation, routing

from istio_init.errors import ToolError
from istio_init.netfilter.family import Family
from istio_init.stores import session
from istio_init.stores.legacy import IptablesLegacy
from istio_init.stores.nft import IptablesNft
from istio_init.system import process
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import HOSTS, Pod

from .test_hitless import CAPTURED, MINIMUM, REDIRECT, TPROXY, Clients, Configuration, Switch

XTABLES = ("raw", "mangle", "nat", "filter", "security")
ROUNDS = 4
"""How often each store is left for each other one while clients connect."""

STORES = ("nft", "legacy", "native")
MODES: dict[str, Configuration] = {
    "REDIRECT": {**REDIRECT[1], "--istio-local-exclude-ports": "15090,15021,15020,9000:9100"},
    "TPROXY": {**TPROXY[1], "--redirect-dns": "true", "--capture-all-dns": "true"},
}
FOREIGN = """
    table inet firewall {
        set banned { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
        chain input {
            type filter hook input priority 10; policy accept;
            ip saddr @banned drop
        }
    }
    table ip istio {
        chain other { counter accept; }
    }
"""

RULES = (
    ("nat", "OUTPUT -p tcp --dport 123 -j ACCEPT"),
    ("nat", "PREROUTING -p udp --dport 9999 -j REDIRECT --to-ports 9998"),
    ("mangle", "PREROUTING -p udp --dport 9999 -j MARK --set-mark 0x99"),
    ("filter", "INPUT -p tcp --dport 2222 -j DROP"),
    ("raw", "OUTPUT -p udp --dport 123 -j CT --notrack"),
)


class State(NamedTuple):
    """Everything that a namespace holds, without what was counted."""

    iptables: object
    native: dict[str, set[str]]
    routing: str


def state(namespace: Namespace) -> State:
    tables = namespace.run("nft", "list", "tables").splitlines()
    others = [each for each in tables if each.split()[1:] not in ([f, t] for f in ("ip", "ip6") for t in XTABLES)]
    native = {each: parts(namespace.run("nft", "-s", "list", *each.split())) for each in others}
    return State(everything(namespace), native, routing(namespace))


def parts(table: str) -> set[str]:
    """What a table holds, as nft prints it; the order of its chains means nothing."""
    _, _, body = table.partition("{\n")
    return {part.strip("\n") for part in body.removesuffix("}\n").split("\n\n")}


def put_foreign_rules(namespace: Namespace) -> None:
    """Rules of others in every store."""
    for family, store, (table, rule) in product(("ip", "ip6"), ("nft", "legacy"), RULES):
        namespace.run(f"{family}tables-{store}", "-t", table, "-A", *rule.split())
    namespace.run("nft", "-f", "-", stdin=FOREIGN)
    namespace.run("ip", "rule", "add", "fwmark", "0x77", "lookup", "77")


def flags_of(store: str) -> tuple[str, ...]:
    return ("--native-nftables",) if store == "native" else ("--force-iptables-binary", store)


def apply(pod: Pod, store: str, mode: str) -> str:
    """Apply a mode in a store; what was printed."""
    options = [f"{name}={value}" for name, value in MODES[mode].items()]
    return istio_init("apply", "--netns", pod.name, "--dual-stack", *flags_of(store), *options).ok().stdout


def circuit(count: int) -> Iterator[int]:
    """A way along every edge of the complete directed graph of so many places, which ends where it began."""
    for low in range(count):
        for high in range(low + 1, count):
            yield low
            yield high
    yield 0


def test_whatever_was_live_exactly_the_wanted_rules_remain_and_those_of_others(pod: Pod) -> None:
    put_foreign_rules(pod.inside)
    foreign = state(pod.inside)
    ends = list(product(STORES, MODES))
    switch = Switch(pod, "nft", tuple(MODES.values()), dual_stack=True)
    wanted: dict[tuple[str, str], State] = {}
    for store, mode in ends:
        switch.in_store(store, list(MODES).index(mode))
        wanted[store, mode] = state(pod.inside)
        switch.to_nothing()
        assert state(pod.inside) == foreign
    assert not any(one == other for one, other in combinations(wanted.values(), 2))

    way = [ends[number] for number in circuit(len(ends))]
    assert set(pairwise(way)) == set(permutations(ends, 2))
    for number, (store, mode) in enumerate(way):
        switch.in_store(store, list(MODES).index(mode))
        assert state(pod.inside) == wanted[store, mode], way[max(0, number - 1) : number + 1]
    switch.to_nothing()
    assert state(pod.inside) == foreign


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_as_wanted_is_not_written_again(pod: Pod, store: str, mode: str) -> None:
    put_foreign_rules(pod.inside)
    apply(pod, store, mode)
    generation = nft_generation(pod.inside)

    assert "as wanted already" in apply(pod, store, mode)
    assert nft_generation(pod.inside) == generation


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_no_connection_is_refused_and_none_escapes_when_stores_are_switched(
    pod: Pod, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # python-iptables starts slowly, and would leave few switches to meet.
    monkeypatch.setattr(session, "backends", lambda wait: (IptablesNft(wait), IptablesLegacy(wait, binding=False)))
    configurations = REDIRECT if mode == "REDIRECT" else (TPROXY[1], TPROXY[1])
    with Clients(pod, tuple(Family), transparent=mode == "TPROXY") as clients:
        clients.answer_where_escaped()
        clients.answer_where_captured()
        switch = Switch(pod, "nft", configurations, dual_stack=True)
        switch.to(0)
        with clients.connecting() as traffic:
            for number, store in enumerate([*circuit(len(STORES))] * ROUNDS):
                switch.in_store(STORES[store], number)
    for met in traffic:
        assert set(met) == {CAPTURED.decode()}, met
        assert met.total() > MINIMUM


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("before", "after"), [("nft", "native"), ("native", "nft")])
def test_whichever_of_its_transactions_fails_a_switch_of_stores_is_put_back(
    pod: Pod, both_backends: None, before: str, after: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Switch(pod, before, (MODES[mode],), dual_stack=True)
    switch.in_store(before, 0)
    was = state(pod.inside)
    run, put_back, allowed, written = process.run, session.Session.put_back, 0, 0

    def refusing(argv: Sequence[str], *, writing: bool = False, **more: Any) -> process.Completed:
        nonlocal written
        written += writing
        if writing and written > allowed:
            raise ToolError("it shall not be")
        return run(argv, writing=writing, **more)

    def putting_back(self: session.Session) -> None:
        nonlocal allowed
        allowed = 1000
        put_back(self)

    monkeypatch.setattr(process, "run", refusing)
    monkeypatch.setattr(session.Session, "put_back", putting_back)
    for number in range(100):
        written, allowed = 0, number
        try:
            switch.in_store(after, 0)
        except ToolError:
            assert state(pod.inside) == was, f"after {number} transactions"
        else:
            break
    assert number >= 2  # One for the store that takes over, at least one for the other.
    assert state(pod.inside) != was


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize(
    "store",
    [("--force-iptables-binary", "nft"), ("--force-iptables-binary", "legacy"), ("--native-nftables",)],
    ids=["nft", "legacy", "native"],
)
def test_what_a_dry_run_prints_does_what_a_run_does(
    pod: Pod, both_backends: None, store: tuple[str, ...], mode: str
) -> None:
    flags = (*INJECTED, "-m", mode, "--dual-stack", "--redirect-dns", *store)
    pod.inside.write_resolv_conf(*(hosts.peer for hosts in HOSTS.values()))

    told = drop_in(pod.inside, *flags, "--dry-run").ok().stdout
    assert not has_rules_of_ours(pod.inside, "nft")
    pod.inside.run("sh", "-e", stdin=told)

    assert drop_in(pod.inside, *flags, "--dry-run").ok().stdout == "# nothing to do\n"
    assert "as wanted already" in drop_in(pod.inside, *flags).ok().stderr
