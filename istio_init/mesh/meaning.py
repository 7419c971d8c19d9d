"""What a configuration means in a namespace: its addresses and its name servers decide, too."""

from __future__ import annotations

from enum import Enum

from istio_init.config.model import Config, Surroundings
from istio_init.mesh.policy import sidecar
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Address


class Note(Enum):
    """What became of a configuration in a namespace, and is worth saying."""

    NO_ADDRESS = "no-address"
    """No address could be captured: all are loopback or link-local. Nothing can be programmed."""

    DNS_CAPTURE_OFF = "dns-capture-off"
    """DNS capture was asked for, of the servers of resolv.conf, and that names none."""


class Meaning(Value):
    """The configuration as it is programmed, the facts that the policy takes beside it, and what there is to say."""

    config: Config
    around: Surroundings
    notes: tuple[Note, ...] = ()


def resolve(
    config: Config,
    addresses: Iterable[IPv4Address | IPv6Address],
    dns_servers: tuple[IPv4Address | IPv6Address, ...],
) -> Meaning:
    """What a configuration means in a namespace of these addresses and name servers."""
    ipv6 = sidecar.captures_ipv6(addresses, dual_stack=config.dual_stack)
    meaning = settle(config, dns_servers, ipv6=bool(ipv6))
    return meaning.replace(notes=(Note.NO_ADDRESS, *meaning.notes)) if ipv6 is None else meaning


def settle(config: Config, dns_servers: tuple[IPv4Address | IPv6Address, ...], *, ipv6: bool) -> Meaning:
    """The same where something else than addresses tells whether IPv6 is captured: live rules, or nothing but hope."""
    if not config.redirect_dns:
        return Meaning(config, Surroundings(ipv6))
    if dns_servers or config.capture_all_dns:
        return Meaning(config, Surroundings(ipv6, dns_servers))
    return Meaning(config.replace(redirect_dns=False), Surroundings(ipv6), (Note.DNS_CAPTURE_OFF,))
