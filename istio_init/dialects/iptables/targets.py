"""What a rule does with a packet that it matches. An unknown target is an `OpaqueTarget` and keeps its text."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.dialects.iptables.matches import PortRange
from istio_init.netfilter.family import MAX_MARK
from istio_init.value import Value


class Verdict(Value):
    """A verdict of the kernel: ``ACCEPT``, ``DROP``, ``RETURN`` or ``QUEUE``."""

    name: str


ACCEPT = Verdict("ACCEPT")
DROP = Verdict("DROP")
RETURN = Verdict("RETURN")
VERDICTS = ("ACCEPT", "DROP", "RETURN", "QUEUE")


class Jump(Value):
    """``-j CHAIN``: go on in another chain and come back at its end."""

    chain: str


class Goto(Value):
    """``-g CHAIN``: go on in another chain and return to this chain's caller at its end."""

    chain: str


class Redirect(Value):
    """``-j REDIRECT``: rewrite the destination to this machine; no port keeps the packet's."""

    ports: PortRange | None = None


class Tproxy(Value):
    """``-j TPROXY``: hand the packet to a transparent socket and mark it; the packet itself stays as it is."""

    port: int
    address: IPv4Address | IPv6Address
    mark: int
    mask: int = MAX_MARK


class SetMark(Value):
    """``-j MARK --set-xmark``: clear the mask's bits of the packet's mark and XOR the value."""

    value: int
    mask: int = MAX_MARK


class SetConnmark(Value):
    """``-j CONNMARK --set-xmark``: the same for the connection's mark."""

    value: int
    mask: int = MAX_MARK


class SaveMark(Value):
    """``-j CONNMARK --save-mark``: copy the packet's mark to its connection."""

    nfmask: int = MAX_MARK
    ctmask: int = MAX_MARK


class RestoreMark(Value):
    """``-j CONNMARK --restore-mark``: copy the connection's mark to the packet."""

    nfmask: int = MAX_MARK
    ctmask: int = MAX_MARK


class CtZone(Value):
    """``-j CT --zone``: track the packet's connection in a zone of its own."""

    zone: int


class OpaqueTarget(Value):
    """A target that is not known here, with its words as written."""

    name: str
    words: tuple[str, ...] = ()


Target = (
    Verdict | Jump | Goto | Redirect | Tproxy | SetMark | SetConnmark | SaveMark | RestoreMark | CtZone | OpaqueTarget
)
