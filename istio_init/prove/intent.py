"""What a namespace is compared with: an expected configuration, or the one behind its live rules."""

from __future__ import annotations

from istio_init.config.model import Config, Surroundings
from istio_init.errors import IstioInitError
from istio_init.inspector.findings.rules import half_applied
from istio_init.inspector.release import is_older, release_span
from istio_init.mesh.meaning import Note, resolve
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
    meaning = resolve(config, snapshot.addresses, snapshot.dns_servers)
    if Note.NO_ADDRESS in meaning.notes:
        found = ", ".join(map(str, snapshot.addresses)) or "none"
        raise IstioInitError(
            f"{snapshot.label}: no local address that could be captured (addresses: {found})",
            fix="verify after the network is set up; loopback and link-local addresses do not count",
        )
    off = ("DNS capture is off: resolv.conf names no server",)
    notes = off if Note.DNS_CAPTURE_OFF in meaning.notes else ()
    return Intent(meaning.config, meaning.around, "expect", notes)


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
