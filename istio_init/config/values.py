"""The grammar of every option's value. Strict: nothing passes that could mean more than it says.

A parser takes the text of one item, stripped, and returns its value; it raises `BadValue` with why and what to do.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

from istio_init.dialects.iptables.matches import IdRange, IPNetwork, PortRange
from istio_init.netfilter.family import MAX_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ID = 0xFFFFFFFE
"""The highest user or group id; 2^32-1 means "no id" (chown(2))."""

INTERFACE_LENGTH = 15
"""Longest interface name: IFNAMSIZ, 16, with its NUL (netdevice(7))."""

RESERVED_TABLES = {0: "unspec", 253: "default", 254: "main", 255: "local"}
"""Routing tables that the namespace's own routing lives in (/etc/iproute2/rt_tables)."""

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-$")


class BadValue(ValueError):
    """A value that is refused: why, and what to write instead."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why, fix)
        self.why = why
        self.fix = fix


def items(text: str) -> list[str]:
    """The items of a comma-separated list. Spaces around them and empty ones (a trailing comma) do not count."""
    return [item for each in text.split(",") if (item := each.strip(" \t"))]


def is_decimal(text: str) -> bool:
    """Whether the text is a plain decimal number, in ASCII digits."""
    return text.isascii() and text.isdigit()


def port(text: str, service: Callable[[str], int | None]) -> int:
    """One port, as a number or the name of a service."""
    number = _port_or_none(text, service)
    if number is None or number == 0:
        raise BadValue("not a port", "give a number from 1 to 65535")
    return number


def port_range(text: str, service: Callable[[str], int | None]) -> PortRange:
    """A port, a service's name, or a range ``8000:8090`` whose ends may be left out."""
    fix = "give ports from 1 to 65535, names of services, or ranges such as 8000:8090"
    first, colon, last = text.partition(":")
    if not colon:
        begin, dash, end = text.partition("-")
        if dash and is_decimal(begin) and is_decimal(end):
            raise BadValue("not a port", f"write a range as {begin}:{end}")
        _refuse_other_separators(text, "ports")
        return PortRange(*[port(text, service)] * 2)
    low = _port_or_none(first, service) if first else 0
    high = _port_or_none(last, service) if last else 65535
    if low is None or high is None:
        raise BadValue("not a range of ports", fix)
    if low > high:
        raise BadValue("the range ends before it begins", f"write {high}:{low}")
    if high == 0:
        raise BadValue("not a range of ports", fix)
    return PortRange(low, high)


def _port_or_none(text: str, service: Callable[[str], int | None]) -> int | None:
    if is_decimal(text):
        number = int(text) if len(text) <= 5 else 65536
        return number if number <= 65535 else None
    return service(text) if text and set(text) <= _NAME_CHARACTERS and not text.startswith("-") else None


def network(text: str, _: object = None) -> IPNetwork:
    """A range in CIDR notation; bits beyond the prefix are cleared, as iptables does."""
    address, slash, prefix = text.partition("/")
    _refuse_other_separators(text, "ranges")
    if not slash and is_address(address):
        length = 128 if ":" in address else 32
        raise BadValue("a range needs a prefix length", f"for one address write {address}/{length}")
    if not is_decimal(prefix) or "%" in address or not text.isascii():
        raise BadValue("not a range in CIDR notation", "write for example 10.0.0.0/8 or fd00::/8")
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise BadValue("not a range in CIDR notation", "write for example 10.0.0.0/8 or fd00::/8") from None


def is_address(text: str) -> bool:
    """Whether the text is one address, without a zone."""
    try:
        return ip_address(text) is not None and "%" not in text
    except ValueError:
        return False


def _refuse_other_separators(text: str, what: str) -> None:
    """Raise for a list that is written with something else than commas."""
    if set(text) & set("; |"):
        raise BadValue(f"several {what} in one", f"separate {what} with commas, and nothing else")


def cut(text: str) -> IPNetwork | None:
    """A range without the bits behind its prefix, where it was given with some."""
    address, slash, _ = text.partition("/")
    found = network(text) if slash else None
    return None if found is None or found.network_address == type(found.network_address)(address) else found


def loopback_network(text: str, _: object = None) -> IPv4Network:
    """An IPv4 range that begins within 127.0.0.0/8."""
    value = network(text)
    if not isinstance(value, IPv4Network) or not value.is_loopback:
        raise BadValue("not an IPv4 loopback range", "give a part of 127.0.0.0/8, such as 127.0.0.1/32")
    return value


def ipv4_address(text: str, _: object = None) -> IPv4Address:
    """One IPv4 address."""
    try:
        return IPv4Address(text)
    except ValueError:
        raise BadValue("not an IPv4 address", "write for example 169.254.7.127") from None


def ipv6_address(text: str, _: object = None) -> IPv6Address:
    """One IPv6 address, without a zone."""
    try:
        address = IPv6Address(text)
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:
        raise BadValue("not an IPv6 address", "write for example fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
    return address


def interface_name(text: str, _: object = None) -> str:
    """An interface, or with a trailing ``+`` all whose names begin so."""
    name = text.removesuffix("+")
    if len(text) > INTERFACE_LENGTH:
        raise BadValue(f"{len(text)} characters, and an interface's name has at most {INTERFACE_LENGTH}", "shorten it")
    if text in (".", "..", "+") or not name:
        raise BadValue("not the name of an interface", "name an interface, or a prefix with +, such as veth+")
    if not name.isascii() or not name.isprintable() or set(name) & set(" !\"'/\\:,") or name[0] == "-":
        raise BadValue(
            "characters that an interface's name cannot have, or that iptables would misread",
            "use letters, digits, and signs other than space ! \" ' / \\ : , and none that begins with -",
        )
    return text


def owner(text: str, account: Callable[[str], int | None]) -> IdRange:
    """A user or group: an id, a range of ids ``1000-2000``, or a name."""
    first, dash, last = text.partition("-")
    if is_decimal(first) and (is_decimal(last) if dash else True):
        low = int(first) if len(first) <= 10 else MAX_ID + 1
        high = low if not dash else int(last) if len(last) <= 10 else MAX_ID + 1
        if low > MAX_ID or high > MAX_ID:
            raise BadValue("not an id", f"give a number from 0 to {MAX_ID}")
        if low > high:
            raise BadValue("the range ends before it begins", f"write {high}-{low}")
        return IdRange(low, high)
    known = account(text) if text and set(text) <= _NAME_CHARACTERS and not text.startswith("-") else None
    if known is None:
        raise BadValue("neither an id nor a name that is known there", "give the number")
    return IdRange(known, known)


def mark(text: str, _: object = None) -> int:
    """A packet mark, decimal or hexadecimal, that is not zero."""
    value = _number(text)
    if value is None or not 0 < value <= MAX_MARK:
        raise BadValue("not a packet mark", "give a number from 1 to 4294967295, decimal or as 0x539")
    return value


def routing_table(text: str, _: object = None) -> int:
    """A routing table of its own: never one that the namespace's routing lives in."""
    value = _number(text)
    if value is None or value > MAX_MARK:
        raise BadValue("not a routing table", "give a number from 1 to 4294967295, such as 133")
    if value in RESERVED_TABLES:
        name = RESERVED_TABLES[value]
        raise BadValue(f"that is the table {name!r}, and a default route to lo there cuts the pod off", "use 133")
    return value


def _number(text: str) -> int | None:
    digits = text[2:] if text[:2] in ("0x", "0X") else None
    if digits is not None:
        valid = digits.isascii() and digits.isalnum() and len(digits) <= 8
        try:
            return int(digits, 16) if valid else None
        except ValueError:
            return None
    return int(text) if is_decimal(text) and len(text) <= 10 else None


_TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False"])
BOOLEANS = _TRUE | _FALSE
"""What Go takes for one."""


def boolean(text: str, _: object = None) -> bool:
    """A boolean as Go's strconv.ParseBool reads it."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadValue("not a boolean", "write true or false")


_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str, _: object = None) -> float:
    """Seconds of a duration as Go writes it, such as ``5s`` or ``1m30s``, or of a plain number of them."""
    if text.isascii() and text.replace(".", "", 1).isdecimal():
        return float(text)
    rest, total = text, 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit_length = len(rest[digits:]) - len(rest[digits:].lstrip("nuµμmsh"))
        number, unit = rest[:digits], rest[digits : digits + unit_length]
        if not number.isascii() or number.count(".") > 1 or not number.strip(".") or unit not in _SECONDS:
            raise BadValue("not a duration", "write for example 5s, 1m30s, or plain seconds")
        total += float(number) * _SECONDS[unit]
        rest = rest[digits + unit_length :]
    if not text:
        raise BadValue("not a duration", "write for example 5s, 1m30s, or plain seconds")
    return total
