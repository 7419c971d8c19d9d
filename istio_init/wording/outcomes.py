"""The one word for what becomes of a packet, and how to say where it goes."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from istio_init.trace.result import Kind, Outcome
from istio_init.wording.values import IPV4_BITS

PROXY_PORTS = frozenset([15001, 15006, 15008, 15053])
"""Where a proxy listens if nothing else is configured: outbound, inbound, tunnel, DNS."""


class Word(Enum):
    """What becomes of traffic, in the word that every command uses for it."""

    PROXIED = "proxied"
    """To a port of the proxy, by redirect or tproxy."""
    DIRECT = "direct"
    """It bypasses the proxy."""
    REDIRECTED = "redirected"
    """To another local port, or another address."""
    DROPPED = "dropped"
    REJECTED = "rejected"
    FORWARDED = "forwarded"
    UNDECIDABLE = "undecidable"

    __hash__ = object.__hash__


_WORDS = {
    Kind.DIRECT: Word.DIRECT,
    Kind.DROP: Word.DROPPED,
    Kind.REJECT: Word.REJECTED,
    Kind.FORWARD: Word.FORWARDED,
    Kind.DNAT: Word.REDIRECTED,
    Kind.UNKNOWN: Word.UNDECIDABLE,
}


def word(outcome: Outcome, proxy_ports: frozenset[int] = PROXY_PORTS) -> Word:
    """The word for an outcome; ``proxy_ports`` are those at which the proxy listens."""
    if outcome.kind in (Kind.REDIRECT, Kind.TPROXY):
        return Word.PROXIED if outcome.port in proxy_ports else Word.REDIRECTED
    return _WORDS[outcome.kind]


def outcome_words(outcome: Outcome, proxy_ports: frozenset[int] = PROXY_PORTS) -> str:
    """For example ``proxied to port 15001``, ``direct``, ``dropped``."""
    said = word(outcome, proxy_ports).value
    match outcome.kind:
        case Kind.REDIRECT | Kind.TPROXY:
            kept = ", addresses kept" if outcome.kind is Kind.TPROXY else ""
            port = f"port {outcome.port}" if outcome.port is not None else "this machine, port kept"
            return f"{said} to {port}{kept}"
        case Kind.DNAT:
            return f"{said} to {place(outcome)}"
    return said


def place(outcome: Outcome) -> str:
    """Where an outcome leads: address and port as far as they are known."""
    if outcome.address is None:
        return f"port {outcome.port}" if outcome.port is not None else "another destination"
    is_ipv6 = outcome.address >> IPV4_BITS != 0
    host = str(IPv6Address(outcome.address) if is_ipv6 else IPv4Address(outcome.address))
    if outcome.port is None:
        return host
    return f"[{host}]:{outcome.port}" if is_ipv6 else f"{host}:{outcome.port}"
