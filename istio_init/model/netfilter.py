"""The fixed vocabulary of netfilter: families, tables, hooks, the built-in chains."""

from __future__ import annotations

from enum import Enum


class Family(Enum):
    """An address family; the value is how reports and JSON name it."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    # Enum's own __hash__ is Python code; families are dictionary keys everywhere.
    __hash__ = object.__hash__

    @property
    def bits(self) -> int:
        """Length of an address, in bits."""
        return 32 if self is Family.IPV4 else 128


class Table(Enum):
    """A table of iptables; the value is its name in iptables-save."""

    RAW = "raw"
    MANGLE = "mangle"
    NAT = "nat"
    FILTER = "filter"
    SECURITY = "security"

    __hash__ = object.__hash__


BUILTIN_CHAINS: dict[Table, tuple[str, ...]] = {
    Table.RAW: ("PREROUTING", "OUTPUT"),
    Table.MANGLE: ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    Table.NAT: ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    Table.FILTER: ("INPUT", "FORWARD", "OUTPUT"),
    Table.SECURITY: ("INPUT", "FORWARD", "OUTPUT"),
}
"""Chains that the kernel itself calls, by table (iptables(8), TABLES)."""

MAX_MARK = 0xFFFFFFFF
