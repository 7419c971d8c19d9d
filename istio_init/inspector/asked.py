"""What a pod asked for, held against its rules. It is the pod's own word: it takes no finding away, and adds none.

A pod does not show the settings of its mesh. Where it says nothing and rules that are whole say something, that is told
and is no drift: it may be such a setting as well as a change by hand.
"""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Config
from istio_init.inspector.arguments import Arguments, arguments, difference
from istio_init.inspector.drift import Drift, drift
from istio_init.inspector.findings.fate import strays
from istio_init.inspector.findings.namespace import is_exempt
from istio_init.system.processes import Process
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.asked import Pod, Words
    from istio_init.inspector.findings.model import View


class Asked(Value):
    """What a pod asked for, in words and as configurations: one for each way that its words may have been taken.

    None of these where it asks for no redirection, or where nothing can be made of what it asks: ``problem`` says why.
    """

    source: str
    name: str | None = None
    words: tuple[Words, ...] = ()
    configs: tuple[Config | AmbientConfig, ...] = ()
    unsaid: frozenset[str] = frozenset()
    """Fields of the configuration for which a setting of the mesh may stand."""

    notes: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def asks_nothing(self) -> bool:
        """Whether it asks for no redirection."""
        return not self.configs and self.problem is None


class Held(Value):
    """What was asked for beside the rules: the way that fits them best, and how they differ from it.

    ``unasked`` is what whole rules have besides, of which the pod says nothing. ``is_certain``: programming it would
    lose nothing that was asked for elsewhere.
    """

    asked: Asked
    words: Words | None
    config: Config | AmbientConfig | None
    drift: Drift | None
    unasked: Arguments | None = None
    is_certain: bool = False


FAR = 1 << 20
NOT_ASKED = "the rules redirect traffic, and the pod asked for no redirection"
OLDER = "programmed by an older release ({release}) with the configuration that was asked for"


def speaker(view: View) -> tuple[Pod | None, str | None]:
    """Whose word is taken of those that look like the proxy, and why of none where there are some.

    The mesh lets the proxy's user and group alone past the proxy: who runs as one of them could bypass it anyway.
    """
    found = [each for each in view.snapshot.said if _is_let_past(view, each)]
    if not found:
        return None, None
    first = found[0]
    if any(each.annotations != first.annotations or each.variables != first.variables for each in found):
        # The agent that starts Envoy has the same environment, but for what it sets itself, which shapes no rule.
        return None, "several processes that look like the proxy ask for different things"
    return first, None


def _is_let_past(view: View, pod: Pod) -> bool:
    process = Process(0, "", pod.uid or 0, pod.gid or 0)
    return any(is_exempt(each, process) for each in (Config(), view.inferred.config if view.inferred else Config()))


def held(view: View, asked: Asked) -> Held:
    """What was asked for, beside the live rules."""
    if asked.problem is not None:
        return Held(asked, None, None, None)
    if asked.asks_nothing:
        return Held(asked, None, None, Drift(not view.families, note=NOT_ASKED if view.families else None))
    tried = [(words, config, _drift(view, config)) for words, config in zip(asked.words, asked.configs, strict=True)]
    for words, config, found in tried:
        if found.is_equal:
            return Held(asked, words, config, found, is_certain=True)
    completed = [
        Held(asked, words, with_mesh, _drift(view, with_mesh), difference(with_mesh, config), is_certain=True)
        for words, config, _ in tried
        if isinstance(config, Config) and (with_mesh := _with_mesh(view, asked, config)) not in (None, config)
    ]
    if completed:
        return min(completed, key=lambda each: _size(each.drift))
    words, config, found = min(tried, key=lambda each: _size(each[2]))
    unsure = asked.unsaid and view.inferred is not None and _differs(view.inferred.config, config, asked.unsaid)
    return Held(asked, words, config, found, is_certain=not unsure)


def _drift(view: View, config: Config | AmbientConfig) -> Drift:
    """The drift, which a release's other way to write the same configuration is not."""
    inferred, known = view.inferred, view.snapshot.knows_servers
    # Of a namespace that is named by itself nobody knows the resolv.conf.
    found = drift(view, config, servers=None if known or inferred is None else inferred.around.dns_servers)
    if view.is_older and inferred is not None and arguments(inferred.config) == arguments(config) and not strays(view):
        return Drift(True, note=OLDER.format(release=view.release))
    return found


def _with_mesh(view: View, asked: Asked, config: Config | AmbientConfig) -> Config | None:
    """The configuration with what the rules say where the pod says nothing; nothing captured is never taken for meant.

    Only of rules that are whole: damaged ones say nothing of what was asked for.
    """
    inferred = view.inferred
    if inferred is None or not isinstance(config, Config) or not (inferred.exact or view.is_older):
        return None
    live = {field: getattr(inferred.config, field) for field in asked.unsaid}
    empty = [field for field in ("inbound_ports", "outbound_ranges") if field in live and live[field] == ()]
    return config.replace(**{field: value for field, value in live.items() if field not in empty})


def _differs(one: Config, other: Config | AmbientConfig, fields: frozenset[str]) -> bool:
    return any(getattr(one, field) != getattr(other, field, None) for field in fields)


def _size(found: Drift | None) -> int:
    """How far the rules are from it; far where that is told by a note alone."""
    if found is None or found.is_equal:
        return 0
    return sum(len(each.changes) for each in found.families) or FAR
