"""What a namespace shall hold, whatever store is to hold it."""

from __future__ import annotations

from istio_init.dialects.iptables.save import with_texts
from istio_init.mesh.policy.iptables import rule_set
from istio_init.mesh.roles.recognise import MeshKind
from istio_init.mesh.routing import Routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.config.ambient import AmbientConfig
    from istio_init.config.model import Config
    from istio_init.dialects.iptables.rules import Rule, RuleSet
    from istio_init.dialects.nft.ruleset import Table
    from istio_init.mesh.policy.builder import Clause
    from istio_init.netfilter.family import Family


class Wanted:
    """What the namespace shall hold: nothing at all, for a clean-up.

    It is stated as clauses, and becomes rules of iptables or tables of native nftables once it is asked for them.
    ``kind`` is whose it is; None cleans up after whichever kind is there.
    """

    __slots__ = ("_known", "_rules", "_tables", "clauses", "config", "families", "kind", "routing")

    def __init__(
        self,
        clauses: tuple[Clause, ...] = (),
        families: tuple[Family, ...] = (),
        routing: Routing | None = None,
        config: Config | AmbientConfig | None = None,
        kind: MeshKind | None = MeshKind.SIDECAR,
    ) -> None:
        self.clauses = clauses
        self.families = families
        self.routing = routing or Routing()
        self.config = config
        self.kind = kind
        self._rules: dict[Family, RuleSet] | None = None
        self._known: dict[str, Rule] | None = None
        self._tables: tuple[Table, ...] | None = None

    @property
    def rules(self) -> Mapping[Family, RuleSet]:
        """The rules of iptables, each entry with its text."""
        if self._rules is None:
            self._rules = {family: with_texts(rule_set(self.clauses, family)) for family in self.families}
        return self._rules

    @property
    def known(self) -> Mapping[str, Rule]:
        """The rules of iptables by their text, which spares parsing them when they are read back."""
        if self._known is None:
            entries = [entry for each in self.rules.values() for *_, entry in each.entries()]
            self._known = {str(entry.text): entry.rule for entry in entries}
        return self._known

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables of native nftables."""
        if not self.clauses:
            return ()
        if self._tables is None:
            assert self.kind is not None
            from istio_init.mesh.native_names import PREFIXES
            from istio_init.mesh.policy.nftables import tables

            self._tables = tables(self.clauses, self.families, PREFIXES[self.kind.value])
        return self._tables
