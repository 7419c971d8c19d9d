"""A redacted snapshot names nobody, and its rules do what they did."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, get_args

import pytest

from istio_init.config import asked
from istio_init.config.asked import Pod
from istio_init.errors import InputError
from istio_init.netfilter.packet import Direction, Packet
from istio_init.observe.bundle import MADE_AGAIN, files_of, snapshot_of
from istio_init.observe.fields import hints
from istio_init.observe.namespace import observe
from istio_init.observe.netfilter import Known
from istio_init.observe.pseudonyms import Pseudonyms, ranges_in
from istio_init.observe.redaction import redacted, without_comments
from istio_init.observe.snapshot import Snapshot, Taken
from istio_init.system.places import HERE
from istio_init.system.processes import Process
from istio_init.testing.namespaces import Namespace
from istio_init.trace.tracer import Tracer
from istio_init.value import Value

SECRET = b"told to nobody, but to this test"
TAKEN = Taken("pod.tar", "2026-11-27 06:00:00 UTC", "secret-host", "6.1.0", "1.0", ipv6_in_kernel=True)
RANGE = ip_address("8.8.4.10"), ip_address("8.8.5.3")

WILD = """
table inet mine {
  set bad { type ipv4_addr; flags interval; elements = { 1.2.3.0/24, 9.9.9.1-9.9.9.6 }; }
  chain out {
    type filter hook output priority 0; policy drop;
    ip daddr @bad drop comment "secret words"
    ip daddr 93.184.0.0/16 accept
    ip6 daddr 2606:4700::/32 accept
    ip daddr { 1.1.1.1, 8.8.8.8 } drop
    meta mark set 1
    tcp dport 80 accept
  }
}
"""
RULES = [
    ("-A", "OUTPUT", "-d", "93.184.216.0/24", "-p", "tcp", "-j", "DROP"),
    ("-A", "OUTPUT", "-m", "iprange", "--dst-range", "8.8.4.10-8.8.5.3", "-j", "REJECT"),
    ("-A", "OUTPUT", "-d", "93.184.216.34/32", "-m", "comment", "--comment", "secret words", "-j", "ACCEPT"),
    ("-t", "nat", "-A", "OUTPUT", "-d", "1.1.1.1/32", "-p", "tcp", "-j", "DNAT", "--to-destination", "93.184.1.1:443"),
]


LINKS = [
    "link add eth0 type veth peer name eth1",
    "link set eth0 up",
    "link set eth1 up",
    "addr add 5.6.7.8/24 dev eth0",
    "route add 93.184.0.0/16 via 5.6.7.9",
    "route add default via 5.6.7.1",
]


def numbers(chance: random.Random, version: int) -> Any:
    near = [int(ip_address(each)) for each in ("9.255.255.255", "8.8.4.9", "8.8.5.3", "172.32.0.1", "223.1.2.3")]
    if version == 4:
        return IPv4Address(chance.choice([chance.getrandbits(32), *near]))
    return IPv6Address(chance.choice([chance.getrandbits(128), 0x2606_4700 << 96 | chance.getrandbits(96)]))


def common(one: Any, other: Any) -> int:
    """In how many first bits two addresses agree."""
    return int(one.max_prefixlen - (int(one) ^ int(other)).bit_length())


@pytest.mark.parametrize("version", [4, 6])
def test_addresses_agree_in_as_many_bits_as_before(version: int) -> None:
    chance, pseudonyms = random.Random(5), Pseudonyms(SECRET, [RANGE])
    changed = 0
    for _ in range(500):
        one, other = numbers(chance, version), numbers(chance, version)
        there, also = pseudonyms.address(one), pseudonyms.address(other)
        assert common(there, also) == common(one, other)
        assert there.is_global == one.is_global
        changed += there != one
        network = ip_network(f"{one}/{chance.randint(0, one.max_prefixlen)}", strict=False)
        assert there in pseudonyms.network(network)
    assert changed > 50


@pytest.mark.parametrize(
    "kept", ["10.1.2.3", "127.0.0.6", "169.254.169.254", "192.168.0.1", "224.0.0.1", "::6", "fe80::1"]
)
def test_addresses_that_say_nothing_of_anybody_stay(kept: str) -> None:
    assert str(Pseudonyms(SECRET).address(ip_address(kept))) == kept


def test_a_range_stays_a_range() -> None:
    assert ranges_in("-m iprange --dst-range 8.8.4.10-8.8.5.3 --to 1-2") == [RANGE]
    pseudonyms = Pseudonyms(SECRET, [RANGE])
    first = pseudonyms.address(RANGE[0])

    assert first != RANGE[0]
    for number in (int(RANGE[0]), int(RANGE[0]) + 100, int(RANGE[1])):
        assert int(pseudonyms.address(IPv4Address(number))) - int(first) == number - int(RANGE[0])


def test_only_addresses_of_a_text_are_replaced() -> None:
    text = "-m comment v1.8.9 02:42:ac:11:00:02 80:443 1.2.3.4.5 x1.2.3.4 ::/0 0.0.0.0/0"

    assert Pseudonyms(SECRET).text(text) == text
    assert Pseudonyms(SECRET).text("to:1.2.3.4:80") != "to:1.2.3.4:80"


def test_what_rules_do_stays_and_names_go(real_kernel: None) -> None:
    with Namespace.create("secret") as namespace:
        for command in LINKS:
            namespace.run("ip", *command.split())
        namespace.run("nft", WILD)
        for rule in RULES:
            namespace.run("iptables-nft", *rule)
        live = namespace.call(lambda: observe(HERE))
    said = Pod(
        "annotations in the proxy's /etc/istio/pod",
        "secret/secret-7f9c",
        {asked.EXCLUDE_RANGES: "93.184.216.0/24, 10.0.0.0/8", asked.EXCLUDE_INTERFACES: "lo,secret0"},
        {"ISTIO_META_DNS_CAPTURE": "true", "ISTIO_OUTBOUND_OWNER_GROUPS": "secret,1000"},
    )
    live = live.replace(said=(said,))
    known = Process(7, "secret-program", 1, 1), Process(8, "envoy", 1337, 1337)
    live = live.replace(label="netns secret", target=("--netns", "secret"), processes=known)
    files = redacted(files_of(without_comments(live), TAKEN), SECRET, addresses=True)
    again = snapshot_of(files, "pod.tar")

    whole = b"".join(files.values())
    for gone in (b"secret", b"93.184.216", b"8.8.8.8", b"1.2.3.0", b"5.6.7.8", b"2606:4700"):
        assert gone not in whole
    assert [each.name for each in again.processes] == ["process-1", "envoy"]
    assert again.taken is not None and again.taken.is_redacted and again.target == ("--netns", "pod-1")
    [told] = again.said
    assert told.name == "pod-2" and told.variables["ISTIO_META_DNS_CAPTURE"] == "true"
    assert told.variables["ISTIO_OUTBOUND_OWNER_GROUPS"] == "word-2,1000"
    assert told.annotations[asked.EXCLUDE_INTERFACES] == "lo,word-1"
    assert told.annotations[asked.EXCLUDE_RANGES].endswith(".0/24,10.0.0.0/8")
    assert_same_fates(live, again)


ASKED = (
    "1.2.3.4 1.2.4.4 9.9.9.6 9.9.9.7 93.184.216.34 93.184.1.1 8.8.4.10 8.8.4.9 8.8.5.3 1.1.1.1 8.8.8.8 10.1.1.1".split()
)


def assert_same_fates(one: Snapshot, other: Snapshot) -> None:
    pseudonyms = Pseudonyms(SECRET, [RANGE, (ip_address("9.9.9.1"), ip_address("9.9.9.6"))])
    before, after = Tracer(one.netfilter, one.host), Tracer(other.netfilter, other.host)
    fates = set()
    source = ip_address("5.6.7.8")
    for text in ASKED:
        packet = Packet(Direction.OUTBOUND, 6, source, ip_address(text), 40000, 80)
        told = packet.replace(source=pseudonyms.address(source), destination=pseudonyms.address(packet.destination))
        fate, also = before.trace(packet).outcome, after.trace(told).outcome
        assert (fate.kind, fate.port) == (also.kind, also.port), text
        fates.add(fate.kind)
    assert len(fates) > 1


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (("-d", "93.0.216.0/255.0.255.0"), "a rule looks at bits of addresses"),
        (("-m", "u32", "--u32", "12=0x08080808"), "'-m u32' looks at parts of addresses"),
    ],
)
def test_addresses_are_not_half_replaced(real_kernel: None, rule: tuple[str, ...], said: str) -> None:
    with Namespace.create("bits") as namespace:
        namespace.run("iptables-nft", "-A", "OUTPUT", *rule, "-j", "DROP")
        live = namespace.call(lambda: observe(HERE, ()))
    files = files_of(without_comments(live), TAKEN)

    with pytest.raises(InputError, match=said) as caught:
        redacted(files, SECRET, addresses=True)
    assert caught.value.fix == "keep the addresses as they are, with --keep-addresses"
    assert snapshot_of(redacted(files, SECRET, addresses=False), "pod.tar").netfilter.tables == live.netfilter.tables


REPLACED = """
Process.name Snapshot.label Snapshot.target Taken.host Element.extensions Element.parts Pod.name Pod.annotations
Pod.variables
"""
KEPT = """
Host.accept_local Host.forwards_from Host.reverse_path_filter Host.route_localnet Host.src_valid_mark Link.kind
Link.name Route.device RoutingRule.in_interface RoutingRule.out_interface Interface.name Listener.protocol
IpSet.name IpSet.options IpSet.type Known.devices Known.dormant Known.sets Known.told Snapshot.programs
Snapshot.sysctls Taken.date Taken.kernel Taken.version Taken.path Told.connection Unread.file Unread.reason
Pod.source Pod.labels Pod.command Pod.arguments Pod.initial Pod.notes
"""
"""Names that rules and findings depend on, and what is of no pod; docs/tickets.md tells of them."""


def texts_of(cls: type[Value], left_out: frozenset[str] = frozenset()) -> set[str]:
    """The fields of a value, and of the values in it, that hold texts."""

    def within(hint: Any, name: str) -> set[str]:
        found = {name} if hint is str else set()
        if isinstance(hint, type) and issubclass(hint, Value):
            found |= texts_of(hint)
        return found.union(*[within(each, name) for each in get_args(hint)])

    fields = {field: hint for field, hint in hints(cls).items() if field not in left_out}
    return {name for field, hint in fields.items() for name in within(hint, f"{cls.__name__}.{field}")}


def test_of_every_text_of_a_snapshot_it_is_decided_whether_it_is_replaced() -> None:
    found = texts_of(Snapshot, MADE_AGAIN) | texts_of(Taken) | texts_of(Known, frozenset(["extensions"]))

    assert found == {*REPLACED.split(), *KEPT.split()}
