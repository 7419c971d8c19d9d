"""Where rules of ours go in a chain that holds rules of others too.

A chain is written as one line of letters: small ones are rules of ours (an underlined one, ``_a``, stands first),
capitals are those of others.
"""

from __future__ import annotations

import pytest

from istio_init.dialects.iptables.matches import Interface
from istio_init.dialects.iptables.rules import Chain, Entry, Rule, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import RETURN, Jump
from istio_init.dialects.role import Role
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff
from istio_init.plan.merge import merge
from istio_init.plan.model import Append, Delete, Insert, Kind, Step


def rule(letter: str) -> Rule:
    target = Jump("ISTIO_X") if letter.islower() else RETURN
    return Rule(in_interface=Interface(letter), target=target)


def entries(letters: str) -> tuple[Entry, ...]:
    found = []
    first = False
    for letter in letters.replace(" ", ""):
        if letter == "_":
            first = True
            continue
        role = Role.INBOUND_JUMP if letter.islower() else None
        found.append(Entry(rule(letter), role, first=first))
        first = False
    return tuple(found)


def live(letters: str) -> Chain:
    return Chain("PREROUTING", entries(letters), "ACCEPT")


def letters(found: tuple[Entry, ...]) -> str:
    return "".join(entry.rule.in_interface.name for entry in found if entry.rule.in_interface)


MERGED = {
    "an empty chain": ("", "abc", "abc"),
    "nothing wanted in an empty chain": ("", "", ""),
    "others alone: ours go to the end": ("XY", "ab", "XYab"),
    "others alone: what stands first goes to the top": ("XY", "_a b", "aXYb"),
    "others alone: several that stand first keep their order": ("XY", "_a_b c", "abXYc"),
    "nothing wanted: others stay": ("aXbYc", "", "XY"),
    "all there: nothing moves": ("XaYbZ", "ab", "XaYbZ"),
    "one missing at the end goes beside its neighbour": ("aXY", "ab", "abXY"),
    "one missing before its neighbour": ("XbY", "ab", "XabY"),
    "one missing in the middle": ("aXcY", "abc", "abXcY"),
    "one missing that stands first": ("XaY", "_f a", "fXaY"),
    "one missing beside one that stands first": ("XfY", "_f_g a", "XfgYa"),
    "one missing after those that stand first": ("fXY", "_f a", "fXYa"),
    "one too many goes": ("XabY", "b", "XbY"),
    "a duplicate goes": ("aXa", "a", "aX"),
    "one wanted twice is there twice": ("aX", "aa", "aaX"),
    "the wrong order: one stays, one moves": ("bXa", "ab", "Xab"),
    "everything else: replaced in place, after others": ("aXb", "cd", "Xcd"),
    "others between ours stay between them": ("aXbYc", "abc", "aXbYc"),
}


@pytest.mark.parametrize(("before", "wanted", "expected"), MERGED.values(), ids=MERGED)
def test_merging(before: str, wanted: str, expected: str) -> None:
    merged = merge(live(before), entries(wanted))

    assert letters(merged) == expected
    assert [letter for letter in expected if letter.islower()] == [letter for letter in wanted if letter.islower()]
    assert [letter for letter in expected if letter.isupper()] == [letter for letter in before if letter.isupper()]


def test_what_stays_is_the_live_entry_itself() -> None:
    chain = live("XaYb")

    merged = merge(chain, entries("ab"))

    assert [id(entry) for entry in merged] == [id(entry) for entry in chain.entries]


def rules(before: str) -> RuleSet:
    return RuleSet(Family.IPV4, {Table.NAT: {"PREROUTING": live(before), "ISTIO_X": Chain("ISTIO_X")}})


def text(letter: str) -> str:
    return f"-i {letter} -j {'ISTIO_X' if letter.islower() else 'RETURN'}"


def add(letter: str) -> Append:
    return Append("PREROUTING", text(letter))


def insert(number: int, letter: str) -> Insert:
    return Insert("PREROUTING", number, text(letter))


def delete(letter: str) -> Delete:
    return Delete("PREROUTING", text(letter))


STEPS: dict[str, tuple[str, str, list[Step]]] = {
    "as wanted": ("XaY", "a", []),
    "in an empty chain": ("", "ab", [add("a"), add("b")]),
    "after others": ("X", "ab", [add("a"), add("b")]),
    "before others": ("X", "_a b", [insert(1, "a"), add("b")]),
    "between others": ("XbY", "ab", [insert(2, "a")]),
    "several in one place": ("XcY", "abc", [insert(2, "a"), insert(3, "b")]),
    "one gone": ("aXb", "b", [delete("a")]),
    "one replaced": ("XaY", "b", [delete("a"), add("b")]),
}


@pytest.mark.parametrize(("before", "wanted", "steps"), STEPS.values(), ids=STEPS)
def test_the_steps_touch_only_what_has_to_change(before: str, wanted: str, steps: list[Step]) -> None:
    goal = {"PREROUTING": Chain("PREROUTING", entries(wanted)), "ISTIO_X": Chain("ISTIO_X")}

    plan = diff(rules(before), RuleSet(Family.IPV4, {Table.NAT: goal}))

    assert [step for edit in plan.edits for step in edit.steps] == steps


CHANGES = {
    "as wanted": ("XaY", "a", {Kind.FOREIGN: "XY", Kind.KEEP: "a"}),
    "one more": ("a", "ab", {Kind.KEEP: "a", Kind.ADD: "b"}),
    "one less": ("ab", "b", {Kind.KEEP: "b", Kind.REMOVE: "a"}),
    "one moved": ("abc", "bca", {Kind.KEEP: "bc", Kind.MOVE: "a"}),
    "one replaced": ("Xa", "b", {Kind.FOREIGN: "X", Kind.REMOVE: "a", Kind.ADD: "b"}),
    "a duplicate": ("aa", "a", {Kind.KEEP: "a", Kind.REMOVE: "a"}),
}


@pytest.mark.parametrize(("before", "wanted", "expected"), CHANGES.values(), ids=CHANGES)
def test_each_rule_is_told_once_with_what_happens_to_it(before: str, wanted: str, expected: dict[Kind, str]) -> None:
    goal = {"PREROUTING": Chain("PREROUTING", entries(wanted)), "ISTIO_X": Chain("ISTIO_X")}

    plan = diff(rules(before), RuleSet(Family.IPV4, {Table.NAT: goal}))

    found: dict[Kind, str] = {}
    for change in plan.changes:
        found[change.kind] = found.get(change.kind, "") + change.text.split()[1]
    assert found == expected


@pytest.mark.parametrize(
    ("before", "wanted", "only_adds"),
    [
        ("", "ab", True),
        ("b", "ab", True),
        ("XbY", "ab", True),
        ("ab", "ab", True),
        ("ba", "ab", False),
        ("c", "ab", False),
        ("aa", "ab", False),
        ("ab", "", False),
        ("XY", "", True),
    ],
)
def test_a_plan_only_adds_where_all_of_ours_is_wanted_and_in_order(before: str, wanted: str, only_adds: bool) -> None:
    goal = {"PREROUTING": Chain("PREROUTING", entries(wanted)), "ISTIO_X": Chain("ISTIO_X")}

    assert diff(rules(before), RuleSet(Family.IPV4, {Table.NAT: goal})).only_adds is only_adds


def test_a_chain_that_is_not_wanted_is_more_than_adding() -> None:
    assert not diff(rules(""), RuleSet(Family.IPV4)).only_adds
