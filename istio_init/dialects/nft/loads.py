"""Operands: what a match, a map or a statement looks at."""

from __future__ import annotations

from istio_init.dialects.nft import loads_header, loads_host
from istio_init.dialects.nft.operands import Operand, present
from istio_init.dialects.nft.values import Kind, OddError, number
from istio_init.netfilter.fields import CtState, CtStatus, Field
from istio_init.netfilter.rules import Openness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.dialects.nft.ruleset import Json

MOST_DEPTH = 8

STATES = int(CtState.INVALID | CtState.ESTABLISHED | CtState.RELATED | CtState.NEW | CtState.UNTRACKED)
"""The bits that nft's state of a connection has: whether it is translated is not among them (nft_ct_get_eval)."""
STATUS = int(sum(CtStatus))
_CONNECTION = present(Field.CT_MARK)

_CT: dict[str, Operand] = {
    "state": Operand(Kind.CT_STATE, 32, Field.CT_STATE, STATES),
    "status": Operand(Kind.CT_STATUS, 32, Field.CT_STATUS),
    "mark": Operand(Kind.NUMBER, 32, Field.CT_MARK),
    "direction": Operand(Kind.DIRECTION, 8, Field.CT_DIRECTION),
    "protocol": Operand(Kind.PROTOCOL, 8, Field.CT_PROTOCOL),
    "l3proto": Operand(Kind.FAMILY, 8, Field.NFPROTO, needs=(_CONNECTION,)),
    "zone": Operand(Kind.NUMBER, 16, Field.CT_ZONE),
}
_TUPLES = {
    ("original", "saddr"): Field.CT_ORIG_SOURCE,
    ("original", "daddr"): Field.CT_ORIG_DESTINATION,
    ("original", "proto-src"): Field.CT_ORIG_SPORT,
    ("original", "proto-dst"): Field.CT_ORIG_DPORT,
    ("reply", "saddr"): Field.CT_REPLY_SOURCE,
    ("reply", "daddr"): Field.CT_REPLY_DESTINATION,
    ("reply", "proto-src"): Field.CT_REPLY_SPORT,
    ("reply", "proto-dst"): Field.CT_REPLY_DPORT,
}
_CHANGING = frozenset(["expiration", "bytes", "packets", "avgpkt", "id", "count"])


def connection(body: dict[str, Json], family: str) -> Operand:
    """Facts of the packet's connection (nft_ct_get_eval): without one the rule is left, unless its state is asked."""
    key, direction = body.get("key"), body.get("dir")
    if not isinstance(key, str):
        raise OddError("ct without a key")
    if direction is None and key in _CT:
        return _CT[key].replace(tracks=True)
    network, _, name = key.rpartition(" ")
    field = _TUPLES.get((direction, name)) if isinstance(direction, str) else None
    if field is None:
        openness = Openness.OPEN if key in _CHANGING else Openness.NOT_MODELLED
        return Operand(Kind.NUMBER, 32, needs=(_CONNECTION,), openness=openness, tracks=True)
    if name.startswith("proto"):
        return Operand(Kind.NUMBER, 16, field, tracks=True)
    is_long = (network or family) == "ip6"
    if not network and family == "inet":
        raise OddError("an address of no family")
    test = loads_header.IPV6 if is_long else loads_header.IPV4
    needs = () if family == ("ip6" if is_long else "ip") else (test,)
    return Operand(Kind.IPV6 if is_long else Kind.IPV4, 128 if is_long else 32, field, needs=needs, tracks=True)


_LOADS: dict[str, Callable[[dict[str, Json], str], Operand]] = {
    "payload": loads_header.payload,
    "meta": loads_host.meta,
    "ct": connection,
    "fib": loads_host.fib,
    "socket": loads_host.socket,
    "numgen": loads_host.by_chance,
    "jhash": loads_host.by_chance,
    "symhash": loads_host.by_chance,
    "rt": loads_host.not_given,
    "osf": loads_host.not_given,
    "ipsec": loads_host.ipsec,
    "exthdr": loads_host.not_given,
    "tcp option": loads_host.not_given,
    "ip option": loads_host.not_given,
    "sctp chunk": loads_host.not_given,
}


def load(expression: Json, family: str, depth: int = 0) -> Operand:
    """What an expression looks at, in a table of a family.

    Raises:
        OddError: it is none that is known.
    """
    if depth > MOST_DEPTH or not (isinstance(expression, dict) and len(expression) == 1):
        raise OddError("no operand")
    [(kind, body)] = expression.items()
    known = _LOADS.get(kind)
    if known is not None and isinstance(body, dict):
        return known(body, family)
    if kind not in _OPERATIONS or not isinstance(body, list) or len(body) < 2:
        raise OddError(f"no operand {kind!r}")
    if loads_header.is_fragment_offset(expression):
        return loads_header.fragment_offset(family)
    loaded = [each for each in body if is_load(each)]
    if len(loaded) != 1 or (kind == ">>" and body[0] is not loaded[0]):
        raise OddError("an operation on several operands")
    operand = load(loaded[0], family, depth + 1)
    for each in body:
        if each is not loaded[0]:
            operand = _OPERATIONS[kind](operand, number(each, operand.kind))
    return operand


def load_all(expression: Json, family: str) -> tuple[Operand, ...]:
    """The operands of a concatenation, or the one that it is.

    Raises:
        OddError: it is none that is known.
    """
    if isinstance(expression, dict) and "concat" in expression:
        parts = expression["concat"]
        if not isinstance(parts, list) or not parts:
            raise OddError("no concatenation")
        if any(_is_misprinted(each, family) for each in parts):
            raise OddError("a shift that may be a misprint")
        return tuple([load(each, family) for each in parts])
    return (load(expression, family),)


def _is_misprinted(part: Json, family: str) -> bool:
    """Whether it is bits of a byte, which nft 1.0.6 prints in a concatenation as if somebody had them shifted."""
    match part:
        case {">>": [{"payload": _} as header, int(places)]}:
            return load(header, family).shift == places
    return False


def is_load(value: Json) -> bool:
    """Whether it is looked up in the packet, rather than written down."""
    if not isinstance(value, dict):
        return False
    parts = value.get("|")
    return not isinstance(parts, list) or any(isinstance(each, dict) for each in parts)


_OPERATIONS: dict[str, Callable[[Operand, int], Operand]] = {
    "&": Operand.masked,
    "|": lambda operand, bits: operand.masked(~bits & ((1 << operand.bits) - 1)).turned(bits),
    "^": Operand.turned,
    ">>": Operand.shifted,
}
