"""Where a second namespace fits in: an interface that no rule excepts, and addresses that collide with nothing."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from istio_init.netfilter.family import Family
from istio_init.prove.model import Facts
from istio_init.system.spots import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.dialects.iptables.matches import IPNetwork
    from istio_init.prove.subject import Subject

BLOCKS: dict[Family, tuple[str, ...]] = {
    Family.IPV4: ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", "100.64.0.0/10", "10.0.0.0/8"),
    Family.IPV6: ("2001:db8::/32", "2001:2::/48", "fd00::/8"),
}
"""Ranges for documentation, benchmarks and private use, the first preferred (RFC 5737, 2544, 6598, 3849, 5180)."""

LENGTHS = {Family.IPV4: 30, Family.IPV6: 126}
TRIES = 64
NAMES = ("istio-verify0", "verify0", "probe0", "neighbour0", "xprobe0")


def free_name(subject: Subject, facts: Facts) -> str | None:
    """A name for an interface that is not there yet and not excepted by the configuration; None if none is left."""
    return next((name for name in NAMES if name not in facts.interfaces and not _matches(name, subject.excepted)), None)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern for pattern in patterns)


def free_link(family: Family, subject: Subject, facts: Facts) -> Link:
    """Two addresses of a range that is in use nowhere; one that no outbound range names, if there is one."""
    candidates = [block for block in _blocks(family) if not _overlaps(block, facts.taken)]
    unnamed = [block for block in candidates if not _overlaps(block, subject.ranges)]
    block = (unnamed or candidates or list(_blocks(family)))[0]
    return Link(ours=block[2], theirs=block[1], prefix_length=block.prefixlen)


def _blocks(family: Family) -> Iterator[IPv4Network | IPv6Network]:
    """The small ranges to choose from, spread over each of the large ones."""
    for text in BLOCKS[family]:
        whole = ip_network(text)
        size = 1 << (whole.max_prefixlen - LENGTHS[family])
        count = min(TRIES, whole.num_addresses // size)
        step = whole.num_addresses // count // size * size
        for number in reversed(range(count)):
            yield ip_network((int(whole.network_address) + number * step, LENGTHS[family]))


def _overlaps(block: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    return any(block.version == other.version and block.overlaps(other) for other in others)
