"""Programs the current network namespace: read, plan, commit, read back; put back what a failure left half done."""

from __future__ import annotations

import os
import time

from istio_init.dialects.iptables.save import holds_exactly, with_texts
from istio_init.errors import IstioInitError, NotWantedError, ToolError, VerificationError
from istio_init.mesh.routing import Routing
from istio_init.netfilter.family import Family
from istio_init.plan.make import Live, make_plan
from istio_init.stores.detect import backends, choose
from istio_init.system import namespaces, routing
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from istio_init.config.model import Config
    from istio_init.dialects.iptables.rules import Rule, RuleSet
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
    """``nft`` or ``legacy`` instead of what is detected."""

    wait: float = 10.0
    """Seconds to wait for a held lock or a concurrent writer."""


class Wanted:
    """What the namespace shall hold: nothing at all, for a clean-up. Each entry carries its text."""

    __slots__ = ("config", "known", "routing", "rules")

    def __init__(
        self, rules: Mapping[Family, RuleSet], routing: Routing | None = None, config: Config | None = None
    ) -> None:
        self.rules = {family: with_texts(each) for family, each in rules.items()}
        self.routing = routing or Routing()
        self.config = config
        entries = [entry for each in self.rules.values() for *_, entry in each.entries()]
        self.known: dict[str, Rule] = {str(entry.text): entry.rule for entry in entries}
        """The wanted rules by their text, which spares parsing them when they are read back."""


class Done(Value):
    """What came of it: the plan, whether it was written, and through which backend."""

    plan: Plan
    written: bool
    backend: str
    means: str


class _Session:
    """One namespace being programmed: the two backends, and what it held when work began."""

    def __init__(self, wanted: Wanted, manner: Manner) -> None:
        self.wanted = wanted
        self.manner = manner
        nft, legacy = backends(manner.wait)
        self.by_name: dict[str, Store] = {"nft": nft, "legacy": legacy}
        self.before = self._read(None)
        legacy_rules = [self.before.of("legacy", family) for family in Family]
        self.backend, self.other = choose(nft, legacy, legacy_rules, manner.backend)

    def read(self) -> Live:
        """What is live by now; what was foreign at the beginning counts as foreign still."""
        return self._read(self.before)

    def _read(self, before: Live | None) -> Live:
        """What is live in both backends and the routing; tables that do not exist are not looked into."""
        rules: dict[tuple[str, Family], RuleSet] = {
            (backend.name, family): backend.read(family, self.wanted.known)
            for backend in self.by_name.values()
            for family in backend.families()
        }
        tables = frozenset(route.table for route in self.wanted.routing.mark_routes)
        return Live(rules, routing.read(tables), before)

    def holds_wanted(self, live: Live) -> bool:
        """Whether the live state is, to the letter, the wanted one and nothing else: the usual end of a run."""
        wanted = self.wanted
        if live.routing != routing.exactly(wanted.routing):
            return False
        return all(
            holds_exactly(rules, wanted.rules.get(family) if backend == self.backend.name else None)
            for (backend, family), rules in live.raw.items()
        ) and all((self.backend.name, family) in live.raw for family in wanted.rules)

    def plan(self, live: Live, *, rewrite: bool = False) -> Plan:
        """The way from a live state to the wanted one."""
        wanted = self.wanted
        return make_plan(live, self.backend.name, (self.other.name,), wanted.rules, wanted.routing, rewrite=rewrite)

    def commit(self, plan: Plan, live: Live) -> None:
        """Write a plan that was made from ``live``."""
        routing.add(plan.add_routing, live.routing)
        routing.remove(plan.remove_routing, live.routing)
        for each in (plan.rules, *plan.other_backends):
            self._commit_rules(each)

    def _commit_rules(self, plan: BackendPlan) -> None:
        for family in plan.families:
            if family.edits:
                self.by_name[plan.backend].commit(family.family, family.edits)

    def put_back(self) -> None:
        """Return to the state in which work began."""
        now = self.read()
        from istio_init.plan.diff import diff, ours_alone

        for name, family in {**self.before.raw, **now.raw}:
            back = diff(now.of(name, family), ours_alone(self.before.of(name, family)))
            if back.edits:
                self.by_name[name].commit(family, back.edits)
        routing.put_back(self.before.routing, now.routing)


def program(
    wanted: Wanted, manner: Manner, label: str = "this namespace", warn: Callable[[str], None] | None = None
) -> Done:
    """Bring the current network namespace to exactly the wanted state, as far as it is ours.

    Raises:
        NamespaceError: it is the host's and that was not allowed.
        NotWantedError: it holds unwanted rules of ours and replacing them was not asked for.
        VerificationError: the kernel does not hold what was written.
        IstioInitError: reading or writing failed; what was written is put back.
    """
    if not manner.allow_host:
        namespaces.refuse_host(label)
    _check_ids(wanted.config)
    turn = namespaces.lock(manner.wait, warn)
    try:
        return _program(wanted, manner)
    finally:
        os.close(turn)


def _program(wanted: Wanted, manner: Manner) -> Done:
    session = _Session(wanted, manner)
    plan = session.plan(session.before, rewrite=manner.rewrite)
    if not (manner.reconcile or plan.only_adds or not wanted.rules):
        raise NotWantedError(_unwanted(plan), fix="replace them with --reconcile, or remove them with istio-init clean")
    done = Done(plan, False, session.backend.name, session.backend.means)
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
    return done.replace(written=True, means=session.backend.means)


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


def _check_ids(config: Config | None) -> None:
    """The kernel refuses owner matches for ids that the writer's user namespace does not map; say so by name."""
    if config is None:
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
