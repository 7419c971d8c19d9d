"""What was proved as JSON values; see istio_init/schemas/verify.schema.json."""

from __future__ import annotations

from istio_init.inspector.arguments import arguments
from istio_init.report.trace_json import packet_json
from istio_init.wording.outcomes import Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.prove.intent import Intent
    from istio_init.prove.model import Report, Verdict


def verify_json(label: str, intent: Intent, report: Report) -> dict[str, object]:
    """The whole result."""
    behind = arguments(intent.config)
    return {
        "schema": 1,
        "target": label,
        "proved": report.is_proved,
        "held_to": {"source": intent.source, "argv": list(behind.argv), "env": dict(behind.env)},
        "families": [family.value for family in intent.around.families],
        "probes": [_probe(verdict) for verdict in report.verdicts],
        "problems": list(report.problems),
        "not_probed": [
            {"what": each.what, "why": each.why, "family": each.family.value if each.family else None}
            for each in report.skipped
        ],
        "notes": list(report.notes),
    }


def _probe(verdict: Verdict) -> dict[str, object]:
    probe = verdict.probe
    return {
        "group": probe.group,
        "who": probe.who,
        "packet": packet_json(probe.packet),
        "expected": {
            "outcome": (Word.PROXIED if probe.is_captured else Word.DIRECT).value,
            "kind": probe.expected.kind.value,
            "port": probe.expected.port,
        },
        "passed": verdict.passed,
        "latency_ms": None if verdict.latency is None else round(verdict.latency * 1000, 3),
        "happened": verdict.happened,
        "reason": verdict.reason,
        "note": verdict.note,
    }
