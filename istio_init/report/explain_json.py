"""An explanation as JSON values; see istio_init/schemas/explain.schema.json."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.inspector.asked import Held
    from istio_init.inspector.drift import Drift
    from istio_init.inspector.explain import Explanation
    from istio_init.inspector.findings.model import Finding
    from istio_init.inspector.impact import Impact
    from istio_init.inspector.rows import Row
    from istio_init.inspector.stores import StoreHeld

SCHEMA = 1


def explanation_json(explanation: Explanation) -> dict[str, object]:
    """The explanation of one namespace."""
    arguments = explanation.arguments
    return {
        "schema": SCHEMA,
        "target": explanation.snapshot.label,
        "mode": explanation.mode.value,
        "backend": explanation.backend.value,
        "families": [family.value for family in explanation.families],
        "argv": list(arguments.argv) if arguments else None,
        "env": dict(arguments.env) if arguments else None,
        "exact": explanation.exact,
        "release": explanation.release,
        "dns_servers": list(explanation.dns_servers),
        "impact": [_impact(impact) for impact in explanation.impacts],
        "stores": [_store(held) for held in explanation.stores],
        "rules": [_row(row) for row in explanation.rows],
        "findings": [finding_json(finding) for finding in explanation.findings],
        "ignored": list(explanation.ignored),
        "asked": _asked(explanation.held) if explanation.held else None,
        "drift": {**_drift(explanation.drift), "command": explanation.repair} if explanation.drift else None,
        "unread": list(explanation.snapshot.not_read),
    }


def _impact(impact: Impact) -> dict[str, object]:
    return {
        "traffic": impact.traffic.name.lower(),
        "family": impact.family.value,
        "sampled": impact.is_sampled,
        "parts": [
            {
                "outcome": part.word,
                "kind": part.kind.value,
                "port": part.port,
                "decided_by": part.by,
                "conditions": list(part.conditions),
            }
            for part in impact.parts
        ],
    }


def _store(held: StoreHeld) -> dict[str, object]:
    return {
        "store": held.store.value,
        "tables": [
            {
                "family": table.family,
                "table": table.name,
                "chains": table.chains,
                "rules": table.rules,
                "whose": dict(table.whose),
                "dormant": table.is_dormant,
            }
            for table in held.tables
        ],
    }


def _row(row: Row) -> dict[str, object]:
    counters = row.counters
    return {
        "backend": row.backend.value,
        "family": row.family,
        "table": row.table,
        "chain": row.chain,
        "index": row.number,
        "text": row.text,
        "role": row.role.value if row.role else None,
        "why": row.why,
        "options": list(row.options),
        "packets": counters.packets if counters else None,
        "bytes": counters.bytes if counters else None,
        "foreign": row.foreign,
        "whose": row.whose,
    }


def finding_json(finding: Finding) -> dict[str, object]:
    """One finding."""
    return {
        "code": finding.kind.code,
        "severity": finding.severity.value,
        "title": finding.kind.title,
        "evidence": list(finding.evidence),
        "why": finding.kind.why,
        "fix": finding.fix,
        "commands": list(finding.commands),
    }


def _asked(held: Held) -> dict[str, object]:
    asked, words = held.asked, held.words
    return {
        "source": asked.source,
        "pod": asked.name,
        "argv": list(words.argv) if words else None,
        "env": dict(words.env) if words else None,
        "problem": asked.problem,
        "notes": list(asked.notes),
        "unasked": held.unasked.words() if held.unasked else [],
    }


def _drift(drift: Drift) -> dict[str, object]:
    return {
        "equal": drift.is_equal,
        "note": drift.note,
        "changes": [
            {
                "change": DRIFT_NAMES[change.kind.value],
                "family": family.family.value,
                "table": change.table.value,
                "chain": change.chain,
                "text": change.text,
                "role": change.role.value if change.role else None,
            }
            for family in drift.families
            for change in family.changes
        ],
    }


DRIFT_NAMES = {"add": "missing", "remove": "extra", "move": "moved", "foreign": "foreign"}
"""A plan says what to do, drift says what is: a rule to add is missing."""
