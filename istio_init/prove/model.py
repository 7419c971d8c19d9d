"""What probes may rely on, all that is to be probed, and what follows."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import IPNetwork
from istio_init.netfilter.family import Family
from istio_init.system.spots import Ground, Ids, IPAddress, Probe
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Facts(Value):
    """What is known of the namespace, and of what the process may do in it.

    ``used`` are ports that some socket has, ``peers`` addresses that somebody is connected to, ``taken`` the ranges
    that routes lead to or addresses lie in. ``reaches`` tells whether there is a route to an address, ``has_user``
    and ``has_group`` whether an id exists in this user namespace. ``may`` holds capabilities, without their prefix.
    ``no_neighbour`` says why there can be no second namespace; ``checks_sources`` whether what enters via a new
    interface is dropped where its answer would leave by another one.
    """

    addresses: tuple[IPAddress, ...]
    interfaces: tuple[str, ...]
    used: frozenset[int]
    peers: frozenset[IPAddress]
    taken: tuple[IPNetwork, ...]
    identity: Ids
    may: frozenset[str]
    reaches: Callable[[IPAddress], bool]
    has_user: Callable[[int], bool]
    has_group: Callable[[int], bool]
    no_neighbour: str | None = None
    checks_sources: bool = False


class Skipped(Value):
    """What is not probed, and why; in a family, or None where that is said already or does not matter."""

    what: str
    why: str
    family: Family | None = None


class Plan(Value):
    """All that is to be probed. ``ground`` is None where no probe needs a second namespace."""

    probes: tuple[Probe, ...]
    skipped: tuple[Skipped, ...]
    ground: Ground | None


class Verdict(Value):
    """A probe and what came of it. ``happened`` and ``reason`` say why it failed; ``note`` what limits a success."""

    probe: Probe
    passed: bool
    latency: float | None = None
    happened: str | None = None
    reason: str | None = None
    note: str | None = None


class Report(Value):
    """What was proved. ``notes`` say what else matters; ``problems`` are failures that no probe showed.

    ``lacks_privileges``: with more privileges more could have been probed. ``wanted`` are the groups of
    probes of which some have to come to the proxy; ``accepts_unprobed``: any that do are enough.
    """

    verdicts: tuple[Verdict, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    lacks_privileges: bool = False
    wanted: frozenset[str] = frozenset()
    accepts_unprobed: bool = False

    @property
    def failed(self) -> int:
        """How many probes failed."""
        return sum(not verdict.passed for verdict in self.verdicts)

    @property
    def is_proved(self) -> bool:
        """Whether something was probed, capture in each direction that wants it, and nothing failed."""
        captured = any(each.probe.is_captured for each in self.verdicts)
        enough = not self.unprobed or (self.accepts_unprobed and captured)
        return bool(self.verdicts) and not self.failed and not self.problems and enough

    @property
    def unprobed(self) -> tuple[str, ...]:
        """The groups of which no probe that has to come to the proxy was sent, though some have to."""
        return tuple(sorted(self.wanted - {each.probe.group for each in self.verdicts if each.probe.is_captured}))
