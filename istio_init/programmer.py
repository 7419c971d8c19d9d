"""Programs the current network namespace: read, plan, commit, read back; put back what a failure left half done."""

from __future__ import annotations

import time

from istio_init.backends.detect import backends, choose
from istio_init.errors import IstioInitError, NotWantedError, ToolError, VerificationError
from istio_init.kernel import namespaces, netlink, routing
from istio_init.model.netfilter import Family
from istio_init.model.routing import Routing
from istio_init.model.value import Value
from istio_init.plan.make import Live, make_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.backends.base import Backend
    from istio_init.config.model import Config
    from istio_init.model.rules import Rule, RuleSet
    from istio_init.plan.model import BackendPlan, Plan


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


class Wanted(Value):
    """What the namespace shall hold: nothing at all, for a clean-up."""

    rules: Mapping[Family, RuleSet]
    routing: Routing = Routing()
    config: Config | None = None

    @property
    def known(self) -> dict[str, Rule]:
        """The wanted rules by their text, which spares parsing them when they are read back."""
        from istio_init.dialects.render import rule_text

        return {rule_text(entry.rule): entry.rule for rules in self.rules.values() for *_, entry in rules.entries()}


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
        self.known = wanted.known
        nft, legacy = backends(manner.wait)
        self.by_name: dict[str, Backend] = {"nft": nft, "legacy": legacy}
        self.before = self.read()
        legacy_rules = [self.before.of("legacy", family) for family in Family]
        self.backend, self.other = choose(nft, legacy, legacy_rules, manner.backend)

    def read(self) -> Live:
        """What is live in both backends and the routing; tables that do not exist are not looked into."""
        rules = {
            (name, family): backend.read(family, self.known)
            for name, backend in self.by_name.items()
            for family in Family
        }
        return Live(rules, routing.read(netlink.addresses()))

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

        for (name, family), before in self.before.rules.items():
            back = diff(now.of(name, family), ours_alone(before))
            if back.edits:
                self.by_name[name].commit(family, back.edits)
        routing.put_back(self.before.routing, now.routing)


def program(wanted: Wanted, manner: Manner, label: str = "this namespace") -> Done:
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
    from istio_init.report.plan_text import plan_lines

    return plan_lines(plan, kept=False)
