"""iptables rules as the kernel evaluates them: tables, headers, targets."""

from __future__ import annotations

import pytest

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.lower_extension import Extension
from istio_init.dialects.iptables.lower_matches import MATCHES
from istio_init.dialects.iptables.rules import Chain, RuleSet
from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.netfilter.chains import BaseChain, ChainType
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.names import number_of, with_prefix
from istio_init.netfilter.rules import (
    Assign,
    Cause,
    End,
    Forget,
    Hook,
    Nat,
    NatKind,
    Never,
    Note,
    Openness,
    Origin,
    Rule,
    Statement,
    Store,
    Test,
    Tproxy,
    Undecided,
    Unknowable,
    Untrack,
    Verdict,
    Zone,
)

from .evaluating import body, holds, rule

TCP = Test(Field.PROTOCOL, ((6, 6),))
ACCEPT = End(Verdict.ACCEPT)


def not_modelled(words: str) -> Cause:
    return Cause(Openness.NOT_MODELLED, words)


@pytest.mark.parametrize(
    ("store", "table", "chain", "expected"),
    [
        (Store.NFT, Table.RAW, "PREROUTING", (Hook.PREROUTING, -300, ChainType.FILTER)),
        (Store.LEGACY, Table.MANGLE, "OUTPUT", (Hook.OUTPUT, -150, ChainType.ROUTE)),
        (Store.NFT, Table.MANGLE, "POSTROUTING", (Hook.POSTROUTING, -150, ChainType.FILTER)),
        (Store.NFT, Table.NAT, "PREROUTING", (Hook.PREROUTING, -100, ChainType.NAT)),
        (Store.NFT, Table.NAT, "OUTPUT", (Hook.OUTPUT, -100, ChainType.NAT)),
        (Store.NFT, Table.NAT, "INPUT", (Hook.INPUT, 100, ChainType.NAT)),
        (Store.LEGACY, Table.NAT, "POSTROUTING", (Hook.POSTROUTING, 100, ChainType.NAT)),
        (Store.NFT, Table.FILTER, "FORWARD", (Hook.FORWARD, 0, ChainType.FILTER)),
        (Store.LEGACY, Table.SECURITY, "INPUT", (Hook.INPUT, 50, ChainType.FILTER)),
        (Store.NFT, Table.SECURITY, "INPUT", (Hook.INPUT, 150, ChainType.FILTER)),
    ],
)
def test_a_built_in_chain_is_called_where_its_store_registers_it(
    store: Store, table: Table, chain: str, expected: tuple[Hook, int, ChainType]
) -> None:
    chains = {name: Chain(name, policy="DROP" if name == chain else "ACCEPT") for name in BUILTIN_CHAINS[table]}
    [lowered] = lower(RuleSet(Family.IPV4, {table: chains}), store)

    assert lowered.chains[chain].base == BaseChain(*expected, drops=True)


def test_a_table_keeps_its_chains_its_rules_their_places_and_counters() -> None:
    save = "*nat\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n[3:180] -A OUTPUT -p tcp -j MINE\n-A OUTPUT -j RETURN\nCOMMIT\n"
    [table] = lower(parse_save(save, Family.IPV6).rules, Store.LEGACY, dormant=frozenset(["nat"]))

    assert (table.store, table.family, table.name, table.is_dormant) == (Store.LEGACY, "ip6", "nat", True)
    assert table.chains["MINE"].base is None
    first, second = table.chains["OUTPUT"].rules
    assert first == Rule(
        (TCP, End(Verdict.JUMP, "MINE")), Origin(Store.LEGACY, "ip6", "nat", "OUTPUT", 1, "-p tcp -j MINE"), (3, 180)
    )
    assert (second.origin.number, second.counters, second.body) == (2, None, (End(Verdict.RETURN),))


HEADERS: list[tuple[str, tuple[Statement, ...]]] = [
    ("", ()),
    ("-s 10.0.0.0/8", (Test(Field.SOURCE, ((0x0A000000, 0x0AFFFFFF),)),)),
    ("! -d 10.1.2.3/32", (Test(Field.DESTINATION, ((0x0A010203, 0x0A010203),), None, True),)),
    ("! -s 0.0.0.0/0", (Never(),)),
    ("-s 10.0.0.0/255.0.255.0", (Test(Field.SOURCE, ((0x0A000000, 0x0A000000),), 0xFF00FF00),)),
    ("-i eth+", (Test(Field.IN_INTERFACE, with_prefix("eth")),)),
    ("! -o lo", (Test(Field.OUT_INTERFACE, ((number_of("lo"),) * 2,), None, True, True),)),
    ("! -i +", (Never(),)),
    ("-p all", ()),
    ("! -p 132", (Test(Field.PROTOCOL, ((132, 132),), None, True),)),
    ("-p sctp", (Test(Field.PROTOCOL, ((132, 132),)),)),
    ("-p nonsense", (Undecided(not_modelled("-p nonsense")),)),
    ("-f", (Never(),)),
    ("! -f", ()),
    ("--strange", (Undecided(not_modelled("--strange")),)),
    ("-p tcp -m comment --comment x", (TCP,)),
]


@pytest.mark.parametrize(("text", "expected"), HEADERS)
def test_a_header_becomes_tests(text: str, expected: tuple[Statement, ...]) -> None:
    assert body(text) == expected


@pytest.mark.parametrize(
    ("text", "passes"), [("-o lo", False), ("! -o lo", True), ("-o +", True), ("-o e+", False), ("! -o e+", True)]
)
def test_a_hook_without_the_interface_compares_with_an_empty_name(text: str, passes: bool) -> None:
    assert holds(body(text), {Field.OUT_INTERFACE: 0}) is passes
    assert holds(body(text), {}) is passes


def test_an_address_of_ipv6_has_all_its_bits() -> None:
    assert body("-d fd00::/64 -j ACCEPT", family=Family.IPV6) == (
        Test(Field.DESTINATION, ((0xFD << 120, (0xFD << 120) + (1 << 64) - 1),)),
        ACCEPT,
    )


TARGETS: list[tuple[str, tuple[Statement, ...]]] = [
    ("-j ACCEPT", (ACCEPT,)),
    ("-j DROP", (End(Verdict.DROP),)),
    ("-j QUEUE", (End(Verdict.QUEUE),)),
    ("-j NFQUEUE --queue-num 3 --queue-bypass", (End(Verdict.QUEUE),)),
    ("-j REJECT --reject-with icmp-port-unreachable", (End(Verdict.REJECT),)),
    ("-j MISSING", (Unknowable(not_modelled("-j MISSING")),)),
    ("-g MISSING", (Unknowable(not_modelled("-g MISSING")),)),
    ("-j CLUSTERIP --new", (Unknowable(not_modelled("-j CLUSTERIP --new")),)),
    ("-j REDIRECT", (Nat(NatKind.REDIRECT),)),
    ("-j REDIRECT --to-ports 15001", (Nat(NatKind.REDIRECT, None, (15001, 15001)),)),
    ("-j REDIRECT --to-ports 80-90 --random", (Nat(NatKind.REDIRECT, None, (80, 90), True),)),
    ("-j DNAT --to-destination :80", (Nat(NatKind.DNAT, None, (80, 80)),)),
    ("-j DNAT --to-destination 10.0.0.1", (Nat(NatKind.DNAT, (0x0A000001, 0x0A000001)),)),
    (
        "-j DNAT --to-destination 10.0.0.1-10.0.0.5:80-90 --random --persistent",
        (Nat(NatKind.DNAT, (0x0A000001, 0x0A000005), (80, 90), True),),
    ),
    (
        "-j DNAT --to-destination :80-90/100",
        (Nat(NatKind.DNAT, None, (80, 90), cause=not_modelled("-j DNAT --to-destination :80-90/100")),),
    ),
    ("-j SNAT --to-source 10.0.0.1:5", (Nat(NatKind.SNAT, (0x0A000001, 0x0A000001), (5, 5)),)),
    ("-j MASQUERADE", (Nat(NatKind.MASQUERADE),)),
    ("-j MASQUERADE --to-ports 80-90 --random-fully", (Nat(NatKind.MASQUERADE, None, (80, 90), True),)),
    ("-j NETMAP --to 10.5.0.0/24", (Nat(NatKind.DNAT, (0x0A050000, 0x0A0500FF), netmap=True),)),
    (
        "-p tcp -j TPROXY --on-port 15006 --on-ip 127.0.0.1 --tproxy-mark 0x539/0xffffffff",
        (TCP, Tproxy(0x7F000001, 15006, 0x539, 0xFFFFFFFF), ACCEPT),
    ),
    ("-j TPROXY --on-port 0 --on-ip 0.0.0.0 --tproxy-mark 0x0/0x0", (Tproxy(None, None), ACCEPT)),
    ("-j MARK --set-xmark 0x1/0xffffffff", (Assign(Field.MARK, (), 1),)),
    ("-j MARK --set-xmark 0x10/0xf", (Assign(Field.MARK, ((Field.MARK, 0xFFFFFFF0),), 0x10),)),
    ("-j MARK --set-mark 0x13/0x10", (Assign(Field.MARK, ((Field.MARK, 0xFFFFFFEC),), 0x13),)),
    ("-j MARK --and-mark 0xff", (Assign(Field.MARK, ((Field.MARK, 0xFF),)),)),
    ("-j MARK --or-mark 0x5", (Assign(Field.MARK, ((Field.MARK, 0xFFFFFFFA),), 5),)),
    ("-j MARK --xor-mark 0x5", (Assign(Field.MARK, ((Field.MARK, 0xFFFFFFFF),), 5),)),
    ("-j CONNMARK --set-xmark 0x111/0xfff", (Assign(Field.CT_MARK, ((Field.CT_MARK, 0xFFFFF000),), 0x111),)),
    (
        "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xf",
        (Assign(Field.CT_MARK, ((Field.CT_MARK, 0xFFFFFFF0), (Field.MARK, 0xFF))),),
    ),
    (
        "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        (Test(Field.CT_MARK, ((0, 0xFFFFFFFF),)), Assign(Field.MARK, ((Field.CT_MARK, 0xFFFFFFFF),))),
    ),
    (
        "-j CONNMARK --set-xmark 0x1/0x2 --left-shift-mark 2",
        (Forget(Field.CT_MARK, not_modelled("-j CONNMARK --set-xmark 0x1/0x2 --left-shift-mark 2")),),
    ),
    ("-j CT --zone 1", (Zone(1),)),
    ("-j CT --zone-orig 5", (Zone(5),)),
    ("-j CT --zone-reply 5", (Zone(not_modelled("-j CT --zone-reply 5")),)),
    ("-j CT --zone mark", (Zone(not_modelled("-j CT --zone mark")),)),
    ("-j CT --zone 1 --helper ftp", (Zone(1), Note("-j CT --zone 1 --helper ftp"))),
    ("-j CT --notrack", (Untrack(),)),
    ("-j NOTRACK", (Untrack(),)),
    ("-j TOS --set-tos 0x10/0x3f", (Assign(Field.TOS, ((Field.TOS, 0xC0),), 0x10),)),
    ("-j DSCP --set-dscp 0x0a", (Assign(Field.TOS, ((Field.TOS, 3),), 0x28),)),
    ("-j TTL --ttl-set 5", (Assign(Field.TTL, (), 5),)),
    ("-j TTL --ttl-dec 1", (Forget(Field.TTL, not_modelled("-j TTL --ttl-dec 1")),)),
    ("-j ECN --ecn-tcp-remove", (Assign(Field.TCP_FLAGS, ((Field.TCP_FLAGS, 0x3F),)),)),
    ("-j CLASSIFY --set-class 0001:0010", (Assign(Field.PRIORITY, (), 0x10010),)),
    ('-j LOG --log-prefix "a b"', (Note('-j LOG --log-prefix "a b"'),)),
    ("-j TRACE", (Note("-j TRACE"),)),
    ("-j SET --add-set s src", (Note("-j SET --add-set s src"),)),
    ("-j HMARK --hmark-mod 5", (Forget(Field.MARK, Cause(Openness.OPEN, "-j HMARK --hmark-mod 5")),)),
]


@pytest.mark.parametrize(("text", "expected"), TARGETS)
def test_a_target_becomes_effects_and_an_end(text: str, expected: tuple[Statement, ...]) -> None:
    assert body(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-j DNAT --to-destination fd00::1", Nat(NatKind.DNAT, ((0xFD << 120) + 1, (0xFD << 120) + 1))),
        ("-j DNAT --to-destination [fd00::1]:80", Nat(NatKind.DNAT, ((0xFD << 120) + 1, (0xFD << 120) + 1), (80, 80))),
        (
            "-j DNAT --to-destination [fd00::1-fd00::5]:80-90",
            Nat(NatKind.DNAT, ((0xFD << 120) + 1, (0xFD << 120) + 5), (80, 90)),
        ),
        ("-j DNAT --to-destination :80", Nat(NatKind.DNAT, None, (80, 80))),
        ("-j SNAT --to-source ::1", Nat(NatKind.SNAT, (1, 1))),
        ("-j TPROXY --on-port 15001 --on-ip :: --tproxy-mark 0x1/0x1", Tproxy(None, 15001, 1, 1)),
        ("-j HL --hl-set 7", Assign(Field.TTL, (), 7)),
    ],
)
def test_targets_take_addresses_of_ipv6(text: str, expected: Statement) -> None:
    assert body(text, family=Family.IPV6)[0] == expected


@pytest.mark.parametrize("name", ["TTL", "ULOG", "LED", "HL", "REDIRECT", "CT"])
@pytest.mark.parametrize(("flag", "verdict"), [("-j", Verdict.JUMP), ("-g", Verdict.GOTO)])
def test_a_chain_of_the_table_wins_over_a_target_of_its_name(name: str, flag: str, verdict: Verdict) -> None:
    assert rule(f"{flag} {name}", others=f":{name} - [0:0]").body == (End(verdict, name),)


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        ("PREROUTING", (Nat(NatKind.DNAT, (0x0A050000, 0x0A0500FF), netmap=True),)),
        ("POSTROUTING", (Nat(NatKind.SNAT, (0x0A050000, 0x0A0500FF), netmap=True),)),
    ],
)
def test_netmap_translates_what_the_hook_that_calls_its_chain_translates(
    caller: str, expected: tuple[Statement, ...]
) -> None:
    rules = f"-A {caller} -j MINE\n-A MINE -j NETMAP --to 10.5.0.0/24"
    save = f"*nat\n:{caller} ACCEPT [0:0]\n:MINE - [0:0]\n{rules}\nCOMMIT\n"
    [table] = lower(parse_save(save, Family.IPV4).rules, Store.NFT)

    assert table.chains["MINE"].rules[0].body == expected


@pytest.mark.parametrize(
    ("text", "tracks"),
    [
        ("-j ACCEPT", False),
        ("-m mark --mark 0x1", False),
        ("-m socket", False),
        ("-m recent --set", False),
        ("-j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x0/0x0", False),
        ("-j CT --notrack", False),
        ("-j NOTRACK", False),
        ("-m conntrack --ctstate NEW", True),
        ("-m state --state NEW", True),
        ("-m connmark --mark 0x1", True),
        ("-m connlimit --connlimit-above 5", True),
        ("-m connbytes --connbytes 5 --connbytes-mode packets --connbytes-dir both", True),
        ("-m connlabel --label 1", True),
        ("-m helper --helper ftp", True),
        ("-m cluster --cluster-total-nodes 2", True),
        ("-j CT --zone 3", True),
        ("-j CONNMARK --save-mark", True),
        ("-j CONNSECMARK --save", True),
        ("-j REDIRECT", True),
        ("-j DNAT --to-destination :80", True),
        ("-j MASQUERADE", True),
        ("-j NETMAP --to 10.0.0.0/24", True),
        ("-j SYNPROXY --mss 1460", True),
    ],
)
def test_rules_about_connections_make_the_kernel_track_them(text: str, tracks: bool) -> None:
    assert rule(text).tracks is tracks


def test_synproxy_takes_what_opens_a_connection_and_lets_the_rest_pass() -> None:
    statements = body("-p tcp -j SYNPROXY --mss 1460")

    taken = [flags for flags in range(64) if holds(statements, {Field.PROTOCOL: 6, Field.TCP_FLAGS: flags})]
    assert taken == [flags for flags in range(64) if (flags & 2 and not flags & 16) or flags & 0x17 == 16]
    assert statements[-1] == End(Verdict.STOLEN)


def test_a_match_is_added_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        MATCHES, "moon", Extension(lambda asked: (Test(Field.TTL, ((int(asked.options()[0][2][0]),) * 2,)),))
    )
    statements = body("-m moon --phase 7 -j ACCEPT")

    assert statements == (Test(Field.TTL, ((7, 7),)), ACCEPT)
    assert holds(statements, {Field.TTL: 7})
