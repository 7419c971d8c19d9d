"""One network namespace of a node in a line."""

from __future__ import annotations

from istio_init.mesh.mode import Mode
from istio_init.netfilter.host import is_usable
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.errors import IstioInitError
    from istio_init.inspector.explain import Explanation
    from istio_init.system.pods import PodNamespace


class PsRow(Value):
    """``state`` is ``captured``, ``broken`` (an error finding), ``not captured``, or ``unknown`` with the error."""

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


def ps_row(pod: PodNamespace, explanation: Explanation) -> PsRow:
    """The line of a namespace that could be read."""
    addresses = explanation.snapshot.addresses
    usable = [str(each) for each in addresses if is_usable(each)]
    captured = explanation.mode is not Mode.NONE
    errors = any(finding.severity.value == "error" for finding in explanation.findings)
    unread = explanation.snapshot.unread if explanation.snapshot.partial and not captured else ()
    state = "broken" if errors else "captured" if captured else "unknown" if unread else "not captured"
    return PsRow(
        pod.inode,
        pod.pid,
        pod.processes[0].name,
        pod.container,
        tuple(usable),
        explanation.mode.value.lower() if captured else "-",
        explanation.backend.value if explanation.families else "-",
        state,
        len(explanation.findings),
        tuple(finding.kind.code for finding in explanation.findings),
        "; ".join(map(str, unread)) or None,
    )


def unreadable_row(pod: PodNamespace, error: IstioInitError) -> PsRow:
    """The line of a namespace that could not be read, or ended meanwhile."""
    return PsRow(
        pod.inode, pod.pid, pod.processes[0].name, pod.container, (), "-", "-", "unknown", 0, (), error.message
    )


def ps_json(row: PsRow) -> dict[str, object]:
    """The line as JSON values; see istio_init/schemas/ps.schema.json."""
    return {field: _plain(getattr(row, field)) for field in PsRow.__match_args__}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
