"""What the map says of known rule sets: classes, their regions and examples, and how two rule sets differ."""

from __future__ import annotations

import time
from ipaddress import ip_address
from random import Random
from trace.walking import host

import pytest

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.save import parse_save
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.host import Host
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.rules import Store, Test
from istio_init.netfilter.stages import Netfilter
from istio_init.space.differences import differences
from istio_init.space.map import classes
from istio_init.space.traffic import TrafficClass
from istio_init.space.ways import RuleDecider
from istio_init.trace.result import Kind
from istio_init.trace.tracer import Tracer

SIDECAR = """
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:ISTIO_INBOUND -
:ISTIO_IN_REDIRECT -
:ISTIO_OUTPUT -
:ISTIO_REDIRECT -
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""


def netfilter(text: str) -> Netfilter:
    return Netfilter(lower(parse_save(text, Family.IPV4).rules, Store.NFT))


def found(text: str, direction: Direction) -> list[TrafficClass]:
    return list(classes(netfilter(text), Host(), Family.IPV4, direction).classes)


def said(each: TrafficClass) -> tuple[str, int | None, str | None]:
    decider = each.decider
    where = None
    if isinstance(decider, RuleDecider):
        where = f"{decider.rule.origin.chain} {decider.first}-{decider.last}"
    return each.outcome.kind.value, each.outcome.port, where


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        (
            Direction.INBOUND,
            {
                ("direct", None, None),
                ("direct", None, "ISTIO_INBOUND 1-2"),
                ("redirect", 15006, "ISTIO_IN_REDIRECT 1-1"),
            },
        ),
        (
            Direction.OUTBOUND,
            {
                ("direct", None, None),
                ("direct", None, "ISTIO_OUTPUT 1-1"),
                ("direct", None, "ISTIO_OUTPUT 2-2"),
                ("redirect", 15001, "ISTIO_REDIRECT 1-1"),
            },
        ),
    ],
)
def test_a_sidecar_has_these_classes(direction: Direction, expected: set[object]) -> None:
    assert {said(each) for each in found(SIDECAR, direction)} == expected


def test_a_class_has_regions_of_tests_and_an_ordinary_example() -> None:
    [direct] = [each for each in found(SIDECAR, Direction.INBOUND) if said(each)[2] == "ISTIO_INBOUND 1-2"]
    assert direct.regions.first(5) == [
        (Test(Field.PROTOCOL, ((6, 6),)), Test(Field.DPORT, ((15008, 15008), (15090, 15090))))
    ]
    assert len(direct.regions) == 1
    assert (direct.example.protocol, direct.example.destination_port, direct.example.interface) == (6, 15008, "eth0")


def test_what_cannot_be_told_is_one_class_where_it_ends_differently_and_none_where_it_does_not() -> None:
    text = "*filter\n:INPUT ACCEPT\n-A INPUT -p tcp -m limit --limit 1/sec -j {}\n{}COMMIT\n"
    [one] = found(text.format("ACCEPT", ""), Direction.INBOUND)
    assert one.outcome.kind is Kind.DIRECT
    kinds = {each.outcome.kind: each for each in found(text.format("DROP", ""), Direction.INBOUND)}
    assert set(kinds) == {Kind.DIRECT, Kind.UNKNOWN}
    assert "limit" in kinds[Kind.UNKNOWN].causes[0].words
    assert said(kinds[Kind.UNKNOWN]) == ("unknown", None, "INPUT 1-1")


def test_two_rule_sets_differ_where_one_packet_shows_it() -> None:
    other = SIDECAR.replace("--dport 15090", "--dport 15091")
    differing = differences((netfilter(SIDECAR), Host()), (netfilter(other), Host()), Family.IPV4, Direction.INBOUND)
    shown = {(each.before.outcome.kind, each.after.outcome.kind, each.witness.destination_port) for each in differing}
    assert shown == {(Kind.DIRECT, Kind.REDIRECT, 15090), (Kind.REDIRECT, Kind.DIRECT, 15091)}
    assert not differences((netfilter(SIDECAR), Host()), (netfilter(SIDECAR), Host()), Family.IPV4, Direction.INBOUND)


def test_marks_alone_are_a_difference_but_for_packets_that_have_them_already() -> None:
    marking = "-A OUTPUT -j MARK --set-mark 7\n"
    one, other = [netfilter(f"*mangle\n:OUTPUT ACCEPT\n{rule}COMMIT\n") for rule in ("", marking)]
    found = differences((one, Host()), (other, Host()), Family.IPV4, Direction.OUTBOUND)[-1]
    assert found.before.outcome == found.after.outcome
    assert (found.before.mark, found.after.mark) == ((), ((0xFFFFFFFF, 7),))
    marks = [test for region in found.regions for test in region if isinstance(test, Test) and test.field is Field.MARK]
    assert marks and not any(low <= 7 <= high for test in marks for low, high in test.within)


def firewall(count: int, seed: int) -> str:
    """Rules of random addresses and ports, of sources and destinations."""
    random = Random(seed)
    rules = []
    for _ in range(count):
        side, network = random.choice("sd"), f"10.{random.randrange(256)}.{random.randrange(256)}.0/24"
        ports = ",".join(str(random.randrange(1, 65536)) for _ in range(3))
        rules.append(f"-A INPUT -{side} {network} -p tcp -m multiport --dports {ports} -j DROP\n")
    return "*filter\n:INPUT ACCEPT\n{}COMMIT\n".format("".join(rules))


def services(count: int) -> str:
    """Services as kube-proxy writes them, of two endpoints each."""
    random = Random(count)
    chains, calls, rules = [], [], []
    for number in range(count):
        address, name = f"10.96.{number >> 8}.{number & 255}", f"KUBE-SVC-{number}"
        chains.append(name)
        calls.append(f"-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport 80 -j {name}")
        for place, chance in enumerate(("-m statistic --mode random --probability 0.5 ", "")):
            endpoint, pod = f"KUBE-SEP-{number}-{place}", f"10.244.{random.randrange(256)}.{random.randrange(256)}"
            chains.append(endpoint)
            rules += [f"-A {name} {chance}-j {endpoint}", f"-A {endpoint} -s {pod}/32 -j KUBE-MARK-MASQ"]
            rules.append(f"-A {endpoint} -p tcp -m tcp -j DNAT --to-destination {pod}:8080")
    head = "*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:KUBE-SERVICES -\n:KUBE-MARK-MASQ -\n"
    head += "".join(f":{chain} -\n" for chain in chains)
    base = ["-A PREROUTING -j KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES"]
    base.append("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000")
    return head + "\n".join([*base, *calls, *rules]) + "\nCOMMIT\n"


def denials(count: int) -> str:
    """Single addresses, denied."""
    random = Random(count)
    rules = [
        f"-A INPUT -s {'.'.join(str(random.randrange(1, 255)) for _ in range(4))}/32 -j DROP\n" for _ in range(count)
    ]
    return "*filter\n:INPUT ACCEPT\n{}COMMIT\n".format("".join(rules))


# Several times what it takes, as other work may be going on.
@pytest.mark.parametrize(
    ("text", "most"),
    [(firewall(1000, 1), 2), (denials(5000), 2), (services(300), 4)],
    ids=["firewall", "denials", "kube"],
)
def test_thousands_of_rules_take_no_longer_than_this(text: str, most: float) -> None:
    rules = netfilter(text)
    start = time.process_time()
    assert len(classes(rules, Host(), Family.IPV4, Direction.INBOUND).classes) > 1
    assert time.process_time() - start < most


def test_two_firewalls_of_a_thousand_rules_are_soon_compared() -> None:
    one, other = netfilter(firewall(1000, 1)), netfilter(firewall(1000, 2))
    start = time.process_time()
    found = differences((one, Host()), (other, Host()), Family.IPV4, Direction.INBOUND)
    assert {(each.before.outcome.kind, each.after.outcome.kind) for each in found} == {
        (Kind.DIRECT, Kind.DROP),
        (Kind.DROP, Kind.DIRECT),
    }
    assert time.process_time() - start < 4


HOST = host()


@pytest.mark.parametrize("device", ["eth0", ""], ids=["at one interface", "at any"])
def test_what_meets_chains_that_nobody_follows_is_in_no_other_class(device: str) -> None:
    netfilter = Netfilter([], ingress={device: "chain netdev early c"})
    found = classes(netfilter, HOST, Family.IPV4, Direction.INBOUND)
    met = found.class_of(Packet(Direction.INBOUND, 6, ip_address("10.1.0.1"), ip_address("10.1.2.3"), 21000, 80))
    assert met.outcome.kind is Kind.UNKNOWN
    assert [cause.words.partition(" at ")[0] for cause in met.causes] == ["what chain netdev early c does"]


def test_an_address_of_ours_is_believed_by_the_interface_that_has_it() -> None:
    on = HOST.replace(accept_local={"eth0": True, "net1": True}, reverse_path_filter={"eth0": 1, "net1": 1})
    tracer, found = Tracer(Netfilter([]), on), classes(Netfilter([]), on, Family.IPV4, Direction.INBOUND)
    for source, kind in (("10.1.2.4", Kind.DIRECT), ("10.9.0.3", Kind.DROP)):
        packet = Packet(Direction.INBOUND, 6, ip_address(source), ip_address("10.1.2.3"), 21000, 80)
        assert found.class_of(packet).outcome.kind is tracer.trace(packet).delivered.kind is kind
