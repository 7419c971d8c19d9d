"""iptables-nft: rules in nf_tables, through ``iptables-nft-save`` and ``iptables-nft-restore``."""

from __future__ import annotations

from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.iptables.tables import XTABLES
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import ForeignRulesError, ToolError
from istio_init.mesh.roles.recognise import is_istio_chain
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
FAMILY = {Family.IPV4: "ip", Family.IPV6: "ip6"}
"""How nft calls the families."""

BESIDE = "contains incompatible base-chains"
"""What iptables-nft-save says of a table, of which it prints the rest: nft has added base chains of other names."""

TIMEOUT = 60.0
"""Seconds for a program that has no lock to wait for; ten thousand rules take less than one."""


class IptablesNft:
    """The nft backend. A concurrent change makes the kernel refuse the transaction, and the program tries again."""

    name = RuleStore.NFT
    means = "iptables-nft-restore"

    def __init__(self, wait: float, *, whole: bool = False) -> None:
        """``whole`` refuses tables of which iptables does not print all; else only such as hold chains of Istio's."""
        self.wait = wait
        self._whole = whole
        self._others: set[tuple[Family, str]] = set()
        """Tables that iptables does not print, and in which nothing is Istio's."""

    def families(self) -> tuple[Family, ...]:
        with_tables = {family for family, name in netlink.nft_tables() or () if name in XTABLES}
        return tuple(family for family in Family if family in with_tables)

    def read(self, family: Family, known: Mapping[str, Rule] | None = None, *, counters: bool = False) -> RuleSet:
        partial: set[str] = set()
        return genuine(lambda: self._read(family, known, partial, counters=counters), self.name, partial=partial)

    def _read(self, family: Family, known: Mapping[str, Rule] | None, partial: set[str], *, counters: bool) -> RuleSet:
        completed = process.run([SAVE[family], *(["-c"] if counters else [])], timeout=TIMEOUT)
        if completed.status != 0:
            raise failure(completed)
        document = parse_save(process.bounded(completed), family, known)
        for comment in document.comments:
            if "incompatible" in comment:
                table = comment.partition("`")[2].partition("'")[0]
                is_printed = BESIDE in comment
                if self._whole or (not is_printed and _holds_ours(family, table)):
                    raise ForeignRulesError(f"{SAVE[family]}: {comment.strip('# ')}", fix=FOREIGN_NFT_RULES)
                partial.add(table)
                if not is_printed:
                    self._others.add((family, table))
        return document.rules

    def admit(self, wanted: RuleSet) -> None:
        names = {table.value for table in wanted.tables}
        for name in names:
            if (wanted.family, name) in self._others:  # What is written there could not be read again.
                raise ForeignRulesError(
                    f"{SAVE[wanted.family]} cannot print table {FAMILY[wanted.family]} {name}", fix=FOREIGN_NFT_RULES
                )
        for each in netlink.all_nft_tables() or ():
            if each.is_dormant and each.name in names and netlink.FAMILIES.get(each.family) is wanted.family:
                table = f"{FAMILY[wanted.family]} {each.name}"
                raise ToolError(
                    f"table {table} is dormant: the kernel evaluates no rule in it, nor would it those of the mesh",
                    fix=f"wake it with nft add table {table}; rules of others that it holds are evaluated again, too",
                )

    def commit(self, family: Family, edits: Sequence[TableEdit]) -> None:
        text = render_restore(edits)
        completed = process.run([RESTORE[family], "--noflush"], stdin=text, timeout=TIMEOUT + self.wait, writing=True)
        if completed.status != 0:
            raise failure(completed, text)


def _holds_ours(family: Family, table: str) -> bool:
    """Whether a table that iptables does not print has chains of Istio's."""
    from istio_init.system import kernel_names

    try:
        return any(map(is_istio_chain, kernel_names.of_nft(family)[table].chains))
    except (LookupError, OSError):
        return True
