"""The right-hand sides of nft's expressions, as its JSON has them (libnftables-json(5)), in iptables' words."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import CTSTATES, Ctstate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Unread(Exception):
    """An expression that iptables has no word for here."""


def key_of(expression: Any) -> tuple[str, str]:
    """``("meta", "mark")`` of ``{"meta": {"key": "mark"}}``; nothing of what has no such key."""
    if isinstance(expression, dict) and len(expression) == 1:
        kind, content = next(iter(expression.items()))
        if isinstance(content, dict) and content.keys() == {"key"}:
            return kind, content["key"]
    return "", ""


def number(value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unread
    return value


def text(value: Any) -> str:
    """A word, or a number as one."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unread
    return str(value)


def bounds(value: Any) -> tuple[int, int]:
    """First and last of a number or range."""
    if isinstance(value, dict):
        first, last = value["range"]
        return number(first), number(last)
    return number(value), number(value)


def network_text(value: Any) -> str:
    """An address, or a network in CIDR notation."""
    if isinstance(value, dict):
        prefix = value["prefix"]
        return f"{prefix['addr']}/{prefix['len']}"
    return text(value)


def interface(value: Any) -> str:
    """nft's ``eth*`` is iptables' ``eth+``; a star of the name itself is written ``\\*``."""
    name = text(value)
    if name.endswith("\\*"):
        return name.removesuffix("\\*") + "*"
    return name.removesuffix("*") + "+" if name.endswith("*") else name


def states(right: Any, *, negated: bool, operator: str) -> Ctstate:
    """States of the connection: one, a list, or a set."""
    many: Any = right["set"] if isinstance(right, dict) else right
    named = [many] if isinstance(many, str) else list(many)
    if len(named) > 1 and isinstance(right, list) and operator != "in":
        raise Unread  # A comparison of the whole bitmask.
    wanted = {each.upper() for each in named}
    if not wanted <= set(CTSTATES):
        raise Unread
    return Ctstate(tuple(state for state in CTSTATES if state in wanted), negated)
