"""Which probes a configuration gets: only such as can be sent, with nothing in anybody's way."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.dialects.iptables.matches import IPNetwork
from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Direction
from istio_init.prove.ground import BLOCKS, free_link, free_name
from istio_init.prove.model import Facts, Plan
from istio_init.prove.probes import plan, spots
from istio_init.prove.subject import subject_of
from istio_init.system.spots import IPAddress, Side, Spot
from istio_init.trace.result import Kind

from .strategies import configs, surroundings

ADDRESSES: tuple[IPAddress, ...] = (IPv4Address("10.1.2.3"), IPv6Address("fd00:1::3"))
EVERYTHING = Config(inbound_ports=ALL, outbound_ranges=ALL)
SUBJECT = subject_of(EVERYTHING, Surroundings())
ROOT = frozenset(["SETUID", "SETGID", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"])


def facts(**more: object) -> Facts:
    """A namespace with two addresses, seen by root."""
    known: dict[str, object] = {
        "addresses": ADDRESSES,
        "interfaces": ("lo", "eth0"),
        "used": frozenset[int](),
        "peers": frozenset[IPAddress](),
        "taken": (IPv4Network("10.1.2.0/24"), IPv6Network("fd00:1::/64")),
        "identity": (0, 0),
        "may": ROOT,
        "reaches": lambda address: True,
        "has_user": lambda number: True,
        "has_group": lambda number: True,
    }
    return Facts(**{**known, **more})  # type: ignore[arg-type]


def planned(config: Config, around: Surroundings, known: Facts) -> Plan:
    """What is probed of a sidecar's configuration."""
    return plan(subject_of(config, around), around, known)


@given(configs, surroundings)
def test_only_what_listeners_of_ours_can_tell_is_probed(config: Config, around: Surroundings) -> None:
    chosen = planned(config, around, facts())

    for probe in chosen.probes:
        assert probe.expected.kind in (Kind.REDIRECT, Kind.TPROXY, Kind.DIRECT)
        assert probe.is_captured or probe.waits is not None
        if Side.NEIGHBOUR in (probe.begins, probe.waits):
            assert chosen.ground is not None
    places = [(each.side, each.protocol, each.family, each.port, each.address) for each in _spots(config, around)]
    assert len(places) == len(set(places))


def _spots(config: Config, around: Surroundings) -> list[Spot]:
    return list(spots(planned(config, around, facts()).probes, subject_of(config, around), facts()))


@given(configs, surroundings, st.sampled_from([(1337, 1337), (1000, 1000), (0, 0)]))
def test_without_privilege_everything_is_sent_as_we_are_and_from_inside(
    config: Config, around: Surroundings, identity: tuple[int, int]
) -> None:
    alone = facts(may=frozenset(), identity=identity, no_neighbour="a second namespace takes CAP_SYS_ADMIN")

    chosen = planned(config, around, alone)

    assert chosen.ground is None
    for probe in chosen.probes:
        assert probe.packet.direction is Direction.OUTBOUND
        assert (probe.packet.uid, probe.packet.gid) == identity


@given(configs, surroundings)
def test_nothing_that_somebody_uses_is_led_away(config: Config, around: Surroundings) -> None:
    here = facts(reaches=lambda address: address.version == 4)

    ground = planned(config, around, here).ground

    if ground is not None:
        for address in ground.further:
            assert address.version == 4
            assert address not in {*ADDRESSES, *around.dns_servers}
            assert not address.is_loopback


@pytest.mark.parametrize("family", Family)
@given(st.data())
def test_the_link_has_addresses_that_nobody_has(family: Family, data: st.DataObject) -> None:
    blocks: list[IPNetwork] = [ip_network(text) for text in BLOCKS[family]]
    taken = tuple(data.draw(st.lists(st.sampled_from(blocks), max_size=len(blocks) - 1)))

    link = free_link(family, SUBJECT, facts(taken=taken))

    assert not any(end in network for end in (link.ours, link.theirs) for network in taken)


def test_the_interface_has_a_name_that_no_rule_excepts() -> None:
    excepting = subject_of(EVERYTHING.replace(exclude_interfaces=("istio+", "verify0")), Surroundings())

    assert free_name(SUBJECT, facts()) == "istio-verify0"
    assert free_name(SUBJECT, facts(interfaces=("lo", "istio-verify0"))) == "verify0"
    assert free_name(excepting, facts()) == "probe0"


def test_ids_that_do_not_exist_in_the_user_namespace_are_not_acted_as() -> None:
    few = facts(has_user=lambda number: number in (0, 1001), has_group=lambda number: number in (0, 2999, 1337))

    probes = planned(EVERYTHING, Surroundings(), few).probes

    assert {probe.packet.uid for probe in probes} == {1001, None}
    assert {probe.packet.gid for probe in probes} == {2999, 1337, None}
