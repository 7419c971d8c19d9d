"""Parsers of arguments, environment, files and what the kernel prints as text."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from typing import Any

import click

from istio_init.cli.dropin import ALL_OPTIONS
from istio_init.cli.expect import expectation
from istio_init.cli.interval import watch_seconds
from istio_init.cli.lines import say
from istio_init.cli.packet import PACKET_OPTIONS, described
from istio_init.cli.pflag import UsageError, parse_flags
from istio_init.cli.source import Source
from istio_init.config import values
from istio_init.config.model import Config, Surroundings
from istio_init.config.parse import Names, gather, parse
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.errors import ConfigError
from istio_init.inspector.arguments import apply_arguments, arguments, is_accepted
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.host import Host
from istio_init.options import OPTIONS
from istio_init.plan.diff import diff
from istio_init.plan.restore import render_restore
from istio_init.system import names as names_of_files
from istio_init.system import sockets
from istio_init.system.names import FileNames
from istio_init.system.pods import parse_cgroup
from istio_init.system.resolv import MOST, parse_resolv_conf
from istio_init.trace.describe import filled
from istio_init.visible import visible
from istio_init.wording.packets import packet_arguments

from .fuzzing import Parser
from .mutating import Form

HOST = Host()
FLAGS = [option.flag for option in OPTIONS if option.flag]
SHORTS = [option.short for option in OPTIONS if option.short]
VARIABLES = [name for option in ALL_OPTIONS for name in option.env]


class NoNames(Names):
    """Knows one of each."""

    def service(self, name: str) -> int | None:
        return {"http": 80}.get(name)

    def user(self, name: str) -> int | None:
        return {"envoy": 1337}.get(name)

    group = user


NAMES = NoNames()


def argv(text: str) -> None:
    """Arguments are refused, or mean rules of one line each; the arguments that they come to mean the same."""
    given, _ = parse_flags(text.split("\x1f"), ALL_OPTIONS)
    _configured(gather(given, {}, apply=False, options=ALL_OPTIONS))


def environment(text: str) -> None:
    """The same of an environment, a variable a line."""
    environ = dict(line.partition("=")[::2] for line in text.split("\x1f"))
    _configured(gather({}, environ, apply=False, options=ALL_OPTIONS))


def _configured(given: Any) -> None:
    _meant(parse(given, NAMES, lenient_mode=True)[0])


@lru_cache(maxsize=4096)
def _meant(config: Config) -> None:
    """What holds for each configuration, and so need not be looked at again."""
    for family, rules in sidecar.rules(config, Surroundings(ipv6=True)).items():
        edits = diff(RuleSet(family), rules).edits
        lines = render_restore(edits).split("\n")[:-1]
        assert len(lines) == sum(len(each.steps) + 2 for each in edits), "more lines than commands"
    assert is_accepted(config), "its own values are not accepted"
    for found, apply in ((arguments(config), False), (apply_arguments(config), True)):
        flags, stray = parse_flags(list(found.argv), OPTIONS)
        again, _ = parse(gather(flags, dict(found.env), apply=apply), NAMES)
        assert not stray and again == config, f"{found} is not the same"


def expected(text: str) -> None:
    """A line of --expect or a file of --expect-file is taken or refused; what it means can be written again."""
    config, _ = expectation(text, NAMES)
    again, _ = expectation(str(arguments(config)), NAMES)
    assert again == config, f"{arguments(config)} is not the same"


def batch_line(text: str) -> None:
    """A line of --batch is a packet or refused; the packet as arguments is that packet."""
    from istio_init.cli.packet import _once

    fields = json.loads(text, object_pairs_hook=_once)
    if isinstance(fields, dict):
        packet, _ = filled({name: value for name, value in fields.items() if value is not None}, HOST)
        assert shlex.split(packet_arguments(packet))


@click.command()
@click.argument("direction")
@click.argument("protocol")
@click.argument("destination")
def _packet(direction: str, protocol: str, destination: str, **given: Any) -> None:
    described(direction, protocol, destination, given, _SOURCE)


for _option in PACKET_OPTIONS:
    _packet = _option(_packet)


class _Nowhere:
    host = HOST


_SOURCE: Source = _Nowhere()  # type: ignore[assignment]


def packet_words(text: str) -> None:
    """The words of trace are a packet or refused."""
    try:
        _packet.main(text.split("\x1f"), standalone_mode=False)
    except (click.exceptions.Exit, click.ClickException):
        pass  # They are the caller's own words, and made visible where they are printed.


GRAMMARS: tuple[Callable[[str], object], ...] = (
    lambda text: values.port(text, NAMES.service),
    lambda text: values.port_range(text, NAMES.service),
    lambda text: values.owner(text, NAMES.user),
    values.network,
    values.loopback_network,
    values.ipv4_address,
    values.ipv6_address,
    values.interface_name,
    values.mark,
    values.routing_table,
    values.boolean,
    values.duration,
    lambda text: watch_seconds(text, shortest=1.0),
)


def value(text: str) -> None:
    """A value is taken by one grammar or another, or refused; what is printed is taken."""
    for grammar in GRAMMARS:
        for item in [text, *values.items(text)]:
            try:
                taken = grammar(item)
            except (values.BadValue, click.BadParameter):
                pass
            else:
                is_same = isinstance(taken, bool | float) or grammar(str(taken)) == taken
                assert is_same, f"{taken} is not taken for the same"


def resolv(text: str) -> None:
    """Few servers, each once."""
    assert len(found := parse_resolv_conf(text)) <= MOST and len(set(found)) == len(found)


def accounts(text: str) -> None:
    """passwd and group: an id or none."""
    known = FileNames("/nowhere")
    known._texts = {"passwd": text, "group": text}
    for name in ("envoy", "root", ""):
        for number in (known.user(name), known.group(name)):
            assert number is None or 0 <= number <= names_of_files.HIGHEST


def net_file(text: str) -> None:
    """/proc/net/tcp and the like."""
    sockets.parsed("tcp", text.split("\n"))


def cgroup(text: str) -> None:
    """A container's id has 64 digits."""
    found = parse_cgroup(text)
    assert found is None or len(found) == 64


def shown(text: str) -> None:
    """Whatever is printed acts on no terminal, and made visible once it stays as it is."""
    once = visible(text)
    assert once.isprintable() and visible(once) == once
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        say(text)
    assert all(line.isprintable() for line in printed.getvalue().split("\n"))


ARGUMENT_WORDS = (
    *[f"\x1f{each}\x1f" for each in FLAGS], *[f"\x1f{each}" for each in SHORTS], "\x1f", "=", "*", "10.0.0.0/8",
    "80,443", "8000:8090", "TPROXY", "=false", "eth0", "net+", "1000-2000", "--", "envoy", "fd00::/8", "@/etc/passwd",
)  # fmt: skip
PACKET_WORDS = (
    "outbound", "inbound", "tcp", "udp", "icmp", "\x1f--uid\x1f", "\x1f--src\x1f", "\x1f--mark\x1f0x539",
    "\x1f--no-socket", "[2001:db8::1]:443", "10.0.0.1:80", "\x1f--tcp-flags\x1fSYN,ACK", "\x1f--icmp-type\x1f8/0",
    "\x1f--dscp\x1f", "\x1f",
)  # fmt: skip
JSON_WORDS = (
    '"direction": "outbound"', '"proto": "tcp"', '"dst": "10.0.0.1"', '"sport": 1', '"uid": 1000', "null", "true", "[",
    '"ctstate": "INVALID"', '"socket": false', '"family": 4', '"mark"', '"flags"', '"type"', '"interface"', "{", "1e5",
)  # fmt: skip


def parsers() -> Iterator[Parser]:
    """All of them."""
    yield Parser("argv", argv, (UsageError, ConfigError), ARGUMENT_WORDS)
    yield Parser("environment", environment, (ConfigError,), [f"\x1f{each}=" for each in VARIABLES])
    yield Parser("expect", expected, (ConfigError,), [*FLAGS, *SHORTS, "--ambient", "'", '"', "\\\n", "#", " ", "= "])
    yield Parser("batch-line", batch_line, (ValueError, RecursionError), JSON_WORDS, Form.JSON)
    yield Parser("packet-words", packet_words, (), PACKET_WORDS)
    yield Parser(
        "value", value, (), ("0x", ":", "/32", "-", ",", "s", "ms", "µs", "1h", "%eth0", "::", "127.0.0.1", "+")
    )
    yield Parser("resolv", resolv, (), ("nameserver ", "options ", "%eth0", "\n", "::1", "# "))
    yield Parser("accounts", accounts, (), ("envoy:x:", ":1337:", "\n", "root:"))
    yield Parser("net-file", net_file, (OSError,), ("0100007F:1F90 ", " 0A ", "00000000:0000 ", "\n"))
    yield Parser("cgroup", cgroup, (), ("0::/kubepods/", "cri-containerd-", ".scope", "a" * 64, "\n"))
    yield Parser("shown", shown)
