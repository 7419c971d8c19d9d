"""``istio-init findings``."""

from __future__ import annotations

import json
from difflib import get_close_matches

import click

from istio_init.cli.lines import hand_over
from istio_init.inspector.findings import catalogue

SCHEMA = 1


@click.command("findings", short_help="Say what a finding of explain means.")
@click.argument("code", required=False)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def findings_command(code: str | None, form: str) -> None:
    """Say what a finding means, with an example, its impact, its cure, and when to ignore it.

    Without CODE it lists all that explain looks for.
    """
    from istio_init.report.finding_pages import page_json, page_text, pages

    if code is not None:
        known_code(code, "CODE")
    chosen = [page for page in pages().values() if code in (None, page.kind.code)]
    if form == "json":
        told = {"schema": SCHEMA, "command": "findings", "findings": list(map(page_json, chosen))}
        hand_over(json.dumps(told, indent=2) + "\n")
    elif code is not None:
        hand_over(page_text(chosen[0]))
    else:
        wide = max(len(page.kind.code) for page in chosen)
        lines = [f"{p.kind.code:{wide}}  {p.kind.severity.value:7}  {p.kind.title}" for p in chosen]
        hand_over("\n".join(lines) + "\n")


def known_codes(given: tuple[str, ...], hint: str) -> frozenset[str]:
    """The codes of findings that an option was given, as ``known_code`` checks each."""
    return frozenset(known_code(code, hint) for code in given)


def known_code(code: str, hint: str) -> str:
    """The code of a finding.

    Raises:
        click.BadParameter: there is no such finding; names one of nearly that code.
    """
    known = {kind.code for kind in catalogue.KINDS}
    if code in known:
        return code
    near = get_close_matches(code, known, 1)
    more = f"; did you mean {near[0]}?" if near else "; istio-init findings lists all"
    raise click.BadParameter(f"{code!r}: there is no such finding{more}", param_hint=hint)
