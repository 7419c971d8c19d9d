"""Reads and changes legacy tables with python-iptables, in a process that lives for one request.

usage: python -m istio_init.stores.iptc_child ipv4|ipv6 read TABLE ...     prints iptables-save text
                                                          commit SECONDS     reads iptables-restore text

``commit`` waits that long for the xtables lock. Exit status: 0 done, 1 refused, 3 python-iptables cannot work here and
nothing was changed, 4 the lock was held. Either request begins with a probe of python-iptables, which decides on 3.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import os
import sys
import time
from glob import glob

from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.render import rule_text
from istio_init.netfilter.family import Family
from istio_init.stores import iptc_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

REFUSED, CANNOT, LOCKED = 1, 3, 4

LOCK_FILE = "/run/xtables.lock"
"""The lock of all legacy iptables programs, unless XTABLES_LOCKFILE names another (iptables(8))."""

LIBRARIES = {"c": "libc.so.6", "xtables": "libxtables.so.12", "ip4tc": "libip4tc.so.2", "ip6tc": "libip6tc.so.2"}

PROBE_RULES = {
    Family.IPV4: (
        "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j RETURN",
        "-s 127.0.0.6/32 -i eth+ -p tcp -m multiport ! --dports 53,15008 -m owner ! --gid-owner 1337 -j RETURN",
        "-p udp -m udp --sport 15053 -m owner --uid-owner 1-2 -j CT --zone 2",
        "-p tcp -m tcp --dport 8000:8090 -j REDIRECT --to-ports 15006",
        "-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j MARK --set-xmark 0x539/0xffffffff",
        "-p tcp -m mark ! --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        "-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        "-p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
    ),
    Family.IPV6: (
        "! -d ::1/128 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j RETURN",
        "-p tcp -m tcp --dport 8000:8090 -j REDIRECT --to-ports 15006",
        "-p tcp -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xffffffff",
    ),
}
"""One of every test and target of the policy: what python-iptables must be able to make and to read back."""


class Refused(Exception):
    """The kernel or libiptc refused; the argument says what."""


def load(family: Family, tables: list[str]) -> Any:
    """Import python-iptables for one family and keep it away from all tables but these.

    It would search its libraries by running compilers, and open, so create, every table when a rule names a chain.
    """
    search = ctypes.util.find_library
    ctypes.util.find_library = lambda name: _loadable(name) or (search(name) if name in LIBRARIES else None)
    if "XTABLES_LIBDIR" not in os.environ:
        for directory in sorted(glob("/usr/lib/*/xtables") + glob("/usr/lib*/xtables") + glob("/lib/*/xtables")):
            os.environ["XTABLES_LIBDIR"] = directory
    import iptc

    table_class = iptc.Table if family is Family.IPV4 else iptc.Table6
    for each in (iptc.Table, iptc.Table6):
        for name in iptc.Table.ALL:
            each.existing_table_names[name] = each is table_class and name in tables
    return iptc


def _loadable(name: str) -> str | None:
    soname = LIBRARIES.get(name)
    if soname is None:
        return None
    try:
        ctypes.CDLL(soname)
    except OSError:
        return None
    return soname


def probe(family: Family) -> None:
    """Make each kind of rule and read it back, without the kernel.

    Raises:
        iptc_rules.CannotExpress: one came back different.
    """
    iptc = load(family, [])
    for text in PROBE_RULES[family]:
        made = iptc_rules.build(iptc, family, parse_rule(text))
        back = iptc_rules.text_of(made)
        if rule_text(parse_rule(back)) != text or not iptc_rules.masks_are_whole(made, family):
            raise iptc_rules.CannotExpress(f"{text!r} came back as {back!r}")


def read(family: Family, tables: list[str]) -> str:
    """The tables as iptables-save prints them."""
    iptc = load(family, tables)
    lines = []
    for name in tables:
        table = (iptc.Table if family is Family.IPV4 else iptc.Table6)(name, False)
        lines.append(f"*{name}")
        for chain in table.chains:
            policy = chain.get_policy().name if chain.is_builtin() else "-"
            packets, size = chain.get_counters() if chain.is_builtin() else (0, 0)
            lines.append(f":{chain.name} {policy} [{packets}:{size}]")
        for chain in table.chains:
            for rule in chain.rules:
                packets, size = rule.counters
                lines.append(f"[{packets}:{size}] -A {chain.name} {iptc_rules.text_of(rule)}".rstrip())
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def commit(family: Family, text: str, wait: float) -> None:
    """Carry out iptables-restore text, each table in one replacement.

    Raises:
        Refused: the kernel refused a table; earlier ones are committed.
        TimeoutError: the lock was held for too long.
    """
    sections = list(_sections(text))
    iptc = load(family, [name for name, _ in sections])
    deadline = time.monotonic() + wait
    with _XtablesLock(deadline):
        for name, lines in sections:
            table = (iptc.Table if family is Family.IPV4 else iptc.Table6)(name, False)
            while True:
                for line in lines:
                    _carry_out(iptc, family, table, line)
                try:
                    table.commit()
                    break
                except iptc.IPTCError as error:
                    # A writer that does not take the lock changed the table since it was read.
                    if "temporarily unavailable" not in _words(error) or time.monotonic() > deadline:
                        raise Refused(f"table {name}: {_words(error)}") from error
                    table.refresh()


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    name = ""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("*"):
            name, lines = line[1:], []
        elif line == "COMMIT":
            yield name, lines
        elif line:
            lines.append(line)


class _XtablesLock:
    """The lock that iptables programs take for a change; python-iptables does not take it itself."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def __enter__(self) -> None:
        self.file = os.open(os.environ.get("XTABLES_LOCKFILE", LOCK_FILE), os.O_RDONLY | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= self.deadline:
                    raise TimeoutError("another program holds the xtables lock") from None
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        os.close(self.file)


def _carry_out(iptc: Any, family: Family, table: Any, line: str) -> None:
    """One line of iptables-restore text."""
    verb, chain_name, *rest = line.split(" ", 2)
    argument = rest[0] if rest else ""
    if verb.startswith(":"):
        name = verb[1:]
        table.flush_entries(name) if table.is_chain(name) else table.create_chain(name)
        return
    chain = iptc.Chain(table, chain_name)
    if verb == "-X":
        table.delete_chain(chain_name)
    elif verb == "-A":
        chain.append_rule(iptc_rules.build(iptc, family, parse_rule(argument), chain))
    elif verb == "-I":
        number, _, text = argument.partition(" ")
        chain.insert_rule(iptc_rules.build(iptc, family, parse_rule(text), chain), int(number) - 1)
    elif verb == "-D" and argument.isdecimal():
        chain.delete_rule(chain.rules[int(argument) - 1])
    elif verb == "-D":
        wanted = parse_rule(argument)
        rule = next((rule for rule in chain.rules if parse_rule(iptc_rules.text_of(rule)) == wanted), None)
        if rule is None:
            raise Refused(f"chain {chain_name} does not hold the rule that shall go: {argument}")
        chain.delete_rule(rule)
    else:
        raise Refused(f"not a line that is known: {line}")


def _words(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.replace("b'", "'") if isinstance(text, str) else str(text)


def main(argv: list[str]) -> int:
    """Carry out one request."""
    family, verb, *rest = Family(argv[0]), *argv[1:]
    try:
        probe(family)
        if verb == "read":
            sys.stdout.write(read(family, rest))
            return 0
    except Exception as error:  # Whatever python-iptables or its libraries raise: it cannot work here.
        print(f"{type(error).__name__}: {_words(error)}", file=sys.stderr)
        return CANNOT
    try:
        commit(family, sys.stdin.read(), float(rest[0]))
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return LOCKED
    except Exception as error:  # libiptc's errors have no common base.
        print(_words(error), file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # libxtables and python-iptables free the same memory at interpreter exit.
    os._exit(status)
