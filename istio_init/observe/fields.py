"""Values to JSON and back, by the types of their fields. What is read may be hostile: nothing is guessed.

A value is an object of its fields. A field that is not known, a missing one that has no default, and whatever is of
another type than the field's is refused, with the place where it stands.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from json import dumps
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from istio_init.config.asked import Pod
from istio_init.dialects.iptables.ipset import IpSet
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.nft.misprints import Told
from istio_init.dialects.nft.ruleset import Ruleset
from istio_init.dialects.rule_store import RuleStore
from istio_init.mesh.native import Raised
from istio_init.netfilter.host import Link
from istio_init.netfilter.stages import Core, Netfilter, Registered
from istio_init.value import Value
from istio_init.visible import visible

Json = Any
Hint = Any

NAMES: dict[str, Any] = {
    "Mapping": Mapping,
    **{each.__name__: each for each in (Core, IpSet, Link, Netfilter, Pod, Raised, RuleSet, RuleStore, Ruleset, Told)},
    "Registered": Registered,
}
"""What modules import for their annotations alone."""

ADDRESSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)

LARGEST = {"port": 0xFFFF, "sports": 0xFFFF, "dports": 0xFFFF, "protocol": 0xFF, "tos": 0xFF}
"""The largest number that a field may hold; of others `LARGEST_NUMBER`."""

LARGEST_NUMBER = 0xFFFFFFFF
COUNTS = frozenset(["connections", "invalid_packets", "unseen_owners", "sysctls"])
"""Fields that the kernel keeps 64 bits of, or that may be negative."""

LARGEST_COUNT = 1 << 63


class FieldError(ValueError):
    """What was read is not the value; says where, and what is wrong."""


def encoded(value: object, *, leave_out: frozenset[str] = frozenset()) -> Json:
    """A value as JSON, without some of its fields."""
    if isinstance(value, Value):
        fields = type(value).__match_args__
        return {field: encoded(getattr(value, field)) for field in fields if field not in leave_out}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, ADDRESSES):
        return str(value)
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value):
            return {key: encoded(each) for key, each in value.items()}
        return [[encoded(key), encoded(each)] for key, each in value.items()]
    if isinstance(value, frozenset):
        return sorted(map(encoded, value), key=dumps)
    if isinstance(value, tuple | list):
        return [encoded(each) for each in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


@cache
def hints(cls: type) -> dict[str, Hint]:
    """The types of a value's fields."""
    found = get_type_hints(cls, vars(sys.modules[cls.__module__]), NAMES)
    return {field: found[field] for field in cls.__match_args__}  # type: ignore[attr-defined]


def decoded(cls: type[Value], given: Json, where: str, **known: object) -> Any:
    """A value from JSON; ``known`` are the fields that JSON does not have.

    Raises:
        FieldError: it is not one.
    """
    if not isinstance(given, dict):
        raise FieldError(f"{where}: not an object, but {_shown(given)}")
    expected = {field: hint for field, hint in hints(cls).items() if field not in known}
    if unknown := [field for field in given if field not in expected]:
        raise FieldError(f"{where}: an unknown field {visible(repr(unknown[0]))}")
    made = dict(known)
    for field, hint in expected.items():
        if field in given:
            made[field] = _decode(hint, given[field], f"{where}.{field}", field)
        elif field not in cls._defaults:
            raise FieldError(f"{where}: the field {field!r} is missing")
    return cls(**made)


def _decode(hint: Hint, given: Json, where: str, field: str) -> Any:
    origin: Any = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(arguments, given, where, field)
    if origin is Mapping:
        return _mapping(arguments, given, where, field)
    if origin in (tuple, frozenset):
        items = _list(given, where)
        if origin is frozenset:
            return frozenset([_decode(arguments[0], each, where, field) for each in items])
        if arguments[-1] is Ellipsis:
            return tuple([_decode(arguments[0], each, f"{where}[{at}]", field) for at, each in enumerate(items)])
        if len(items) != len(arguments):
            raise FieldError(f"{where}: not a list of {len(arguments)}, but {_shown(given)}")
        return tuple([_decode(each, item, where, field) for each, item in zip(arguments, items, strict=True)])
    if isinstance(hint, type):
        return _plain(hint, given, where, field)
    raise TypeError(f"{where}: {hint!r} has no form in JSON")


def _plain(hint: type, given: Json, where: str, field: str) -> Any:
    if issubclass(hint, Value):
        return decoded(hint, given, where)
    if hint in ADDRESSES or issubclass(hint, Enum):
        try:
            if isinstance(given, str):
                named: Any = hint
                return named[given] if issubclass(hint, Enum) else named(given)
        except (KeyError, ValueError):
            pass
        raise FieldError(f"{where}: no {hint.__name__}: {_shown(given)}")
    if type(given) is not hint:
        raise FieldError(f"{where}: not {hint.__name__}, but {_shown(given)}")
    if isinstance(given, int) and hint is int:
        least, most = (-LARGEST_COUNT, LARGEST_COUNT) if field in COUNTS else (0, LARGEST.get(field, LARGEST_NUMBER))
        if not least <= given <= most:
            raise FieldError(f"{where}: {_shown(given)} is not from {least} to {most}")
    return given


def _one_of(options: tuple[Hint, ...], given: Json, where: str, field: str) -> Any:
    """A value of the first type that takes it."""
    if given is None and NoneType in options:
        return None
    wrong = ""
    for option in options:
        if option is NoneType:
            continue
        try:
            return _decode(option, given, where, field)
        except FieldError as error:
            wrong = wrong or str(error)
    raise FieldError(wrong)


def _mapping(arguments: tuple[Hint, ...], given: Json, where: str, field: str) -> dict[Any, Any]:
    key, item = arguments
    pairs: list[Any]
    if key is str:
        if not isinstance(given, dict):
            raise FieldError(f"{where}: not an object, but {_shown(given)}")
        pairs = list(given.items())
    else:
        pairs = [] if given == {} else _list(given, where)  # No pairs, so no keys to tell their type.
    if any(not isinstance(each, list | tuple) or len(each) != 2 for each in pairs):
        raise FieldError(f"{where}: not a list of pairs")
    return {_decode(key, name, where, ""): _decode(item, each, where, field) for name, each in pairs}


def _list(given: Json, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise FieldError(f"{where}: not a list, but {_shown(given)}")
    return given


def _shown(given: Json) -> str:
    text = repr(given)
    return visible(text if len(text) <= 40 else f"{text[:40]}…")
