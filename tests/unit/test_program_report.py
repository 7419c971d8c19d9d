"""What came of programming a namespace, told as a line, as a plan, and as JSON that keeps to its schema."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

import istio_init
from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.errors import ConfigError, IstioInitError, NamespaceError, NotWantedError, VerificationError
from istio_init.mesh.policy import sidecar
from istio_init.mesh.routing import LiveRouting, MarkRoute, Routing
from istio_init.netfilter.family import Family
from istio_init.plan.make import Live, make_plan
from istio_init.plan.model import BackendPlan, Plan
from istio_init.report.program_json import result_json
from istio_init.report.program_text import result_line
from istio_init.stores.programmer import Done
from istio_init.wording.plan_text import plan_lines

from .strategies import configs, planted, rule_set, surroundings

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((resources.files(istio_init) / "schemas" / "apply.schema.json").read_text(encoding="utf-8"))

NO_ROUTING = LiveRouting()
FOREIGN = rule_set(Family.IPV4, {Table.NAT: {"OUTPUT": ["-o cni0 -j ACCEPT"]}})
SIDECAR = sidecar.rules(Config(inbound_ports=ALL, outbound_ranges=ALL), Surroundings())


def plan(live: dict[tuple[str, Family], RuleSet], goal: dict[Family, RuleSet], *, rewrite: bool = False) -> Plan:
    return make_plan(Live(live, NO_ROUTING), "nft", ("legacy",), goal, Routing(), rewrite=rewrite)


def done(what: Plan, *, written: bool) -> Done:
    return Done(what, written, "nft", "iptables-nft-restore")


LINES = {
    "a fresh namespace": (
        ("apply", done(plan({}, SIDECAR), written=True)),
        "pod: applied (nft, ipv4): 15 added",
    ),
    "a dry run": (
        ("apply", done(plan({("nft", Family.IPV4): FOREIGN}, SIDECAR), written=False)),
        "pod: would apply (nft, ipv4): 15 added, 1 foreign kept",
    ),
    "as wanted": (
        ("apply", done(plan({("nft", Family.IPV4): SIDECAR[Family.IPV4]}, SIDECAR), written=False)),
        "pod: as wanted already (nft, ipv4)",
    ),
    "a clean-up": (
        ("clean", done(plan({("nft", Family.IPV4): SIDECAR[Family.IPV4]}, {}), written=True)),
        "pod: cleaned (nft, ipv4): 15 removed",
    ),
    "nothing to clean up": (("clean", done(plan({}, {}), written=False)), "pod: nothing to do (nft, no rules)"),
    "routing alone": (
        ("clean", done(Plan(BackendPlan("nft"), (), Routing(), Routing((), True)), written=True)),
        "pod: cleaned (nft, no rules): routing only",
    ),
}


@pytest.mark.parametrize(("result", "line"), LINES.values(), ids=LINES)
def test_one_line_says_what_came_of_it(result: tuple[str, Done], line: str) -> None:
    command, what = result

    assert result_line(command, "pod", what) == line
    assert result_line(command, "pod", what, verbose=True) == f"{line}\n  through iptables-nft-restore"


def test_rules_that_were_written_again_are_not_called_routing() -> None:
    again = plan({("nft", Family.IPV4): SIDECAR[Family.IPV4]}, SIDECAR, rewrite=True)

    assert "routing only" not in result_line("apply", "pod", done(again, written=True))


def test_a_plan_shows_each_rule_with_its_sign_and_its_reason() -> None:
    old = Config(inbound_ports=ALL, exclude_interfaces=("eth1",))
    live = sidecar.rules(old, Surroundings())[Family.IPV4]
    tables = {table: dict(chains) for table, chains in live.tables.items()}
    foreign = FOREIGN.tables[Table.NAT]["OUTPUT"].entries
    tables[Table.NAT]["OUTPUT"] = tables[Table.NAT]["OUTPUT"].replace(
        entries=(*foreign, *tables[Table.NAT]["OUTPUT"].entries)
    )
    goal = sidecar.rules(Config(inbound_ports=ALL, drop_invalid=True), Surroundings())
    what = plan({("nft", Family.IPV4): RuleSet(Family.IPV4, tables)}, goal)

    lines = plan_lines(what)

    assert lines[0] == "ipv4 nat (nft)"
    assert "  - -A PREROUTING -i eth1 -j RETURN  # excluded-interface-in" in lines
    assert "  = -A PREROUTING -p tcp -j ISTIO_INBOUND  # inbound-jump" in lines
    assert "    -A OUTPUT -o cni0 -j ACCEPT  # foreign, kept" in lines
    assert "  + -A ISTIO_DROP -j DROP  # drop-invalid" in lines
    assert lines.index("ipv4 mangle (nft)") > lines.index("ipv4 nat (nft)")
    assert {line[2] for line in plan_lines(what, kept=False) if line.startswith("  ")} == {"+", "-"}


def test_a_plan_shows_routing_before_rules() -> None:
    what = Plan(BackendPlan("nft"), (), Routing((MarkRoute(Family.IPV4, 1337, 133),), True))

    assert plan_lines(what) == [
        "  + ipv4 fwmark 0x539 lookup 133, local default dev lo",
        "  + ipv6 address ::6/128 on lo",
    ]


def validate(command: str, *results: dict[str, object]) -> None:
    """Check a whole output, as it is after being printed and read."""
    value = json.loads(json.dumps({"schema": 1, "command": command, "results": results}))
    jsonschema.Draft202012Validator(SCHEMA).validate(value)


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (done(plan({}, SIDECAR), written=True), "applied"),
        (done(plan({}, SIDECAR), written=False), "planned"),
        (done(plan({}, {}), written=False), "unchanged"),
    ],
    ids=["written", "a dry run", "nothing to do"],
)
def test_json_tells_what_was_done(what: Done, status: str) -> None:
    result = result_json("apply", "pod", what, None, ("a warning",))

    assert result["status"] == status
    assert result["warnings"] == ["a warning"]
    validate("apply", result)


@pytest.mark.parametrize(
    "failure",
    [
        NamespaceError("no such namespace", fix="look again"),
        ConfigError(("one", "two")),
        NotWantedError("unwanted rules"),
        VerificationError("it does not hold"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_json_tells_what_failed(failure: IstioInitError) -> None:
    result = result_json("apply", "pod", None, failure, ())

    assert result["status"] == "failed"
    assert result["error"] == {"message": failure.message, "fix": failure.fix, "exit_code": failure.exit_code}
    validate("apply", result)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """The plan of any namespace for any configuration, with routing."""
    old, new, around = draw(configs), draw(configs), draw(surroundings)
    live = {
        (backend, family): draw(planted(family, rules)).live
        for family, rules in sidecar.rules(old, around).items()
        for backend in draw(st.sampled_from([("nft",), ("legacy",), ("nft", "legacy")]))
    }
    table = new.tproxy_table
    marks = ((Family.IPV4, old.tproxy_mark, table),) if old.mode is InterceptionMode.TPROXY else ()
    routing = LiveRouting(marks, frozenset({(Family.IPV4, table)}), passthrough_ipv6=draw(st.booleans()))
    goal = sidecar.rules(new, around)
    return make_plan(Live(live, routing), "nft", ("legacy",), goal, sidecar.routing(new, around))


@given(plans(), st.booleans())
def test_every_plan_can_be_told_in_every_form(what: Plan, written: bool) -> None:
    result = done(what, written=written)

    told = result_json("apply", "pod", result, None, ())

    validate("apply", told)
    assert "\n" not in result_line("apply", "pod", result)
    changes = told["changes"]
    assert isinstance(changes, list)
    shown = [line for line in plan_lines(what) if line.startswith("  ") and " -A " in line and line[2] != "="]
    assert len(shown) == len(changes)
