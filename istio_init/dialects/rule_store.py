"""What holds rules, by who writes them there: the two stores of iptables, and nftables' own tables."""

from __future__ import annotations

from enum import StrEnum


class RuleStore(StrEnum):
    """A holder of rules; the value is its name in options, reports and JSON.

    nf_tables is two of them, as it is read by two programs: what iptables-nft writes there, and native tables.
    """

    NFT = "nft"
    """iptables-nft's tables."""

    LEGACY = "legacy"
    """x_tables, which iptables-legacy writes."""

    NATIVE = "native"
    """Tables of nf_tables that iptables knows nothing of."""


IPTABLES = (RuleStore.NFT, RuleStore.LEGACY)
"""Those that iptables writes, and that hold its rule sets."""
