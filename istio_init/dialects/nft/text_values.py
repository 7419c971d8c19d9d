"""Operands and values of expressions as nft prints them.

How a value looks depends on what it is compared with: marks are hexadecimal, names of interfaces quoted. That is its
style.
"""

from __future__ import annotations

from enum import Enum

from istio_init.dialects.nft.names import ICMP_TYPES, ICMPV6_TYPES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.ruleset import Json

MOST_DEPTH = 24
"""Expressions nest a few levels; whatever is deeper is shown as dots."""

OPERATORS = frozenset(["&", "|", "^", "<<", ">>"])


class Style(Enum):
    """How nft prints values of a type."""

    PLAIN = "plain"
    MARK = "mark"
    QUOTED = "quoted"
    RAW = "raw"
    FLAGS = "flags"
    DSCP = "dscp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"

    __hash__ = object.__hash__


_QUOTED_META = frozenset(
    "iif oif iifname oifname ibrname obrname iifkind oifkind iifgroup oifgroup sdif sdifname time day hour".split()
)
_UNQUALIFIED_META = frozenset("iif oif iifname oifname iifgroup oifgroup".split())
_FLAG_KEYS = frozenset(["state", "status", "event"])


def style_of(left: Json) -> Style | tuple[Style, ...]:
    """The style of what an operand is compared with, or given; of a concatenation one for each part."""
    for _ in range(MOST_DEPTH):
        if not (isinstance(left, dict) and len(left) == 1):
            return Style.PLAIN
        [(kind, body)] = left.items()
        if kind not in OPERATORS or not isinstance(body, list) or not body:
            break
        left = body[1] if len(body) > 1 and not isinstance(body[0], dict) else body[0]
    if kind == "concat" and isinstance(body, list):
        return tuple([_simple(each) for each in body])
    return _style(kind, body)


def _simple(left: Json) -> Style:
    style = Style.PLAIN if isinstance(left, dict) and "concat" in left else style_of(left)
    return style if isinstance(style, Style) else Style.PLAIN


def _style(kind: str, body: Json) -> Style:
    if not isinstance(body, dict):
        return Style.PLAIN
    key = body.get("key")
    if not isinstance(key, str):
        key = ""
    match kind:
        case "meta" if key in _QUOTED_META:
            return Style.QUOTED
        case "meta" | "ct" | "socket" if key == "mark":
            return Style.MARK
        case "ct" if key == "helper":
            return Style.QUOTED
        case "ct" if key in _FLAG_KEYS:
            return Style.FLAGS
        case "osf":
            return Style.QUOTED
        case "fib" if body.get("result") in ("oif", "oifname"):
            return Style.QUOTED
        case "payload" if "base" in body:
            return Style.RAW
        case "payload" if body.get("field") == "dscp":
            return Style.DSCP
        case "payload" if (body.get("protocol"), body.get("field")) == ("tcp", "flags"):
            return Style.FLAGS
        case "payload" if (body.get("protocol"), body.get("field")) == ("icmp", "type"):
            return Style.ICMP
        case "payload" if (body.get("protocol"), body.get("field")) == ("icmpv6", "type"):
            return Style.ICMPV6
    return Style.PLAIN


def operand(value: Json, depth: int = 0) -> str:
    """What is looked at: ``ip saddr``, ``meta mark & 0x000000ff``, a concatenation."""
    if depth > MOST_DEPTH:
        return "…"
    if not (isinstance(value, dict) and len(value) == 1):
        return value_text(value, Style.PLAIN, depth)
    [(kind, body)] = value.items()
    if kind in OPERATORS and isinstance(body, list) and len(body) > 1:
        return _operation(kind, body, depth)
    if kind == "concat" and isinstance(body, list):
        return " . ".join([operand(each, depth + 1) for each in body])
    if kind == "map" and isinstance(body, dict):
        return f"{operand(body.get('key'), depth + 1)} map {_data(body, Style.PLAIN, depth)}"
    if kind == "elem" or not isinstance(body, dict):
        return value_text(value, Style.PLAIN, depth + 1)
    return _load(kind, body, depth)


def _operation(kind: str, body: list[Json], depth: int) -> str:
    style = style_of({kind: body})
    style = style if isinstance(style, Style) and kind not in ("<<", ">>") else Style.PLAIN
    parts = []
    for each in body:
        if not isinstance(each, dict):
            parts.append(value_text(each, style, depth + 1, separator=" | "))
            if isinstance(each, list):
                parts[-1] = f"({parts[-1]})"
            continue
        part = operand(each, depth + 1)
        if ("|" in each and kind == "&") or ("&" in each and kind in ("<<", ">>")):
            part = f"({part})"
        parts.append(part)
    return f" {kind} ".join(parts)


def _load(kind: str, body: dict[str, Json], depth: int) -> str:
    key = str(body.get("key"))
    words: list[Json]
    match kind:
        case "payload" if "base" in body:
            return f"@{body['base']},{body.get('offset')},{body.get('len')}"
        case "payload":
            words = [body.get("protocol"), body.get("field")]
        case "meta":
            words = [key] if key in _UNQUALIFIED_META else ["meta", key]
        case "ct":
            key = f"ip {key}" if key in ("saddr", "daddr") else key
            words = ["ct", body.get("dir"), key]
        case "rt":
            words = ["rt", body.get("family"), key]
        case "socket":
            words = ["socket", key, "level" if key == "cgroupv2" else None, body.get("level")]
        case "fib":
            flags = body.get("flags")
            words = ["fib", " . ".join(map(str, flags if isinstance(flags, list) else [flags])), body.get("result")]
        case "numgen":
            words = ["numgen", body.get("mode"), "mod", body.get("mod"), *_offset(body)]
        case "jhash":
            seed = ["seed", body["seed"]] if "seed" in body else []
            words = ["jhash", operand(body.get("expr"), depth + 1), "mod", body.get("mod"), *seed, *_offset(body)]
        case "symhash":
            words = ["symhash", "mod", body.get("mod"), *_offset(body)]
        case "osf":
            words = ["osf", "ttl" if "ttl" in body else None, body.get("ttl"), key]
        case "ipsec":
            spnum = body.get("spnum")
            words = ["ipsec", body.get("dir"), "spnum" if spnum else None, spnum or None, body.get("family"), key]
        case "exthdr" | "tcp option" | "ip option" | "sctp chunk":
            words = _header_option(kind, body)
        case _:
            return f"{kind} {as_json(body)}"
    return " ".join([str(word) for word in words if word is not None])


def _header_option(kind: str, body: dict[str, Json]) -> list[Json]:
    name, field = body.get("name"), body.get("field")
    if kind == "exthdr":
        return ["exthdr", name] if field is None else [name, field]
    if "base" in body:
        return [f"@{kind.split()[0]}opt,{body['base']},{body.get('offset')},{body.get('len')}"]
    return [kind, name, field]


def _offset(body: dict[str, Json]) -> list[Json]:
    return ["offset", body["offset"]] if body.get("offset") else []


def value_text(value: Json, style: Style | tuple[Style, ...], depth: int = 0, separator: str = ",") -> str:
    """What an operand is compared with, or what it is given."""
    if depth > MOST_DEPTH:
        return "…"
    if isinstance(value, list):
        return separator.join([value_text(each, style, depth + 1) for each in value])
    if isinstance(value, dict) and len(value) == 1:
        return _compound(value, style, depth)
    if isinstance(style, tuple):
        style = style[0] if style else Style.PLAIN
    if isinstance(value, bool):
        return "exists" if value else "missing"
    if isinstance(value, int):
        return _number(value, style)
    if isinstance(value, str):
        is_name = not value.isdecimal() and not value.startswith("@") and value != "*"
        return f'"{value}"' if style is Style.QUOTED and is_name else value
    return as_json(value)


def as_json(value: Json) -> str:
    """What there is no better way to show."""
    import json  # Which what only writes rules of ours has no use for.

    return json.dumps(value)


def _number(value: int, style: Style) -> str:
    if style is Style.MARK:
        return f"0x{value:08x}"
    if style is Style.DSCP:
        return f"0x{value:02x}"
    return f"0x{value:x}" if style in (Style.RAW, Style.FLAGS) else str(value)


def _compound(value: dict[str, Json], style: Style | tuple[Style, ...], depth: int) -> str:
    [(kind, body)] = value.items()
    match kind, body:
        case "prefix", {"addr": address, "len": length}:
            return f"{value_text(address, style, depth + 1)}/{length}"
        case "range", [first, last]:
            ends = [
                _NUMBERS[style].get(each, each) if style in _NUMBERS else each for each in map(_plain, (first, last))
            ]
            return f"{value_text(ends[0], style, depth + 1)}-{value_text(ends[1], style, depth + 1)}"
        case "set", list():
            return "{ " + ", ".join([value_text(each, style, depth + 1) for each in body]) + " }"
        case "set", _:
            return "{ " + value_text(body, style, depth + 1) + " }"
        case "concat", list():
            styles = style if isinstance(style, tuple) else (style,) * len(body)
            styles = (*styles, *[Style.PLAIN] * (len(body) - len(styles)))
            return " . ".join([value_text(each, one, depth + 1) for each, one in zip(body, styles, strict=False)])
        case "elem", dict():
            return _element(body, style, depth)
        case "|", list():
            return " | ".join([value_text(each, style, depth + 1) for each in body])
        case "map", dict():
            return f"{operand(body.get('key'), depth + 1)} map {_data(body, style, depth)}"
    return operand(value, depth + 1)


_NUMBERS = {Style.ICMP: ICMP_TYPES, Style.ICMPV6: ICMPV6_TYPES}
"""What stands in ranges by number."""


def _plain(value: Json) -> Json:
    return value if isinstance(value, str | int) else operand(value, MOST_DEPTH)


def _element(body: dict[str, Json], style: Style | tuple[Style, ...], depth: int) -> str:
    value = body.get("val")
    text = operand(value, depth + 1) if _is_load(value) else value_text(value, style, depth + 1)
    for key in ("timeout", "expires"):
        if isinstance(body.get(key), int):
            text += f" {key} {body[key]}s"
    return f'{text} comment "{body["comment"]}"' if isinstance(body.get("comment"), str) else text


def _is_load(value: Json) -> bool:
    return isinstance(value, dict) and not value.keys() & {"prefix", "range", "set", "elem", "|"}


def _data(body: dict[str, Json], style: Style | tuple[Style, ...], depth: int) -> str:
    """The mapping behind ``map``: a name, or pairs; ``style`` is that of the values."""
    data = body.get("data")
    pairs = data.get("set") if isinstance(data, dict) else None
    if not isinstance(pairs, list):
        return value_text(data, Style.PLAIN, depth + 1)
    return pairs_text(pairs, style_of(body.get("key")), style, depth)


def pairs_text(
    pairs: list[Json], keys: Style | tuple[Style, ...], values: Style | tuple[Style, ...], depth: int
) -> str:
    """``{ 80 : 8080 }``."""
    shown = []
    for pair in pairs:
        if isinstance(pair, list) and len(pair) == 2:
            shown.append(f"{value_text(pair[0], keys, depth + 1)} : {value_text(pair[1], values, depth + 1)}")
        else:
            shown.append(value_text(pair, keys, depth + 1))
    return "{ " + ", ".join(shown) + " }"
