"""Facts of the packet beside its headers, of its socket and of its routes: meta, socket, fib, and what is by chance."""

from __future__ import annotations

from istio_init.dialects.nft.operands import Operand
from istio_init.dialects.nft.values import Kind, OddError
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import Openness, Test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.ruleset import Json

_ANY_NAME = ((1, (1 << 128) - 1),)
_NO_NAME = ((0, 0),)

_META: dict[str, Operand] = {
    "mark": Operand(Kind.NUMBER, 32, Field.MARK),
    "priority": Operand(Kind.PRIORITY, 32, Field.PRIORITY),
    "length": Operand(Kind.NUMBER, 32, Field.LENGTH),
    "l4proto": Operand(Kind.PROTOCOL, 8, Field.PROTOCOL),
    "nfproto": Operand(Kind.FAMILY, 8, Field.NFPROTO),
    "protocol": Operand(Kind.ETHER_TYPE, 16, Field.NFPROTO, cases=((0x0800, ((2, 2),)), (0x86DD, ((10, 10),)))),
    "iifname": Operand(Kind.INTERFACE, 128, Field.IN_INTERFACE),
    "oifname": Operand(Kind.INTERFACE, 128, Field.OUT_INTERFACE),
    "iif": Operand(Kind.LINK, 128, Field.IN_INTERFACE),
    "oif": Operand(Kind.LINK, 128, Field.OUT_INTERFACE),
    "skuid": Operand(Kind.USER, 32, Field.UID),
    "skgid": Operand(Kind.USER, 32, Field.GID),
    "pkttype": Operand(Kind.PACKET_TYPE, 8, Field.PKTTYPE),
    "ipsec": Operand(Kind.BOOLEAN, 1, Field.IPSEC),
    "secpath": Operand(Kind.BOOLEAN, 1, Field.IPSEC),
}
_BY_CHANCE = frozenset(["random", "time", "day", "hour", "cpu", "cgroup"])
_NOT_GIVEN = frozenset("iifgroup oifgroup iifkind oifkind iiftype oiftype nftrace rtclassid secmark".split())


def meta(body: dict[str, Json], _: str) -> Operand:
    """What the kernel knows of a packet (nft_meta_get_eval). Without an interface its name is empty, its index 0."""
    key = body.get("key")
    if not isinstance(key, str):
        raise OddError("meta without a key")
    known = _META.get(key)
    if known is not None:
        return known
    if key in _BY_CHANCE:
        return Operand(Kind.NUMBER, 32, openness=Openness.OPEN)
    return Operand(Kind.NUMBER, 32, openness=Openness.NOT_GIVEN if key in _NOT_GIVEN else Openness.NOT_MODELLED)


_FOUND = Test(Field.SOCKET_FOUND_ANY, ((1, 1),))
_SOCKET: dict[str, Operand] = {
    "transparent": Operand(Kind.NUMBER, 8, Field.SOCKET_TRANSPARENT_ANY, needs=(_FOUND,)),
    "wildcard": Operand(Kind.NUMBER, 8, Field.SOCKET_FOUND, cases=((0, ((1, 1),)), (1, ((0, 0),))), needs=(_FOUND,)),
}


def socket(body: dict[str, Json], _: str) -> Operand:
    """The local socket that would take the packet; without one the rule is left (nft_socket_eval)."""
    key = body.get("key")
    known = _SOCKET.get(key) if isinstance(key, str) else None
    return known if known is not None else Operand(Kind.NUMBER, 32, needs=(_FOUND,))


_TYPES = {
    frozenset(["saddr"]): Field.SOURCE_TYPE,
    frozenset(["daddr"]): Field.DESTINATION_TYPE,
    frozenset(["saddr", "iif"]): Field.SOURCE_TYPE_IN,
    frozenset(["daddr", "iif"]): Field.DESTINATION_TYPE_IN,
    frozenset(["saddr", "oif"]): Field.SOURCE_TYPE_OUT,
    frozenset(["daddr", "oif"]): Field.DESTINATION_TYPE_OUT,
}
_ROUTES = {
    frozenset(["saddr"]): Field.RETURN_INTERFACE,
    frozenset(["saddr", "mark"]): Field.RETURN_INTERFACE_MARK,
    frozenset(["saddr", "iif"]): Field.RETURN_INTERFACE_HERE,
    frozenset(["saddr", "mark", "iif"]): Field.RETURN_INTERFACE_HERE_MARK,
}
_EXISTS = ((0, _NO_NAME), (1, _ANY_NAME))


def fib(body: dict[str, Json], _: str) -> Operand:
    """What the routing tables say of an address (nft_fib.c)."""
    flags, result = body.get("flags"), body.get("result")
    listed = flags if isinstance(flags, list) else [flags]
    asked = frozenset([each for each in listed if isinstance(each, str)])
    if result == "type":
        return Operand(Kind.ADDRESS_TYPE, 32, _TYPES.get(asked))
    if result in ("oif", "oifname"):
        kind = Kind.LINK if result == "oif" else Kind.INTERFACE
        return Operand(kind, 128, _ROUTES.get(asked))
    if result == "check":
        return Operand(Kind.BOOLEAN, 1, _ROUTES.get(asked), cases=_EXISTS)
    raise OddError("fib without a known result")


def existing(operand: Operand) -> Operand:
    """The same route, asked for whether there is one: ``fib saddr oif exists``."""
    if operand.kind not in (Kind.LINK, Kind.INTERFACE):
        return operand
    return operand.replace(kind=Kind.BOOLEAN, bits=1, cases=_EXISTS)


def by_chance(_body: dict[str, Json], _: str) -> Operand:
    """numgen, jhash, symhash: a number that nobody can foretell."""
    return Operand(Kind.NUMBER, 32, openness=Openness.OPEN)


def ipsec(_body: dict[str, Json], _: str) -> Operand:
    """How a packet is protected; one that is not leaves the rule (nft_xfrm_get_eval)."""
    return Operand(Kind.NUMBER, 32, needs=(Test(Field.IPSEC, ((1, 1),)),), openness=Openness.NOT_GIVEN)


def not_given(_body: dict[str, Json], _: str) -> Operand:
    """Options of headers, transformations, fingerprints: facts that no packet here has."""
    return Operand(Kind.NUMBER, 32, openness=Openness.NOT_GIVEN)
