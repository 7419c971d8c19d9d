"""Which live rules are ours: by their chain, by where they lead, or by their shape beside a chain of Istio's."""

from __future__ import annotations

import pytest

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.role import Role
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours, recognise
from istio_init.mesh.routing import LiveRouting, Routing
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff, ours_alone
from istio_init.plan.make import Live, make_plan
from istio_init.stores.fake import Fake

from .strategies import Texts, rule_set, texts_of

NAT, MANGLE, RAW, FILTER = Table.NAT, Table.MANGLE, Table.RAW, Table.FILTER


def found(table: Table, chain: str, text: str, *, beside: str | None = "ISTIO_X") -> tuple[bool, Role | None]:
    """Whether a rule is ours, and its role, in a table that holds a chain of Istio's besides, or none."""
    chains = {chain: [text], **({} if beside is None else {beside: []})}
    entry = recognise(rule_set(Family.IPV4, {table: chains})).tables[table][chain].entries[0]
    return is_ours(chain, entry), entry.role


BY_SHAPE: list[tuple[Table, str, str]] = [
    (NAT, "PREROUTING", "-i eth1 -j RETURN"),
    (NAT, "OUTPUT", "-o eth1 -j RETURN"),
    (NAT, "OUTPUT", "-p udp -m udp --dport 53 -m owner --uid-owner 1337 -j RETURN"),
    (NAT, "OUTPUT", "-p udp -m udp --dport 53 -m owner --gid-owner 1337 -j RETURN"),
    (NAT, "OUTPUT", "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053"),
    (MANGLE, "PREROUTING", "-i eth1 -j RETURN"),
    (MANGLE, "PREROUTING", "-m conntrack --ctstate INVALID -j DROP"),
    (MANGLE, "PREROUTING", "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff"),
    (MANGLE, "OUTPUT", "-o lo -p tcp -m mark --mark 0x539 -j RETURN"),
    (MANGLE, "OUTPUT", "! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 5 -j MARK --set-xmark 0x53a/0xffffffff"),
    (MANGLE, "OUTPUT", "-p tcp -m connmark --mark 0x1 -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff"),
    (RAW, "PREROUTING", "-s 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1"),
    (RAW, "PREROUTING", "-d 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1"),
    (RAW, "OUTPUT", "-p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1"),
    (RAW, "OUTPUT", "-p udp -m udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2"),
    (RAW, "OUTPUT", "-d 10.96.0.10/32 -p udp -m udp --dport 53 -j CT --zone 2"),
]


@pytest.mark.parametrize(("table", "chain", "text"), BY_SHAPE, ids=[f"{t.value} {c} {r}" for t, c, r in BY_SHAPE])
def test_a_known_shape_in_a_chain_of_the_kernel_is_ours_beside_a_chain_of_istios_alone(
    table: Table, chain: str, text: str
) -> None:
    ours, role = found(table, chain, text)

    assert ours
    assert role is not None
    assert found(table, chain, text, beside=None) == (False, None)
    assert found(table, chain, text, beside="KUBE-SERVICES") == (False, None)


FOREIGN: list[tuple[Table, str, str]] = [
    (NAT, "PREROUTING", "-i eth1 -j ACCEPT"),
    (NAT, "PREROUTING", "! -i eth1 -j RETURN"),
    (NAT, "PREROUTING", "-i eth1 -p tcp -j RETURN"),
    (NAT, "PREROUTING", "-i eth1 -m addrtype --dst-type LOCAL -j RETURN"),
    (NAT, "PREROUTING", "-o eth1 -j RETURN"),
    (NAT, "PREROUTING", "-p tcp -j REDIRECT --to-ports 15006"),
    (NAT, "OUTPUT", "-p udp -m udp --dport 5353 -j REDIRECT --to-ports 15053"),
    (NAT, "OUTPUT", "-p udp -m udp --dport 1:53 -j REDIRECT --to-ports 15053"),
    (NAT, "OUTPUT", "-p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053"),
    (NAT, "OUTPUT", "-j RETURN"),
    (NAT, "POSTROUTING", "-o eth1 -j RETURN"),
    (NAT, "INPUT", "-i eth1 -j RETURN"),
    (MANGLE, "PREROUTING", "-m conntrack --ctstate INVALID,NEW -j DROP"),
    (MANGLE, "FORWARD", "-m conntrack --ctstate INVALID -j DROP"),
    (MANGLE, "PREROUTING", "-j MARK --set-xmark 0x539/0xffffffff"),
    (RAW, "OUTPUT", "-p udp -m udp --dport 4789 -j CT --zone 1"),
    (RAW, "OUTPUT", "-p udp -m udp --dport 53 -j CT --notrack"),
    (FILTER, "INPUT", "-i eth1 -j RETURN"),
    (FILTER, "OUTPUT", "-m owner --uid-owner 1337 -j RETURN"),
    (NAT, "ISTIOX", "-p tcp -j RETURN"),
    (NAT, "KUBE-ISTIO_X", "-p tcp -j RETURN"),
    (NAT, "istio_output", "-p tcp -j RETURN"),
]


@pytest.mark.parametrize(("table", "chain", "text"), FOREIGN, ids=[f"{t.value} {c} {r}" for t, c, r in FOREIGN])
def test_any_other_shape_is_foreign_even_beside_a_chain_of_istios(table: Table, chain: str, text: str) -> None:
    assert found(table, chain, text) == (False, None)


@pytest.mark.parametrize("text", ["-j ACCEPT", "-m unheard --of it -j LOG", "", "-p tcp -j RETURN"])
@pytest.mark.parametrize("table", Table)
def test_every_rule_in_a_chain_of_istios_is_ours_whatever_it_does(table: Table, text: str) -> None:
    assert found(table, "ISTIO_ANYTHING", text)[0]


@pytest.mark.parametrize("text", ["-j ISTIO_X", "-g ISTIO_X", "-s 10.0.0.0/8 -m comment --comment x -j ISTIO_X"])
@pytest.mark.parametrize("chain", ["OUTPUT", "POSTROUTING", "KUBE-SERVICES"])
def test_every_rule_that_leads_to_a_chain_of_istios_is_ours_wherever_it_stands(chain: str, text: str) -> None:
    assert found(NAT, chain, text)[0]


def test_a_chain_of_istios_in_one_table_tells_nothing_of_another() -> None:
    rules = recognise(rule_set(Family.IPV4, {NAT: {"ISTIO_X": []}, MANGLE: {"PREROUTING": ["-i eth1 -j RETURN"]}}))

    assert texts_of(ours_alone(rules)) == {NAT: {"ISTIO_X": []}}


@pytest.mark.parametrize(
    ("prerouting", "output", "roles"),
    [
        (["-i a -j RETURN"], ["-o a -j RETURN"], [Role.EXCLUDED_INTERFACE_IN]),
        (["-i a -j RETURN"], [], [Role.VIRTUAL_INTERFACE_RETURN]),
        (
            ["-i a -j RETURN", "-i a -j RETURN"],
            ["-o a -j RETURN"],
            [Role.VIRTUAL_INTERFACE_RETURN, Role.EXCLUDED_INTERFACE_IN],
        ),
    ],
    ids=["excluded: out as well", "virtual: in alone", "both at once: the lower one is the exclusion"],
)
def test_excluded_and_virtual_interfaces_are_told_apart_by_the_way_out(
    prerouting: list[str], output: list[str], roles: list[Role]
) -> None:
    texts: Texts = {NAT: {"PREROUTING": prerouting, "OUTPUT": output, "ISTIO_X": []}}

    chain = recognise(rule_set(Family.IPV4, texts)).chain(NAT, "PREROUTING")

    assert chain is not None
    assert [entry.role for entry in chain.entries] == roles


@pytest.mark.parametrize(
    ("name", "istios"),
    [("ISTIO_OUTPUT", True), ("ISTIO_", True), ("ISTIO", False), ("istio_output", False), ("X_ISTIO_", False)],
)
def test_a_chain_is_istios_by_its_name(name: str, istios: bool) -> None:
    assert is_istio_chain(name) is istios


@pytest.mark.parametrize(
    ("table", "chain", "text"),
    [
        (NAT, "PREROUTING", "-i eth1 -j RETURN"),
        (NAT, "OUTPUT", "-o eth1 -j RETURN"),
        (NAT, "OUTPUT", "-p udp -m udp --dport 53 -j REDIRECT --to-ports 5353"),
    ],
)
def test_what_was_foreign_when_a_run_began_is_foreign_when_it_reads_back(table: Table, chain: str, text: str) -> None:
    key = "nft", Family.IPV4
    start = rule_set(Family.IPV4, {table: {chain: [text]}})
    goal = sidecar.rules(Config(inbound_ports=ALL, outbound_ranges=ALL), Surroundings())
    fake = Fake([start])
    before = Live({key: start}, LiveRouting())

    fake.commit(Family.IPV4, diff(before.of(*key), goal[Family.IPV4]).edits)
    after = Live({key: fake.read(Family.IPV4)}, LiveRouting(), before)

    assert make_plan(after, "nft", (), goal, Routing()).is_empty
    assert text in texts_of(fake.read(Family.IPV4))[table][chain]
