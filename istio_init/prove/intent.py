"""What a namespace is compared with: an expected configuration, or the one behind its live rules."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Config, Surroundings
from istio_init.errors import IstioInitError
from istio_init.inspector.findings.dns import missed_servers
from istio_init.inspector.findings.rules import half_applied, missing
from istio_init.inspector.release import is_older, release_span
from istio_init.mesh.meaning import Note, resolve
from istio_init.prove.subject import Subject, subject_of
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.inspector.findings.model import View
    from istio_init.observe.snapshot import Snapshot


class Intent(Value):
    """A configuration with its surroundings. ``source`` is ``expect`` or ``live``.

    ``problems`` are rules that are missing whatever was meant; ``notes`` is what else matters to who reads the result.
    """

    config: Config | AmbientConfig
    around: Surroundings
    source: str
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def subject(self) -> Subject:
        """What is to be proved of it."""
        return subject_of(self.config, self.around)


def expected(config: Config | AmbientConfig, snapshot: Snapshot) -> Intent:
    """What an expected configuration means in a namespace.

    Raises:
        IstioInitError: no address of the namespace could be captured.
    """
    if isinstance(config, AmbientConfig):
        return _ambient(config, "expect")
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


NOT_EXACT = "the live rules are not just what this configuration gives; name the intended one with --expect"


def _ambient(config: AmbientConfig, source: str, notes: tuple[str, ...] = (), problems: tuple[str, ...] = ()) -> Intent:
    return Intent(config, Surroundings(config.ipv6), source, notes, problems)


def inferred(view: View) -> Intent | None:
    """What the live rules were made for; None where nothing of a redirection is there."""
    found, ambient = view.inferred, view.ambient
    if ambient is not None:
        notes, problems = () if ambient.exact else (NOT_EXACT,), () if ambient.exact else tuple(map(str, missing(view)))
        return _ambient(ambient.config, "live", notes, problems)
    if found is None:
        return None
    problems = tuple(
        f"DNS queries to {each}, which resolv.conf names, are not captured" for each in missed_servers(view)
    )
    around, notes = found.around, ()
    if around.ipv6 and not any(each.version == 6 for each in view.snapshot.addresses):
        around, notes = (
            around.replace(ipv6=False),
            ("no interface has an IPv6 address, IPv6 is not probed",),
        )
    if found.exact:
        return Intent(found.config, around, "live", notes, problems)
    span = release_span(view.rules)
    if is_older(span):
        note = f"rules as of {span}, compared with what today's release would do"
        return Intent(found.config, around, "live", (*notes, note), problems)
    lost = tuple(line for finding in half_applied(view) for line in finding.evidence)
    return Intent(found.config, around, "live", (*notes, NOT_EXACT), (*lost, *problems))
