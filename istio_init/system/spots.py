"""Probes, the link and the spots that they use, and what was seen of them. Pure values."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.netfilter.family import Family
from istio_init.netfilter.packet import Packet
from istio_init.netfilter.protocols import protocol_name
from istio_init.trace.result import Kind, Outcome
from istio_init.value import Value

IPAddress = IPv4Address | IPv6Address
CAPTURING = frozenset([Kind.REDIRECT, Kind.TPROXY])
"""Outcomes that bring a connection to the proxy."""

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


class Ground(Value):
    """The second namespace: its link, by family, the interface in the namespace under test, and further addresses.

    To those of ``further`` routes are added. ``beyond`` are addresses whose traffic must stay where it is: only sockets
    that are bound to the interface reach them in the second namespace.
    """

    interface: str
    links: dict[Family, Link]
    further: tuple[IPAddress, ...] = ()
    beyond: tuple[IPAddress, ...] = ()


class Probe(Value):
    """One connection, or one question over UDP, and what has to become of it.

    ``who`` says in words who sends it. ``bind`` is the source that it has to have, ``is_transparent`` whether that is
    no address of the namespace. ``waits`` is the side on which a listener of ours waits at its destination, None where
    that belongs to others. ``device`` is the interface that its socket in the namespace under test is bound to.
    """

    group: str
    who: str
    packet: Packet
    expected: Outcome
    begins: Side = Side.POD
    waits: Side | None = None
    bind: IPAddress | None = None
    is_transparent: bool = False
    device: str | None = None

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return self.packet.family

    @property
    def protocol(self) -> str:
        """Its protocol by name: tcp, or udp."""
        return protocol_name(self.packet.protocol)

    @property
    def is_captured(self) -> bool:
        """Whether it has to come to the proxy."""
        return self.expected.kind in CAPTURING


class Spot(Value):
    """Where a listener waits. No address: all of them. ``owner`` is whom it has to belong to; None: no matter.

    ``mark`` is what it puts on packets; ``device`` the interface that it is bound to, if any.
    """

    side: Side
    protocol: str
    family: Family
    port: int
    address: IPAddress | None = None
    owner: Ids | None = None
    transparent: bool = False
    mark: int = 0
    device: str | None = None


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
