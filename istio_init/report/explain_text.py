"""An explanation for a terminal, a pipe or a log: what is wrong first, then the configuration, the flow, each rule."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text
from rich.tree import Tree

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.inspector.explain import Explanation
from istio_init.inspector.findings.model import Finding, Shown
from istio_init.inspector.flow import FlowStep, HookFlow
from istio_init.inspector.rows import FOREIGN, ISTIO_AMBIENT, ISTIO_SIDECAR, by_chain
from istio_init.inspector.stores import TableHeld
from istio_init.report.asked_text import asked_lines, equal_words, repair_words
from istio_init.report.explain_json import DRIFT_NAMES
from istio_init.report.impact_text import impact_lines
from istio_init.visible import visible
from istio_init.wording.commands import ours
from istio_init.wording.words import packets

SEVERITY_STYLE = {"error": "bold red", "warning": "yellow", "info": "cyan"}
DRIFT_STYLE = {"missing": "red", "extra": "red", "moved": "yellow", "foreign": "dim"}
SHOWN_TABLES = 40
"""Tables of one store that are named."""

SHOWN_RULES = 200
"""Rules of one chain, and differences, that are printed one by one; --format json has all."""


def explanation_text(explanation: Explanation, *, rules: bool = True) -> RenderableType:
    """Everything, in the order in which it helps; without ``rules`` no more than what one has to know at once."""
    parts: list[RenderableType] = [_heading(explanation), *_impact(explanation), *_findings(explanation)]
    parts += _drift(explanation)
    if explanation.arguments is not None:
        parts += _configuration(explanation)
    parts += _neighbours(explanation)
    if explanation.families and rules:
        parts += _flow(explanation)
    if explanation.stores and rules:
        parts += _stores(explanation)
    if explanation.families and rules:
        parts += _rules(explanation)
    for line in explanation.snapshot.not_read:
        parts.append(Text(f"not read: {visible(line)}", style="yellow"))
    if not rules and explanation.stores:
        parts += [Text(""), *map(_command, [("Each rule, and why it exists: ", _more(explanation))])]
    return Group(*parts)


def _more(explanation: Explanation) -> str:
    return ours("explain", "--rules", target=explanation.snapshot.look)


def _command(said: tuple[str, str]) -> Text:
    """A command to paste, which nothing breaks: a terminal folds it, and copies one line."""
    text, command = said
    return Text.assemble(text, (visible(command), "bold"), overflow="ignore", no_wrap=True, end="\n")


def _impact(explanation: Explanation) -> list[RenderableType]:
    found = impact_lines(explanation.impacts, is_captured=bool(explanation.families))
    return [Padding(Text(visible(line), style=style, overflow="fold"), (0, 0, 0, 2)) for line, style in found]


def _heading(explanation: Explanation) -> Text:
    return Text.assemble((visible(explanation.snapshot.label), "bold"), ": ", explanation.facts)


def _section(title: str, *parts: RenderableType) -> list[RenderableType]:
    return [Text(""), Text(title, style="bold underline"), *(Padding(part, (0, 0, 0, 2)) for part in parts)]


def _findings(explanation: Explanation) -> list[RenderableType]:
    left_out = [Text(f"ignored: {', '.join(explanation.ignored)}", style="dim")] if explanation.ignored else []
    if not explanation.findings:
        none = Text("none, in what could be read", style="yellow") if explanation.snapshot.not_read else None
        return _section("Findings", none or Text("none", style="green"), *left_out)
    told = [line for finding in explanation.findings for line in _finding(finding)]
    return [*_section("Findings"), *told, *(Padding(line, (0, 0, 0, 2)) for line in left_out)]


def _finding(finding: Finding) -> list[RenderableType]:
    """Its lines; a command is one of its own, as padding would cut it."""
    kind = finding.kind
    heading = Text.assemble(
        (finding.severity.value.upper(), SEVERITY_STYLE[finding.severity.value]),
        f" {kind.title} ",
        (f"[{kind.code}]", "dim"),
    )
    lines: list[RenderableType] = [Padding(heading, (0, 0, 0, 2))]
    for line in finding.evidence:
        if isinstance(line, Shown):
            lines += [_told(f"{line.said}:"), _command(("      ", line.command))]
        else:
            lines.append(_told(line))
    lines += map(_told, (f"Why it matters: {kind.why}", f"What to do: {finding.fix}"))
    return [*lines, *(_command(("      ", each)) for each in finding.commands)]


def _told(line: str) -> Padding:
    return Padding(Text(visible(line), overflow="fold"), (0, 0, 0, 4))


def _configuration(explanation: Explanation) -> list[RenderableType]:
    assert explanation.arguments is not None
    lines = [Text(visible(" ".join(_words(explanation))), style="green", overflow="fold")]
    if explanation.dns_servers:
        lines.append(Text(f"with the name servers {', '.join(explanation.dns_servers)}"))
    if explanation.reserve is not None:
        lines.append(Text(explanation.reserve, style="yellow"))
    return _section("Configuration behind the rules", *lines)


def _neighbours(explanation: Explanation) -> list[RenderableType]:
    """Others whose rules are here, and what these do to the mesh's traffic."""
    if not explanation.neighbours:
        return []
    lines = [Text(f"{each.name}: {each.does}", overflow="fold") for each in explanation.neighbours]
    return _section("Beside the mesh" if explanation.families else "Rules of others", *lines)


def _words(explanation: Explanation) -> list[str]:
    assert explanation.arguments is not None
    words = explanation.arguments.words(*explanation.command)
    return [word if len(word) <= 200 else f"{word[:180]}…({len(word)} characters)" for word in words]


def _drift(explanation: Explanation) -> list[RenderableType]:
    drift, repair = explanation.drift, explanation.repair
    lines: list[RenderableType] = [Text(visible(line), overflow="fold") for line in asked_lines(explanation.held)]
    if drift is None:
        return _section("Drift", *lines) if lines else []
    if drift.is_equal:
        lines.append(Text(f"none: {equal_words(explanation.held)}", style="green"))
    if drift.note:
        lines.append(Text(visible(drift.note), style="yellow"))
    changes = [(family.family, change) for family in drift.families for change in family.changes]
    for family, change in changes[:SHOWN_RULES]:
        name = DRIFT_NAMES[change.kind.value]
        text = f"{name}: {family.value} {change.table.value}: -A {change.chain} {change.text}"
        lines.append(Text(visible(text), style=DRIFT_STYLE[name]))
    if len(changes) > SHOWN_RULES:
        lines.append(Text(f"and {len(changes) - SHOWN_RULES} more; --format json has all", style="dim"))
    made = [] if repair is None else [Text(f"  {repair_words(explanation.held)}"), _command(("    ", repair))]
    return [*_section("Drift", *lines), *made]


def _flow(explanation: Explanation) -> list[RenderableType]:
    parts: list[RenderableType] = []
    main, *others = explanation.families
    parts += map(_tree, explanation.flow(main))
    for family in others:
        if _roles(explanation.rules[family]) == _roles(explanation.rules[main]):
            parts.append(Text(f"{family.value}: the same way, with its own addresses"))
        else:
            parts += [Text(family.value, style="bold"), *map(_tree, explanation.flow(family))]
    return _section("Where traffic goes", *parts)


def _stores(explanation: Explanation) -> list[RenderableType]:
    lines = [
        Text(visible(f"{held.store.value}: {table}"), style="" if _is_istio(table) else "dim")
        for held in explanation.stores
        for table in held.tables[:SHOWN_TABLES]
    ]
    more = sum(max(0, len(held.tables) - SHOWN_TABLES) for held in explanation.stores)
    return _section("What each store holds", *lines, *([Text(f"and {more} more tables", style="dim")] if more else []))


def _is_istio(table: TableHeld) -> bool:
    return not table.whose.keys().isdisjoint((ISTIO_SIDECAR, ISTIO_AMBIENT))


def _roles(rules: RuleSet) -> list[tuple[object, ...]]:
    """What decides whether traffic of two families goes the same way."""
    return [(table, chain.name, entry.role or entry.rule) for table, chain, _, entry in rules.entries()]


def _tree(hook: HookFlow) -> Tree:
    title = Text.assemble((hook.direction, "bold"), f": {hook.title}, in {hook.where}")
    tree = Tree(title, guide_style="dim")
    _grow(tree, hook.steps)
    return tree


def _grow(tree: Tree, steps: tuple[FlowStep, ...]) -> None:
    for step in steps:
        style = "dim" if step.foreign else _ACTION_STYLE.get(step.action.split()[0], "")
        seen = f"  [{packets(step.packets)}]" if step.packets else ""
        note = "  (foreign)" if step.foreign else ""
        tests, done = visible(step.tests), visible(step.action)
        text = Text.assemble(tests, (" ─► ", "dim"), (done, style), (seen + note, "dim"))
        _grow(tree.add(text), step.steps)


_ACTION_STYLE = {"redirected": "green", "handed": "green", "dropped": "red", "returned": "yellow", "accepted": "yellow"}


def _rules(explanation: Explanation) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for where, rows in by_chain(explanation.rows).items():
        if all(row.foreign for row in rows):
            of = ", ".join(dict.fromkeys(row.whose for row in rows if row.whose != FOREIGN))
            count = f"{len(rows)} foreign rule{'s' if len(rows) > 1 else ''}"
            parts.append(Text(visible(f"{where}: {count}{f' of {of}' if of else ''}"), style="dim"))
            continue
        parts.append(Text(visible(where), style="bold"))
        grid = Grid.grid(padding=(0, 1))
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        for row in rows[:SHOWN_RULES]:
            counters = row.counters
            seen = f"{counters.packets} pkts" if counters else ""
            rule = Text(visible(row.text), style="dim" if row.foreign else "")
            rule.append(f"\n{row.why}", style="dim")
            if row.options:
                rule.append(f" ({', '.join(row.options)})", style="cyan")
            grid.add_row(str(row.number), seen, rule)
        parts.append(Padding(grid, (0, 0, 0, 2)))
        if len(rows) > SHOWN_RULES:
            parts.append(Text(f"  and {len(rows) - SHOWN_RULES} more rules", style="dim"))
    return _section("Rules", *parts)
