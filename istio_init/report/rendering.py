"""The rules of a configuration as programs read them, and as JSON values."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import as_in_kernel
from istio_init.dialects.iptables.save import render_save
from istio_init.dialects.nft.script import whole
from istio_init.inspector.arguments import Arguments
from istio_init.report.handover import PROGRAM, routing_lines
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.config.asked import Words
    from istio_init.netfilter.family import Family
    from istio_init.stores.wanted import Wanted

CHECKING = frozenset(["--run-validation", "--skip-rule-apply"])
"""Flags of a run that writes nothing, as the container has it beside Istio's CNI plugin."""


class Rendering(Value):
    """Rules that are held nowhere, and what asks for them; ``words`` is None where no redirection is asked for."""

    source: str
    pod: str | None
    words: Words | None
    wanted: Wanted


def as_args(made: Rendering) -> str:
    """The arguments on one line, quoted for a shell, after their variables."""
    return f"{_arguments(made)}\n" if made.words is not None else ""


def as_iptables(made: Rendering, families: Iterable[Family]) -> str:
    """What iptables-restore reads, a family after the other; what goes with it is a comment."""
    parts = []
    for family, rules in made.wanted.rules.items():
        if family in families:
            routing = [line for line in routing_lines("add", made.wanted.routing) if _family_of(line) is family]
            comments = [f"{family.value}: {PROGRAM[family]}-restore --noflush", *(f"with: {line}" for line in routing)]
            parts.append("".join(f"# {line}\n" for line in comments) + render_save(as_in_kernel(rules)))
    return "".join(parts)


def as_nft(made: Rendering) -> str:
    """What ``nft -f`` reads: it replaces Istio's own tables."""
    routing = routing_lines("add", made.wanted.routing)
    return "".join(f"# with: {line}\n" for line in routing) + whole(made.wanted.tables)


def as_json(made: Rendering) -> dict[str, object]:
    """All of it; see istio_init/schemas/render.schema.json."""
    words = _arguments(made) if made.words is not None else None
    return {
        "schema": 1,
        "source": made.source,
        "pod": made.pod,
        "argv": list(words.argv) if words else None,
        "env": dict(words.env) if words else None,
        "families": [family.value for family in made.wanted.families],
        "iptables": {family.value: render_save(as_in_kernel(rules)) for family, rules in made.wanted.rules.items()},
        "nft": whole(made.wanted.tables),
        "routing": routing_lines("add", made.wanted.routing),
    }


def _arguments(made: Rendering) -> Arguments:
    assert made.words is not None
    shaping = [word for word in made.words.argv if word.split("=")[0] not in CHECKING]
    return Arguments(tuple(shaping), made.words.env)


def _family_of(line: str) -> Family:
    from istio_init.netfilter.family import Family

    return Family.IPV6 if " -6 " in line else Family.IPV4
