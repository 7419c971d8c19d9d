"""Packets as people describe them: as arguments of ``istio-init trace``, or as lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

import click

from istio_init.config import values
from istio_init.errors import InputError
from istio_init.netfilter.packet import Packet
from istio_init.netfilter.protocols import ICMP, ICMPV6, TCP, WITH_PORTS, protocol_name, protocol_number
from istio_init.system.names import FileNames
from istio_init.trace.departure import Departures
from istio_init.trace.describe import FLAGS, filled

F = TypeVar("F", bound=Callable[..., Any])

HOW_TO_WRITE = "write for example 10.0.0.5:443 or [2001:db8::5]:443"

PACKET_OPTIONS = [
    click.option("--src", metavar="ADDR[:PORT]", help="Where it comes from."),
    click.option("--uid", help="User of the sending process. Assumed: 1000."),
    click.option("--gid", help="Group of the sending process. Assumed: the same number."),
    click.option("--no-socket", is_flag=True, help="The kernel itself sends it, as it does an answer to ping."),
    click.option(
        "--interface",
        help="Interface by which it leaves or enters. Outbound, the routes tell where they are known. Assumed "
        "otherwise: lo for local addresses, else eth0.",
    ),
    click.option("--mark", help="Packet mark. Assumed: 0."),
    click.option(
        "--ctstate",
        type=click.Choice(["NEW", "ESTABLISHED", "RELATED", "INVALID"], case_sensitive=False),
        metavar="NEW|ESTABLISHED|RELATED|INVALID",
        help="Assumed: NEW, or what connection tracking makes of the given flags or ICMP type.",
    ),
    click.option("--tcp-flags", "flags", metavar="FLAG,...", help="Such as SYN,ACK. Assumed of a first packet: SYN."),
    click.option("--icmp-type", metavar="TYPE[/CODE]", help="By number. Assumed of a first packet: an echo request."),
    click.option("--length", type=click.IntRange(0, 65535), help="Bytes with the IP header. Assumed of TCP: a SYN's."),
    click.option("--ttl", type=click.IntRange(0, 255), help="TTL or hop limit. Assumed of what is sent: 64."),
    click.option("--dscp", type=click.IntRange(0, 63), help="Assumed: 0."),
    click.option("--priority", type=click.IntRange(0, 2**32 - 1), help="Of the sending socket. Assumed: 0."),
]


def described(
    direction: str, protocol: str, destination: str, given: Mapping[str, Any], departures: Departures
) -> tuple[Packet, list[str]]:
    """The packet of the arguments, and the names of what had to be assumed.

    Raises:
        click.UsageError: an argument is wrong.
    """
    fields: dict[str, Any] = {"direction": direction, "proto": protocol}
    try:
        number = protocol_number(protocol)
    except ValueError:
        fix = "write tcp, udp, icmp, ipv6-icmp, sctp, or another protocol's number"
        raise click.BadParameter(f"{protocol!r}: no protocol; {fix}", param_hint="PROTOCOL") from None
    has_ports = number in WITH_PORTS
    for option, name, owners in (("--tcp-flags", "flags", (TCP,)), ("--icmp-type", "icmp_type", (ICMP, ICMPV6))):
        if given[name] is not None and number not in owners:
            raise click.UsageError(f"{option}: a packet of {protocol_name(number)} has none")
    if (direction == "inbound" or given["no_socket"]) and (given["uid"] is not None or given["gid"] is not None):
        raise click.UsageError("--uid and --gid are of the sending socket: an inbound packet and --no-socket have none")
    fields |= _end(destination, "DST", ("dst", "dport"), has_ports=has_ports)
    if given["src"] is not None:
        fields |= _end(given["src"], "--src", ("src", "sport"), has_ports=has_ports)
    if given["no_socket"]:
        fields["socket"] = False
    names = FileNames()
    for name, account in (("uid", names.user), ("gid", names.group)):
        if (text := given[name]) is not None:
            ids = _value(values.owner, text, f"--{name}", account)
            if ids.first != ids.last:
                raise click.BadParameter(f"{text!r}: a range; give one", param_hint=f"--{name}")
            fields[name] = ids.first
    if given["mark"] is not None:
        fields["mark"] = _mark(given["mark"])
    if given["flags"] is not None:
        fields["flags"] = _flags(given["flags"])
    if given["dscp"] is not None:
        fields["tos"] = given["dscp"] << 2
    if given["icmp_type"] is not None:
        fields |= _icmp_type(given["icmp_type"])
    plain = ("interface", "ctstate", "length", "ttl", "priority")
    fields |= {name: given[name] for name in plain if given[name] is not None}
    try:
        return filled(fields, departures.host, departures)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _end(text: str, name: str, fields: tuple[str, str], *, has_ports: bool) -> dict[str, Any]:
    """The address and the port of an end, as far as they are given."""
    host, port = text, None
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing or rest[:1] not in ("", ":"):
            raise click.BadParameter(f"{text!r}: not an address; {HOW_TO_WRITE}", param_hint=name)
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    address = _address(text, host, name)
    if port is None and has_ports and not text.startswith("[") and _ends_like_a_port(text):
        head, _, tail = text.rpartition(":")
        fix = f"write [{head}]:{tail}, or [{text}] for the address without a port"
        raise click.BadParameter(f"{text!r}: is {tail} a port? {fix}", param_hint=name)
    if port is None:
        return {fields[0]: str(address)}
    if not has_ports:
        raise click.BadParameter(f"{text!r}: this protocol has no ports", param_hint=name)
    return {fields[0]: str(address), fields[1]: _value(values.port, port, name, FileNames().service)}


def _ends_like_a_port(text: str) -> bool:
    """Whether an IPv6 address would also be one, and a port, if it were cut at its last colon."""
    head, _, tail = text.rpartition(":")
    try:
        return ip_address(head).version == 6 and tail.isdecimal()
    except ValueError:
        return False


def _address(text: str, host: str, name: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(host)
    except ValueError:
        raise click.BadParameter(f"{text!r}: not an address; {HOW_TO_WRITE}", param_hint=name) from None


def _mark(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= 0xFFFFFFFF:
        raise click.BadParameter(f"{text!r}: not a number of 32 bits, such as 0x539", param_hint="--mark")
    return number


def _flags(text: str) -> int:
    names = [name.strip().upper() for name in text.split(",") if name.strip() and name.strip().upper() != "NONE"]
    if unknown := [name for name in names if name not in FLAGS]:
        raise click.BadParameter(f"{unknown[0]!r}: not one of {', '.join(FLAGS)}", param_hint="--tcp-flags")
    return sum({FLAGS[name] for name in names})


def _icmp_type(text: str) -> dict[str, int]:
    kind, slash, code = text.partition("/")
    for part in (kind, *([code] if slash else [])):
        if not (part.isascii() and part.isdecimal() and int(part) < 256):
            raise click.BadParameter(f"{text!r}: write for example 8 or 3/1", param_hint="--icmp-type")
    return {"type": int(kind), **({"code": int(code)} if slash else {})}


def _value(parse: Any, text: str, name: str, lookup: Any) -> Any:
    try:
        return parse(text, lookup)
    except values.BadValue as bad:
        raise click.BadParameter(f"{text!r}: {bad.why}; {bad.fix}", param_hint=name) from None


def batch(path: str, departures: Departures) -> Iterator[tuple[Packet, list[str]]]:
    """The packets of a file, a JSON object a line, and what had to be assumed of each; null is not given.

    Raises:
        InputError: the file cannot be read.
        click.BadParameter: a line is no packet.
    """
    try:
        lines = sys.stdin if path == "-" else open(path, encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from None
    with lines:
        for number, line in _numbered(path, lines):
            try:
                fields = json.loads(line, object_pairs_hook=_once)
                if not isinstance(fields, dict):
                    raise ValueError("it is no JSON object")
                given = {name: value for name, value in fields.items() if value is not None}
                packet = filled(given, departures.host, departures)
            except (ValueError, RecursionError) as error:
                raise click.BadParameter(
                    f"{path}, line {number}: not a packet: {error}; give direction, proto, dst, and what else is known",
                    param_hint="--batch",
                ) from None
            yield packet


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object, each given once."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in [each for each, _ in pairs[:number]])
        raise ValueError(f"{twice!r} is given twice")
    return found


def _numbered(path: str, lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line
    except UnicodeDecodeError:
        raise InputError(f"{path}: it is not text", fix="give a JSON object a line") from None
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from None
