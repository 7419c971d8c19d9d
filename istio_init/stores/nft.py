"""iptables-nft: rules in nf_tables, through ``iptables-nft-save`` and ``iptables-nft-restore``."""

from __future__ import annotations

from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.iptables.tables import XTABLES
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import ForeignRulesError
from istio_init.netfilter.family import Family
from istio_init.plan.restore import render_restore
from istio_init.stores.failure import FOREIGN_NFT_RULES, failure
from istio_init.stores.genuine import genuine
from istio_init.system import netlink, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from istio_init.dialects.iptables.rules import Rule, RuleSet
    from istio_init.plan.model import TableEdit

SAVE = {Family.IPV4: "iptables-nft-save", Family.IPV6: "ip6tables-nft-save"}
RESTORE = {Family.IPV4: "iptables-nft-restore", Family.IPV6: "ip6tables-nft-restore"}
TIMEOUT = 60.0
"""Seconds for a program that has no lock to wait for; ten thousand rules take less than one."""


class IptablesNft:
    """The nft backend. A concurrent change makes the kernel refuse the transaction, and the program tries again."""

    name = RuleStore.NFT
    means = "iptables-nft-restore"

    def __init__(self, wait: float) -> None:
        self.wait = wait

    def families(self) -> tuple[Family, ...]:
        with_tables = {family for family, name in netlink.nft_tables() or () if name in XTABLES}
        return tuple(family for family in Family if family in with_tables)

    def read(self, family: Family, known: Mapping[str, Rule] | None = None, *, counters: bool = False) -> RuleSet:
        return genuine(lambda: self._read(family, known, counters=counters), self.name)

    def _read(self, family: Family, known: Mapping[str, Rule] | None, *, counters: bool) -> RuleSet:
        completed = process.run([SAVE[family], *(["-c"] if counters else [])], timeout=TIMEOUT)
        if completed.status != 0:
            raise failure(completed)
        document = parse_save(completed.stdout, family, known)
        for comment in document.comments:
            if "incompatible" in comment:
                raise ForeignRulesError(
                    f"{SAVE[family]}: {comment.strip('# ')}",
                    fix=FOREIGN_NFT_RULES,
                )
        return document.rules

    def commit(self, family: Family, edits: Sequence[TableEdit]) -> None:
        text = render_restore(edits)
        completed = process.run([RESTORE[family], "--noflush"], stdin=text, timeout=TIMEOUT + self.wait, writing=True)
        if completed.status != 0:
            raise failure(completed, text)
