"""Programs the current network namespace: read, plan, commit, read back; put back what a failure left half done."""

from __future__ import annotations

import os
import time

from istio_init.config.model import Config
from istio_init.errors import (
    ForeignRulesError,
    IstioInitError,
    LackError,
    NoBackendError,
    NotWantedError,
    ToolError,
    VerificationError,
)
from istio_init.plan.model import NATIVE
from istio_init.plan.restore import refuse_unwritable
from istio_init.stores.detect import has_native
from istio_init.stores.session import Manner, Session
from istio_init.stores.wanted import Wanted
from istio_init.system import namespaces
from istio_init.system.stopping import Stopping
from istio_init.system.unfinished import Note
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.config.ambient import AmbientConfig
    from istio_init.plan.model import Plan

__all__ = ["Done", "Manner", "Wanted", "program"]


class Done(Value):
    """What came of it: the plan, whether it was written, and through which backend."""

    plan: Plan
    written: bool
    backend: str
    means: str


def program(
    wanted: Wanted, manner: Manner, label: str = "this namespace", warn: Callable[[str], None] | None = None
) -> Done:
    """Bring the current network namespace to exactly the wanted state, as far as it is ours.

    Raises:
        NamespaceError: it is the host's and that was not allowed, or it holds rules of another kind of pod or mesh that
            are not to be replaced.
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
    except (OSError, MemoryError) as error:
        raise ToolError(f"{label}: {_said(error)}", fix="what was written is put back; try again") from error
    finally:
        os.close(turn)


def _said(error: OSError | MemoryError) -> str:
    return "no memory is left" if isinstance(error, MemoryError) else str(error)


def _program(wanted: Wanted, manner: Manner, warn: Callable[[str], None] | None) -> Done:
    try:
        return _through(wanted, manner, warn)
    except (NoBackendError, LackError, ForeignRulesError) as error:
        if manner.backend is not None or not has_native():
            raise
        # A pod without redirection, or one that never starts, is worse than rules in another store.
        if warn is not None and wanted.families:
            warn(f"iptables cannot be used here, native nftables is: {error.message.splitlines()[0]}")
        return _through(wanted, manner.replace(backend=NATIVE), warn)
    except NotWantedError:
        # A run before this one may have had to take native nftables; the next one must find those rules.
        if manner.backend is not None or not has_native():
            raise
        session = Session(wanted, manner.replace(backend=NATIVE), None)
        plan = session.plan(session.before)
        if not plan.is_empty:
            raise
        return Done(plan, False, session.backend, session.means)


def _through(wanted: Wanted, manner: Manner, warn: Callable[[str], None] | None) -> Done:
    session = Session(wanted, manner, warn)
    session.admit()
    plan = session.plan(session.before, rewrite=manner.rewrite)
    note = Note()
    began = note.left()
    if warn is not None and began is not None:
        from istio_init.stores.found import found

        warn(found(began, session.before, plan))
    if not (manner.reconcile or plan.only_adds or not wanted.families):
        raise NotWantedError(_unwanted(plan), fix="replace them with --reconcile, or remove them with istio-init clean")
    done = Done(plan, False, session.backend, session.means)
    if manner.dry_run:
        return done
    if plan.is_empty:
        note.end()
        return done
    refuse_unwritable(plan)
    with Stopping() as stopping:
        try:
            note.begin()
            _write(session, plan)
        except BaseException as error:
            stopping.shield()
            if _put_back(session, error, warn) and began is None:
                note.end()
            raise
        note.end()
    return done.replace(written=True, means=session.means)


ATTEMPTS = 3
"""To put back what was there before: what failed once may not the next time."""


def _put_back(session: Session, error: BaseException, warn: Callable[[str], None] | None) -> bool:
    """Return to the state in which work began, whatever made it fail; say where that fails, too. Whether it did."""
    for _ in range(ATTEMPTS):
        try:
            session.put_back()
            return True
        except (IstioInitError, OSError, MemoryError) as second:
            why = second.message if isinstance(second, IstioInitError) else _said(second)
    message = f"what was there before could not be put back: {why}"
    if isinstance(error, IstioInitError):
        error.message += f"\n  and {message}"
    elif warn is not None:
        warn(message)
    return False


def _write(session: Session, plan: Plan) -> None:
    """Commit and read back, again for as long as another process keeps changing what we read, within the wait."""
    deadline = time.monotonic() + session.manner.wait
    live = session.before
    if session.take_over():
        live = session.read()
        plan = session.plan(live)
    while True:
        failure: ToolError | None = None
        try:
            session.commit(plan, live)
        except ToolError as error:
            failure = error
        after = session.read(outlined=failure is None)
        if failure is None and session.holds_wanted(after):
            return
        if failure is None and after.native:
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
