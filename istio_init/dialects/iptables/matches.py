"""What a rule can test about a packet.

Each class is one test of iptables in its normal form; two rules do the same when their values are equal. A match that
this package does not know is an `OpaqueMatch`, which keeps its text and is never interpreted.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from istio_init.netfilter.family import MAX_MARK
from istio_init.value import Value

IPNetwork = IPv4Network | IPv6Network


class Address(Value):
    """``-s``/``-d``: the packet's address lies in a network."""

    network: IPNetwork
    negated: bool = False


class Interface(Value):
    """``-i``/``-o``: the interface's name; a trailing ``+`` matches any suffix."""

    name: str
    negated: bool = False


class Protocol(Value):
    """``-p``: the transport protocol, by the name or number that iptables prints."""

    name: str
    negated: bool = False


class PortRange(Value):
    """Ports ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}:{self.last}"


class PortTest(Value):
    """One port of a packet lies, or does not lie, in a range."""

    ports: PortRange
    negated: bool = False


class PortMatch(Value):
    """``-m tcp``/``-m udp``: source and destination port. Neither given: any packet of the protocol."""

    protocol: str
    source: PortTest | None = None
    destination: PortTest | None = None


class Multiport(Value):
    """``-m multiport``: one of up to 15 ports; ``side`` is ``source``, ``destination`` or ``either``."""

    side: str
    ports: tuple[PortRange, ...]
    negated: bool = False


class IdRange(Value):
    """User or group ids ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Owner(Value):
    """``-m owner``: who opened the sending socket. Packets without a socket match neither a test nor its negation."""

    uid: IdRange | None = None
    uid_negated: bool = False
    gid: IdRange | None = None
    gid_negated: bool = False


class Mark(Value):
    """``-m mark``: packet mark, under a mask."""

    value: int
    mask: int = MAX_MARK
    negated: bool = False


class Connmark(Value):
    """``-m connmark``: mark of the packet's connection, under a mask."""

    value: int
    mask: int = MAX_MARK
    negated: bool = False


CTSTATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
"""States of ``--ctstate``, in the order in which iptables-save prints them."""


class Ctstate(Value):
    """``-m conntrack --ctstate``: state of the connection; states stand in the order of `CTSTATES`."""

    states: tuple[str, ...]
    negated: bool = False


class Comment(Value):
    """``-m comment``: a note; matches every packet. ``quoted`` is the text as written, with its quotes."""

    quoted: str


class OpaqueMatch(Value):
    """A match that is not known here: ``-m name`` and its words, as written. No name: a flag of the rule itself."""

    name: str | None
    words: tuple[str, ...]


Match = PortMatch | Multiport | Owner | Mark | Connmark | Ctstate | Comment | OpaqueMatch
