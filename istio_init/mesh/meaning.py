"""What a configuration means in a namespace: its addresses and its name servers decide, too."""

from __future__ import annotations

from enum import Enum

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.mesh.policy import sidecar
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Address, IPv6Network


SHOWN = 4
"""Ranges that are named."""


class Note(Enum):
    """What became of a configuration in a namespace, and is worth saying."""

    NO_ADDRESS = "no-address"
    """No address could be captured: all are loopback or link-local. Nothing can be programmed."""

    IPV6_LEFT_ALONE = "ipv6-left-alone"
    """IPv6 is not captured though dual-stack was asked for: no IPv6 address here is reached by others."""

    RANGES_LEFT_ALONE = "ranges-left-alone"
    """Ranges of IPv6 are named, and IPv6 is not captured: no rule holds them."""

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
    if ipv6 is None:
        return meaning.replace(notes=(Note.NO_ADDRESS, *meaning.notes))
    return meaning.replace(notes=(Note.IPV6_LEFT_ALONE, *meaning.notes)) if config.dual_stack and not ipv6 else meaning


def settle(config: Config, dns_servers: tuple[IPv4Address | IPv6Address, ...], *, ipv6: bool) -> Meaning:
    """The same where something else than addresses tells whether IPv6 is captured: live rules, or nothing but hope."""
    notes = (Note.RANGES_LEFT_ALONE,) if not ipv6 and ranges_of_ipv6(config) else ()
    if not config.redirect_dns:
        return Meaning(config, Surroundings(ipv6), notes)
    if dns_servers or config.capture_all_dns:
        return Meaning(config, Surroundings(ipv6, dns_servers), notes)
    return Meaning(config.replace(redirect_dns=False), Surroundings(ipv6), (*notes, Note.DNS_CAPTURE_OFF))


def ranges_of_ipv6(config: Config) -> tuple[IPv6Network, ...]:
    """The ranges of IPv6 that a configuration names."""
    included = () if config.outbound_ranges is ALL else config.outbound_ranges
    found = (*included, *config.outbound_exclude_ranges)
    return tuple([each for each in found if each.version == 6])


def words_of(note: Note, config: Config) -> str | None:
    """What is to be said of a configuration wherever it is looked at; None of notes that depend on the place."""
    match note:
        case Note.IPV6_LEFT_ALONE:
            return "IPv6 is not captured though --dual-stack asks for it: there is no IPv6 address that others reach"
        case Note.RANGES_LEFT_ALONE:
            ranges = ranges_of_ipv6(config)
            more = f" and {len(ranges) - SHOWN} more" if len(ranges) > SHOWN else ""
            return f"IPv6 is not captured, so no rule holds {', '.join(map(str, ranges[:SHOWN]))}{more}"
    return None
