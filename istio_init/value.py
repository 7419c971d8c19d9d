"""Frozen, slotted value classes whose definition costs microseconds.

They behave like ``@dataclass(frozen=True, slots=True)`` and type checkers treat them so. The standard decorator is not
used because an initContainer pays for it at every pod start: importing ``dataclasses`` and decorating the two dozen
classes of the model takes longer than the interpreter's own start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_: object):
        return lambda cls: cls


MANY = 200
"""So many instances of a class are made, or compared, before it gets functions of its own, which take as long to
compile."""


class _ValueType(type):
    _setters: tuple[Any, ...]
    _made: int
    _told: int

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _ValueType:
        fields = tuple(namespace.get("__annotations__", ()))
        namespace["_defaults"] = {field: namespace.pop(field) for field in fields if field in namespace}
        namespace["__slots__"] = namespace["__match_args__"] = fields
        made = super().__new__(mcls, name, bases, namespace)
        # A slot's own setter: finding it by name at each assignment takes twice as long.
        made._setters = tuple([vars(made)[field].__set__ for field in fields])
        made._made = made._told = 0
        return made


def _constructor(fields: tuple[str, ...], setters: tuple[Any, ...], defaults: dict[str, Any]) -> Any:
    """A constructor for just these fields, several times as fast as one for any."""
    names = {f"_set_{field}": each for field, each in zip(fields, setters, strict=True)}
    names |= {f"_default_{field}": value for field, value in defaults.items()}
    parameters = [f"{field}=_default_{field}" if field in defaults else field for field in fields]
    body = "; ".join([f"_set_{field}(self, {field})" for field in fields])
    exec(f"def __init__(self, {', '.join(parameters)}): {body}", names)
    return names["__init__"]


def _teller(fields: tuple[str, ...]) -> Any:
    """``_astuple`` for just these fields."""
    names: dict[str, Any] = {}
    exec(f"def _astuple(self): return ({''.join([f'self.{field}, ' for field in fields])})", names)
    return names["_astuple"]


@dataclass_transform(frozen_default=True)
class Value(metaclass=_ValueType):
    """Base of immutable values: fields are the annotations, equality and hash go by type and fields."""

    if TYPE_CHECKING:
        __match_args__: tuple[str, ...]
        _defaults: dict[str, Any]
    else:

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            fields, setters = self.__match_args__, self._setters
            cls = type(self)
            cls._made += 1
            if cls._made == MANY and fields:
                cls.__init__ = _constructor(fields, setters, self._defaults)
            for assign, value in zip(setters, args):  # noqa: B905 - the counts are compared below
                assign(self, value)
            given = len(args)
            if given == len(fields) and not kwargs:
                return
            values = {**self._defaults, **kwargs} if kwargs else self._defaults
            for index in range(given, len(fields)):
                field = fields[index]
                if field not in values:
                    raise TypeError(f"{type(self).__name__}() misses {field!r}")
                setters[index](self, values[field])
            if not kwargs and given <= len(fields):
                return
            unknown = [name for name in kwargs if name not in fields[len(args) :]]
            if unknown or len(args) > len(fields):
                raise TypeError(f"{type(self).__name__}() has fields {fields}, not {(*args[len(fields) :], *unknown)}")

    def _astuple(self) -> tuple[Any, ...]:
        cls = type(self)
        cls._told += 1
        if cls._told == MANY:
            cls._astuple = _teller(self.__match_args__)  # type: ignore[method-assign]
        return tuple([getattr(self, field) for field in self.__match_args__])

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(self) is type(other) and self._astuple() == other._astuple()

    def __hash__(self) -> int:
        return hash((type(self), self._astuple()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), self._astuple()

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__name__}({shown})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        unknown = changes.keys() - set(self.__match_args__)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {unknown.pop()!r}")
        return type(self)(
            *[changes[field] if field in changes else getattr(self, field) for field in self.__match_args__]
        )
