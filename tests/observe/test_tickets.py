"""What people paste into tickets is read as the rules that it is of, and what it leaves out is said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from istio_init.dialects.iptables.rules import Counters, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import InputError
from istio_init.netfilter.family import Family
from istio_init.observe.files import File, FromFiles, from_files
from istio_init.observe.unread import Part
from istio_init.testing.namespaces import Namespace

V4, V6 = Family

INPUT = """\
* nat
-N ISTIO_INBOUND
-N ISTIO_REDIRECT
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-port 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-I ISTIO_INBOUND 1 -p tcp --dport 15008 -j RETURN
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
* mangle
-N ISTIO_DIVERT
-N ISTIO_TPROXY
-A ISTIO_DIVERT -j MARK --set-mark 1337
-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006
-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark
-A OUTPUT -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark
COMMIT
* raw
-A OUTPUT -p udp --dport 53 -m owner --gid-owner 1337 -j CT --zone 1
COMMIT
"""
"""What Istio gives to iptables-restore, in its own words."""

VARIABLES = "PROXY_PORT=15001\nPROXY_UID=1337\nINBOUND_PORTS_INCLUDE=*\nOUTBOUND_IP_RANGES_EXCLUDE=\n"
OLD_LOG = f"""\
Environment:
------------
ENVOY_PORT=

Variables:
----------
{VARIABLES}
Writing following contents to rules file:  /tmp/iptables-rules-1618325274949408325.txt147630346
{INPUT}
iptables-restore --noflush /tmp/iptables-rules-1618325274949408325.txt147630346
Writing following contents to rules file:  /tmp/ip6tables-rules-1618325274950000000.txt1

ip6tables-restore --noflush /tmp/ip6tables-rules-1618325274950000000.txt1
"""
NEW_LOG = f"""\
2026-04-03T03:25:00.112365Z\tinfo\tIstio iptables variables:
{VARIABLES}
2026-04-03T03:25:00.113000Z\tinfo\tRunning iptables-restore with the following input:
{INPUT}2026-04-03T03:25:00.114000Z\tinfo\tRunning command (with wait lock): iptables-restore --noflush -v --wait=30
2026-04-03T03:25:00.115000Z\tinfo\tRunning ip6tables-restore with the following input:

"""
NEWEST_LOG = NEW_LOG.replace("iptables-restore with the f", "iptables restore with: iptables-restore and the f")
JSON_LOG = "".join(
    json.dumps({"level": "info", "time": "2026-04-03T03:25:00.112365Z", "msg": each.rstrip("\n")}) + "\n"
    for each in re.split(r"(?m)^2026\S+\tinfo\t", NEW_LOG)
    if each
)
LOGS = {"old": OLD_LOG, "new": NEW_LOG, "newest": NEWEST_LOG, "JSON": JSON_LOG, "none": INPUT}


def docker(text: str) -> str:
    return "".join(
        json.dumps({"log": f"{line}\n", "stream": "stdout", "time": "2026"}) + "\n" for line in text.split("\n")
    )


def each_line(begin: str) -> Callable[[str], str]:
    return lambda text: "\n".join(f"{begin}{line}" for line in text.split("\n"))


WRAPPINGS: dict[str, Callable[[str], str]] = {
    "nothing": lambda text: text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "timestamps of kubectl": each_line("2026-11-27T06:24:04.123456789Z "),
    "timestamps of a container runtime": each_line("2026-11-27T06:24:04.123456789Z stdout F "),
    "the pod's name": each_line("[pod/payment-7f9c/istio-init] "),
    "colours": each_line("\x1b[32m\x1b[0m"),
    "a fence": lambda text: f"```console\n{text}\n```\n",
    "indentation": each_line("    "),
    "a quotation": each_line("> "),
    "Docker's JSON": docker,
}


def texts(rules: RuleSet) -> dict[tuple[str, str], tuple[str | None, list[str | None]]]:
    return {
        (table.value, chain.name): (chain.policy, [entry.text for entry in chain.entries])
        for table, chain in rules.chains()
    }


def read(text: str, *, store: RuleStore = RuleStore.NFT, family: Family = V4) -> RuleSet:
    return from_files([File("ticket", text)]).rules[store, family]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(
    "log", [OLD_LOG, NEW_LOG, NEWEST_LOG, JSON_LOG, INPUT], ids=["old", "new", "newest", "JSON", "bare"]
)
def test_the_input_of_iptables_restore_is_found_in_what_is_around_it(log: str, wrapping: str) -> None:
    found = texts(read(WRAPPINGS[wrapping](log)))

    assert found["nat", "ISTIO_INBOUND"] == (
        None,
        [
            "-p tcp -m tcp --dport 15008 -j RETURN",
            "-p tcp -m tcp --dport 15090 -j RETURN",
            "-p tcp -j ISTIO_IN_REDIRECT",
        ],
    )
    assert found["nat", "ISTIO_OUTPUT"][1] == [
        "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j RETURN",
        "-j ISTIO_REDIRECT",
    ]
    assert found["nat", "ISTIO_REDIRECT"][1] == ["-p tcp -j REDIRECT --to-ports 15001"]
    masks = "--nfmask 0xffffffff --ctmask 0xffffffff"
    assert found["mangle", "PREROUTING"] == ("ACCEPT", [f"-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark {masks}"])
    assert found["mangle", "OUTPUT"][1] == [f"-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark {masks}"]
    assert found["mangle", "ISTIO_DIVERT"][1] == ["-j MARK --set-xmark 0x539/0xffffffff"]
    assert found["mangle", "ISTIO_TPROXY"][1] == [
        "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"
    ]
    assert found["raw", "OUTPUT"][1] == ["-p udp -m udp --dport 53 -m owner --gid-owner 1337 -j CT --zone 1"]


SAVED = "*filter\n:INPUT DROP [3:180]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


def test_what_iptables_save_printed_last_in_a_log_counts() -> None:
    save = f"# Generated by iptables-save v1.8.9 on Thu\n{SAVED}# Completed on Thu\n"
    found = from_files([File("ticket", OLD_LOG + save.replace("DROP", "ACCEPT") + save)])

    assert texts(found.rules[RuleStore.LEGACY, V4])["filter", "INPUT"] == ("DROP", [])
    assert "what iptables-save printed last in it" in found.notes[0]


def test_a_log_says_the_arguments_that_its_variables_stand_for() -> None:
    notes = from_files([File("ticket", NEW_LOG)]).notes

    assert notes == (
        "ticket: the log of istio-init",
        "ticket: its variables are those of: istio-iptables -p 15001 -u 1337 -b '*'",
        "ticket: the input of iptables-restore: what was asked for, not what is live; "
        "rules that were there before are not in it",
    )


RULES = [
    "-t nat -A OUTPUT -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j RETURN",
    "-t nat -A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner ! --gid-owner 1000-1002 -j RETURN",
    "-t nat -A OUTPUT -p udp -m udp --sport 1:5 --dport 53 -j REDIRECT --to-ports 15053",
    "-t nat -A OUTPUT -d 10.0.0.0/8 -p tcp -m comment --comment two_words -j DNAT --to-destination 10.0.0.7:80",
    "-t nat -A PREROUTING ! -i eth+ -p tcp -m comment --comment odd\x20words -j REDIRECT --to-ports 15006",
    "-t mangle -A PREROUTING -m conntrack ! --ctstate INVALID -m mark ! --mark 0x1/0xff -j MARK --set-xmark 0x1/0xff",
    "-t mangle -A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark",
    "-t mangle -A PREROUTING -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539",
    "-t mangle -A OUTPUT -m connmark --mark 0x539 -j CONNMARK --restore-mark",
    "-t raw -A OUTPUT -p udp -m udp --dport 53 -j CT --zone 1",
    "-t filter -A INPUT -s 192.0.2.0/24 -p icmp -j REJECT --reject-with icmp-host-prohibited",
    "-t filter -A INPUT -p tcp",
    "-t filter -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT",
]
FORMS = ["-S", "-S -v", "-L -v -n", "-L -v -n -x --line-numbers", "-n -v -L"]


@pytest.mark.parametrize("store", ["nft", "legacy"])
def test_rules_and_listings_are_read_as_what_iptables_save_prints(real_kernel: None, store: str) -> None:
    program = f"iptables-{store}"
    with Namespace.create("listed") as namespace:
        for rule in RULES:
            namespace.run(program, *re.split(r" (?!words)", rule))
        saved = from_files([File("saved", namespace.run(f"{program}-save"))])
        pasted = {
            form: "".join(
                f"root@pod:/# {program} -t {table} {form}\n" + namespace.run(program, "-t", table, *form.split())
                for table in ("filter", "nat", "mangle", "raw")
            )
            for form in FORMS
        }

    expected = saved.rules[RuleStore(store), V4]
    for form, text in pasted.items():
        found = from_files([File("ticket", text)])
        rules = found.rules[RuleStore(store), V4]
        assert {name: [entry.rule for entry in chain.entries] for name, chain in chains(rules)} == {
            name: [entry.rule for entry in chain.entries] for name, chain in chains(expected)
        }, form
        assert not found.unread


def chains(rules: RuleSet):  # type: ignore[no-untyped-def]
    return [((table.value, chain.name), chain) for table, chain in rules.chains()]


LISTING = """\
Chain PREROUTING (policy ACCEPT 192K packets, 12M bytes)
 pkts bytes target     prot opt in     out     source               destination
 192K   12M ISTIO_INBOUND  tcp  --  any    any     anywhere             anywhere

Chain INPUT (policy ACCEPT 2 packets, 120 bytes)
 pkts bytes target     prot opt in     out     source               destination

Chain OUTPUT (policy ACCEPT 1 packets, 60 bytes)
 pkts bytes target     prot opt in     out     source               destination
    9   540 DROP       all  --  any    lo      anywhere            !localhost            owner UID match istio-proxy
    0     0            tcp  --  any    lo      anywhere             anywhere             limit: avg 1/sec burst 5

Chain POSTROUTING (policy ACCEPT 1 packets, 60 bytes)
 pkts bytes target     prot opt in     out     source               destination

Chain ISTIO_INBOUND (1 references)
 pkts bytes target     prot opt in     out     source               destination
    2   120 RETURN     tcp  --  any    any     anywhere             anywhere             tcp dpt:15008
    0     0 REDIRECT   tcp  --  any    any     anywhere             anywhere             redir ports 15006
"""


def test_what_a_listing_does_not_say_for_certain_is_undecidable() -> None:
    found = from_files([File("ticket", LISTING)])

    held = texts(found.rules[RuleStore.NFT, V4])
    assert held["nat", "PREROUTING"] == ("ACCEPT", ["-p tcp -j ISTIO_INBOUND"])
    assert held["nat", "OUTPUT"][1] == [
        '-o lo -m listing --unread "!localhost owner UID match istio-proxy" -j DROP',
        '-o lo -p tcp -m listing --unread "limit: avg 1/sec burst 5"',
    ]
    assert held["nat", "ISTIO_INBOUND"][1] == [
        "-p tcp -m tcp --dport 15008 -j RETURN",
        "-p tcp -j REDIRECT --to-ports 15006",
    ]
    assert [each.part for each in found.unread] == [Part.LISTING, Part.TABLES]
    assert found.unread[0].reason.startswith("the listing does not say all of OUTPUT 1: 9   540 DROP")
    assert found.unread[1].reason == "the ipv4 tables raw, mangle, filter are not in it, and are taken to be empty"


def test_a_listing_is_read_with_masks_that_are_no_prefix_and_with_fragments() -> None:
    head, _, tail = LISTING.partition("    9   540 DROP")
    rows = [
        "    0     0 DROP       0    --  *      *       0.0.0.0/0            8.0.8.0/255.0.255.0 ",
        "    0     0 DROP       0    --  *      *      !0.0.0.8/0.0.0.255    0.0.0.0/0           ",
        "    0     0 DROP       0    -f  *      *       0.0.0.0/0            0.0.0.0/0           ",
        "    0     0 DROP       0    !f  *      *       0.0.0.0/0            0.0.0.0/0           ",
    ]
    found = from_files([File("ticket", "\n".join([head.rstrip("\n"), *rows, *tail.split("\n")[2:]]))])
    assert texts(found.rules[RuleStore.NFT, V4])["nat", "OUTPUT"][1] == [
        "-d 8.0.8.0/255.0.255.0 -j DROP",
        "! -s 0.0.0.8/0.0.0.255 -j DROP",
        "-f -j DROP",
        "! -f -j DROP",
    ]


def narrow(text: str) -> str:
    """The listing without -v."""
    lines = [re.sub(r" (?:\S+) packets, \S+ bytes", "", line) for line in text.split("\n")]
    lines = [re.sub(r"^ *\S+ +\S+ (?=(?:\S+)? +(?:tcp|all) |target)", "", line) for line in lines]
    return "\n".join(re.sub(r"(--|opt) +(?:any|in) +(?:any|lo|out) +", r"\1 ", line) for line in lines)


def test_without_interfaces_no_rule_is_certain_to_match() -> None:
    found = from_files([File("ticket", narrow(LISTING))])

    assert texts(found.rules[RuleStore.NFT, V4])["nat", "ISTIO_INBOUND"][1] == [
        "-p tcp -m tcp --dport 15008 -m listing --without-interfaces -j RETURN",
        "-p tcp -m listing --without-interfaces -j REDIRECT --to-ports 15006",
    ]
    assert found.partial == {V4}
    assert "without interfaces no rule is certain to match" in found.notes[0]


NAT_RULES = "-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n-A OUTPUT -p tcp -j DROP\n"
FILTER_RULES = "-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n"

SEPARATIONS: list[tuple[str, str]] = [
    ("commands", f"$ iptables -t nat -S\n{NAT_RULES}$ iptables -S\n{FILTER_RULES}"),
    ("comments", f"# iptables -t nat -S\n{NAT_RULES}\n# iptables -S\n{FILTER_RULES}"),
    (
        "kubectl",
        f"$ kubectl exec payment-7f9c -- iptables -t nat -S\n{NAT_RULES}+ iptables -t filter -S\n{FILTER_RULES}",
    ),
    ("titles", f"== nat ==\n{NAT_RULES}\n== filter ==\n{FILTER_RULES}"),
    ("nothing", NAT_RULES + FILTER_RULES),
    ("nothing, in another order", FILTER_RULES + NAT_RULES),
]


@pytest.mark.parametrize("text", [text for _, text in SEPARATIONS], ids=[name for name, _ in SEPARATIONS])
def test_tables_are_told_apart_by_whatever_stands_between_them(text: str) -> None:
    held = texts(read(text))

    assert held["nat", "OUTPUT"] == ("ACCEPT", ["-p tcp -j DROP"])
    assert held["filter", "INPUT"] == ("DROP", [])


def test_counters_are_those_outside_quotes() -> None:
    rule = '-A INPUT -m comment --comment "see -c 7 8" -c 5 300 -j DROP'
    [entry] = read(f"-P INPUT ACCEPT -c 1 2\n{FILTER_RULES[14:]}{rule}\n").tables[Table.FILTER]["INPUT"].entries

    assert entry.text == '-m comment --comment "see -c 7 8" -j DROP'
    assert entry.counters == Counters(5, 300)


def test_commands_tell_program_and_store() -> None:
    text = f"# ip6tables-legacy -t nat -S\n{NAT_RULES}# iptables-nft -S\n{FILTER_RULES}"
    found: FromFiles = from_files([File("ticket", text)])

    assert set(found.rules) == {(RuleStore.LEGACY, V6), (RuleStore.NFT, V4)}


def test_a_warning_of_another_store_is_passed_on() -> None:
    text = f"# Warning: iptables-legacy tables present, use iptables-legacy to see them\n{FILTER_RULES}"

    assert "iptables warns of rules of iptables-legacy" in from_files([File("ticket", text)]).unread[-1].reason


WRONG = [
    (f"{NAT_RULES}and so on\n", "line 6: it is not understood: 'and so on'; no table was read before it"),
    (f"== nat ==\n{NAT_RULES}== filter ==\n\x1b[2J\u202ewhat\n", "line 8: it is not understood: '\\\\u202ewhat'"),
    (f"{FILTER_RULES}{FILTER_RULES}", "the ipv4 table filter stands there twice"),
    (f"iptables -t mangle -S\n{NAT_RULES}", "the command says table mangle, and the chains are those of nat"),
    ("-P OUTPUT ACCEPT\n-A OUTPUT -j DROP\n", "which would have its built-in chains, too: it has OUTPUT"),
    ("-N ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j DROP\n", "not a whole table"),
    ("-A OUTPUT -j DROP\n", "line 1: a rule of a chain that was not made before it: '-A OUTPUT -j DROP'"),
    ("* nat\n-A NOWHERE -j DROP\nCOMMIT\n", "line 2: a rule of a chain that was not made before it"),
    ("* nat\n-N A\n-I A 5 -j DROP\nCOMMIT\n", "line 3: a place that the chain does not have"),
    (LISTING.replace("    2   120 RETURN", "    2   RETURN"), "line 18: it begins with no counters"),
    (LISTING.replace("ISTIO_INBOUND  tcp  --  any    any ", "x tcp -- ad.1 ad.2"), "a target and without one"),
    (f"Chain INPUT (policy ACCEPT)\n{'x' * 9000}\n", "a line longer than any rule"),
    (OLD_LOG + OLD_LOG.replace("15090", "15091"), "another input for the iptables table nat than before it"),
    ("Variables:\n----------\nPROXY_PORT=15001\n", "the log of istio-init, but without rules"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_not_understood_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        from_files([File("ticket", text)])

    assert said in caught.value.message
    assert "\x1b" not in caught.value.message
