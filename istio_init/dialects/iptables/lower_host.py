"""Matches that look at sockets, routing and what else the host knows."""

from __future__ import annotations

from istio_init.dialects.iptables.lower_extension import number_range
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import BITS, AddressType, Field
from istio_init.netfilter.intervals import union
from istio_init.netfilter.names import exactly
from istio_init.netfilter.rules import AnyOf, Forget, Note, Openness, Test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.lower_extension import Asked, Lowered
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Condition

_HIGHEST_ID = 0xFFFFFFFF
_SET: Intervals = ((1, 1),)


def owner(asked: Asked) -> Lowered:
    """owner: whose socket the packet belongs to. A packet without one passes negations alone (owner_mt, xt_owner.c)."""
    options = {flag: (negated, values) for flag, negated, values in asked.options()}
    supplementary = options.pop("--suppl-groups", None) is not None
    found: list[Condition] = []
    if supplementary:  # A test of its own that no negation of the others reaches: without a socket it fails.
        found.append(Test(Field.SOCKET, _SET, None, False, False))
    for flag, (negated, values) in options.items():
        if flag == "--socket-exists":
            found.append(Test(Field.SOCKET, _SET, None, negated, negated))
            continue
        if flag not in ("--uid-owner", "--gid-owner"):
            raise ValueError(flag)
        [value] = values
        field = Field.UID if flag == "--uid-owner" else Field.GID
        of_socket = Test(field, number_range(value, "-", _HIGHEST_ID), None, negated, negated)
        if field is Field.GID and supplementary:
            own = of_socket.replace(negated=False, if_absent=False)
            found.append(AnyOf(((own,), (asked.undecided(Openness.NOT_GIVEN),)), negated))
        else:
            found.append(of_socket)
    return tuple(found)


_TYPES = {
    ("--src-type", ""): Field.SOURCE_TYPE,
    ("--src-type", "--limit-iface-in"): Field.SOURCE_TYPE_IN,
    ("--src-type", "--limit-iface-out"): Field.SOURCE_TYPE_OUT,
    ("--dst-type", ""): Field.DESTINATION_TYPE,
    ("--dst-type", "--limit-iface-in"): Field.DESTINATION_TYPE_IN,
    ("--dst-type", "--limit-iface-out"): Field.DESTINATION_TYPE_OUT,
}


def addrtype(asked: Asked) -> Lowered:
    """addrtype: what the local routing table calls the addresses (xt_addrtype.c)."""
    options = asked.options()
    limits = [flag for flag, _, _ in options if flag.startswith("--limit-iface-")]
    limit = limits[0] if limits else ""
    found: list[Condition] = []
    for flag, negated, values in options:
        if flag not in limits:
            [value] = values
            types = frozenset([AddressType[name] for name in value.split(",")])
            field = _TYPES[flag, limit]
            if asked.family is Family.IPV4:
                within = union([((kind.value, kind.value),) for kind in types])
                found.append(Test(field, within, None, negated, negated))
            else:
                found.append(_ipv6_type(asked, field, types, negated))
    return tuple(found)


_IPV6_MULTICAST: Intervals = ((0xFF << 120, (1 << 128) - 1),)
_IPV6_MAPPED = (0xFFFF << 32, (0xFFFF << 32) + 0xFFFFFFFF)
_IPV6_UNICAST: Intervals = ((1, _IPV6_MAPPED[0] - 1), (_IPV6_MAPPED[1] + 1, (0xFF << 120) - 1))
_IPV6_KINDS = {
    AddressType.MULTICAST: _IPV6_MULTICAST,
    AddressType.UNICAST: _IPV6_UNICAST,
    AddressType.UNSPEC: ((0, 0),),
}
_IPV6_ROUTED = {
    AddressType.LOCAL: (AddressType.LOCAL,),
    AddressType.ANYCAST: (AddressType.ANYCAST,),
    AddressType.UNREACHABLE: (
        AddressType.UNREACHABLE,
        AddressType.BLACKHOLE,
        AddressType.PROHIBIT,
        AddressType.THROW,
    ),
}
"""By what is asked for, the types of routes that are it (RTF_REJECT)."""


def _ipv6_type(asked: Asked, field: Field, types: frozenset[AddressType], negated: bool) -> Condition:
    """Types of IPv6: each kind of address must hold, and the route is one of those asked for (match_type6)."""
    side = Field.SOURCE if field.value.startswith("type of the source") else Field.DESTINATION
    routed = types - _IPV6_KINDS.keys()
    is_limited = field not in (Field.SOURCE_TYPE, Field.DESTINATION_TYPE)
    if routed - _IPV6_ROUTED.keys() or (is_limited and AddressType.UNREACHABLE in routed):
        return asked.undecided(Openness.NOT_MODELLED)
    tests = [Test(side, _IPV6_KINDS[kind], None, False, False) for kind in AddressType if kind in types - routed]
    if routed:
        within = union([((kind.value, kind.value),) for each in routed for kind in _IPV6_ROUTED[each]])
        tests.append(Test(field, within, None, False, False))
    if AddressType.UNREACHABLE in routed:  # The route to :: is asked for, whose type is no route's here.
        return AnyOf((tuple(tests), (Test(side, ((0, 0),)), asked.undecided(Openness.NOT_MODELLED))), negated)
    if len(tests) == 1:
        return tests[0].replace(negated=negated, if_absent=negated)
    return AnyOf((tuple(tests),), negated)


_SOCKETS = {
    (False, False): Field.SOCKET_FOUND,
    (False, True): Field.SOCKET_FOUND_ANY,
    (True, False): Field.SOCKET_TRANSPARENT,
    (True, True): Field.SOCKET_TRANSPARENT_ANY,
}


def socket(asked: Asked) -> Lowered:
    """socket: a local socket would take the packet; its mark is not known (xt_socket.c)."""
    flags = {flag for flag, _, _ in asked.options()}
    if not flags <= {"--transparent", "--nowildcard", "--restore-skmark"}:
        raise ValueError(asked.text)
    field = _SOCKETS["--transparent" in flags, "--nowildcard" in flags]
    found = Test(field, _SET, None, False, False)
    if "--restore-skmark" in flags:
        return found, Forget(Field.MARK, asked.cause(Openness.NOT_GIVEN))
    return (found,)


_ROUTES_BACK = {
    (False, False): Field.RETURN_INTERFACE_HERE,
    (False, True): Field.RETURN_INTERFACE_HERE_MARK,
    (True, False): Field.RETURN_INTERFACE,
    (True, True): Field.RETURN_INTERFACE_MARK,
}


def rpfilter(asked: Asked) -> Lowered:
    """rpfilter: an answer would take the way that the packet came (ipt_rpfilter.c), as fib does (nft_fib_ipv4.c).

    With ``--accept-local`` a source to which a local route leads may pass, too, and that the fields do not tell.
    """
    flags = {flag for flag, _, _ in asked.options()}
    if not flags <= {"--loose", "--validmark", "--accept-local", "--invert"}:
        raise ValueError(asked.text)
    field, negated = _ROUTES_BACK["--loose" in flags, "--validmark" in flags], "--invert" in flags
    back: Intervals = ((1, (1 << BITS[field]) - 1),)
    if "--accept-local" not in flags:
        return (Test(field, back, None, negated, negated),)
    routed = Test(field, back, None, False, False)
    return (AnyOf(((routed,), (asked.undecided(Openness.NOT_MODELLED),)), negated),)


def mac(asked: Asked) -> Lowered:
    """mac: which neighbour sent it, that nobody gives; via lo it never matches, nor its negation (xt_mac.c)."""
    return Test(Field.IN_INTERFACE, exactly("lo"), None, True, False), asked.undecided(Openness.NOT_GIVEN)


def policy(asked: Asked) -> Lowered:
    """policy: whether IPsec protects the packet, and how, of which nothing is known (xt_policy.c)."""
    options = {flag: values for flag, _, values in asked.options()}
    if options.get("--pol") == ("none",):
        return (Test(Field.IPSEC, ((0, 0),)),)
    return Test(Field.IPSEC, ((1, 1),)), asked.undecided(Openness.NOT_GIVEN)


def recent(asked: Asked) -> Lowered:
    """recent: whom the list has seen; ``--set`` alone adds to it and holds for every packet (xt_recent.c)."""
    options = {flag: negated for flag, negated, _ in asked.options()}
    if options.get("--set") is False and not options.keys() & {"--rttl", "--seconds", "--hitcount"}:
        return (Note(asked.text),)
    return (asked.undecided(Openness.OPEN),)


def set_match(asked: Asked) -> Lowered:
    """set: fields of the packet are in an ipset (xt_set.c)."""
    wanted: tuple[str, str, bool] | None = None
    for flag, negated, values in asked.options():
        if flag == "--match-set":
            name, directions = values
            wanted = name, directions, negated
        elif flag not in ("--update-counters", "--update-subcounters"):
            return (asked.undecided(Openness.NOT_MODELLED),)
    if wanted is None:
        raise ValueError(asked.text)
    return asked.sets.conditions(*wanted, asked.text)
