"""Rules as ``nft -s list ruleset`` prints them: without what counters and quotas have counted."""

from __future__ import annotations

from functools import lru_cache

from istio_init.dialects.nft.text_values import (
    MOST_DEPTH,
    OPERATORS,
    Style,
    as_json,
    operand,
    pairs_text,
    style_of,
    value_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from istio_init.dialects.nft.ruleset import Expression, Json

VERDICTS = frozenset(["accept", "drop", "return", "continue"])
_DEFAULT_REJECTS = frozenset(
    [("icmpx", "port-unreachable"), ("icmp", "port-unreachable"), ("icmpv6", "port-unreachable"), ("icmpx", 1)]
)
_QUOTED_OBJECTS = frozenset(["ct helper", "ct timeout", "ct expectation"])


def rule_text(expressions: Iterable[Expression], comment: str | None = None) -> str:
    """A rule as nft prints it."""
    words = [expression_text(expression) for expression in expressions]
    if comment is not None:
        words.append(f'comment "{comment}"')
    return " ".join(words)


def expression_text(expression: Expression, depth: int = 0) -> str:
    """One expression: a match or a statement."""
    if depth > MOST_DEPTH or not (isinstance(expression, dict) and len(expression) == 1):
        return as_json(expression) if depth <= MOST_DEPTH else "…"
    [(kind, body)] = expression.items()
    if body is None or kind in VERDICTS:
        return kind
    if kind == "match" and isinstance(body, dict):
        return _match(body)
    show = _SHOWN.get(kind)
    if show is not None and isinstance(body, dict):
        return show(body, depth)
    if kind in ("limit", "quota", "counter", "synproxy") and isinstance(body, str):
        return f'{kind} name "{body}"'
    if kind in _QUOTED_OBJECTS and isinstance(body, str):
        return f'{kind} set "{body}"'
    return f"{kind} {operand(body, depth + 1)}"


def _match(body: Mapping[str, Json]) -> str:
    left, right, operator = body.get("left"), body.get("right"), body.get("op")
    looked_at, style = _left(left)
    is_operation = isinstance(left, dict) and len(left) == 1 and next(iter(left)) in OPERATORS
    if is_operation and style is Style.FLAGS and isinstance(left, dict) and "&" in left and _are_flags(left["&"]):
        negation = "!= " if operator == "!=" else ""
        flags, mask = left["&"]
        return f"{operand(flags)} {negation}{value_text(right, style)} / {value_text(mask, style)}"
    is_exact = style is Style.FLAGS and not isinstance(right, dict) and not _is_reference(right)
    shown = operator != "in" and (operator != "==" or _shows_equality(right, is_operation=is_operation) or is_exact)
    middle = f" {operator} " if shown else " "
    return f"{looked_at}{middle}{value_text(right, style)}"


def _left(left: Json) -> tuple[str, Style | tuple[Style, ...]]:
    if isinstance(left, dict) and len(left) == 1:
        [(kind, body)] = left.items()
        if isinstance(body, dict):
            try:
                return _known_left(kind, tuple(body.items()))
            except TypeError:
                pass
    return operand(left), style_of(left)


@lru_cache(maxsize=256)
def _known_left(kind: str, body: tuple[tuple[str, Json], ...]) -> tuple[str, Style | tuple[Style, ...]]:
    """The same for what most rules look at."""
    left = {kind: dict(body)}
    return operand(left), style_of(left)


def _are_flags(parts: Json) -> bool:
    """Whether a mask is printed behind a slash: flags by name, as nft up to 1.0.6 gives them."""
    return isinstance(parts, list) and len(parts) == 2 and isinstance(parts[1], list)


def _is_reference(value: Json) -> bool:
    return isinstance(value, str) and value.startswith("@")


def _shows_equality(right: Json, *, is_operation: bool) -> bool:
    return is_operation and not (isinstance(right, dict) and "range" in right) and not _is_reference(right)


def _mangle(body: Mapping[str, Json], depth: int) -> str:
    key = body.get("key")
    return f"{operand(key, depth + 1)} set {value_text(body.get('value'), style_of(key), depth + 1)}"


def _vmap(body: Mapping[str, Json], depth: int) -> str:
    key, data = body.get("key"), body.get("data")
    pairs = data.get("set") if isinstance(data, dict) else None
    if not isinstance(pairs, list):
        return f"{operand(key)} vmap {value_text(data, Style.PLAIN)}"
    shown = []
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2):
            return f"{operand(key)} vmap {as_json(data)}"
        shown.append(f"{value_text(pair[0], style_of(key))} : {expression_text(pair[1], depth + 1)}")
    return f"{operand(key)} vmap {{ {', '.join(shown)} }}"


def _call(kind: str) -> Callable[[Mapping[str, Json], int], str]:
    return lambda body, _: f"{kind} {body.get('target')}"


def _counter(body: Mapping[str, Json], depth: int) -> str:
    return f"counter name {value_text(body, Style.QUOTED, depth + 1)}" if "map" in body else "counter"


def _limit(body: Mapping[str, Json], _: int) -> str:
    unit, burst_unit = body.get("rate_unit"), body.get("burst_unit")
    rate = f"{body.get('rate')} {unit}" if unit and unit != "packets" else f"{body.get('rate')}"
    words = ["limit rate", *(["over"] if body.get("inv") else []), f"{rate}/{body.get('per', 'second')}"]
    burst = body.get("burst")
    if burst and (unit not in (None, "packets") or burst != 5):
        words.append(f"burst {burst} {burst_unit or 'packets'}")
    return " ".join(words)


def _quota(body: Mapping[str, Json], _: int) -> str:
    return " ".join(["quota", *(["over"] if body.get("inv") else []), str(body.get("val")), str(body.get("val_unit"))])


def _connections(body: Mapping[str, Json], _: int) -> str:
    return f"ct count {'over ' if body.get('inv') else ''}{body.get('val')}"


def _log(body: Mapping[str, Json], _: int) -> str:
    words = ["log"]
    if isinstance(body.get("prefix"), str):
        words.append(f'prefix "{body["prefix"]}"')
    for key in ("group", "snaplen", "queue-threshold", "level"):
        if body.get(key) is not None:
            words.append(f"{key} {body[key]}")
    flags = body.get("flags")
    named = flags if isinstance(flags, list) else [] if flags is None else [flags]
    return " ".join([*words, *[f"flags {flag}" for flag in named]])


def _reject(body: Mapping[str, Json], _: int) -> str:
    kind, code = body.get("type"), body.get("expr")
    if not isinstance(kind, str) or (isinstance(code, str | int) and (kind, code) in _DEFAULT_REJECTS):
        return "reject"
    return f"reject with {kind}" if code is None else f"reject with {kind} {value_text(code, Style.PLAIN)}"


def _nat(kind: str) -> Callable[[Mapping[str, Json], int], str]:
    def show(body: Mapping[str, Json], depth: int) -> str:
        words = [kind]
        if isinstance(body.get("family"), str):
            words.append(body["family"])
        if body.get("type_flags") == "prefix":
            words.append("prefix")
        place = _place(body, depth)
        if place:
            words += ["to", place]
        flags = [each for each in _listed(body.get("flags")) if each != "netmap"]
        return " ".join([*words, *([",".join(map(str, flags))] if flags else [])])

    return show


def _tproxy(body: Mapping[str, Json], depth: int) -> str:
    family = f" {body['family']}" if isinstance(body.get("family"), str) else ""
    return f"tproxy{family} to {_place(body, depth)}"


def _place(body: Mapping[str, Json], depth: int) -> str:
    address, port = body.get("addr"), body.get("port")
    text = "" if address is None else value_text(address, Style.PLAIN, depth + 1)
    if port is None:
        return text
    if isinstance(address, str) and ":" in address:
        text = f"[{text}]"
    elif isinstance(address, dict) and "range" in address and ":" in text:
        text = "-".join([f"[{each}]" for each in text.split("-")])
    return f"{text}:{value_text(port, Style.PLAIN, depth + 1)}"


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _set(body: Mapping[str, Json], depth: int) -> str:
    inner = _statements(body.get("stmt"), depth)
    if "data" in body:
        pair = pairs_text([[body.get("elem"), body["data"]]], Style.PLAIN, Style.PLAIN, depth + 1)
        return f"{body.get('op')} {body.get('set')} {pair}"
    return f"{body.get('op')} {body.get('set')} {{ {operand(body.get('elem'), depth + 1)}{inner} }}"


def _meter(body: Mapping[str, Json], depth: int) -> str:
    size = f" size {body['size']}" if "size" in body else ""
    inner = _statements(body.get("stmt"), depth)
    return f"meter {body.get('name')}{size} {{ {operand(body.get('key'), depth + 1)}{inner} }}"


def _statements(value: Json, depth: int) -> str:
    return "".join([f" {expression_text(each, depth + 1)}" for each in _listed(value)])


def _queue(body: Mapping[str, Json], depth: int) -> str:
    number = body.get("num")
    words = ["queue", *([] if number is None else ["to", operand(number, depth + 1)])]
    flags = ",".join(map(str, _listed(body.get("flags"))))
    return " ".join([words[0], *(["flags", flags] if flags else []), *words[1:]])


def _send(kind: str) -> Callable[[Mapping[str, Json], int], str]:
    def show(body: Mapping[str, Json], depth: int) -> str:
        address, device = body.get("addr"), body.get("dev")
        words = [kind, *([str(body["family"])] if "family" in body else []), "to"]
        if address is None:
            return " ".join([*words, value_text(device, Style.QUOTED, depth)])
        words.append(value_text(address, Style.PLAIN, depth + 1))
        return " ".join([*words, *([] if device is None else ["device", value_text(device, Style.QUOTED, depth)])])

    return show


def _synproxy(body: Mapping[str, Json], _: int) -> str:
    words = ["synproxy", *[f"{key} {body[key]}" for key in ("mss", "wscale") if key in body]]
    return " ".join([*words, *map(str, _listed(body.get("flags")))])


def _xt(body: Mapping[str, Json], _: int) -> str:
    return " ".join(["xt", *[str(body[key]) for key in ("type", "name") if key in body]])


_SHOWN: dict[str, Callable[[Mapping[str, Json], int], str]] = {
    "mangle": _mangle,
    "vmap": _vmap,
    "jump": _call("jump"),
    "goto": _call("goto"),
    "counter": _counter,
    "limit": _limit,
    "quota": _quota,
    "ct count": _connections,
    "log": _log,
    "reject": _reject,
    "snat": _nat("snat"),
    "dnat": _nat("dnat"),
    "masquerade": _nat("masquerade"),
    "redirect": _nat("redirect"),
    "tproxy": _tproxy,
    "set": _set,
    "map": _set,
    "meter": _meter,
    "queue": _queue,
    "dup": _send("dup"),
    "fwd": _send("fwd"),
    "synproxy": _synproxy,
    "flow": lambda body, _: f"flow {body.get('op')} {body.get('flowtable')}",
    "xt": _xt,
    "reset": lambda body, depth: f"reset {operand(body, depth + 1)}",
}
