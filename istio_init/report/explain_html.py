"""An explanation as one self-contained HTML page, light and dark, fit to attach to a ticket."""

from __future__ import annotations

from html import escape

from istio_init.inspector.explain import Explanation
from istio_init.inspector.findings.model import Finding, Shown
from istio_init.inspector.rows import Row, by_chain
from istio_init.plan.model import Kind
from istio_init.report.asked_text import asked_lines, equal_words, repair_words
from istio_init.report.explain_json import DRIFT_NAMES
from istio_init.report.flow_svg import flow_svg
from istio_init.report.impact_text import BAD, DOUBTFUL, GOOD, impact_lines
from istio_init.value import Value
from istio_init.visible import visible
from istio_init.wording.commands import ours
from istio_init.wording.words import counted

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1d232b; --dim: #66707c; --line: #d5dae0; --card: #f6f8fa;
  --wire: #b4bcc6; --error: #c62828; --warning: #a05a00; --info: #1565c0; --ok: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --bg: #14181d; --fg: #e3e7ec; --dim: #96a0ac; --line: #333b45;
  --card: #1d232a; --wire: #525d69; --error: #ff7b72; --warning: #e3a45a; --info: #79b8ff; --ok: #7ee08a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--bg); color: var(--fg);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .4rem; } p { margin: .3rem 0; } .dim { color: var(--dim); }
code, pre, td.rule, svg text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem; margin: .5rem 0;
  overflow-x: auto; white-space: pre-wrap; word-break: break-word; }
.finding { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--info);
  border-radius: 6px; padding: .75rem 1rem; margin: .75rem 0; }
.finding.error { border-left-color: var(--error); } .finding.warning { border-left-color: var(--warning); }
.severity { font-weight: 700; text-transform: uppercase; font-size: .75rem; margin-right: .5rem; color: var(--info); }
.error .severity { color: var(--error); } .warning .severity { color: var(--warning); } .ok { color: var(--ok); }
.bad { color: var(--error); } .doubtful { color: var(--warning); } ul { margin: .3rem 0; padding-left: 1.25rem; }
.diagram { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
td, th { text-align: left; padding: .3rem .6rem; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; font-size: .8rem; }
td.number, th.number { text-align: right; white-space: nowrap; } th.number { width: 3rem; } th.packets { width: 7rem; }
th.rule { width: 52%; } td.rule { word-break: break-word; } td code { color: var(--dim); } tr.foreign { opacity: .6; }
.command { color: var(--info); } summary { cursor: pointer; color: var(--dim); }
.index a { color: inherit; }
@media (max-width: 44rem) { body { padding: 1.25rem .75rem 3rem; } table, tbody { display: block; }
  tr { display: grid; grid-template-columns: 2rem 1fr auto; border-bottom: 1px solid var(--line); }
  td, th { border: 0; padding: .3rem .25rem; } td:nth-child(-n + 3), th { grid-row: 1; }
  td:nth-child(2), th:nth-child(2) { grid-column: 3; } td:nth-child(4) { grid-column: 2 / -1; padding-top: 0; }
  th.number, th.packets, th.rule { width: auto; } th:nth-child(4) { display: none; } }
"""

IMPACT_CLASSES = {GOOD: "ok", BAD: "bad", DOUBTFUL: "doubtful"}

HEADINGS = '<th class="number">#</th><th class="number packets">Packets</th><th class="rule">Rule</th><th>Why</th>'


class Made(Value):
    """When, on which host and by what a page is made."""

    date: str
    host: str
    program: str


def explanation_html(explanation: Explanation, made: Made | None = None) -> str:
    """The page."""
    label = _escape(explanation.snapshot.label)
    parts = [
        f"<h1>{label}</h1>",
        f'<p class="dim">{_escape(explanation.facts)}</p>',
        *_origin(explanation, made),
        *_impact(explanation),
        "<h2>Findings</h2>",
        *(map(finding_html, explanation.findings) if explanation.findings else [_none(explanation)]),
        *_drift(explanation),
        *_configuration(explanation),
        *_diagrams(explanation),
        *_stores(explanation),
        *_rules(explanation),
    ]
    parts += [f'<p class="dim">Not read: {_escape(line)}</p>' for line in explanation.snapshot.not_read]
    return page(f"istio-init explain: {label}", parts)


def page(title: str, parts: list[str]) -> str:
    """A whole page of escaped parts."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _origin(explanation: Explanation, made: Made | None) -> list[str]:
    if made is None:
        return []
    command = _escape(ours("explain", target=explanation.snapshot.look))
    said = f"{_escape(made.date)}, on host {_escape(made.host)}, by {_escape(made.program)}"
    return [f'<p class="dim">{said}: <code>{command}</code></p>']


def _impact(explanation: Explanation) -> list[str]:
    found = impact_lines(explanation.impacts, is_captured=bool(explanation.families))
    if not found:
        return []
    lines = [f'<li class="{IMPACT_CLASSES.get(style, "")}">{_escape(line)}</li>' for line, style in found]
    return ["<h2>What happens to traffic</h2>", f"<ul>{''.join(lines)}</ul>"]


def _escape(text: str) -> str:
    return escape(visible(text))


def _none(explanation: Explanation) -> str:
    if explanation.snapshot.not_read:
        return "<p>None, in what could be read.</p>"
    return '<p class="ok">None.</p>'


def finding_html(finding: Finding) -> str:
    """One finding, with what to do."""
    kind, severity = finding.kind, finding.severity.value
    evidence = "\n".join(map(_evidence, finding.evidence))
    commands = "".join(f"<pre>{_escape(each)}</pre>" for each in finding.commands)
    return (
        f'<div class="finding {severity}"><p><span class="severity">{severity}</span>'
        f'<strong>{_escape(kind.title)}</strong> <code class="dim">{kind.code}</code></p><pre>{evidence}</pre>'
        f"<p>{_escape(kind.why)}</p><p><strong>What to do:</strong> {_escape(finding.fix)}</p>{commands}</div>"
    )


def _evidence(line: str) -> str:
    """A line of evidence, with the command that shows it on a line of its own, so that it can be copied."""
    if not isinstance(line, Shown):
        return _escape(line)
    return f'{_escape(line.said)}:\n<span class="command">{_escape(line.command)}</span>'


def _drift(explanation: Explanation) -> list[str]:
    drift, told = explanation.drift, list(asked_lines(explanation.held))
    parts = ["<pre>" + "\n".join(map(_escape, told)) + "</pre>"] if told else []
    if drift is None:
        return ["<h2>Drift</h2>", *parts] if parts else []
    if drift.is_equal:
        parts.append(f'<p class="ok">None: {equal_words(explanation.held)}.</p>')
    lines = [drift.note] if drift.note else []
    others: list[str] = []
    for family in drift.families:
        for change in family.changes:
            where = f"{family.family.value} {change.table.value}"
            line = f"{DRIFT_NAMES[change.kind.value]}: {where}: -A {change.chain} {change.text}"
            (others if change.kind is Kind.FOREIGN else lines).append(line)
    if lines:
        parts.append("<pre>" + "\n".join(map(_escape, lines)) + "</pre>")
    if others:
        summary = f"<summary>{counted(len(others), 'rule')} of others beside them, no drift</summary>"
        parts.append(f"<details>{summary}<pre>" + "\n".join(map(_escape, others)) + "</pre></details>")
    if explanation.repair is not None:
        parts += [f"<p>{repair_words(explanation.held)}</p>", f"<pre>{_escape(explanation.repair)}</pre>"]
    return ["<h2>Drift</h2>", *parts]


def _configuration(explanation: Explanation) -> list[str]:
    if explanation.arguments is None:
        return []
    parts = [
        "<h2>Configuration behind the rules</h2>",
        f"<pre>{_escape(' '.join(explanation.arguments.words(*explanation.command)))}</pre>",
    ]
    if explanation.dns_servers:
        parts.append(f"<p>With the name servers {_escape(', '.join(explanation.dns_servers))}.</p>")
    if explanation.reserve is not None:
        parts.append(f"<p>{_escape(explanation.reserve)}</p>")
    return parts


def _diagrams(explanation: Explanation) -> list[str]:
    parts = ["<h2>Where traffic goes</h2>"] if explanation.families else []
    for family in explanation.families:
        hooks = explanation.flow(family)
        if hooks:
            parts.append(f'<h3>{family.value}</h3><div class="diagram">{flow_svg(hooks)}</div>')
    return parts


def _stores(explanation: Explanation) -> list[str]:
    lines = [_escape(f"{held.store.value}: {table}") for held in explanation.stores for table in held.tables]
    return ["<h2>What each store holds</h2>", "<pre>" + "\n".join(lines) + "</pre>"] if lines else []


def _rules(explanation: Explanation) -> list[str]:
    parts: list[str] = ["<h2>Rules</h2>"] if explanation.rows else []
    for title, rows in by_chain(explanation.rows).items():
        parts.append(f"<h3>{_escape(title)}</h3>")
        cells = "".join(map(_row, rows))
        parts.append(f"<table><tr>{HEADINGS}</tr>{cells}</table>")
    return parts


def _row(row: Row) -> str:
    packets = row.counters.packets if row.counters else ""
    kind = ' class="foreign"' if row.foreign else ""
    options = f"<br><code>{_escape(', '.join(row.options))}</code>" if row.options else ""
    return (
        f'<tr{kind}><td class="number">{row.number}</td><td class="number">{packets}</td>'
        f'<td class="rule">{_escape(row.text)}</td><td>{_escape(row.why)}{options}</td></tr>'
    )
