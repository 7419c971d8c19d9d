"""``istio-init trace``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import click

from istio_init.cli.source import NAMESPACE_OPTIONS, snapshot_of
from istio_init.cli.targets import with_options
from istio_init.config import values
from istio_init.errors import IstioInitError
from istio_init.inspector.findings.model import View
from istio_init.inspector.snapshot import Snapshot
from istio_init.kernel.names import FileNames
from istio_init.model.netfilter import Family
from istio_init.model.rules import RuleSet
from istio_init.report.trace_json import trace_json
from istio_init.report.trace_text import trace_lines
from istio_init.trace.assume import filled
from istio_init.trace.depends import depends_on
from istio_init.trace.engine import Trace, Tracer
from istio_init.trace.packet import Direction, Packet

FIELDS = {"src": "source", "sport": "source_port", "uid": "uid", "gid": "gid", "interface": "interface", "mark": "mark",
          "ctstate": "ctstate"}  # fmt: skip


@click.command("trace", short_help="Follow a packet through the rules.")
@click.argument("direction", required=False, type=click.Choice([each.value for each in Direction]))
@click.argument("protocol", required=False)
@click.argument("destination", required=False, metavar="[DST[:PORT]]")
@with_options(NAMESPACE_OPTIONS)
@click.option("--expect", metavar="ARGS", help="The rules of these istio-iptables arguments, applied nowhere.")
@click.option("--src", metavar="ADDR[:PORT]", help="Where it comes from.")
@click.option("--uid", help="User of the sending process. Assumed: 1000.")
@click.option("--gid", help="Group of the sending process. Assumed: the same number.")
@click.option(
    "--interface", help="By which it leaves or enters. Assumed: lo for loopback and local addresses, else eth0."
)
@click.option("--mark", help="Packet mark. Assumed: 0.")
@click.option("--ctstate", type=click.Choice(["NEW", "ESTABLISHED", "RELATED", "INVALID"]), help="Assumed: NEW.")
@click.option("--batch", metavar="FILE", help="Read one JSON packet a line, answer each with one line; - for stdin.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def trace(
    direction: str | None,
    protocol: str | None,
    destination: str | None,
    pid: int | None,
    netns: str | None,
    file: str | None,
    file6: str | None,
    expect: str | None,
    batch: str | None,
    form: str,
    **given: str | None,
) -> int:
    """Follow a connection's first packet through the rules, without sending it.

    For example: istio-init trace outbound tcp 10.0.0.5:443 --uid 1000
    """
    sources = [value for value in (pid, netns, file or file6, expect) if value is not None]
    if len(sources) > 1:
        raise click.UsageError("give one of --pid, --netns, --file, --expect")
    if (batch is None) == (destination is None):
        raise click.UsageError("give a direction, a protocol and a destination, or --batch")
    snapshot = snapshot_of(pid, netns, file, file6, expect)
    rules = View(snapshot).rules
    tracers = {family: Tracer(rules.get(family, RuleSet(family))) for family in Family}
    if batch is not None:
        for packet, assumed in _batch(batch, snapshot):
            found = tracers[packet.family].trace(packet)
            hinges = _hinges(found, tracers, rules, assumed)
            click.echo(json.dumps(trace_json(found, hinges)) if form == "json" else trace_lines(found, hinges)[-1])
        return 0
    assert direction is not None and protocol is not None and destination is not None
    packet, assumed = _packet(direction, protocol, destination, given, snapshot)
    found = tracers[packet.family].trace(packet)
    hinges = _hinges(found, tracers, rules, assumed)
    if form == "json":
        click.echo(json.dumps(trace_json(found, hinges), indent=2))
    else:
        click.echo("\n".join(trace_lines(found, hinges)))
    return 0


def _hinges(
    found: Trace, tracers: dict[Family, Tracer], rules: dict[Family, RuleSet], assumed: list[str]
) -> tuple[str, ...]:
    family = found.packet.family
    hinges = depends_on(found, tracers[family], rules.get(family, RuleSet(family)), [FIELDS[name] for name in assumed])
    names = {field: name for name, field in FIELDS.items()}
    return tuple(names[field] for field in hinges)


def _packet(
    direction: str, protocol: str, destination: str, given: dict[str, str | None], snapshot: Snapshot
) -> tuple[Packet, list[str]]:
    address, port = _endpoint(destination, "DST")
    fields: dict[str, Any] = {"direction": direction, "proto": protocol, "dst": str(address), "dport": port or 0}
    if given["src"] is not None:
        source, source_port = _endpoint(given["src"], "--src")
        fields["src"] = str(source)
        if source_port is not None:
            fields["sport"] = source_port
    names = FileNames()
    for name, account in (("uid", names.user), ("gid", names.group)):
        if (text := given[name]) is not None:
            fields[name] = _value(values.owner, text, f"--{name}", account).first
    if given["mark"] is not None:
        fields["mark"] = 0 if given["mark"] in ("0", "0x0") else _value(values.mark, given["mark"], "--mark", None)
    fields |= {name: given[name] for name in ("interface", "ctstate") if given[name] is not None}
    return filled(fields, snapshot)


def _endpoint(text: str, name: str) -> tuple[IPv4Address | IPv6Address, int | None]:
    host, port = text, None
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = ip_address(host)
    except ValueError:
        fix = "write for example 10.0.0.5:443 or [2001:db8::5]:443"
        raise click.BadParameter(f"{text!r}: not an address; {fix}", param_hint=name) from None
    return address, None if port is None else _value(values.port, port, name, FileNames().service)


def _value(parse: Any, text: str, name: str, lookup: Any) -> Any:
    try:
        return parse(text, lookup)
    except values.BadValue as bad:
        raise click.BadParameter(f"{text!r}: {bad.why}; {bad.fix}", param_hint=name) from None


def _batch(path: str, snapshot: Snapshot) -> Iterator[tuple[Packet, list[str]]]:
    try:
        lines = sys.stdin if path == "-" else open(path, encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise IstioInitError(f"{path}: it cannot be read: {error.strerror}") from None
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = {name: value for name, value in json.loads(line).items() if value is not None}
                yield filled(fields, snapshot)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise IstioInitError(
                    f"{path}, line {number}: not a packet: {error}",
                    fix="give direction, proto, dst, and what else is known",
                ) from None
