"""One namespace being programmed: what is live in each store, the way to what is wanted, and the way back."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import holds_exactly
from istio_init.dialects.iptables.tables import XTABLES
from istio_init.dialects.role import Role
from istio_init.errors import NoBackendError, ToolError
from istio_init.mesh.roles.recognise import BOTH_KINDS
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff, ours_alone, writable
from istio_init.plan.make import Live, make_plan
from istio_init.plan.model import NATIVE
from istio_init.stores.detect import backends, choose
from istio_init.stores.nftables import Nftables
from istio_init.stores.wanted import Wanted
from istio_init.system import netlink, packets, routing
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.plan.model import BackendPlan, Plan
    from istio_init.stores.base import Store


class Manner(Value):
    """How a namespace is programmed, as opposed to with what."""

    reconcile: bool = True
    """Replace live rules of ours that are not wanted; otherwise refuse."""

    rewrite: bool = False
    """Write even what is as wanted."""

    dry_run: bool = False
    """Plan, and write nothing."""

    allow_host: bool = False
    """Program the host's own namespace too."""

    backend: str | None = None
    """``nft``, ``legacy`` or ``native`` instead of what is detected."""

    replace_other: frozenset[str] = frozenset()
    """The other kind of pod, or other meshes, whose rules go; see `istio_init.mesh.ownership.NAMES`."""

    beside_meshes: bool = False
    """Go on beside the rules of another mesh, with a warning; otherwise refuse."""

    wait: float = 10.0
    """Seconds to wait for a held lock or a concurrent writer."""


class Session:
    """One namespace being programmed: the backends, and what it held when work began."""

    def __init__(self, wanted: Wanted, manner: Manner, warn: Callable[[str], None] | None) -> None:
        self.wanted = wanted
        self.manner = manner
        self.owned = BOTH_KINDS if wanted.kind is None else frozenset([wanted.kind])
        self.also: tuple[str, ...] = ()
        """How names of chains of others begin that are to go."""

        nft, legacy = backends(manner.wait)
        self.by_name: dict[str, Store] = {"nft": nft, "legacy": legacy}
        self.native = Nftables(manner.wait)
        self.has_written_tables = False
        self.before = self._read(None)
        self._ask_for_others(warn)
        legacy_rules = [self.before.of("legacy", family) for family in Family]
        self.backend = choose(nft, legacy, legacy_rules, manner.backend)
        self.others = tuple([name for name in self.by_name if name != self.backend])

    def admit(self) -> None:
        """Raise where rules in the wanted tables could not be written, or would not be evaluated."""
        for rules in self.wanted.rules.values() if self.backend in self.by_name else ():
            self.by_name[self.backend].admit(rules)

    @property
    def means(self) -> str:
        """How the chosen backend is reached."""
        return self.native.means if self.backend == NATIVE else self.by_name[self.backend].means

    def _ask_for_others(self, warn: Callable[[str], None] | None) -> None:
        """Refuse a namespace that holds rules of another kind or mesh, unless they are to be replaced."""
        ours = {clause.chain for clause in self.wanted.clauses}
        tables = [each.name for each in netlink.all_nft_tables() or () if each.name not in XTABLES]
        made = (chain for rules in self.before.raw.values() for _, chain in rules.chains() if chain.policy is None)
        if not tables and all(chain.name in ours for chain in made):
            return
        from istio_init.mesh.ownership import holders, permit

        rules = [(store, rules) for (store, _), rules in self.before.rules.items()]
        found = holders(rules, [each.name for each in self.before.native], tables)
        manner = self.manner
        allowed = permit(found, self.wanted.kind, manner.replace_other, beside_meshes=manner.beside_meshes)
        self.owned, self.also = allowed.owned, allowed.also
        if warn is not None:
            for each in allowed.beside:
                warn(f"{each.finding} They stay, and one of the two redirections never sees what the other takes")

    def read(self, *, outlined: bool = False) -> Live:
        """What is live by now; what was foreign at the beginning counts as foreign still.

        ``outlined`` reads of native tables what `holds_wanted` looks at and no more, which no plan can be made from.
        """
        return self._read(self.before, outlined=outlined)

    def _read(self, before: Live | None, *, outlined: bool = False) -> Live:
        """What is live in all backends and the routing; tables that do not exist are not looked into."""
        rules: dict[tuple[str, Family], RuleSet] = {}
        for backend in self.by_name.values():
            for family in backend.families():
                try:
                    known = {} if self.manner.backend == NATIVE else self.wanted.known
                    rules[backend.name, family] = backend.read(family, known)
                except NoBackendError:
                    # Where the program is missing, no run of ours wrote there.
                    if self.manner.backend != NATIVE:
                        raise
        tables = frozenset(route.table for route in self.wanted.routing.mark_routes)
        native = self.native.outline() if outlined else self.native.read()
        return Live(rules, routing.read(tables), before, native, is_written=self.has_written_tables)

    def holds_wanted(self, live: Live) -> bool:
        """Whether the live state is, to the letter, the wanted one and nothing else: the usual end of a run."""
        if live.routing != routing.exactly(self.wanted.routing):
            return False
        if self.backend == NATIVE:
            from istio_init.plan.native import resembles

            is_clear = all(holds_exactly(rules, None) for rules in live.raw.values())
            return is_clear and resembles(live.native, self.wanted.tables)
        wanted = self.wanted.rules
        return (
            not live.native
            and all(
                holds_exactly(rules, wanted.get(family) if backend == self.backend else None)
                for (backend, family), rules in live.raw.items()
            )
            and all((self.backend, family) in live.raw for family in wanted)
        )

    def plan(self, live: Live, *, rewrite: bool = False, wanted: Wanted | None = None) -> Plan:
        """The way from a live state to the wanted one, or to another."""
        wanted = wanted or self.wanted
        if self.backend == NATIVE:
            # Of iptables' rules only the families count there.
            stated = {family: RuleSet(family) for family in wanted.families}
            tables = wanted.tables
        else:
            stated, tables = dict(wanted.rules), ()
        return make_plan(
            live,
            self.backend,
            self.others,
            stated,
            wanted.routing,
            rewrite=rewrite,
            owned=self.owned,
            also=self.also,
            native=tables,
        )

    def commit(self, plan: Plan, live: Live) -> None:
        """Write a plan that was made from ``live``."""
        routing.add(plan.add_routing, live.routing)
        routing.remove(plan.remove_routing, live.routing)
        self._commit_rules(plan.rules)
        for each in plan.other_backends:
            if not each.is_empty:
                packets.wait()
                self._commit_rules(each)

    def _commit_rules(self, plan: BackendPlan) -> None:
        if plan.scripts:
            self._commit_scripts(plan.scripts)
            self.has_written_tables = True
        for family in plan.families:
            for number, edits in enumerate(family.in_turn()):
                if number:
                    packets.wait()
                self.by_name[plan.backend].commit(family.family, edits)

    def _commit_scripts(self, scripts: tuple[str, ...]) -> None:
        for number, script in enumerate(scripts):
            if number:
                packets.wait()
            self.native.commit(script)

    def take_over(self) -> bool:
        """Have TPROXY rules pass from another store to the chosen one without harm, if that is what is to be done.

        What remains to be done afterwards is to be planned anew.
        """
        wanted = self.wanted
        if not any(entry.role is Role.TPROXY_SAVE_MARK for each in wanted.clauses for entry in each.entries):
            return False
        from istio_init.plan import overlap
        from istio_init.plan.native import restoring

        live = self.before
        others = overlap.stores_that_save(live, NATIVE) - {self.backend}
        if not others:
            return False
        for (name, family), rules in live.rules.items():
            ours = overlap.narrow_rules(ours_alone(rules, self.also))
            if name in others and (edits := diff(rules, ours, also=self.also).edits):
                self.by_name[name].commit(family, edits)
        if NATIVE in others:
            self._commit_scripts(restoring(live.native, overlap.narrow_tables(live.native)))
        narrow = Wanted(
            overlap.narrow_clauses(wanted.clauses), wanted.families, wanted.routing, wanted.config, wanted.kind
        )
        now = self.read()
        self.commit(self.plan(now, wanted=narrow), now)
        self.has_written_tables = False  # Not those that are wanted.
        return True

    def put_back(self) -> None:
        """Return to the state in which work began."""
        now = self.read()
        lost: list[str] = []
        for name, family in {**self.before.raw, **now.raw}:
            then, gone = writable(ours_alone(self.before.of(name, family), self.also))
            lost += gone
            back = diff(now.of(name, family), then, also=self.also)
            if back.edits:
                self.by_name[name].commit(family, back.edits)
        if now.native or self.before.native:
            from istio_init.plan.native import restoring

            self._commit_scripts(restoring(now.native, self.before.native))
        routing.put_back(self.before.routing, now.routing, self.wanted.routing)
        if lost:
            raise ToolError(
                "\n".join(["rules whose text could be misread are not written:", *(f"  {each!r}" for each in lost)])
            )
