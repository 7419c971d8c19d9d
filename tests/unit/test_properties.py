"""Properties that hold for every rule, every configuration and every namespace."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.dialects.iptables.matches import OpaqueMatch
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import Entry, Rule, RuleSet, is_builtin
from istio_init.dialects.iptables.save import holds_exactly, parse_save, render_save, with_texts
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import RETURN
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours, recognise
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff, ours_alone
from istio_init.plan.model import Append, Delete, FamilyPlan, Insert
from istio_init.plan.sequence import common_pairs, is_subsequence
from istio_init.stores.fake import Fake

from .strategies import Planted, configs, opaque_words, planted, rule_set, rules, surroundings, texts_of

families = st.sampled_from(Family)


def wanted_rules(config: Config, around: Surroundings, family: Family) -> RuleSet:
    """What a configuration wants in a family; nothing where the family is not captured."""
    return sidecar.rules(config, around).get(family, RuleSet(family))


@st.composite
def wanted(draw: st.DrawFn) -> RuleSet:
    """What some configuration wants."""
    config, around = draw(configs), draw(surroundings)
    return wanted_rules(config, around, draw(st.sampled_from(around.families)))


@st.composite
def journeys(draw: st.DrawFn) -> tuple[Planted, RuleSet]:
    """A live namespace, and what is wanted there instead; nothing is wanted by a clean-up."""
    goal = draw(wanted())
    start = draw(st.none() | wanted())
    live = draw(planted(goal.family, start))
    return live, draw(st.sampled_from([goal, goal, RuleSet(goal.family)]))


def plan(live: RuleSet, goal: RuleSet) -> FamilyPlan:
    """The plan for a rule set as it was read."""
    return diff(recognise(live), goal)


def after(live: RuleSet, goal: RuleSet) -> RuleSet:
    """What a namespace holds once the plan is carried out."""
    fake = Fake([live])
    fake.commit(live.family, plan(live, goal).edits)
    return fake.read(live.family)


def split(found: RuleSet) -> tuple[dict[Table, dict[str, list[str]]], dict[Table, dict[str, list[str]]]]:
    """The texts of our rules and of those of others, by table and chain."""
    ours = texts_of(ours_alone(recognise(found)))
    others: dict[Table, dict[str, list[str]]] = {}
    for table, chain, _, entry in recognise(found).entries():
        if not is_ours(chain.name, entry):
            others.setdefault(table, {}).setdefault(chain.name, []).append(str(entry.text))
    return ours, others


class TestText:
    """Rules and documents survive being written and read."""

    @given(rules())
    def test_every_rule_is_read_back_from_its_text(self, rule: Rule) -> None:
        assert parse_rule(rule_text(rule)) == rule

    @given(rules())
    def test_the_text_of_a_rule_is_one_line(self, rule: Rule) -> None:
        assert "\n" not in rule_text(rule)

    @given(opaque_words(6))
    def test_words_that_are_not_known_come_back_as_they_were(self, words: tuple[str, ...]) -> None:
        text = " ".join(["-m", "unheard", *words, "-j", "RETURN"])

        rule = parse_rule(text)

        assert rule == Rule(matches=(OpaqueMatch("unheard", words),), target=RETURN)
        assert rule_text(rule) == text

    @given(st.text())
    def test_any_text_is_read_without_failing_and_its_meaning_is_stable(self, text: str) -> None:
        once = rule_text(parse_rule(text))

        assert rule_text(parse_rule(once)) == once

    @given(wanted())
    def test_a_whole_rule_set_is_read_back_from_its_document(self, goal: RuleSet) -> None:
        read = parse_save(render_save(goal), goal.family).rules

        assert [(table, chain.name, chain.rules) for table, chain in read.chains()] == [
            (table, chain.name, chain.rules) for table, chain in goal.chains()
        ]


class TestRoles:
    """The catalogue that builds rules is the one that recognises them."""

    @given(configs, surroundings)
    def test_live_rules_get_the_roles_that_the_policy_gave_them(self, config: Config, around: Surroundings) -> None:
        for built in sidecar.rules(config, around).values():
            live = parse_save(render_save(built), built.family).rules

            assert [entry.role for *_, entry in recognise(live).entries()] == [
                entry.role for *_, entry in built.entries()
            ]

    @given(wanted())
    def test_every_rule_that_the_policy_builds_is_ours(self, goal: RuleSet) -> None:
        assert texts_of(ours_alone(recognise(with_texts(goal)))) == texts_of(goal)

    @given(journeys())
    def test_rules_of_others_are_never_taken_for_ours(self, journey: tuple[Planted, RuleSet]) -> None:
        live, _ = journey

        assert split(live.live)[1] == live.foreign


class TestPlan:
    """A plan leads from any live state to exactly the wanted one, and moves nothing else."""

    @given(wanted())
    def test_nothing_is_planned_where_all_is_as_wanted(self, goal: RuleSet) -> None:
        found = plan(parse_save(render_save(goal), goal.family).rules, goal)

        assert found.edits == ()
        assert found.only_adds

    @given(journeys())
    def test_a_plan_leads_to_the_wanted_rules_with_those_of_others_in_their_order(
        self, journey: tuple[Planted, RuleSet]
    ) -> None:
        start, goal = journey

        ours, others = split(after(start.live, goal))

        assert others == start.foreign
        assert ours == texts_of(goal)

    def test_one_plan_is_enough_where_a_rule_of_ours_stands_twice(self) -> None:
        live = rule_set(
            Family.IPV4,
            {
                Table.NAT: {
                    "PREROUTING": [
                        "-i eth+ -j RETURN",
                        "-i net1 -j RETURN",
                        "-i eth+ -j RETURN",
                        "-p tcp -j ISTIO_INBOUND",
                    ],
                    "OUTPUT": ["-o eth+ -j RETURN", "-o net1 -j RETURN"],
                    "ISTIO_INBOUND": [],
                }
            },
        )
        goal = wanted_rules(Config(exclude_interfaces=("eth+", "net1"), inbound_ports=ALL), Surroundings(), Family.IPV4)
        fake = Fake([live])

        fake.commit(Family.IPV4, plan(live, goal).edits)

        assert texts_of(fake.read(Family.IPV4)) == texts_of(goal)

    @given(journeys())
    def test_a_second_run_finds_nothing_to_do(self, journey: tuple[Planted, RuleSet]) -> None:
        start, goal = journey

        assert plan(after(start.live, goal), goal).edits == ()

    @given(journeys())
    def test_cleaning_leaves_exactly_what_others_put_there(self, journey: tuple[Planted, RuleSet]) -> None:
        start, _ = journey

        assert texts_of(after(start.live, RuleSet(start.live.family))) == start.foreign

    @given(configs, configs, surroundings, families)
    def test_switching_is_the_same_as_programming_afresh(
        self, old: Config, new: Config, around: Surroundings, family: Family
    ) -> None:
        nothing = RuleSet(family)
        first = after(nothing, wanted_rules(old, around, family))
        goal = wanted_rules(new, around, family)

        assert texts_of(after(first, goal)) == texts_of(after(nothing, goal)) == texts_of(goal)

    @given(journeys(), st.data())
    def test_a_cut_at_any_table_is_completed_by_the_next_run(
        self, journey: tuple[Planted, RuleSet], data: st.DataObject
    ) -> None:
        start, goal = journey
        edits = plan(start.live, goal).edits
        fake = Fake([start.live])
        fake.commit(goal.family, edits[: data.draw(st.integers(0, len(edits)), label="committed tables")])

        ours, others = split(after(fake.read(goal.family), goal))

        assert (ours, others) == (texts_of(goal), start.foreign)

    @given(journeys(), st.data())
    def test_what_was_there_can_be_put_back_after_any_table(
        self, journey: tuple[Planted, RuleSet], data: st.DataObject
    ) -> None:
        start, goal = journey
        edits = plan(start.live, goal).edits
        fake = Fake([start.live])
        fake.commit(goal.family, edits[: data.draw(st.integers(0, len(edits)), label="committed tables")])

        assert split(after(fake.read(goal.family), ours_alone(recognise(start.live)))) == split(start.live)

    @given(journeys())
    def test_only_chains_of_istio_are_emptied_or_removed(self, journey: tuple[Planted, RuleSet]) -> None:
        start, goal = journey
        for edit in plan(start.live, goal).edits:
            for step in edit.steps:
                assert is_istio_chain(step.chain) or isinstance(step, Append | Insert | Delete)

    @given(wanted(), st.data())
    def test_a_part_of_the_wanted_rules_is_completed_by_adding_alone(self, goal: RuleSet, data: st.DataObject) -> None:
        texts = texts_of(goal)
        kept: dict[Table, dict[str, list[str]]] = {}
        for table, chains in texts.items():
            for name, lines in chains.items():
                mask = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
                chosen = [line for line, keep in zip(lines, mask, strict=True) if keep]
                kept.setdefault(table, {})[name] = chosen
        live = RuleSet(goal.family, {table: {} for table in kept})
        fake = Fake([live])
        fake.commit(goal.family, diff(live, _only(goal, kept)).edits)

        assert plan(fake.read(goal.family), goal).only_adds

    @given(wanted())
    def test_the_quick_comparison_agrees_with_the_plan(self, goal: RuleSet) -> None:
        live = after(RuleSet(goal.family), goal)

        assert holds_exactly(live, with_texts(goal))
        assert not holds_exactly(live, None)
        assert holds_exactly(after(live, RuleSet(goal.family)), None)


def _only(goal: RuleSet, kept: dict[Table, dict[str, list[str]]]) -> RuleSet:
    """The wanted rules without those whose text is not among the kept."""
    tables = {}
    for table, chains in goal.tables.items():
        tables[table] = {
            name: chain.replace(entries=tuple([Entry(parse_rule(line)) for line in kept[table][name]]))
            for name, chain in chains.items()
            if kept[table][name] or not is_builtin(table, name)
        }
    return RuleSet(goal.family, tables)


class TestSequence:
    """The alignment that decides which rules may stay."""

    letters = st.lists(st.sampled_from("abc"), max_size=12)

    @given(letters, letters)
    def test_common_pairs_are_a_longest_common_subsequence(self, old: list[str], new: list[str]) -> None:
        pairs = common_pairs(old, new)

        assert all(old[left] == new[right] for left, right in pairs)
        assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
        assert len(pairs) == _longest(tuple(old), tuple(new))

    @given(letters, st.data())
    def test_a_list_with_items_left_out_is_a_subsequence(self, whole: list[str], data: st.DataObject) -> None:
        mask = data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
        part = [item for item, keep in zip(whole, mask, strict=True) if keep]

        assert is_subsequence(part, whole)
        assert not is_subsequence([*part, "z"], whole)


def _longest(old: tuple[str, ...], new: tuple[str, ...]) -> int:
    row = [0] * (len(new) + 1)
    for item in old:
        before = row
        row = [0]
        for index, other in enumerate(new):
            row.append(before[index] + 1 if item == other else max(row[index], before[index + 1]))
    return row[-1]
