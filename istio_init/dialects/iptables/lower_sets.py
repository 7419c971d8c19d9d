"""Lookups in ipsets: the fields that a set's dimensions stand for, and its elements as boxes (ip_set_core.c)."""

from __future__ import annotations

from istio_init.dialects.iptables.icmp import ICMP_TYPES, ICMPV6_TYPES, icmp_type
from istio_init.dialects.iptables.lower_extension import address_range, masked, network, number, number_range
from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import EMPTY, difference, size, union
from istio_init.netfilter.names import exactly, with_prefix
from istio_init.netfilter.protocols import DCCP, ICMP, ICMPV6, WITH_PORTS, protocol_number
from istio_init.netfilter.rules import (
    SOON,
    AnyOf,
    AssignFrom,
    Cause,
    Elements,
    Forget,
    Key,
    Lookup,
    Never,
    Openness,
    Undecided,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.dialects.iptables.ipset import Element, IpSet
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Box, Condition, Statement

    Keys = tuple[Key, ...]
    Placed = tuple[Keys, Box, Element]
    """An element as a box of fields."""

NEVER = Never()
_FAMILIES = {"inet": Family.IPV4, "inet6": Family.IPV6}
_OF_SIDE = {
    "src": (Field.SOURCE, Field.SPORT, Field.IN_INTERFACE),
    "dst": (Field.DESTINATION, Field.DPORT, Field.OUT_INTERFACE),
}
_TCP_OR_UDP: Intervals = ((6, 6), (17, 17))


class NotModelled(Exception):
    """A set that has no form of boxes here."""


class Sets:
    """The sets that rules may name; ``dynamic`` are those that rules themselves add to or delete from."""

    __slots__ = ("_lookups", "dynamic", "family", "known")

    def __init__(self, family: Family, known: Mapping[str, IpSet] | None, dynamic: frozenset[str]) -> None:
        self.family = family
        self.known = known or {}
        self.dynamic = dynamic
        self._lookups: dict[tuple[str, str], tuple[tuple[Keys, Elements], ...]] = {}

    def conditions(self, name: str, directions: str, negated: bool, text: str) -> tuple[Condition, ...]:
        """What ``--match-set`` tests; a packet that lacks a field is not in the set."""
        try:
            lookups = self._all_lookups(name, directions)
        except KeyError:
            return (Undecided(Cause(Openness.NOT_GIVEN, text)),)
        except (NotModelled, ValueError):
            return (Undecided(Cause(Openness.NOT_MODELLED, text)),)
        if not lookups:
            return () if negated else (NEVER,)
        if len(lookups) == 1:
            [(keys, elements)] = lookups
            return (Lookup(keys, elements, negated, negated),)
        return (AnyOf(tuple([(Lookup(keys, elements, False, False),) for keys, elements in lookups]), negated),)

    def marks(self, name: str, directions: str, text: str) -> tuple[Statement, ...]:
        """What ``--map-set … --map-mark`` does: elements without a mark leave the packet's (xt_set.c)."""
        try:
            found = self.known[name]
            groups = self._groups(found, directions)
            return tuple(
                [
                    AssignFrom(Field.MARK, keys, _marked(found, placed), self._is_complete(found), True)
                    for keys, placed in groups.items()
                ]
            )
        except KeyError:
            return (Forget(Field.MARK, Cause(Openness.NOT_GIVEN, text)),)
        except (NotModelled, ValueError):
            return (Forget(Field.MARK, Cause(Openness.NOT_MODELLED, text)),)

    def _is_complete(self, found: IpSet) -> bool:
        """Whether its elements stay what they are: no packet adds any, and none is about to expire."""
        return found.name not in self.dynamic and not any(map(_expires, found.elements))

    def _all_lookups(self, name: str, directions: str) -> tuple[tuple[Keys, Elements], ...]:
        cached = self._lookups.get((name, directions))
        if cached is None:
            found = self.known[name]
            if found.type == "list:set":
                members = [each.parts[0] for each in found.elements]
                cached = tuple([each for member in members for each in self._all_lookups(member, directions)])
                if not self._is_complete(found):
                    raise NotModelled(name)
            else:
                complete = self._is_complete(found)
                cached = tuple(
                    [
                        (keys, Elements(name, _boxes(found, keys, placed), is_complete=complete))
                        for keys, placed in self._groups(found, directions).items()
                    ]
                )
            self._lookups[name, directions] = cached
        return cached

    def _groups(self, found: IpSet, directions: str) -> dict[Keys, list[Placed]]:
        """The elements by the fields that they are compared with; none where nothing can be in the set."""
        sides = directions.split(",")
        family = _FAMILIES.get(found.option("family") or ("inet" if found.type.startswith("bitmap:ip") else ""))
        if len(sides) < len(found.dimensions) or (family is not None and family is not self.family):
            return {}
        if not {"ip", "net", "port", "iface", "mark"} >= set(found.dimensions) or found.option("bitmask"):
            raise NotModelled(found.type)
        groups: dict[Keys, list[Placed]] = {}
        for element in found.elements:
            for placed in _place(found, element, sides, self.family):
                groups.setdefault(placed[0], []).append(placed)
        if found.dimensions == ("net", "iface"):
            groups = {keys: _narrowest(placed) for keys, placed in groups.items()}
        if not groups and not self._is_complete(found):
            raise NotModelled(found.type)  # Nothing is in it now, and something may be by then.
        return groups


def _narrowest(placed: list[Placed]) -> list[Placed]:
    """Elements of networks and interfaces, without what narrower networks hold.

    Of the networks of an address only the narrowest is compared, whatever its interface (IP_SET_HASH_WITH_MULTI).
    """
    narrowed = []
    for keys, box, element in placed:
        within = box[0]
        for _, other, _ in placed:
            if size(other[0]) < size(box[0]):
                within = difference(within, other[0])
        narrowed.append((keys, (within, *box[1:]), element))
    return narrowed


def _place(found: IpSet, element: Element, sides: list[str], family: Family) -> Iterator[Placed]:
    keys: list[Key] = []
    box: list[Intervals] = []
    if len(element.parts) != len(found.dimensions):
        raise NotModelled(",".join(element.parts))
    for dimension, part, side in zip(found.dimensions, element.parts, sides, strict=False):
        source_or_destination, port, interface = _OF_SIDE[side]
        match dimension:
            case "ip" | "net":
                keys.append(Key(source_or_destination))
                box.append(_addresses(part, found.option("netmask"), family))
            case "port" if found.type == "bitmap:port":
                keys += [Key(Field.PROTOCOL), Key(port)]
                box += [_TCP_OR_UDP, number_range(part, "-", 65535)]
            case "port":
                for field, within in _port(part, port):
                    keys.append(Key(field))
                    box.append(within)
            case "iface":
                if part.startswith("physdev:"):
                    return  # Compared with ports of bridges, which no rule of iptables asks for.
                keys.append(Key(interface))
                box.append(with_prefix(part) if element.extension("wildcard") is not None else exactly(part))
            case _:
                mask = found.option("markmask")
                keys.append(Key(Field.MARK, number(mask) if mask else None))
                box.append(((number(part), number(part)),))
    yield tuple(keys), tuple(box), element


def _addresses(part: str, netmask: str | None, family: Family) -> Intervals:
    if "-" in part:
        return (address_range(part, family),)
    return network(f"{part}/{netmask}" if netmask and "/" not in part else part, family)


def _port(part: str, port: Field) -> list[tuple[Field, Intervals]]:
    """``tcp:80``, ``icmp:8/0``, or a protocol without ports, ``vrrp:0`` (ip_set_get_ip_port)."""
    name, colon, value = part.partition(":")
    if not colon:
        name, value = "tcp", name
    protocol = protocol_number(name)
    found: list[tuple[Field, Intervals]] = [(Field.PROTOCOL, ((protocol, protocol),))]
    if protocol in WITH_PORTS - {DCCP}:
        return [*found, (port, number_range(value, "-", 65535))]
    if protocol in (ICMP, ICMPV6):
        kind, code = icmp_type(value, ICMP_TYPES if protocol == ICMP else ICMPV6_TYPES)
        return [*found, (Field.ICMP_TYPE, ((kind, kind),)), (Field.ICMP_CODE, ((code or 0, code or 0),))]
    return found


def _boxes(found: IpSet, keys: Keys, placed: list[Placed]) -> tuple[Box, ...]:
    """The boxes, joined where they differ in their first field alone; of nested networks the narrowest decides."""
    place = _network_place(found, keys)
    groups: dict[Box, list[tuple[Intervals, bool]]] = {}
    for _, box, element in placed:
        rest = (*box[:place], *box[place + 1 :])
        groups.setdefault(rest, []).append((box[place], element.extension("nomatch") is not None))
    if any(nomatch for parts in groups.values() for _, nomatch in parts) and (
        found.dimensions.count("net") != 1 or any(element.extension("wildcard") is not None for *_, element in placed)
    ):
        raise NotModelled("elements without a match that others overlap in more than one way")
    boxes = []
    for rest, parts in groups.items():
        within = _joined(parts)
        if within:
            boxes.append((*rest[:place], within, *rest[place:]))
    return tuple(boxes)


def _network_place(found: IpSet, keys: Keys) -> int:
    """Which field is the network that elements without a match cut out; the first one where there is none."""
    if found.dimensions.count("net") != 1:
        return 0
    before = found.dimensions[: found.dimensions.index("net")]
    return 0 if not before else len(keys) - 1


def _joined(parts: list[tuple[Intervals, bool]]) -> Intervals:
    if not any(nomatch for _, nomatch in parts):
        return union([within for within, _ in parts])
    joined = EMPTY
    for within, nomatch in sorted(parts, key=lambda part: size(part[0]), reverse=True):
        joined = difference(joined, within) if nomatch else union([joined, within])
    return joined


def _marked(found: IpSet, placed: list[Placed]) -> tuple[tuple[Box, int], ...]:
    """The boxes with their marks, the narrowest first.

    Raises:
        NotModelled: a mark replaces some bits alone, or a network without a mark could hide one that has it.
    """
    values = []
    for _, box, element in sorted(placed, key=lambda each: [size(part) for part in each[1]]):
        text = element.extension("skbmark")
        value, mask = masked(text) if text else (0, 0)
        if (mask or value) and mask != MAX_MARK:
            raise NotModelled("a mark under a mask")
        if element.extension("nomatch") is not None or ("net" in found.dimensions and not mask):
            raise NotModelled("a network without a mark")
        if mask:
            values.append((box, value))
    return tuple(values)


def _expires(element: Element) -> bool:
    left = element.extension("timeout")
    return left is not None and 0 < int(left) < SOON
