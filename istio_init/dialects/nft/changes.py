"""Statements that change the packet or its connection: ``meta mark set``, ``ct mark set``, headers (JSON: mangle)."""

from __future__ import annotations

from istio_init.dialects.nft.loads import is_load, load
from istio_init.dialects.nft.maps import mapped
from istio_init.dialects.nft.operands import Operand
from istio_init.dialects.nft.text import expression_text
from istio_init.dialects.nft.values import Kind, OddError, number
from istio_init.netfilter.fields import BITS, Field, bits_of
from istio_init.netfilter.rules import Assign, AssignFrom, Cause, Forget, Note, Openness, Test, Unknowable, Zone
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.ruleset import Expression, Json
    from istio_init.dialects.nft.scope import Body
    from istio_init.netfilter.rules import Statement

MOST_DEPTH = 8

_WORDS = frozenset([Field.MARK, Field.CT_MARK, Field.PRIORITY])
"""Fields that are numbers of 32 bits in the machine's order, and can be given to each other."""

_ABSENT = frozenset([Field.CT_MARK, Field.UID, Field.GID])
"""Fields that a packet may not have, as it has no connection, or no socket: who reads them leaves the rule."""

_SET_META = frozenset(["mark", "priority", "pkttype"])
_HARMLESS = frozenset(["nftrace", "event", "label", "helper", "timeout", "secmark", "expectation", "broute"])
"""What may be set without an influence on the packet's way."""


class Linear(Value):
    """A value as the XOR of parts of fields, and a constant."""

    parts: tuple[tuple[Field, int], ...] = ()
    constant: int = 0

    def masked(self, mask: int) -> Linear:
        """It, ANDed with a number."""
        return Linear(tuple([(field, own & mask) for field, own in self.parts]), self.constant & mask)

    def turned(self, other: Linear) -> Linear:
        """It, XORed with another."""
        masks = dict(self.parts)
        for field, mask in other.parts:
            masks[field] = masks.get(field, 0) ^ mask
        return Linear(tuple(masks.items()), self.constant ^ other.constant)

    def joined(self, other: Linear) -> Linear:
        """It, ORed with another.

        Raises:
            OddError: bits of both depend on the packet.
        """
        if not other.parts:
            return self.masked(~other.constant).turned(other)
        if not self.parts:
            return other.joined(self)
        if self.bits & other.bits:
            raise OddError("an OR of the same bits")
        return self.turned(other)

    @property
    def bits(self) -> int:
        """Those that may be set."""
        found = self.constant
        for _, mask in self.parts:
            found |= mask
        return found


def linear(expression: Json, kind: Kind, body: Body, depth: int = 0) -> Linear:
    """Read the value that a statement gives, and append what it needs.

    Raises:
        OddError: it is none that the model can say.
    """
    if not is_load(expression):
        return Linear((), number(expression, kind))
    if depth > MOST_DEPTH or len(expression) != 1:
        raise OddError("no value")
    [(name, parts)] = expression.items()
    if name in ("&", "|", "^") and isinstance(parts, list) and len(parts) > 1:
        found, *others = [linear(each, kind, body, depth + 1) for each in parts]
        for other in others:
            found = _combined(name, found, other)
        return found
    operand = load(expression, body.family)
    body.take((operand,))
    if operand.field not in _WORDS or operand.mask is not None or operand.shift or operand.xor:
        raise OddError("a value that is no mark")
    if operand.field in _ABSENT:
        body.need((Test(operand.field, ((0, (1 << 32) - 1),)),))
    return Linear(((operand.field, (1 << 32) - 1),))


def _combined(name: str, one: Linear, other: Linear) -> Linear:
    if name == "^":
        return one.turned(other)
    if name == "|":
        return one.joined(other)
    if one.parts and other.parts:
        raise OddError("an AND of two fields")
    return other.masked(one.constant) if other.parts else one.masked(other.constant)


def change(body: Body, expression: Expression) -> list[Statement]:
    """Lower ``… set …``."""
    asked = expression["mangle"]
    cause = Cause(Openness.NOT_MODELLED, expression_text(expression))
    key = asked.get("key") if isinstance(asked, dict) else None
    if not (isinstance(key, dict) and len(key) == 1):
        return [Unknowable(cause)]
    [(kind, target)] = key.items()
    name = target.get("key") if isinstance(target, dict) else None
    if not isinstance(name, str | None):
        return [Unknowable(cause)]
    if kind == "ct":
        body.tracks = True
    if kind in ("meta", "ct") and name in _HARMLESS:
        return [Note(cause.words)]
    if kind in ("tcp option", "ip option", "exthdr"):
        return [Note(cause.words)]
    if (kind, name) == ("ct", "zone"):
        return [_zone(target, asked.get("value"), cause)]
    if kind == "payload" or (kind == "meta" and name in _SET_META) or (kind, name) == ("ct", "mark"):
        return [_assigned(key, asked.get("value"), body, cause)]
    return [Unknowable(cause)]


def _zone(target: dict[str, Json], value: Json, cause: Cause) -> Zone:
    is_known = "dir" not in target and isinstance(value, int) and 0 <= value < 1 << 16
    return Zone(value if is_known else cause, even_untracked=True)


def _assigned(key: Json, value: Json, body: Body, cause: Cause) -> Statement:
    try:
        operand = load(key, body.family)
    except OddError:
        return Unknowable(cause)
    body.need(operand.needs)
    field = operand.field
    header = key.get("payload", {})
    if "base" in header or header.get("field") == "checksum":
        return Unknowable(cause)  # Bytes by their place leave the checksum as it was, and the packet is dropped for it.
    if field is None:  # An identification, an option: nothing that anything here looks at.
        return Note(cause.words)
    if field is Field.NFPROTO or operand.of_any_transport or operand.add:
        return Unknowable(cause)
    try:
        return _of_value(field, operand, value, body)
    except OddError:
        return Forget(field, cause)
    except _ByChanceError:
        return Forget(field, cause.replace(openness=Openness.OPEN))


class _ByChanceError(Exception):
    """A value that is drawn."""


def _of_value(field: Field, operand: Operand, value: Json, body: Body) -> Statement:
    if isinstance(value, dict):
        if value.keys() & {"numgen", "jhash", "symhash"}:
            raise _ByChanceError
        if "map" in value:
            return _from_map(field, operand, value["map"], body)
    whole = (1 << bits_of(field, operand.bits if field not in BITS or operand.bits == 128 else 32)) - 1
    new = linear(value, operand.kind, body)
    if operand.mask is None:
        return Assign(field, tuple([part for part in new.parts if part[1]]), new.constant & whole)
    if new.parts:
        raise OddError("bits of a header from a field")
    return Assign(field, ((field, whole & ~operand.mask),), (new.constant << operand.shift) & operand.mask)


def _from_map(field: Field, operand: Operand, asked: Json, body: Body) -> Statement:
    if operand.mask is not None or not isinstance(asked, dict):
        raise OddError("bits of a header from a map")
    found = mapped(asked.get("key"), asked.get("data"), body)
    if found.unknown is not None:
        if found.unknown.cause.openness is Openness.OPEN:
            raise _ByChanceError
        raise OddError("a map with a key that cannot be told")
    values = tuple([(place, number(value, operand.kind)) for place, value in found.pairs])
    return AssignFrom(field, found.keys, values, found.is_complete)
