"""What no probe can show: connections that the live rules treat otherwise than the configuration, by the map."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.inspector.findings.catalogue import NOT_ALL_FOLLOWED
from istio_init.inspector.findings.fate import captured_otherwise
from istio_init.inspector.findings.model import Severity
from istio_init.inspector.infer import Inferred
from istio_init.inspector.infer_ambient import InferredAmbient
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.inspector.findings.model import View
    from istio_init.prove.intent import Intent


class Astray(Value):
    """``problems`` are connections that go elsewhere, ``doubts`` those that are undecidable, or were not followed."""

    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


NOT_LOOKED_AT = Astray()


def astray(view: View, intent: Intent) -> Astray:
    """Compare all connections, of which probes are but a few, under the live rules and under what has to be.

    Nothing is told where no rules of Istio's are live, or not all could be read: the probes say that.
    """
    if view.main is None or view.snapshot.missing_rules:
        return Astray()
    if intent.source == "expect":
        view.main = view.main.replace(**_meant(intent))
    problems: list[str] = []
    doubts: list[str] = []
    for finding in captured_otherwise(view):
        if finding.severity is Severity.ERROR:
            problems += finding.evidence
        elif finding.kind is NOT_ALL_FOLLOWED:
            doubts += finding.evidence
        else:
            doubts += (f"undecidable for what is not probed: {line}" for line in finding.evidence)
    return Astray(tuple(problems), tuple(doubts))


def _meant(intent: Intent) -> dict[str, object]:
    """The configuration that is expected, in place of the one behind the live rules."""
    if isinstance(intent.config, AmbientConfig):
        return {"sidecar": None, "ambient": InferredAmbient(intent.config, exact=False)}
    return {"sidecar": Inferred(intent.config, intent.around, exact=False), "ambient": None}
