"""Elements of sets of one field, as nft prints them, and the intervals that they are."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.netfilter.intervals import union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.iptables.matches import IdRange, IPNetwork, PortRange
    from istio_init.dialects.nft.ruleset import Json
    from istio_init.netfilter.intervals import Intervals


def of_numbers(ranges: Iterable[PortRange | IdRange]) -> tuple[Json, ...]:
    """Ports or ids: a number or a range for each interval of the union."""
    merged = union([((each.first, each.last),) for each in ranges])
    return tuple([first if first == last else {"range": [first, last]} for first, last in merged])


def of_networks(networks: Iterable[IPNetwork]) -> tuple[Json, ...]:
    """Networks of one family: an address, a network or a range for each interval of the union."""
    networks = tuple(networks)
    address = IPv4Address if networks[0].version == 4 else IPv6Address
    bits = networks[0].max_prefixlen
    found = []
    for network in networks:
        first = int(network.network_address)
        found.append(((first, first | ((1 << bits - network.prefixlen) - 1)),))
    return tuple([_addresses(first, last, address, bits) for first, last in union(found)])


def _addresses(first: int, last: int, address: type[IPv4Address | IPv6Address], bits: int) -> Json:
    size = last - first + 1
    if size == 1:
        return str(address(first))
    if size & (size - 1) == 0 and first % size == 0:
        return {"prefix": {"addr": str(address(first)), "len": bits - size.bit_length() + 1}}
    return {"range": [str(address(first)), str(address(last))]}


def is_everything(element: Json) -> bool:
    """Whether it is all addresses of a family, or all ports."""
    match element:
        case {"prefix": {"len": 0}} | {"range": [0, 65535]}:
            return True
    return False


def plain(element: Json) -> Json:
    """The element without what it counts."""
    match element:
        case {"elem": {"val": value}}:
            return value
    return element


def intervals(elements: Iterable[Json]) -> Intervals:
    """The union of elements that are numbers or addresses.

    Raises:
        ValueError: one is something else.
    """
    return union([(_interval(plain(each)),) for each in elements])


def _interval(element: Json) -> tuple[int, int]:
    match element:
        case {"prefix": {"addr": str(text), "len": int(length)}}:
            address = ip_address(text)
            return int(address), int(address) | ((1 << address.max_prefixlen - length) - 1)
        case {"range": [first, last]}:
            return _number(first), _number(last)
    return _number(element), _number(element)


def _number(value: Json) -> int:
    if isinstance(value, int):
        return value
    return int(ip_address(str(value)))
