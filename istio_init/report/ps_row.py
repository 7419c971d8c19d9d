"""One network namespace of a node in a line."""

from __future__ import annotations

from istio_init.inspector.findings import SEVERITIES
from istio_init.inspector.impact import Traffic, by_kind
from istio_init.mesh.mode import Mode
from istio_init.netfilter.host import is_usable
from istio_init.observe.unread import Why
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.errors import IstioInitError
    from istio_init.inspector.explain import Explanation
    from istio_init.system.pod_names import Claim
    from istio_init.system.pods import PodNamespace

STATES = ("broken", "unknown", "captured", "not captured")
"""The worst first."""

NONE = "-"


class PsRow(Value):
    """``state`` is ``captured``, ``broken`` (an error finding), ``not captured``, or ``unknown`` with the error.

    ``pod`` and ``namespace`` are what its processes say; ``is_shared`` says that those of another one say so, too.
    """

    inode: int
    pid: int
    process: str
    container: str | None
    addresses: tuple[str, ...]
    mode: str
    backend: str
    state: str
    findings: int
    codes: tuple[str, ...] = ()
    """The code of each finding."""

    error: str | None = None
    pod: str | None = None
    namespace: str | None = None
    names: tuple[str, ...] = ()
    """All that its processes claim to be, as NAMESPACE/POD."""

    is_shared: bool = False
    is_denied: bool = False
    """Whether a missing privilege left something unread."""

    outbound: str = NONE
    """What becomes of an application's connections: an outcome, or two where families or destinations differ."""

    inbound: str = NONE
    worst: str | None = None
    """The code of the most severe finding."""

    @property
    def name(self) -> str:
        """What it is called: by its pod, or else by its process."""
        if self.pod is None:
            return f"{self.process} (pid {self.pid})"
        return f"{self.namespace}/{self.pod}" if self.namespace else self.pod


def ps_row(pod: PodNamespace, explanation: Explanation, claims: tuple[Claim, ...] = ()) -> PsRow:
    """The line of a namespace that could be read."""
    snapshot = explanation.snapshot
    captured = explanation.mode is not Mode.NONE
    errors = any(finding.severity.value == "error" for finding in explanation.findings)
    unread = snapshot.unread if snapshot.partial and not captured else ()
    state = "broken" if errors else "captured" if captured else "unknown" if unread else "not captured"
    by_severity = sorted(explanation.findings, key=lambda each: SEVERITIES.index(each.severity))
    return _named(
        PsRow(
            pod.inode,
            pod.pid,
            pod.processes[0].name,
            pod.container,
            tuple(str(each) for each in snapshot.addresses if is_usable(each)),
            explanation.mode.value.lower() if captured else NONE,
            explanation.backend.value if explanation.families else NONE,
            state,
            len(explanation.findings),
            tuple(finding.kind.code for finding in explanation.findings),
            "; ".join(map(str, unread)) or None,
            is_denied=any(each.why is Why.DENIED for each in unread),
            outbound=_outcome(explanation, Traffic.OUTBOUND),
            inbound=_outcome(explanation, Traffic.INBOUND),
            worst=by_severity[0].kind.code if by_severity else None,
        ),
        claims,
    )


def unreadable_row(pod: PodNamespace, error: IstioInitError, claims: tuple[Claim, ...] = ()) -> PsRow:
    """The line of a namespace that could not be read, or ended meanwhile."""
    row = PsRow(
        pod.inode, pod.pid, pod.processes[0].name, pod.container, (), NONE, NONE, "unknown", 0, (), error.message
    )
    return _named(row.replace(is_denied=error.exit_code == PRIVILEGE), claims)


PRIVILEGE = 5


def _named(row: PsRow, claims: tuple[Claim, ...]) -> PsRow:
    names = tuple(map(str, claims))
    return row.replace(pod=claims[0].name, namespace=claims[0].namespace, names=names) if claims else row


def _outcome(explanation: Explanation, traffic: Traffic) -> str:
    """What becomes of most of it, in each family; of ordinary connections where they were traced all outcomes."""
    words: dict[str, None] = {}
    for impact in by_kind(explanation.impacts).get(traffic, ()):
        words.update(dict.fromkeys(part.word for part in (impact.parts if impact.is_sampled else impact.parts[:1])))
    return "/".join(words) or NONE


def ps_json(row: PsRow) -> dict[str, object]:
    """The line as JSON values; see istio_init/schemas/ps.schema.json."""
    return {field: _plain(getattr(row, field)) for field in PsRow.__match_args__}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
