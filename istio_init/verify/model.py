"""Probes, what they may rely on, what was seen of them, and what follows."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.model.matches import IPNetwork
from istio_init.model.netfilter import Family
from istio_init.model.value import Value
from istio_init.trace.engine import Outcome
from istio_init.trace.packet import Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IPAddress = IPv4Address | IPv6Address
Ids = tuple[int, int]
"""A user and a group."""


class Side(Enum):
    """Where a probe begins or ends: the namespace under test, or the second one, which stands for the world."""

    POD = "pod"
    NEIGHBOUR = "neighbour"

    __hash__ = object.__hash__


class Link(Value):
    """The addresses of one family on the link between the namespace (``ours``) and the second one (``theirs``)."""

    ours: IPAddress
    theirs: IPAddress
    prefix_length: int


class Facts(Value):
    """What is known of the namespace, and of what the process may do in it.

    ``used`` are ports that some socket has, ``peers`` addresses that somebody is connected to, ``taken`` the ranges
    that routes lead to or addresses lie in. ``reaches`` tells whether there is a route to an address, ``has_user``
    and ``has_group`` whether an id exists in this user namespace. ``may`` holds capabilities, without their prefix.
    ``no_neighbour`` says why there can be no second namespace.
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


class Probe(Value):
    """One connection, or one question over UDP, and what has to become of it.

    ``who`` says in words who sends it. ``bind`` is the source that it has to have. ``waits`` is the side on which a
    listener of ours waits at its destination, None where that belongs to others.
    """

    group: str
    who: str
    packet: Packet
    expected: Outcome
    begins: Side = Side.POD
    waits: Side | None = None
    bind: IPAddress | None = None

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return self.packet.family

    @property
    def is_captured(self) -> bool:
        """Whether it has to come to the proxy."""
        return self.expected.kind in ("redirect", "tproxy")


class Skipped(Value):
    """What is not probed, and why; in a family, or None where that is said already or does not matter."""

    what: str
    why: str
    family: Family | None = None


class Ground(Value):
    """The second namespace: its link, by family, the interface in the namespace under test, and further addresses."""

    interface: str
    links: dict[Family, Link]
    further: tuple[IPAddress, ...] = ()


class Plan(Value):
    """All that is to be probed. ``ground`` is None where no probe needs a second namespace."""

    probes: tuple[Probe, ...]
    skipped: tuple[Skipped, ...]
    ground: Ground | None


class Spot(Value):
    """Where a listener waits. No address: all of them. ``owner`` is whom it has to belong to; None: no matter."""

    side: Side
    protocol: str
    family: Family
    port: int
    address: IPAddress | None = None
    owner: Ids | None = None
    transparent: bool = False


class Arrival(Value):
    """Where a probe came out. ``original`` and ``peer`` are what our listener was told; None where it is not ours."""

    side: Side
    port: int
    original: tuple[str, int] | None = None
    peer: str | None = None


TIMED_OUT = "timed out"
REFUSED = "refused"
NO_PORT = "no local port is free"
NO_SOURCE = "its source is no address of the namespace"


class Seen(Value):
    """What became of a probe: its source, where it came out, how long that took, what went wrong.

    ``latency`` is in seconds, from connecting to the answer; None where no answer of ours came. ``failure`` is what the
    kernel said to the sender: `REFUSED`, `TIMED_OUT`, `NO_SOURCE`, or the error's text.
    """

    source: tuple[str, int] | None = None
    arrival: Arrival | None = None
    latency: float | None = None
    failure: str | None = None


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

    ``lacks_privileges``: with more privileges more could have been probed. ``wants_capture``: something has to come to
    the proxy.
    """

    verdicts: tuple[Verdict, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    lacks_privileges: bool = False
    wants_capture: bool = False

    @property
    def failed(self) -> int:
        """How many probes failed."""
        return sum(not verdict.passed for verdict in self.verdicts)

    @property
    def is_proved(self) -> bool:
        """Whether something was probed, capture among it if any is wanted, and nothing failed."""
        captured = any(verdict.probe.is_captured for verdict in self.verdicts)
        return bool(self.verdicts) and not self.failed and not self.problems and (captured or not self.wants_capture)
