"""``istio-init explain --all``: the report of a node."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import click

from istio_init import __version__
from istio_init.cli.lines import hand_over, say
from istio_init.cli.node import entries, not_seen
from istio_init.inspector.explain import Explanation
from istio_init.inspector.findings.model import Severity
from istio_init.report.explain_html import Made
from istio_init.report.node_report import Part, node_html, node_json, node_lines, part
from istio_init.report.ps_row import PsRow

FORMS = ("text", "json", "html")
PROBLEMS_FOUND, FAILED, UNPRIVILEGED = 3, 1, 5
COLOURS = ("red", "yellow", "green", "cyan")


def explain_all(form: str, ignore: frozenset[str], check: Severity | None) -> int:
    """Explain every network namespace in which a process lives, those in trouble first; the exit status.

    Raises:
        click.UsageError: there is no such form of it.
    """
    if form not in FORMS:
        raise click.UsageError(f"--all has the forms {', '.join(FORMS)}; {form} is of one namespace")
    found = entries(_made, with_impacts=True, ignore=ignore)
    parts = [each.more if isinstance(each.more, Part) else Part(each.row) for each in found]
    parts = [each.replace(row=entry.row) for each, entry in zip(parts, found, strict=True)]
    unseen = list(not_seen(each.row for each in parts))
    _show(parts, unseen, form)
    if check is not None and any(_is_broken(each, check) for each in parts):
        return PROBLEMS_FOUND
    if unseen:
        return UNPRIVILEGED
    return FAILED if check is not None and any(each.row.state == "unknown" for each in parts) else 0


def _made(row: PsRow, explanation: Explanation) -> object:
    return part(row, explanation)


def _is_broken(each: Part, least: Severity) -> bool:
    severe = (Severity.ERROR,) if least is Severity.ERROR else (Severity.ERROR, Severity.WARNING)
    return any(finding.severity in severe for finding in each.findings)


def _show(parts: list[Part], unseen: list[str], form: str) -> None:
    if form == "json":
        hand_over(json.dumps(node_json(parts, unseen), indent=2) + "\n")
    elif form == "html":
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        hand_over(node_html(parts, unseen, Made(now, os.uname().nodename, f"istio-init {__version__}")))
    else:
        for text, style in node_lines(parts, unseen):
            words = style.split()
            say(text, fg=next((each for each in words if each in COLOURS), None), bold="bold" in words)
