"""How Istio names native nftables' tables and chains, and where its base chains are attached."""

from __future__ import annotations

from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table

SIDECAR = "istio-proxy-"
AMBIENT = "istio-ambient-"
"""How the names of Istio's own tables begin; the rest is ``nat``, ``mangle`` or ``raw``."""

PREFIXES = {"sidecar": SIDECAR, "ambient": AMBIENT}
"""By the kind of pod whose redirection the tables hold."""

TABLES = tuple([f"{prefix}{table}" for prefix in PREFIXES.values() for table in ("nat", "mangle", "raw")])
"""Every name that a table of Istio's own has."""

FAMILY = "inet"
"""The family of those tables, which is both."""

GROUPS = "ISTIO_OUTPUT_GROUPS"
"""Ours alone: the chain that ends what no included owner group sent."""

BASE_CHAINS: dict[tuple[Table, str], tuple[str, int]] = {
    (Table.NAT, "PREROUTING"): ("nat", -100),
    (Table.NAT, "OUTPUT"): ("nat", -100),
    (Table.MANGLE, "PREROUTING"): ("filter", -150),
    (Table.MANGLE, "OUTPUT"): ("route", -150),
    (Table.RAW, "PREROUTING"): ("filter", -300),
    (Table.RAW, "OUTPUT"): ("filter", -300),
}
"""Type and priority by table and by what iptables calls the chain."""

_RENAMED = {"istio-prerouting": "ISTIO_PRERT"}
_NATIVE = {name: native for native, name in _RENAMED.items()}


def chain_name(table: Table, name: str) -> str:
    """What iptables' rules call a chain: ``istio-output-dns`` is ISTIO_OUTPUT_DNS, ``output`` OUTPUT."""
    if name.upper() in BUILTIN_CHAINS[table]:
        return name.upper()
    return _RENAMED.get(name) or (name.upper().replace("-", "_") if name.startswith("istio-") else name)


def native_name(name: str) -> str:
    """The same the other way round, for chains of the policy."""
    return _NATIVE.get(name) or name.lower().replace("_", "-")
