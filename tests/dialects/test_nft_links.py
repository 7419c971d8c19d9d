"""What rules of nft ask of interfaces, told by the interfaces that there are."""

from __future__ import annotations

import pytest

from istio_init.dialects.nft.lower import lower
from istio_init.dialects.nft.ruleset import parse
from istio_init.netfilter.fields import Field
from istio_init.netfilter.host import Link
from istio_init.netfilter.names import number_of
from istio_init.netfilter.rules import Never, Statement, Test, Undecided

from .evaluating import holds
from .nft_rules import Json, chain, document, in_chain, match, meta, verdict

LINKS = (
    Link("lo", 1, type=772, group=0, kind=""),
    Link("eth0", 2, type=1, group=0, kind="veth"),
    Link("wg0", 3, type=65534, group=7, kind="wireguard"),
)


def first(left: Json, right: Json, operator: str, links: tuple[Link, ...] = LINKS) -> Statement:
    text = document(chain(), in_chain(match(left, right, operator), verdict("drop")))
    [found] = lower(parse(text), {link.index: link for link in links})
    return found.chains["c"].rules[0].body[0]


def test_interfaces_by_index_have_the_names_that_are_known() -> None:
    assert first(meta("iif"), "2", "==") == Test(Field.IN_INTERFACE, ((number_of("eth0"),) * 2,))


@pytest.mark.parametrize(
    ("key", "right", "operator", "matching"),
    [
        ("type", "ether", "==", {"eth0"}),
        ("type", "loopback", "==", {"lo"}),
        ("type", "ether", "!=", {"lo", "wg0"}),
        ("group", "default", "==", {"lo", "eth0"}),
        ("group", 7, "==", {"wg0"}),
        ("group", "default", "!=", {"wg0"}),
        ("kind", "veth", "==", {"eth0"}),
        # What nobody made has no kind, and leaves the rule.
        ("kind", "veth", "!=", {"wg0"}),
    ],
)
@pytest.mark.parametrize("way", ["i", "o"])
def test_types_groups_and_kinds_are_those_of_the_interfaces(
    way: str, key: str, right: Json, operator: str, matching: set[str]
) -> None:
    field = Field.IN_INTERFACE if way == "i" else Field.OUT_INTERFACE
    test = first(meta(f"{way}if{key}"), right, operator)
    assert {link.name for link in LINKS if holds((test,), {field: number_of(link.name)})} == matching


def test_a_kind_that_no_interface_has_never_matches() -> None:
    assert first(meta("iifkind"), "bridge", "==") == Never()


@pytest.mark.parametrize(
    ("right", "links"),
    [("ether", ()), ("ether", (*LINKS, Link("eth1", 4))), ({"set": ["ether", "loopback"]}, LINKS), ("token", LINKS)],
    ids=["no interfaces", "one that does not tell", "several types", "a type without a number"],
)
def test_what_is_not_known_is_undecided(right: Json, links: tuple[Link, ...]) -> None:
    assert isinstance(first(meta("iiftype"), right, "==", links), Undecided)
