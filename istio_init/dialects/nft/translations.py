"""Statements that hand the packet to another place: nat, tproxy (nft_nat.c, nft_redir.c, nft_masq.c, nft_tproxy.c)."""

from __future__ import annotations

from istio_init.dialects.nft.elements import keys
from istio_init.dialects.nft.loads_header import IPV4, IPV6
from istio_init.dialects.nft.maps import keys_are_ported, mapped
from istio_init.dialects.nft.text import expression_text
from istio_init.dialects.nft.values import Kind, OddError, intervals
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import (
    Cause,
    Elements,
    Lookup,
    Nat,
    NatKind,
    Openness,
    Test,
    Tproxy,
    Undecided,
    Unknowable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.maps import Mapped
    from istio_init.dialects.nft.ruleset import Expression, Json
    from istio_init.dialects.nft.scope import Body
    from istio_init.netfilter.rules import Statement

    Pair = tuple[int, int]

NATS = {kind.value: kind for kind in NatKind}
MOST_WAYS = 4096
"""A translation by a map becomes so many rules at most, one an element; else where it leads cannot be told."""

_FAMILIES = {"ip": IPV4, "ip6": IPV6}
TRACKED = {"ip": Family.IPV4, "ip6": Family.IPV6}
"""The family whose connections are tracked for a translation that names one (nft_nat_init)."""

_RANDOM = frozenset(["random", "fully-random"])
_PROXIED = Test(Field.PROTOCOL, ((6, 6), (17, 17)))


def nat(body: Body, expression: Expression) -> list[list[Statement]]:
    """Lower snat, dnat, redirect, masquerade: ways, all but the last rules of their own before what is left of it.

    Another family than the statement's is not translated and the rule goes on; nothing follows, so it is left.
    """
    [(name, asked)] = expression.items()
    kind = NATS[name]
    asked = {} if asked is None else asked
    family = asked.get("family") if isinstance(asked, dict) else None
    if isinstance(family, str) and family in TRACKED:
        body.tracks_only = TRACKED[family]
    else:
        body.tracks = True
    cause = Cause(Openness.NOT_MODELLED, expression_text(expression))
    try:
        ways = _nat(body, kind, asked, cause)
    except OddError:
        return [[untold(expression)]]
    return [[_untold_port(each, asked) for each in way] for way in ways]


def untold(expression: Expression) -> Statement:
    """A translation of which nobody can say where to."""
    [(name, asked)] = expression.items()
    return _untold_port(Nat(NATS[name], cause=Cause(Openness.NOT_MODELLED, expression_text(expression))), asked)


def _untold_port(statement: Statement, asked: Json) -> Statement:
    """The statement; where it gives a port alone, and that is not told, one that says so."""
    has_address = isinstance(asked, dict) and asked.get("addr") is not None
    if has_address or not isinstance(statement, Nat) or statement.cause is None:
        return statement
    if statement.kind.is_of_destination:
        return Unknowable(statement.cause)
    return statement.replace(ports=(1, 65535), random=True, cause=None)


def _nat(body: Body, kind: NatKind, asked: Json, cause: Cause) -> list[list[Statement]]:
    if not isinstance(asked, dict):
        raise OddError("no translation")
    family = asked.get("family")
    if family is not None:
        if not isinstance(family, str) or family not in _FAMILIES:
            raise OddError("a translation to no family")
        if body.scope.family == "inet":
            body.need((_FAMILIES[family],))
    address, port, flags = asked.get("addr"), asked.get("port"), _listed(asked.get("flags"))
    whole = Nat(kind, random=bool(_RANDOM & flags), netmap="netmap" in flags)
    address_kind = Kind.IPV6 if (family or body.scope.family) == "ip6" else Kind.IPV4
    maps = [each for each in (address, port) if isinstance(each, dict) and "map" in each]
    if not maps:
        return [[_placed(whole, address, port, address_kind)]]
    if len(maps) > 1 or not isinstance(maps[0]["map"], dict):
        raise OddError("a translation by two maps")
    found = mapped(maps[0]["map"].get("key"), maps[0]["map"].get("data"), body)
    if found.unknown is not None:
        return [[whole.replace(cause=cause.replace(openness=found.unknown.cause.openness))]]
    of_any_transport = any(operand.of_any_transport for operand in found.operands)
    if len(found.pairs) > MOST_WAYS or (of_any_transport and not keys_are_ported(body, found)):
        return [[whole.replace(cause=cause)]]
    places = [_of_element(value, address, port) for _, value in found.pairs]
    return _ways(found, [_placed(whole, *place, address_kind) for place in places], whole, cause)


def _ways(found: Mapped, translations: list[Nat], whole: Nat, cause: Cause) -> list[list[Statement]]:
    """One way an element; a catch-all, the last, holds what no other does, as they are asked for in order."""
    ways: list[list[Statement]] = []
    if not found.is_complete:
        return [[Undecided(Cause(Openness.NOT_GIVEN, cause.words)), whole.replace(cause=cause)]]
    for (place, _), translation in zip(found.pairs, translations, strict=True):
        ways.append([Lookup(keys(found.operands), Elements(found.name, (place,))), translation])
    return ways or [[Undecided(cause), whole.replace(cause=cause)]]


def _of_element(value: Json, address: Json, port: Json) -> tuple[Json, Json]:
    """The address and port of a map's element: both, where it has a concatenation."""
    match value:
        case {"concat": [new_address, new_port]}:
            return new_address, new_port
    is_address = isinstance(address, dict) and "map" in address
    return (value, port) if is_address else (address, value)


def _placed(whole: Nat, address: Json, port: Json, kind: Kind) -> Nat:
    addresses = None if address is None else _range(address, kind, 128 if kind is Kind.IPV6 else 32)
    ports = None if port is None else _range(port, Kind.NUMBER, 16)
    return whole.replace(addresses=addresses, ports=ports)


def _range(value: Json, kind: Kind, bits: int) -> Pair:
    found = intervals(value, kind, bits, {})
    if len(found) != 1:
        raise OddError("several ranges to translate to")
    return found[0]


def _listed(value: Json) -> frozenset[str]:
    return frozenset([each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)])


def tproxy(body: Body, expression: Expression) -> list[Statement]:
    """Lower tproxy: without a socket, of another family, or of a protocol without sockets, the rule is left."""
    asked = expression["tproxy"]
    try:
        if not isinstance(asked, dict):
            raise OddError("no tproxy")
        family, address, port = asked.get("family"), asked.get("addr"), asked.get("port")
        if family is not None:
            if not isinstance(family, str) or family not in _FAMILIES:
                raise OddError("a proxy of no family")
            if body.scope.family == "inet":
                body.need((_FAMILIES[family],))
        kind = Kind.IPV6 if (family or body.scope.family) == "ip6" else Kind.IPV4
        addresses = None if address is None else _range(address, kind, 128 if kind is Kind.IPV6 else 32)
        ports = None if port is None else _range(port, Kind.NUMBER, 16)
    except OddError:
        return [Unknowable(Cause(Openness.NOT_MODELLED, expression_text(expression)))]
    body.need((_PROXIED,))
    return [Tproxy(None if addresses is None else addresses[0], None if ports is None else ports[0], drops=False)]
