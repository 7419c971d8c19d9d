"""A page for each kind of finding: what it means, an example, its impact, its cure, when to ignore it."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from istio_init.inspector import findings
from istio_init.inspector.findings.catalogue import KINDS
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from istio_init.inspector.findings.model import Finding, FindingKind

_PAGE = re.compile(r"^## (\S+)\n\n(.*?)\n\nIgnore: (.*?)\n\n(.*?)\n*(?=^## |\Z)", re.MULTILINE | re.DOTALL)


class Page(Value):
    """What is told of a kind of finding. ``example`` is what explain printed of one, without why and what to do."""

    kind: FindingKind
    meaning: str
    ignore: str
    example: tuple[str, ...]


@cache
def pages() -> dict[str, Page]:
    """All pages by their codes, in the order of the catalogue."""
    text = (resources.files(findings) / "pages.md").read_text(encoding="utf-8")
    told = {code: (meaning, ignore, example) for code, meaning, ignore, example in _PAGE.findall(text)}
    found = {}
    for kind in KINDS:
        meaning, ignore, example = told[kind.code]
        found[kind.code] = Page(kind, meaning, ignore, tuple(line[4:] for line in example.splitlines()))
    return found


def example_of(finding: Finding) -> tuple[str, ...]:
    """A finding as an example shows it."""
    kind = finding.kind
    return f"{finding.severity.value.upper()} {kind.title} [{kind.code}]", *(f"  {each}" for each in finding.evidence)


def page_text(page: Page) -> str:
    """A page for a terminal."""
    kind = page.kind
    parts = [
        f"{kind.code} ({kind.severity.value})",
        f"{kind.title}.",
        page.meaning,
        "Example:\n\n" + "\n".join(f"    {line}" for line in page.example),
        f"Impact: {kind.why}",
        f"Cure: {kind.fix}",
        f"When to ignore it: {page.ignore}",
    ]
    return "\n\n".join(parts) + "\n"


def page_markdown(page: Page) -> str:
    """A page for the docs."""
    kind = page.kind
    return "\n".join(
        [
            f"## {kind.code}\n",
            f"**{kind.title}.** Severity: {kind.severity.value}.\n",
            f"{page.meaning}\n",
            *(f"    {line}" for line in page.example),
            "",
            f"Impact: {kind.why}\n",
            f"Cure: {kind.fix}\n",
            f"When to ignore it: {page.ignore}\n",
        ]
    )


def page_json(page: Page) -> dict[str, Any]:
    """A page as data."""
    kind = page.kind
    return {
        "code": kind.code,
        "severity": kind.severity.value,
        "title": kind.title,
        "meaning": page.meaning,
        "example": list(page.example),
        "impact": kind.why,
        "cure": kind.fix,
        "ignore": page.ignore,
    }
