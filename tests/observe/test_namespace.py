"""What is observed of a live namespace is what was done to it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.host import Listener
from istio_init.netfilter.rules import Hook, Lookup, Store, Test, Undecided
from istio_init.observe.namespace import observe
from istio_init.observe.snapshot import Snapshot
from istio_init.observe.unread import Part, Why
from istio_init.system import ipsets, process
from istio_init.system.places import HERE
from istio_init.system.transparent import make_transparent
from istio_init.testing.entering import User
from istio_init.testing.namespaces import Namespace

V4, V6 = Family


@pytest.fixture
def namespace(real_kernel: None) -> Iterator[Namespace]:
    with Namespace.create("observed") as made:
        yield made


def look(namespace: Namespace) -> Snapshot:
    return namespace.call(lambda: observe(HERE, (), versions=False))


def programs(namespace: Namespace) -> list[str]:
    """The programs that are run to observe a namespace."""

    def count() -> list[str]:
        run, found = process.run, []

        def counted(argv: list[str], **given: object) -> process.Completed:
            found.append(argv[0])
            return run(argv, **given)  # type: ignore[arg-type]

        process.run = counted  # type: ignore[assignment]
        observe(HERE, (), versions=False)
        return found

    return namespace.call(count)


def test_all_stores_and_tables_are_in_one_model(namespace: Namespace) -> None:
    namespace.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001")
    namespace.run("ip6tables-legacy", "-A", "INPUT", "-j", "DROP")
    namespace.run("nft", "table inet mine { chain out { type filter hook output priority 7; policy drop; }; }")

    seen = look(namespace)

    found = {(table.store, table.family, table.name) for table in seen.netfilter.tables}
    assert found >= {(Store.NFT, "ip", "nat"), (Store.LEGACY, "ip6", "filter"), (Store.NFT, "inet", "mine")}
    chains = {call.table.name: call.chain for call in seen.netfilter.calls(V4, Hook.OUTPUT)}
    assert chains.keys() == {"nat", "mine"}
    assert chains["mine"].base is not None and chains["mine"].base.drops
    assert seen.unread == ()


def test_what_nft_wrote_into_a_table_of_iptables_is_what_it_says(namespace: Namespace) -> None:
    """iptables prints the first rule as one of all ports, and the second without its extension."""
    namespace.run("iptables-nft", "-A", "OUTPUT", "-p", "tcp", *"-m owner --uid-owner 1337 -j ACCEPT".split())
    namespace.run("nft", "add", "rule", "ip", "filter", "OUTPUT", "tcp", "dport", "{", "80,", "443", "}", "drop")

    [call] = look(namespace).netfilter.calls(V4, Hook.OUTPUT)

    first, second = call.chain.rules
    assert Test(Field.UID, ((1337, 1337),)) in first.body
    assert Test(Field.DPORT, ((80, 80), (443, 443))) in second.body or any(
        isinstance(each, Lookup) and each.keys[0].field is Field.DPORT for each in second.body
    )
    assert (first.origin.number, second.origin.number) == (1, 2)
    assert "--uid-owner 1337" in first.origin.text


def test_a_dormant_table_is_not_called(namespace: Namespace) -> None:
    namespace.run("iptables-nft", "-A", "OUTPUT", "-j", "DROP")
    namespace.run("nft", "add table ip filter { flags dormant; }; add table inet mine { flags dormant; }")
    namespace.run("nft", "add chain inet mine out { type filter hook output priority 7; policy drop; }")

    assert list(look(namespace).netfilter.calls(V4, Hook.OUTPUT)) == []


def test_no_more_programs_are_run_than_there_are_stores_in_use(namespace: Namespace) -> None:
    assert programs(namespace) == []
    namespace.run("nft", "add", "table", "inet", "mine")
    assert programs(namespace) == ["nft"]
    namespace.run("iptables-nft", "-t", "nat", "-N", "OWN")
    assert programs(namespace) == ["iptables-nft-save", "nft"]


TWO_TABLES = """\
table ip asleep {
  flags dormant
  chain c {
    type filter hook input priority 0
    drop
  }
}
table inet awake {
  chain c {
    type filter hook input priority 0
    tcp dport 80 drop
  }
}
"""


@pytest.mark.parametrize("broken", ["asleep", "awake"])
def test_a_table_that_nft_cannot_print_hides_no_other(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    namespace.run("nft", "-f", "-", stdin=TWO_TABLES)
    run = process.run

    def cut_short(argv: Sequence[str], **more: Any) -> process.Completed:
        done = run(argv, **more)
        is_told = "list" not in argv or (argv[-1] != broken and "ruleset" not in argv)
        return done if is_told else done.replace(stdout='{"nftables": [{"table": {"flags": \n')

    monkeypatch.setattr(process, "run", cut_short)
    found = look(namespace)

    assert {table.name for table in found.netfilter.tables} == {"asleep", "awake"} - {broken}
    # What the kernel does not call need not be known.
    assert [each.part for each in found.unread] == ([Part.NATIVE] if broken == "awake" else [])


def test_the_host_is_seen_as_it_is(namespace: Namespace) -> None:
    namespace.run("ip", "addr", "add", "10.0.0.7/32", "dev", "lo")
    namespace.run("ip", "rule", "add", "fwmark", "0x539", "lookup", "133")
    namespace.run("ip", "route", "add", "local", "default", "dev", "lo", "table", "133")
    namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1")

    host = look(namespace).host

    assert host.addresses == (ip_address("127.0.0.1"), ip_address("10.0.0.7"), ip_address("::1"))
    assert host.rules is not None and [rule.mark for rule in host.rules[V4]] == [None, 0x539, None, None]
    assert host.routes is not None and any(route.table == 133 for route in host.routes[V4])
    assert host.forwards is not None and host.forwards[V6] is False
    assert host.forwards_from == {"lo": True}
    assert host.reverse_path_filter == {"lo": 0}
    assert host.listeners == ()


@pytest.mark.parametrize("asks", [True, False])
def test_sockets_are_asked_what_they_were_told_where_rules_depend_on_it(namespace: Namespace, asks: bool) -> None:
    if asks:
        namespace.run("iptables-nft", "-t", "mangle", "-A", "PREROUTING", *"-p tcp -j TPROXY --on-port 15006".split())

    def observed() -> Snapshot:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
            make_transparent(made)
            made.bind(("", 15006))
            made.listen()
            return observe(HERE, (), versions=False)

    seen = namespace.call(observed)

    assert seen.host.listeners == (Listener(6, ip_address("0.0.0.0"), 15006, True if asks else None),)


def test_sets_that_rules_name_are_looked_up(namespace: Namespace) -> None:
    namespace.run("ipset", "create", "blocked", "hash:net")
    namespace.run("ipset", "add", "blocked", "10.0.0.0/8")
    namespace.run("iptables-legacy", "-A", "INPUT", *"-m set --match-set blocked src -j DROP".split())

    [call] = look(namespace).netfilter.calls(V4, Hook.INPUT)

    assert isinstance(call.chain.rules[0].body[0], Lookup)


def test_sets_that_cannot_be_read_leave_it_undecided(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace.run("ipset", "create", "blocked", "hash:net")
    namespace.run("iptables-legacy", "-A", "INPUT", *"-m set --match-set blocked src -j DROP".split())
    monkeypatch.setattr(ipsets, "CMD_LIST", 6 << 8 | 200)

    seen = look(namespace)

    [call] = seen.netfilter.calls(V4, Hook.INPUT)
    assert isinstance(call.chain.rules[0].body[0], Undecided)
    assert [each.part for each in seen.unread] == [Part.SETS]


def test_without_privilege_what_is_missing_is_said(namespace: Namespace) -> None:
    namespace.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")

    seen = namespace.call(lambda: observe(HERE, (), versions=False), User(65534, 65534))

    assert {each.part: each.why for each in seen.unread if each.part in (Part.RULES_NFT, Part.NATIVE)} == {
        Part.RULES_NFT: Why.DENIED,
        Part.NATIVE: Why.DENIED,
    }
    assert seen.partial == set(Family)
    assert seen.host.addresses


@pytest.mark.parametrize("has_policy", [False, True])
def test_policies_of_ipsec_are_told_and_what_rules_ask_of_it_depends_on_them(
    namespace: Namespace, has_policy: bool
) -> None:
    """A packet that a policy blocks is dropped whatever rules say: seen in the kernel."""
    if has_policy:
        namespace.run("ip", "xfrm", "policy", "add", "dir", "out", "dst", "192.0.2.1", "action", "block")

    seen = look(namespace)

    assert seen.host.has_ipsec is has_policy
    said = [(each.part, each.why) for each in seen.unread]
    assert said == ([(Part.IPSEC, Why.NOT_FOLLOWED)] if has_policy else [])
