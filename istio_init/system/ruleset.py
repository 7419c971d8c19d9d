"""The rules of nf_tables as ``nft -j list ruleset`` prints them (libnftables-json(5)): of all tables, in one text."""

from __future__ import annotations

from istio_init.errors import IstioInitError, NoBackendError, PrivilegeError, ToolError
from istio_init.system import netlink, process

PROGRAM = "nft"
LIST = (PROGRAM, "-j", "list", "ruleset")
TIMEOUT = 60.0
"""Seconds for a program that prints rules."""

FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""By their number (linux/netfilter.h, NFPROTO_…)."""

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
        PrivilegeError: it may not read the rules.
        ToolError: it failed.
    """
    if process.find_binary(PROGRAM) is None:
        raise NoBackendError(f"{PROGRAM} is not installed", fix="install the package nftables")
    completed = process.run(LIST, timeout=TIMEOUT)
    said = completed.stderr.strip()
    if completed.status != 0 and "not permitted" in said:
        raise PrivilegeError(f"{PROGRAM}: {said}", fix="run as root, or with the capability NET_ADMIN")
    if completed.status != 0:
        raise ToolError(f"{PROGRAM} failed with status {completed.status}: {said}")
    return completed.stdout
