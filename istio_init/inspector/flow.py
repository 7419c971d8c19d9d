"""The way of traffic as a tree: hooks, the chains that they call, and what becomes of which traffic there."""

from __future__ import annotations

from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import Goto, Jump
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours
from istio_init.value import Value
from istio_init.wording.words import Phrase, action, conditions, phrases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.dialects.iptables.rules import Chain, Entry, Rule, RuleSet
    from istio_init.mesh.native import Raised

LISTED, LISTED_LENGTH = 4, 60
"""Values that are named, and their characters together; the rest is counted."""

FOREIGN_DRAWN = 8
"""Foreign rules in a row that are drawn one by one."""

HOOKS = (
    ("inbound", "PREROUTING", "what enters the pod"),
    ("outbound", "OUTPUT", "what the pod sends"),
)
ORDER = (Table.RAW, Table.MANGLE, Table.NAT)
"""Tables in the order in which a hook calls them (netfilter's priorities)."""


class FlowStep(Value):
    """One rule, or several alike in a row: what it tests, what it does, and the chain that it leads to."""

    numbers: tuple[int, int]
    tests: str
    action: str
    foreign: bool
    packets: int | None = None
    steps: tuple[FlowStep, ...] = ()


class HookFlow(Value):
    """The rules of one table that a hook calls."""

    direction: str
    title: str
    where: str
    """The chain, as its dialect names it."""

    steps: tuple[FlowStep, ...]


DEEPEST = 64
"""Chains that call each other so deep are drawn; the kernel itself follows fewer."""


def flow(rules: RuleSet, raised: Raised | None = None) -> tuple[HookFlow, ...]:
    """The way of traffic through every table that holds rules of ours; ``raised`` is what native rules come from."""
    found = []
    for direction, hook, title in HOOKS:
        for table in ORDER:
            chains = rules.tables.get(table, {})
            chain = chains.get(hook)
            if chain is not None and any(is_ours(hook, entry) for entry in chain.entries):
                where, names = f"{table.value} {hook}", {}
                if raised is not None:
                    spot = raised.spots[rules.family, table, hook, 1]
                    where, names = f"{spot.family} {spot.table} {spot.chain}", _names(raised, table)
                found.append(HookFlow(direction, title, where, _steps(chain, chains, (hook,), names)))
    return tuple(found)


def _steps(
    chain: Chain,
    chains: Mapping[str, Chain],
    above: tuple[str, ...],
    names: Mapping[str, str],
    *,
    is_shared: bool = False,
) -> tuple[FlowStep, ...]:
    """The steps of a chain; ``names`` are what chains are called where that is not their own name.

    Its counters are left out where it is shared: they are those of all its callers.
    """
    steps = []
    for first, group in _groups(chain):
        called = group[0].rule.called_chain
        inner: tuple[FlowStep, ...] = ()
        if (
            called in chains
            and called is not None
            and called not in above
            and is_istio_chain(called)
            and len(above) < DEEPEST
        ):
            shared = is_shared or _callers(called, chains) > 1
            inner = _steps(chains[called], chains, (*above, called), names, is_shared=shared)
        counted = [entry.counters.packets for entry in group if entry.counters is not None and not is_shared]
        steps.append(
            FlowStep(
                (first, first + len(group) - 1),
                conditions(_collapsed(_merged([phrases(entry.rule) for entry in group]))),
                action(_named(group[0].rule, names)),
                not is_ours(chain.name, group[0]),
                sum(counted) if counted else None,
                inner,
            )
        )
    return tuple(_shortened(steps))


def _names(raised: Raised, table: Table) -> dict[str, str]:
    """What nft calls the chains of a table that has rules."""
    return {chain: spot.chain for (_, each, chain, _), spot in raised.spots.items() if each is table}


def _named(rule: Rule, names: Mapping[str, str]) -> Rule:
    match rule.target:
        case Jump(chain) | Goto(chain) if chain in names:
            return rule.replace(target=type(rule.target)(names[chain]))
    return rule


def _shortened(steps: list[FlowStep]) -> Iterator[FlowStep]:
    """The steps, of many foreign ones in a row only the first."""
    run: list[FlowStep] = []
    for step in [*steps, None]:
        if step is not None and step.foreign:
            run.append(step)
            continue
        named = run if len(run) <= FOREIGN_DRAWN else run[: FOREIGN_DRAWN - 1]
        yield from named
        if rest := run[len(named) :]:
            seen = [each.packets for each in rest if each.packets is not None]
            numbers = rest[0].numbers[0], rest[-1].numbers[1]
            yield FlowStep(numbers, f"{len(rest)} more rules", "not drawn", True, sum(seen) if seen else None)
        run = []
        if step is not None:
            yield step


def _callers(name: str, chains: Mapping[str, Chain]) -> int:
    return sum(rule.called_chain == name for chain in chains.values() for rule in chain.rules)


def _groups(chain: Chain) -> list[tuple[int, list[Entry]]]:
    """Rules in a row that do the same to traffic that differs in one value."""
    groups: list[tuple[int, list[Entry]]] = []
    for number, entry in enumerate(chain.entries, 1):
        if groups and _alike(groups[-1][1], entry):
            groups[-1][1].append(entry)
        else:
            groups.append((number, [entry]))
    return groups


def _alike(group: list[Entry], entry: Entry) -> bool:
    first = group[0]
    if entry.role is not first.role or entry.role is None or entry.rule.target != first.rule.target:
        return False
    one, other = phrases(first.rule), phrases(entry.rule)
    if [phrase[:2] for phrase in one] != [phrase[:2] for phrase in other]:
        return False
    differing = {index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a != b}
    known = {
        index for each in group[1:2] for index, (a, b) in enumerate(zip(one, phrases(each.rule), strict=True)) if a != b
    }
    return len(differing) <= 1 and (not known or differing <= known)


def _merged(all_phrases: list[list[Phrase]]) -> list[Phrase]:
    """One list of phrases for several rules, with all values where they differ."""
    merged = []
    for column in zip(*all_phrases, strict=True):
        kind, head, _ = column[0]
        merged.append((kind, head, _listed(list(dict.fromkeys(value for _, _, value in column)))))
    return merged


def _collapsed(found: list[Phrase]) -> list[Phrase]:
    """One phrase for those of a rule that test the same thing again and again, as for many groups."""
    collapsed: dict[tuple[str, str], list[str]] = {}
    for kind, head, value in found:
        collapsed.setdefault((kind, head), []).append(value)
    return [(kind, head, _listed(values)) for (kind, head), values in collapsed.items()]


def _listed(values: list[str]) -> str:
    named = values[:1]
    for value in values[1:LISTED]:
        if len(", ".join([*named, value])) > LISTED_LENGTH:
            break
        named.append(value)
    more = f" and {len(values) - len(named)} more" if len(values) > len(named) else ""
    return ", ".join(named) + more
