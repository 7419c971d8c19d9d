"""The fixed vocabulary of iptables: its tables and their built-in chains."""

from __future__ import annotations

from enum import Enum


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

XTABLES = frozenset(table.value for table in Table)
"""The names of its tables, also in nf_tables."""
