"""Programs the current network namespace: read, plan, commit, read back; put back what a failure left half done."""

from __future__ import annotations

import os
import time

from istio_init.config.model import Config
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import holds_exactly, with_texts
from istio_init.dialects.iptables.tables import XTABLES
from istio_init.errors import IstioInitError, LackError, NoBackendError, NotWantedError, ToolError, VerificationError
from istio_init.mesh.policy.iptables import rule_set
from istio_init.mesh.roles.recognise import BOTH_KINDS, MeshKind
from istio_init.mesh.routing import Routing
from istio_init.netfilter.family import Family
from istio_init.plan.make import Live, make_plan
from istio_init.plan.model import NATIVE
from istio_init.stores.detect import backends, choose, has_native
from istio_init.stores.nftables import Nftables
from istio_init.system import namespaces, netlink, routing
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from istio_init.config.ambient import AmbientConfig
    from istio_init.dialects.iptables.rules import Rule
    from istio_init.dialects.nft.ruleset import Table
    from istio_init.mesh.policy.builder import Clause
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


class Done(Value):
    """What came of it: the plan, whether it was written, and through which backend."""

    plan: Plan
    written: bool
    backend: str
    means: str


class _Session:
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

    @property
    def means(self) -> str:
        """How the chosen backend is reached."""
        return self.native.means if self.backend == NATIVE else self.by_name[self.backend].means

    def _ask_for_others(self, warn: Callable[[str], None] | None) -> None:
        """Refuse a namespace that somebody else holds, unless their rules are to be replaced."""
        ours = {clause.chain for clause in self.wanted.clauses}
        tables = [each.name for each in netlink.all_nft_tables() or () if each.name not in XTABLES]
        made = (chain for rules in self.before.raw.values() for _, chain in rules.chains() if chain.policy is None)
        if not tables and all(chain.name in ours for chain in made):
            return
        from istio_init.mesh.ownership import holders, permit

        found = holders([(store, rules) for (store, _), rules in self.before.rules.items()], tables)
        manner = self.manner
        allowed = permit(found, self.wanted.kind, manner.replace_other, beside_meshes=manner.beside_meshes)
        self.owned, self.also = allowed.owned, allowed.also
        if warn is not None:
            for each in allowed.beside:
                warn(f"{each.finding} They stay, and one of the two redirections never sees what the other takes")

    def read(self) -> Live:
        """What is live by now; what was foreign at the beginning counts as foreign still."""
        return self._read(self.before)

    def _read(self, before: Live | None) -> Live:
        """What is live in all backends and the routing; tables that do not exist are not looked into."""
        rules: dict[tuple[str, Family], RuleSet] = {}
        for backend in self.by_name.values():
            for family in backend.families():
                try:
                    known = {} if self.manner.backend == NATIVE else self.wanted.known
                    rules[backend.name, family] = backend.read(family, known)
                except NoBackendError:
                    # Where the program is missing, nobody wrote there for us.
                    if self.manner.backend != NATIVE:
                        raise
        tables = frozenset(route.table for route in self.wanted.routing.mark_routes)
        return Live(rules, routing.read(tables), before, self.native.read(), is_written=self.has_written_tables)

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

    def plan(self, live: Live, *, rewrite: bool = False) -> Plan:
        """The way from a live state to the wanted one."""
        wanted = self.wanted
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
        for each in (plan.rules, *plan.other_backends):
            self._commit_rules(each)

    def _commit_rules(self, plan: BackendPlan) -> None:
        if plan.script:
            self.native.commit(plan.script)
            self.has_written_tables = True
        for family in plan.families:
            if family.edits:
                self.by_name[plan.backend].commit(family.family, family.edits)

    def put_back(self) -> None:
        """Return to the state in which work began."""
        now = self.read()
        from istio_init.plan.diff import diff, ours_alone

        for name, family in {**self.before.raw, **now.raw}:
            back = diff(now.of(name, family), ours_alone(self.before.of(name, family), self.also), also=self.also)
            if back.edits:
                self.by_name[name].commit(family, back.edits)
        if now.native or self.before.native:
            from istio_init.plan.native import restoring

            if script := restoring(now.native, self.before.native):
                self.native.commit(script)
        routing.put_back(self.before.routing, now.routing)


def program(
    wanted: Wanted, manner: Manner, label: str = "this namespace", warn: Callable[[str], None] | None = None
) -> Done:
    """Bring the current network namespace to exactly the wanted state, as far as it is ours.

    Raises:
        NamespaceError: it is the host's and that was not allowed, or somebody else's who is not to be replaced.
        NotWantedError: it holds unwanted rules of ours and replacing them was not asked for.
        VerificationError: the kernel does not hold what was written.
        IstioInitError: reading or writing failed; what was written is put back.
    """
    if not manner.allow_host:
        namespaces.refuse_host(label)
    _check_ids(wanted.config)
    turn = namespaces.lock(manner.wait, warn)
    try:
        return _program(wanted, manner, warn)
    finally:
        os.close(turn)


def _program(wanted: Wanted, manner: Manner, warn: Callable[[str], None] | None) -> Done:
    try:
        return _through(wanted, manner, warn)
    except (NoBackendError, LackError) as error:
        if manner.backend is not None or not has_native():
            raise
        # A pod without redirection, or one that never starts, is worse than rules in another store.
        if warn is not None and wanted.families:
            warn(f"iptables cannot be used here, native nftables is: {error.message}")
        return _through(wanted, manner.replace(backend=NATIVE), warn)


def _through(wanted: Wanted, manner: Manner, warn: Callable[[str], None] | None) -> Done:
    session = _Session(wanted, manner, warn)
    plan = session.plan(session.before, rewrite=manner.rewrite)
    if not (manner.reconcile or plan.only_adds or not wanted.families):
        raise NotWantedError(_unwanted(plan), fix="replace them with --reconcile, or remove them with istio-init clean")
    done = Done(plan, False, session.backend, session.means)
    if plan.is_empty or manner.dry_run:
        return done
    try:
        _write(session, plan)
    except IstioInitError as error:
        try:
            session.put_back()
        except IstioInitError as second:
            error.message += f"\n  and what was there before could not be put back: {second.message}"
        raise
    return done.replace(written=True, means=session.means)


def _write(session: _Session, plan: Plan) -> None:
    """Commit and read back, again for as long as somebody else keeps changing what we read, within the wait."""
    deadline = time.monotonic() + session.manner.wait
    live = session.before
    while True:
        failure: ToolError | None = None
        try:
            session.commit(plan, live)
        except ToolError as error:
            failure = error
        after = session.read()
        if session.holds_wanted(after):
            return
        remaining = session.plan(after)
        if remaining.is_empty:
            return
        unchanged = remaining == plan or (failure is None and remaining == session.plan(live))
        if unchanged or time.monotonic() > deadline:
            raise failure or VerificationError(
                "the kernel does not hold what was written:\n" + "\n".join(_difference(remaining)),
                fix="another program may be undoing it, or this iptables prints rules that it does not understand",
            )
        plan, live = remaining, after


def _check_ids(config: Config | AmbientConfig | None) -> None:
    """The kernel refuses owner matches for ids that the writer's user namespace does not map; say so by name."""
    if not isinstance(config, Config):
        return
    for what, ids, groups in (("user", config.proxy_uids, False), ("group", config.proxy_gids, True)):
        missing = namespaces.unmapped_ids([(each.first, each.last) for each in ids], groups=groups)
        if missing:
            low, high = missing[0]
            shown = str(low) if low == high else f"{low}-{high}"
            raise IstioInitError(
                f"{what} {shown}, the proxy's, is not mapped in the user namespace that owns this network namespace",
                fix=f"map it in the pod's user namespace, or run the proxy as a mapped {what} and name it with "
                f"--proxy-{'gid' if groups else 'uid'}",
            )


def _unwanted(plan: Plan) -> str:
    return "the namespace holds rules of ours that are not wanted:\n" + "\n".join(_difference(plan))


def _difference(plan: Plan) -> list[str]:
    from istio_init.wording.plan_text import plan_lines

    return plan_lines(plan, kept=False)
