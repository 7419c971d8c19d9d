"""From live rules back to the configuration that they came from: the policy, read backwards by the rules' roles.

Law: the policy, given the inferred configuration and what the rules say of families and name servers, gives the same
rules.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Network

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.role import Role
from istio_init.inspector import kept
from istio_init.inspector.options import ANYWHERE, configuration, entries_of
from istio_init.mesh.policy import merged, native, sidecar
from istio_init.mesh.policy.ambient import INBOUND_PORT, OUTBOUND_PORT
from istio_init.mesh.roles.recognise import is_istio_chain, recognise
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff, ours_alone
from istio_init.plan.model import Kind
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from istio_init.mesh.native import Raised
    from istio_init.mesh.routing import LiveRouting

    Policy = Callable[[Config, Surroundings], Mapping[Family, RuleSet]]


class Inferred(Value):
    """The configuration behind live rules, and what the rules say of their surroundings.

    ``exact`` tells whether the policy gives just these rules for them; where not, the rules were made by another
    release or by hand. ``literal`` is a configuration that gives just these rules and is hardly ever meant.
    """

    config: Config
    around: Surroundings
    exact: bool
    literal: Config | None = None


def infer_native(found: Raised, routing: LiveRouting | None = None) -> Inferred | None:
    """The configuration of native nftables rules, raised; None where there is no sidecar's redirection."""
    policy = merged.sidecar_rules if found.is_ours else native.sidecar_rules
    return infer(found.captured, routing, policy)


def infer(
    live: Mapping[Family, RuleSet], routing: LiveRouting | None = None, policy: Policy = sidecar.rules
) -> Inferred | None:
    """The configuration of the recognised rules of one backend; None where there is no sidecar's redirection.

    ``routing`` tells the routing table of TPROXY mode, which no rule names; ``policy`` gives the rules that a
    configuration means, as what was read would have them.
    """
    captured = {family: _telling(live[family]) for family in Family if family in live and _has_chains(live[family])}
    if not any(entries_of(rules, Role.OUTBOUND_REDIRECT) for rules in captured.values()):
        return None
    readings = []
    for distance, reading in _readings(captured, captured, routing, policy):
        if not distance:
            return _as_meant(reading.replace(exact=True))
        readings.append((distance, reading))
    # A damaged family tells less than a whole one, and a repeated rule less than it seems. The nearest reading counts.
    unrepeated = {family: _without_repeats(rules) for family, rules in captured.items()}
    readings = [*_readings(unrepeated, captured, routing, policy), *readings]
    if unrepeated != captured:
        readings = [each for each in _readings(unrepeated, unrepeated, routing, policy) if not each[0]] or readings
    nearest = min(readings, key=_oddness)[1]
    return _with_lost_loopback(_without_loopback_alone(_as_meant(nearest)), captured, policy)


def _as_meant(read: Inferred) -> Inferred:
    """Where one family's traffic is all captured and nothing of the other's: with what the other has lost.

    ``0.0.0.0/0`` alone as the included range gives the same rules.
    """
    ranges = read.config.outbound_ranges
    if ranges is ALL or len(ranges) != 1 or len(read.around.families) < 2 or ranges[0] not in ANYWHERE.values():
        return read
    meant = read.config.replace(outbound_ranges=ALL)
    return read.replace(config=meant, exact=False, literal=read.config if read.exact else None)


def _without_loopback_alone(read: Inferred) -> Inferred:
    """A loopback range alone is what rules tell of which those that leave an application's loopback alone are lost."""
    ranges = read.config.outbound_ranges
    if ranges is ALL or not ranges or not all(each.is_loopback for each in ranges):
        return read
    return read.replace(config=read.config.replace(outbound_ranges=()))


def _with_lost_loopback(read: Inferred, live: Mapping[Family, RuleSet], policy: Policy) -> Inferred:
    """Where all is captured, and the rules that leave an application's loopback alone are lost.

    All addresses as a range, beside a loopback range of a family that is not captured, gives the same rules.
    """
    if read.exact or read.config.outbound_ranges is not ALL:
        return read
    ranges = (*(ANYWHERE[family] for family in read.around.families), IPv6Network("::1/128"))
    literal = read.config.replace(outbound_ranges=ranges)
    return read if _distance(live, read.replace(config=literal), policy) else read.replace(literal=literal)


def _oddness(found: tuple[int, Inferred]) -> tuple[int, int]:
    """How far a configuration is from what is live; of two as near that of the usual ports counts."""
    config = found[1].config
    return found[0], (config.proxy_port != OUTBOUND_PORT) + (config.inbound_capture_port != INBOUND_PORT)


def _readings(
    source: Mapping[Family, RuleSet], live: Mapping[Family, RuleSet], routing: LiveRouting | None, policy: Policy
) -> Iterator[tuple[int, Inferred]]:
    """The configuration as each family tells it, the most telling first, and how far that is from what is live."""
    for main in sorted(source.values(), key=_known_rules, reverse=True):
        reading = Inferred(*configuration(main, source, routing), exact=False)
        yield _distance(live, reading, policy), reading


def _distance(live: Mapping[Family, RuleSet], reading: Inferred, policy: Policy) -> int:
    """How many rules the policy would change to make its own of the live ones; 0 where it gives just these."""
    distance = 0
    for family, built in _built(policy, reading.config, reading.around).items():
        if family not in reading.around.families:
            continue  # What native rules without an address do to a family that nobody asked for.
        plan = diff(live.get(family, RuleSet(family)), built)
        if plan.edits:
            distance += max(1, sum(change.kind not in (Kind.KEEP, Kind.FOREIGN) for change in plan.changes))
    return distance


@lru_cache(maxsize=kept.MOST)
def _built(policy: Policy, config: Config, around: Surroundings) -> Mapping[Family, RuleSet]:
    """The rules that a policy gives; most pods of a node have the same."""
    return policy(config, around)


def _has_chains(rules: RuleSet) -> bool:
    return any(is_istio_chain(chain.name) for _, chain in rules.chains())


def _telling(rules: RuleSet) -> RuleSet:
    """The rules without those of others, which may be thousands and tell nothing.

    Those beside the jump in mangle PREROUTING stay: one of an older release may look like anybody's.
    """
    chains = dict(ours_alone(rules).tables)
    beside = rules.chain(Table.MANGLE, "PREROUTING")
    if beside is not None:
        chains[Table.MANGLE] = {**chains[Table.MANGLE], beside.name: beside}
    return RuleSet(rules.family, chains)


def _known_rules(rules: RuleSet) -> int:
    return sum(entry.role is not None for *_, entry in rules.entries())


def _without_repeats(rules: RuleSet) -> RuleSet:
    """The rules without those that stand in their chain a second time."""
    tables = {
        table: {
            name: chain.replace(entries=tuple({entry.rule: entry for entry in reversed(chain.entries)}.values())[::-1])
            for name, chain in chains.items()
        }
        for table, chains in rules.tables.items()
    }
    return recognise(RuleSet(rules.family, tables))
