"""What a namespace is to be held to: an expected configuration, or the one that its live rules come from."""

from __future__ import annotations

from istio_init.config.model import Config, Surroundings
from istio_init.errors import IstioInitError
from istio_init.inspector.findings.rules import half_applied
from istio_init.inspector.release import is_older, release_span
from istio_init.mesh.policy import sidecar
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.inspector.findings.model import View
    from istio_init.observe.snapshot import Snapshot


class Intent(Value):
    """A configuration with its surroundings. ``source`` is ``expect`` or ``live``.

    ``problems`` are rules that are missing whatever was meant; ``notes`` is what else matters to who reads the result.
    """

    config: Config
    around: Surroundings
    source: str
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def expected(config: Config, snapshot: Snapshot) -> Intent:
    """What an expected configuration means in a namespace.

    Raises:
        IstioInitError: no address of the namespace could be captured.
    """
    ipv6 = sidecar.captures_ipv6(snapshot.addresses, dual_stack=config.dual_stack)
    if ipv6 is None:
        found = ", ".join(map(str, snapshot.addresses)) or "none"
        raise IstioInitError(
            f"{snapshot.label}: no local address that could be captured (addresses: {found})",
            fix="verify after the network is set up; loopback and link-local addresses do not count",
        )
    servers = snapshot.dns_servers if config.redirect_dns else ()
    if config.redirect_dns and not servers and not config.capture_all_dns:
        notes = ("DNS capture is off: resolv.conf names no server",)
        return Intent(config.replace(redirect_dns=False), Surroundings(ipv6), "expect", notes)
    return Intent(config, Surroundings(ipv6, servers), "expect")


def inferred(view: View) -> Intent | None:
    """What the live rules were made for; None where nothing of a sidecar's redirection is there."""
    found = view.inferred
    if found is None:
        return None
    if found.exact:
        return Intent(found.config, found.around, "live")
    span = release_span(view.rules)
    if is_older(span):
        return Intent(found.config, found.around, "live", (f"rules as of {span}, held to what today's would do",))
    problems = tuple(line for finding in half_applied(view) for line in finding.evidence)
    notes = ("the live rules are not just what this configuration gives; name the intended one with --expect",)
    return Intent(found.config, found.around, "live", notes, problems)
