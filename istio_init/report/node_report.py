"""Every network namespace of a node, explained in a few lines each: as text, as JSON values, as a page."""

from __future__ import annotations

from html import escape

from istio_init.inspector.explain import Explanation
from istio_init.inspector.findings.model import Finding
from istio_init.report.explain_html import IMPACT_CLASSES, Made, finding_html, page
from istio_init.report.explain_json import explanation_json, finding_json
from istio_init.report.impact_text import impact_lines
from istio_init.report.ps_row import NONE, STATES, PsRow, ps_json
from istio_init.value import Value
from istio_init.visible import visible
from istio_init.wording.commands import ours
from istio_init.wording.words import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

Line = tuple[str, str]
"""A text and its style."""

SEVERITY_STYLE = {"error": "bold red", "warning": "yellow", "info": "cyan"}
STATE_CLASSES = {"broken": "bad", "unknown": "doubtful", "captured": "ok", "not captured": "dim"}


class Part(Value):
    """What is told of one namespace of a node; without facts it could not be read, and ``row`` says why."""

    row: PsRow
    facts: str | None = None
    impact: tuple[Line, ...] = ()
    impact_json: tuple[object, ...] = ()
    findings: tuple[Finding, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What it is called, always with its process."""
        row = self.row
        return f"{row.name} (pid {row.pid})" if row.pod else row.name

    @property
    def command(self) -> str:
        """What tells more of it."""
        return ours("explain", target=("--pid", str(self.row.pid)))


def part(row: PsRow, explanation: Explanation) -> Part:
    """What is told of a namespace that could be read."""
    impact = explanation_json(explanation)["impact"]
    assert isinstance(impact, list)
    return Part(
        row,
        explanation.facts,
        tuple(impact_lines(explanation.impacts, is_captured=bool(explanation.families))),
        tuple(impact),
        explanation.findings,
        explanation.snapshot.not_read,
    )


def node_lines(parts: list[Part], unseen: list[str]) -> Iterator[Line]:
    """The report as lines of text."""
    yield f"{_counted(parts)}", "bold"
    for each in parts:
        yield "", ""
        yield f"{visible(each.label)}: {visible(each.facts or f'could not be read: {each.row.error}')}", "bold"
        if each.row.is_shared:
            yield f"  {visible(each.row.name)} is claimed in another network namespace, too", "yellow"
        for line, style in each.impact:
            yield f"  {visible(line)}", style
        for finding in each.findings:
            severity = finding.severity.value
            yield f"  {severity.upper()}: {finding.kind.title} [{finding.kind.code}]", SEVERITY_STYLE[severity]
        if each.findings or each.unread:
            yield f"  More: {each.command}", ""
    for line in unseen:
        yield f"not seen: {line}", "yellow"


def _counted(parts: list[Part]) -> str:
    counts = {state: sum(each.row.state == state for each in parts) for state in STATES}
    listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{counted(len(parts), 'network namespace')}: {listed}" if parts else "no network namespace could be seen"


def node_json(parts: list[Part], unseen: list[str]) -> dict[str, object]:
    """The report as JSON values; see istio_init/schemas/explain-all.schema.json."""
    return {
        "schema": 1,
        "namespaces": [
            {
                **ps_json(each.row),
                "target": each.label,
                "impact": list(each.impact_json),
                "explained": [finding_json(finding) for finding in each.findings],
                "unread": list(each.unread),
            }
            for each in parts
        ],
        "not_seen": unseen,
    }


def node_html(parts: list[Part], unseen: list[str], made: Made) -> str:
    """The report as one self-contained page."""
    command = escape(ours("explain", "--all"))
    body = [
        f"<h1>{_escape(made.host)}</h1>",
        f'<p class="dim">{_escape(_counted(parts))}</p>',
        f'<p class="dim">{_escape(made.date)}, by {_escape(made.program)}: <code>{command}</code></p>',
        *(f'<p class="doubtful">Not seen: {_escape(line)}</p>' for line in unseen),
        *_index(parts),
        *(line for number, each in enumerate(parts) if _is_told(each) for line in _section(each, number)),
        *_rest([each for each in parts if not _is_told(each)]),
    ]
    return page(f"istio-init explain --all: {_escape(made.host)}", body)


def _is_told(each: Part) -> bool:
    """Whether there is more to say of it than that nothing is redirected there."""
    row = each.row
    return bool(each.findings or each.unread or row.state != "not captured" or row.is_shared or row.backend != NONE)


def _index(parts: list[Part]) -> Iterator[str]:
    """Those in trouble, each with its worst finding and a link, where there are several."""
    found = [(number, each) for number, each in enumerate(parts) if each.row.worst is not None or each.facts is None]
    if len(found) < 2:
        return
    items = [
        f'<li><a href="#n{number}">{_escape(each.label)}</a>: <span class="{STATE_CLASSES[each.row.state]}">'
        f"{each.row.state}</span> <code>{_escape(each.row.worst or 'could not be read')}</code></li>"
        for number, each in found
    ]
    yield f'<ul class="index">{"".join(items)}</ul>'


def _rest(parts: list[Part]) -> Iterator[str]:
    if parts:
        names = ", ".join(_escape(each.label) for each in parts)
        yield f'<h2>Nothing is redirected</h2><p class="dim">{names}</p>'


def _section(each: Part, number: int) -> Iterator[str]:
    state = f'<span class="{STATE_CLASSES[each.row.state]}">{each.row.state}</span>'
    yield f'<h2 id="n{number}">{_escape(each.label)}: {state}</h2>'
    yield f'<p class="dim">{_escape(each.facts or f"could not be read: {each.row.error}")}</p>'
    if each.row.is_shared:
        yield '<p class="doubtful">Another network namespace claims this name, too.</p>'
    items = [f'<li class="{IMPACT_CLASSES.get(style, "")}">{_escape(line)}</li>' for line, style in each.impact]
    if items:
        yield f"<ul>{''.join(items)}</ul>"
    yield from map(finding_html, each.findings)
    if each.findings or each.unread:
        yield f"<p>More: <code>{_escape(each.command)}</code></p>"


def _escape(text: str) -> str:
    return escape(visible(text))
