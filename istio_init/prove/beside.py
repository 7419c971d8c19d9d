"""What is to be known beside the probes, as none of them can show it."""

from __future__ import annotations

from istio_init.inspector.findings.applications import not_the_proxy, owner_groups, uncaptured_port
from istio_init.inspector.findings.connections import open_bypass, stopped_proxy
from istio_init.inspector.findings.dropped import all_excluded
from istio_init.inspector.findings.listening import silent
from istio_init.inspector.findings.model import Severity
from istio_init.inspector.findings.namespace import exempt_process, proxy_not_exempt
from istio_init.inspector.findings.uplink import no_route, virtual_uplink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.inspector.findings.model import View


def stood_in(view: View) -> tuple[str, ...]:
    """That probes arrived at listeners of our own, where nobody else would take what is redirected."""
    told = []
    proxy = "the proxy" if view.ambient is None else "ztunnel"
    for families, ports in silent(view).items():
        over = f" over {families[0].value}" if len(families) == 1 and len(view.families) > 1 else ""
        *before, last = map(str, ports)
        named = f"ports {', '.join(before)} and {last}" if before else f"port {last}"
        told.append(
            f"nothing in the pod listens on {named}{over}: verify listened there itself; until {proxy} does, real "
            "connections fail"
        )
    for finding in no_route(view):
        told += [
            f"{line}: probes went to an interface of verify's own, and real connections fail"
            for line in finding.evidence
        ]
    return tuple(told)


def beside(view: View) -> tuple[str, ...]:
    """Which traffic goes past the proxy, or is lost in it, although the rules do what they are to: no probe fails."""
    return tuple(
        f"{finding.kind.title}: {'; '.join(finding.evidence)}"
        for check in PAST
        for finding in check(view)
        if finding.severity is not Severity.INFO
    )


PAST = (
    virtual_uplink,
    all_excluded,
    owner_groups,
    uncaptured_port,
    proxy_not_exempt,
    exempt_process,
    open_bypass,
    not_the_proxy,
    stopped_proxy,
)
