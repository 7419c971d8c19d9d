"""The rules of nf_tables as ``nft -j list ruleset`` prints them (libnftables-json(5)): of all tables, in one text."""

from __future__ import annotations

import re
import time

from istio_init.errors import IstioInitError, NoBackendError, PrivilegeError, ToolError
from istio_init.system import netlink, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.system.netlink import NftTable

PROGRAM = "nft"
LIST = (PROGRAM, "-j", "list")
TIMEOUT = 60.0
"""Seconds for a program that prints rules."""

MOST_TABLES = 100
"""So many tables are asked for one by one."""

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
"""Names that mean nothing else to nft, which reads its arguments as text."""

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""By their number (linux/netfilter.h, NFPROTO_…)."""

RULE = '{"rule":'
"""What stands once in what is printed of each rule."""

NO_RULES = '{"nftables": []}'
READERS = ("iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save", PROGRAM)
"""The programs that print rules."""


def programs() -> frozenset[str]:
    """Those of the programs that print rules which are installed here."""
    return frozenset(name for name in READERS if process.find_binary(name) is not None)


def dormant() -> dict[tuple[str, str], bool]:
    """Of each table, by nft's name of its family and its own, whether the kernel does not call it.

    nft up to 1.0.6 does not print it rightly.

    Raises:
        IstioInitError: they cannot be read.
    """
    return {
        (FAMILIES[table.family], table.name): table.is_dormant
        for table in netlink.all_nft_tables() or ()
        if table.family in FAMILIES
    }


def read() -> str | IstioInitError:
    """The text, or why there is none. Where the kernel has no table at all, no program is needed to say so."""
    try:
        if not netlink.all_nft_tables():
            return NO_RULES
        return listed()
    except IstioInitError as error:
        return error


def listed() -> str:
    """What nft prints.

    Raises:
        NoBackendError: nft is not installed.
        PrivilegeError: reading the rules is denied.
        ToolError: it failed.
    """
    return _listed("ruleset")


def listed_apart() -> Iterator[tuple[NftTable, str | IstioInitError]]:
    """What nft prints of each table alone, or why it is not known.

    nft 1.0.6 stops in the middle where a table has flags, at times: whoever writes a dormant one could hide the others.
    All of them together have the time of one program.
    """
    tables = netlink.all_nft_tables() or []
    until = time.monotonic() + TIMEOUT
    for number, table in enumerate(tables):
        if (left := until - time.monotonic()) <= 0:
            yield table, ToolError(f"no time is left to read table {table.name}: nft took {TIMEOUT:g} s for others")
            continue
        family = FAMILIES.get(table.family)
        if number >= MOST_TABLES or family is None or not PLAIN.fullmatch(table.name):
            yield table, ToolError(f"table {table.name} cannot be asked for by itself")
            continue
        try:
            yield table, _listed("table", family, table.name, seconds=left)
        except IstioInitError as error:
            yield table, error


def _listed(*what: str, seconds: float = TIMEOUT) -> str:
    if process.find_binary(PROGRAM) is None:
        raise NoBackendError(f"{PROGRAM} is not installed", fix="install the package nftables")
    completed = process.run((*LIST, *what), timeout=seconds)
    said = completed.stderr.strip()
    if completed.status != 0 and "not permitted" in said:
        raise PrivilegeError(f"{PROGRAM}: {said}", fix="run as root, or with the capability NET_ADMIN")
    if completed.status != 0:
        raise ToolError(f"{PROGRAM} failed with status {completed.status}: {said}")
    return process.bounded(completed, RULE)
