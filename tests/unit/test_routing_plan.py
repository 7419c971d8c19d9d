"""Which routing is ours, and what of it has to change."""

from __future__ import annotations

import pytest

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.mesh.policy import ambient, sidecar
from istio_init.mesh.roles.recognise import BOTH_KINDS, MeshKind, recognise
from istio_init.mesh.routing import LiveRouting, MarkRoute, Routing
from istio_init.netfilter.family import Family
from istio_init.plan.make import Live, make_plan
from istio_init.plan.model import BackendPlan, Plan
from istio_init.plan.routing import ours, to_add, to_remove
from istio_init.report.handover import handover
from istio_init.system.routing import exactly

from .strategies import rule_set

V4, V6 = Family.IPV4, Family.IPV6
DEFAULT = MarkRoute(V4, 1337, 133)
DEFAULT_V6 = MarkRoute(V6, 1337, 133)
NOTHING = Routing()


def live(
    *rules: tuple[Family, int, int], tables: tuple[tuple[Family, int], ...] = (), passthrough: bool = False
) -> LiveRouting:
    return LiveRouting(rules, frozenset(tables), passthrough)


def tproxy(mark: int, family: Family = V4) -> RuleSet:
    """The recognised rules of TPROXY capture with a mark."""
    config = Config(mode=InterceptionMode.TPROXY, inbound_ports=ALL, tproxy_mark=mark)
    return recognise(sidecar.rules(config, Surroundings(ipv6=True))[family])


REDIRECT_V6 = recognise(sidecar.rules(Config(), Surroundings(ipv6=True))[V6])
FOREIGN = recognise(rule_set(V6, {Table.MANGLE: {"PREROUTING": ["-j MARK --set-xmark 0x5/0xffffffff"]}}))


class TestOurs:
    """By the mark in live rules, by Istio's own pair, and ``::6`` by what stands beside it."""

    @pytest.mark.parametrize(
        ("found", "rules", "expected"),
        [
            pytest.param(live(), [], NOTHING, id="nothing"),
            pytest.param(live((V4, 1337, 133)), [], Routing((DEFAULT,)), id="istio's pair, without any rule"),
            pytest.param(live((V6, 1337, 133)), [], Routing((DEFAULT_V6,)), id="the same for ipv6"),
            pytest.param(live((V4, 5, 6)), [], NOTHING, id="another pair"),
            pytest.param(live((V4, 5, 133), (V4, 1337, 6)), [], NOTHING, id="half of istio's pair"),
            pytest.param(live((V4, 5, 6)), [tproxy(5)], Routing((MarkRoute(V4, 5, 6),)), id="the mark of our rules"),
            pytest.param(live((V4, 5, 6)), [tproxy(7)], NOTHING, id="not the mark of our rules"),
            pytest.param(
                live((V4, 5, 6), (V4, 1337, 133)),
                [tproxy(5)],
                Routing((MarkRoute(V4, 5, 6), DEFAULT)),
                id="both",
            ),
            pytest.param(live((V4, 1337, 133), (V4, 1337, 133)), [], Routing((DEFAULT,)), id="one rule twice"),
            pytest.param(live((V6, 5, 6)), [FOREIGN], NOTHING, id="a mark that only others set"),
            pytest.param(live(passthrough=True), [], NOTHING, id="::6 alone"),
            pytest.param(live(passthrough=True), [FOREIGN], NOTHING, id="::6 beside rules of others"),
            pytest.param(live(passthrough=True), [REDIRECT_V6], Routing((), True), id="::6 beside ipv6 capture"),
            pytest.param(live(passthrough=True), [tproxy(5, V4)], NOTHING, id="::6 beside ipv4 capture alone"),
            pytest.param(
                live((V6, 1337, 133), passthrough=True),
                [],
                Routing((DEFAULT_V6,), True),
                id="::6 beside such an ip rule",
            ),
            pytest.param(
                live((V4, 1337, 133), passthrough=True), [], Routing((DEFAULT,)), id="::6 beside one of ipv4 alone"
            ),
        ],
    )
    def test_what_is_ours(self, found: LiveRouting, rules: list[RuleSet], expected: Routing) -> None:
        assert ours(found, rules) == expected

    @pytest.mark.parametrize("mark", [1, 1337, 1338, 0xFFFFFFFF])
    def test_every_mark_is_found_in_the_rules_that_use_it(self, mark: int) -> None:
        assert ours(live((V4, mark, 9)), [tproxy(mark)]).mark_routes == (MarkRoute(V4, mark, 9),)


@pytest.mark.parametrize(
    ("found", "wanted", "added", "removed"),
    [
        pytest.param(live(), NOTHING, NOTHING, NOTHING, id="nothing"),
        pytest.param(live(), Routing((DEFAULT,), True), Routing((DEFAULT,), True), NOTHING, id="all missing"),
        pytest.param(
            live((V4, 1337, 133), tables=((V4, 133),), passthrough=True),
            Routing((DEFAULT,), True),
            NOTHING,
            NOTHING,
            id="all there",
        ),
        pytest.param(
            live((V4, 1337, 133)), Routing((DEFAULT,)), Routing((DEFAULT,)), NOTHING, id="the route is missing"
        ),
        pytest.param(
            live(tables=((V4, 133),)), Routing((DEFAULT,)), Routing((DEFAULT,)), NOTHING, id="the rule is missing"
        ),
        pytest.param(
            live((V4, 1337, 133), tables=((V6, 133),)),
            Routing((DEFAULT,)),
            Routing((DEFAULT,)),
            NOTHING,
            id="the route is there in the other family alone",
        ),
        pytest.param(
            live((V4, 1337, 133), (V6, 1337, 133), tables=((V4, 133), (V6, 133))),
            Routing((DEFAULT,)),
            NOTHING,
            Routing((DEFAULT_V6,)),
            id="a family too many",
        ),
        pytest.param(
            live((V4, 1337, 133), (V4, 1337, 133), tables=((V4, 133),)),
            NOTHING,
            NOTHING,
            Routing((DEFAULT,)),
            id="one too many",
        ),
        pytest.param(live((V4, 9, 9), passthrough=True), NOTHING, NOTHING, NOTHING, id="others' routing stays"),
    ],
)
def test_what_changes(found: LiveRouting, wanted: Routing, added: Routing, removed: Routing) -> None:
    assert to_add(found, wanted) == added
    assert to_remove(ours(found, []), wanted) == removed


def test_the_exact_routing_is_what_would_be_read_after_adding_it() -> None:
    wanted = Routing((DEFAULT, DEFAULT_V6), True)
    there = exactly(wanted)

    assert there == live((V4, 1337, 133), (V6, 1337, 133), tables=((V4, 133), (V6, 133)), passthrough=True)
    assert to_add(there, wanted) == NOTHING
    assert exactly(NOTHING) == live()


AMBIENT = MarkRoute(V4, 0x111, 100, 0xFFF, 32764)
ELSEWHERE = AMBIENT.replace(preference=77)
NO_ROUTE = AMBIENT.replace(family=V6, has_route=False)


class TestAmbient:
    """The routing of an ambient pod looks at some bits of the mark, and stands at a place of its own."""

    @pytest.mark.parametrize(
        ("masked", "kinds", "expected"),
        [
            pytest.param((AMBIENT,), BOTH_KINDS, (AMBIENT,), id="without any rule"),
            pytest.param((AMBIENT,), {MeshKind.SIDECAR}, (), id="not a sidecar's"),
            pytest.param((AMBIENT, ELSEWHERE), {MeshKind.AMBIENT}, (AMBIENT, ELSEWHERE), id="wherever it stands"),
            pytest.param((AMBIENT.replace(table=101),), BOTH_KINDS, (), id="another table"),
            pytest.param((AMBIENT.replace(mask=0xFF),), BOTH_KINDS, (), id="other bits"),
            pytest.param((MarkRoute(V4, 1337, 133, 0xFFF, 9),), BOTH_KINDS, (), id="istio's pair, but of some bits"),
        ],
    )
    def test_what_is_ours(
        self, masked: tuple[MarkRoute, ...], kinds: set[MeshKind], expected: tuple[MarkRoute, ...]
    ) -> None:
        assert ours(LiveRouting(masked=masked), [], frozenset(kinds)).mark_routes == expected

    def test_that_of_a_sidecar_is_not_an_ambient_pods(self) -> None:
        found = live((V6, 1337, 133), passthrough=True)
        assert ours(found, [tproxy(1337, V6)], frozenset([MeshKind.AMBIENT])) == NOTHING

    def test_an_ambient_pods_rules_do_not_make_the_passthrough_address_ours(self) -> None:
        rules = recognise(ambient.rules(AmbientConfig())[V6])
        assert ours(live(passthrough=True), [rules]) == NOTHING

    @pytest.mark.parametrize(
        ("found", "wanted", "added", "removed"),
        [
            pytest.param(LiveRouting(), (AMBIENT,), (AMBIENT,), (), id="missing"),
            pytest.param(
                LiveRouting((), frozenset({(V4, 100)}), masked=(AMBIENT,)), (AMBIENT,), (), (), id="as wanted"
            ),
            pytest.param(
                LiveRouting((), frozenset({(V4, 100)}), masked=(ELSEWHERE,)),
                (AMBIENT,),
                (AMBIENT,),
                (ELSEWHERE,),
                id="elsewhere",
            ),
            pytest.param(LiveRouting(masked=(AMBIENT,)), (AMBIENT,), (AMBIENT,), (), id="the route is missing"),
            pytest.param(
                LiveRouting(masked=(NO_ROUTE.replace(has_route=True),)), (NO_ROUTE,), (), (), id="no route is wanted"
            ),
        ],
    )
    def test_what_changes(
        self,
        found: LiveRouting,
        wanted: tuple[MarkRoute, ...],
        added: tuple[MarkRoute, ...],
        removed: tuple[MarkRoute, ...],
    ) -> None:
        goal = Routing(wanted)
        assert to_add(found, goal).mark_routes == added
        assert to_remove(ours(found, []), goal, found).mark_routes == removed

    def test_a_route_that_another_place_leads_to_stays(self) -> None:
        found = LiveRouting((), frozenset({(V4, 100)}), masked=(ELSEWHERE,))
        assert to_remove(ours(found, []), Routing((AMBIENT,)), found).shared_tables == {(V4, 100)}

    def test_the_exact_routing_is_what_would_be_read_after_adding_it(self) -> None:
        there = exactly(Routing((AMBIENT, NO_ROUTE)))

        assert there.local_tables == {(V4, 100)}
        assert there.masked == (AMBIENT, NO_ROUTE.replace(has_route=True))
        assert to_add(there, Routing((AMBIENT, NO_ROUTE))) == NOTHING

    def test_the_commands_name_mask_and_place(self) -> None:
        assert handover(Plan(BackendPlan("nft"), (), Routing((AMBIENT, NO_ROUTE)))) == (
            "ip -4 route add local default dev lo table 100\n"
            "ip -4 rule add fwmark 0x111/0xfff lookup 100 pref 32764\n"
            "ip -6 rule add fwmark 0x111/0xfff lookup 100 pref 32764\n"
        )


class TestWholePlan:
    """Rules of both backends and the routing, in one plan."""

    wanted = sidecar.rules(Config(inbound_ports=ALL), Surroundings())

    def plan(self, found: Live, *, rewrite: bool = False) -> Plan:
        return make_plan(found, "nft", ("legacy",), self.wanted, NOTHING, rewrite=rewrite)

    def test_a_fresh_namespace_gets_rules_in_one_backend_alone(self) -> None:
        plan = self.plan(Live({}, live()))

        assert not plan.is_empty
        assert plan.only_adds
        assert [family.family for family in plan.rules.families] == [V4]
        assert plan.other_backends == (BackendPlan("legacy"),)

    def test_rules_of_ours_in_the_other_backend_go(self) -> None:
        plan = self.plan(Live({("legacy", V4): self.wanted[V4]}, live()))

        assert not plan.other_backends[0].is_empty
        assert not plan.only_adds

    def test_a_family_that_is_not_wanted_any_more_goes(self) -> None:
        plan = self.plan(Live({("nft", V4): self.wanted[V4], ("nft", V6): REDIRECT_V6}, live(passthrough=True)))

        assert [family.family for family in plan.rules.families if family.edits] == [V6]
        assert plan.remove_routing == Routing((), True)
        assert not plan.only_adds

    def test_what_is_as_wanted_is_written_again_only_when_asked_for(self) -> None:
        found = Live({("nft", V4): self.wanted[V4]}, live())

        assert self.plan(found).is_empty
        assert not self.plan(found, rewrite=True).is_empty

    def test_routing_that_is_left_over_is_more_than_adding(self) -> None:
        plan = self.plan(Live({("nft", V4): self.wanted[V4]}, live((V4, 1337, 133))))

        assert plan.rules.is_empty
        assert not plan.is_empty
        assert not plan.only_adds


class TestHandover:
    """What ``--dry-run`` of the drop-in prints is shell text that does the same."""

    def test_routing_comes_first_as_ip_commands(self) -> None:
        plan = Plan(BackendPlan("nft"), (), Routing((DEFAULT,), True), Routing((MarkRoute(V6, 5, 6),)))

        assert handover(plan) == (
            "ip -4 route add local default dev lo table 133\n"
            "ip -4 rule add fwmark 0x539 lookup 133\n"
            "ip -6 addr add ::6/128 dev lo\n"
            "ip -6 route del local default dev lo table 6\n"
            "ip -6 rule del fwmark 0x5 lookup 6\n"
        )

    def test_rules_come_as_the_input_of_the_restore_programs(self) -> None:
        wanted = sidecar.rules(Config(), Surroundings(ipv6=True))
        lines = handover(make_plan(Live({}, live()), "legacy", ("nft",), wanted, NOTHING)).splitlines()

        assert [line for line in lines if "<<" in line] == [
            "iptables-legacy-restore --noflush <<'END'",
            "ip6tables-legacy-restore --noflush <<'END'",
        ]
        assert lines.count("END") == lines.count("COMMIT") == lines.count("*nat") == 2

    def test_nothing_to_do_is_no_text(self) -> None:
        assert handover(Plan(BackendPlan("nft"))) == ""

    def test_a_table_that_stays_in_use_keeps_its_route(self) -> None:
        found = Live({("nft", V4): tproxy(5)}, live((V4, 5, 133), tables=((V4, 133),)))
        config = Config(mode=InterceptionMode.TPROXY, inbound_ports=ALL, tproxy_mark=6)
        around = Surroundings()

        plan = make_plan(found, "nft", (), sidecar.rules(config, around), sidecar.routing(config, around))

        assert "ip -4 route del local default dev lo table 133" not in handover(plan)
