"""What a kernel did with a packet that was sent, and whether that is what was predicted."""

from __future__ import annotations

from collections import Counter
from itertools import islice, product

from istio_init.netfilter.rules import Hook, Store
from istio_init.netfilter.stages import Call, Core, NatCalls, Netfilter, registered
from istio_init.trace.result import Kind
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from istio_init.netfilter.family import Family
    from istio_init.netfilter.stages import Registered, Stage
    from istio_init.trace.result import Hop, Leg, Outcome, Trace

Place = tuple[Store, str, str, str, int]
"""Store, family, table, chain and number of a rule."""

STOPPED = frozenset([Kind.DROP, Kind.REJECT])
HOOKS = (Hook.OUTPUT, Hook.POSTROUTING, Hook.PREROUTING, Hook.INPUT)
"""Those that a packet from here can meet."""

MOST_ORDERS = 36


class Observed(Value):
    """The rules that matched: those of nf_tables leg by leg, of legacy how often each, by its counter.

    ``counts`` is None where legacy holds no rules. ``port`` is the destination port that the packet had in the end,
    None where it was stopped on the way. ``with_answers`` is whether the counters may tell of answers, too.
    """

    legs: tuple[tuple[Place, ...], ...]
    counts: tuple[tuple[Place, int], ...] | None = None
    port: int | None = None
    with_answers: bool = False


def place_of(hop: Hop) -> Place:
    """What names the rule of a hop."""
    origin = hop.rule.origin
    return origin.store, origin.family, origin.table, origin.chain, origin.number


def steps(leg: Leg, store: Store) -> list[tuple[Place, bool | None]]:
    """The rules of a store that are evaluated on a leg, and whether each is predicted to match.

    A rule of nft that does one of several things is several of the model; it is one here.
    """
    found: list[tuple[Place, bool | None]] = []
    for hop in leg.hops:
        if hop.rule.origin.store is store:
            place = place_of(hop)
            if found and found[-1][0] == place and found[-1][1] is not True:
                found[-1] = place, hop.matched if found[-1][1] is False else hop.matched or None
            else:
                found.append((place, hop.matched))
    return found


def matched(leg: Leg, store: Store) -> tuple[Place, ...]:
    """The rules of a store that are predicted to match on a leg."""
    return tuple(place for place, each in steps(leg, store) if each)


def settled(netfilter: Netfilter, family: Family) -> Iterator[Netfilter]:
    """The same with each order of its chains that is possible where priorities tie; `MOST_ORDERS` of them at most."""
    for orders in islice(product(*(netfilter.stages(family, hook) for hook in HOOKS)), MOST_ORDERS):
        order = {
            (family, hook): tuple(place for stage in stages for place in _places(stage))
            for hook, stages in zip(HOOKS, orders, strict=True)
        }
        yield Netfilter(netfilter.tables, order, netfilter.tracks)


def _places(stage: Stage) -> list[Registered | Core]:
    if isinstance(stage, NatCalls):
        return [Core.NAT, *map(registered, stage.calls)]
    return [registered(stage) if isinstance(stage, Call) else stage]


def disagreement(trace: Trace, seen: Observed, say: Callable[[Place], str]) -> str | None:
    """In what the kernel differs from the prediction; None where it does not. ``say`` names a rule.

    Where the kernel matches a rule of which it cannot be told, what follows is not compared, but for the end.
    """
    ends = {_end(trace, way.delivered, is_only=len(trace.ways) == 1) for way in trace.ways}
    is_followed, differs = _rules(trace, seen)
    if differs and seen.port is None and None not in ends and _is_beginning(trace, seen):
        return "the kernel stops it"
    if differs:
        predicted = [matched(leg, Store.NFT) for leg in trace.legs]
        return f"the kernel's rules are {_words(seen.legs, say)}, predicted are {_words(predicted, say)}"
    if is_followed and seen.counts is not None and (counted := _counters(trace, seen, say)) is not None:
        return counted
    if seen.port in ends or ANY in ends:
        return None
    if ends == {None} or seen.port is None:
        return f"the kernel {'stops it' if seen.port is None else 'lets it pass'}"
    predicted_ports = " or ".join(map(str, sorted(each for each in ends if each is not None)))
    return f"the kernel delivers it to port {seen.port}, predicted is {predicted_ports}"


ANY = -1
"""Stands for every port, where nothing can be said of it."""


def _end(trace: Trace, outcome: Outcome, *, is_only: bool) -> int | None:
    """The destination port with which a way ends; None where it is stopped."""
    if outcome.kind in STOPPED:
        return None
    if outcome.kind is Kind.UNKNOWN:
        return ANY
    if is_only:
        return ANY if trace.state.destination_port is None else trace.state.destination_port
    if outcome.kind in (Kind.DIRECT, Kind.TPROXY):
        return trace.packet.destination_port
    return ANY if outcome.port is None else outcome.port


def _rules(trace: Trace, seen: Observed) -> tuple[bool, bool]:
    """Whether all rules could be compared, and whether those of nf_tables differ as far as they could."""
    for number, leg in enumerate(trace.legs):
        left = list(seen.legs[number]) if number < len(seen.legs) else []
        for place, matches in steps(leg, Store.NFT):
            is_here = bool(left) and left[0] == place
            if is_here and matches is None:
                return False, False
            if matches and not is_here:
                return True, True
            if matches:
                del left[0]
        if left:
            return True, True
    return True, len(seen.legs) != len(trace.legs)


def _is_beginning(trace: Trace, seen: Observed) -> bool:
    """Whether the kernel's rules are the first ones of those that are predicted."""
    predicted = [place for leg in trace.legs for place in matched(leg, Store.NFT)]
    actual = [place for leg in seen.legs for place in leg]
    return len(seen.legs) <= len(trace.legs) and actual == predicted[: len(actual)]


def _counters(trace: Trace, seen: Observed, say: Callable[[Place], str]) -> str | None:
    """In what the counters of legacy rules differ; nothing is said where one rose of which it cannot be told."""
    rose = Counter(dict(seen.counts or ()))
    hops = [step for leg in trace.legs for step in steps(leg, Store.LEGACY)]
    predicted = Counter(place for place, matches in hops if matches)
    if any(matches is None and rose[place] > predicted[place] for place, matches in hops):
        return None
    if missing := predicted - rose:
        return f"these counters did not rise: {_words([tuple(missing)], say)}"
    if rose != predicted and not seen.with_answers:
        counted = [tuple(rose.elements())], [tuple(predicted.elements())]
        return f"the counters that rose are {_words(counted[0], say)}, predicted are {_words(counted[1], say)}"
    return None


def _words(legs: Iterable[Sequence[Place]], say: Callable[[Place], str]) -> str:
    return "; then via lo ".join(", ".join(map(say, leg)) or "none" for leg in legs) or "none"
