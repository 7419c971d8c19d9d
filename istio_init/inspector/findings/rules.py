"""Problems that the rules alone show."""

from __future__ import annotations

from istio_init.config.model import ALL, Config, InterceptionMode
from istio_init.dialects.iptables.matches import Protocol
from istio_init.dialects.iptables.rules import Rule, RuleSet, is_builtin
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import DROP, Goto, Jump
from istio_init.dialects.role import Role
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, RuleAt, View
from istio_init.inspector.shadow import shadows
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours
from istio_init.netfilter.family import Family
from istio_init.plan.diff import diff
from istio_init.plan.model import Kind as ChangeKind
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from istio_init.dialects.iptables.matches import PortRange
    from istio_init.dialects.iptables.rules import Chain

TPROXY_ROLES = (Role.TPROXY_SAVE_MARK, Role.TPROXY_RESTORE_MARK, Role.TPROXY_CAPTURE, Role.TPROXY_PROXY_LOOPBACK)
OUTBOUND_CAPTURE = (Role.OUTBOUND_CAPTURE_ALL, Role.OUTBOUND_INCLUDED_RANGE, Role.OUTBOUND_INCLUDED_PORT)
SHADOWED_BY_ISTIO = (Role.OLDER_DNS_PROXY_BYPASS, Role.AMBIENT_VIRTUAL_INTERFACE_RETURN)
"""Istio 1.24 put the bypass for DNS behind the rule for everything that the proxy sends; the other ends a capture."""

SECOND_OWNER = (Role.PROXY_TO_SELF, Role.APP_LOOPBACK)
"""Of several users of the proxy, Istio's rule for those that are not the first takes what those of the others would."""

SHOWN = 8
"""Rules shown as evidence; the rest is counted."""


def half_applied(view: View) -> Iterator[Finding]:
    """Rules that the configuration behind the others calls for are missing."""
    if view.ambient is not None:
        if not view.ambient.exact and not view.is_older and (lost := missing(view)):
            yield Finding(catalogue.HALF_APPLIED, limited(_without(view, lost)))
        return
    if view.inferred is None:
        chains = [
            f"{family.value} {table.value} ({view.backend.value}): {chain.name} has {_state(chain)}"
            for family in view.families
            for table, chain in view.rules[family].chains()
            if chain.name == "ISTIO_REDIRECT" or (is_istio_chain(chain.name) and not chain.entries)
            if family not in view.snapshot.partial
        ]
        if chains:
            yield Finding(catalogue.HALF_APPLIED, limited(chains))
        return
    found = [*_lost_family(view), *_chains_without_jump(view)]
    if not view.inferred.exact:
        found += _without(view, [] if view.is_older else missing(view))
    if found and view.inferred.literal is not None and view.inferred.literal.outbound_ranges is not ALL:
        [only] = view.inferred.literal.outbound_ranges
        found[-1] += f" (unless only {only} was included, which does the same)"
    if found:
        yield Finding(catalogue.HALF_APPLIED, limited(found))


def _state(chain: Chain) -> str:
    return "no rule that sends everything to the proxy, as it has to" if chain.entries else "no rules"


class Missing(Value):
    """A rule that is not there."""

    where: str
    chain: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: missing: -A {self.chain} {self.text}"


def missing(view: View) -> list[Missing]:
    """What the configuration behind the rules calls for and is not there; only of families that were read whole."""
    unknown = view.snapshot.partial | (frozenset() if view.snapshot.is_live else frozenset(Family) - set(view.rules))
    return [
        Missing(f"{family.value} {change.table.value} ({view.backend.value})", change.chain, change.text)
        for family, built in view.meant.items()
        if family not in unknown
        for change in diff(view.rules.get(family, RuleSet(family)), built).changes
        if change.kind is ChangeKind.ADD
    ]


def _lost_family(view: View) -> list[str]:
    """IPv6 capture of which nothing is left but the address that it needs."""
    if Family.IPV6 in (*view.families, *view.snapshot.partial) or not view.snapshot.routing.passthrough_ipv6:
        return []
    return [f"ipv6 ({view.backend.value}): no rule of ours, though lo has the address ::6/128 that IPv6 capture needs"]


def _chains_without_jump(view: View) -> list[str]:
    found = []
    needs = (
        (Table.NAT, "ISTIO_OUTPUT", Role.OUTBOUND_JUMP, None),
        (Table.NAT, "ISTIO_INBOUND", Role.INBOUND_JUMP, Role.INBOUND_CAPTURE),
        (Table.MANGLE, "ISTIO_INBOUND", Role.INBOUND_JUMP, Role.INBOUND_CAPTURE),
        (Table.NAT, "ISTIO_OUTPUT_DNS", Role.DNS_JUMP, None),
        (Table.RAW, "ISTIO_OUTPUT_DNS", Role.DNS_ZONES_OUT_JUMP, None),
    )
    for family in view.families:
        for table, chain, jump, only_with in needs:
            live = view.rules[family].chain(table, chain)
            if view.ambient or live is None or not live.entries or family in view.snapshot.partial:
                continue
            if only_with is not None and not any(entry.role is only_with for entry in live.entries):
                continue
            if not view.with_role(jump, family=family, table=table):
                found.append(f"{family.value} {table.value} ({view.backend.value}): nothing jumps to {chain}")
    return found


class Emptied(Value):
    """A chain of ours that is called and holds nothing: somebody flushed it."""

    where: str
    name: str

    def __str__(self) -> str:
        return f"{self.where}: {self.name} has no rules"


def emptied(view: View, *names: str) -> tuple[Emptied, ...]:
    """Those of these names, or of any."""
    return tuple(
        Emptied(f"{family.value} {table.value} ({view.backend.value})", chain.name)
        for family in view.families
        for table, chain in view.rules[family].chains()
        if is_istio_chain(chain.name) and not chain.entries and family not in view.snapshot.partial
        if chain.name in names or not names
        if any(_calls(rule, chain.name) for each in view.rules[family].tables[table].values() for rule in each.rules)
    )


def _without(view: View, lost: Iterable[Missing]) -> list[str]:
    """The chains without rules, and the rules that are missing in others."""
    empty = emptied(view)
    told = {(each.where, each.name) for each in empty}
    return [*map(str, empty), *(str(each) for each in lost if (each.where, each.chain) not in told)]


def _calls(rule: Rule, name: str) -> bool:
    return isinstance(rule.target, Jump | Goto) and rule.target.chain == name


def duplicates(view: View) -> Iterator[Finding]:
    """The same rule of ours twice in a chain."""
    seen: dict[tuple[object, ...], RuleAt] = {}
    doubled = []
    for place in view.places:
        if not is_ours(place.chain.name, place.entry):
            continue
        key = place.backend, place.family, place.table, place.chain.name, place.entry.rule
        if key in seen:
            doubled.append(f"{place}, the same as rule {seen[key].number}")
        else:
            seen[key] = place
    if doubled:
        yield Finding(catalogue.DUPLICATE_RULE, limited(doubled))


def shadowed(view: View) -> Iterator[Finding]:
    """A rule of ours that an earlier rule leaves no packet."""
    found = []
    for family in view.families:
        for table, chain in view.rules[family].chains():
            if not is_istio_chain(chain.name):
                continue
            for index, earlier in shadows(chain, view.rules[family].tables[table]).items():
                place = view.at(family, table, chain, index)
                if place.entry.role in SHADOWED_BY_ISTIO or chain.entries[earlier].rule == place.entry.rule:
                    continue
                if (place.entry.role, chain.entries[earlier].role) == SECOND_OWNER:
                    continue
                found.append(f"{place}, after rule {earlier + 1}")
    if found:
        yield Finding(catalogue.SHADOWED_RULE, limited(found))


def ports_narrow_nothing(view: View) -> Iterator[Finding]:
    """Included ports beside the wildcard of ranges."""
    if view.inferred and view.inferred.config.outbound_ranges is ALL and view.inferred.config.outbound_ports:
        places = view.with_role(Role.OUTBOUND_INCLUDED_PORT)
        yield Finding(catalogue.PORTS_NARROW_NOTHING, limited(list(map(str, places))))


def exclude_without_all(view: View) -> Iterator[Finding]:
    """Excluded inbound ports in a configuration that does not include all; no rule shows them."""
    config = view.expected
    if isinstance(config, Config) and config.inbound_exclude_ports and config.inbound_ports is not ALL:
        excluded, included = map(_listed, (config.inbound_exclude_ports, config.inbound_ports))
        yield Finding(catalogue.EXCLUDE_WITHOUT_ALL, (f"expected: -d {excluded} with -b '{included}'",))


def _listed(ports: tuple[PortRange, ...]) -> str:
    return ",".join(map(str, ports))


def no_inbound_capture(view: View) -> Iterator[Finding]:
    """Outbound capture alone."""
    outbound, inbound = view.with_role(*OUTBOUND_CAPTURE), view.with_role(Role.INBOUND_CAPTURE)
    is_meant = isinstance(view.expected, Config) and view.expected.inbound_ports == ()
    is_lost = bool(emptied(view, "ISTIO_INBOUND"))
    if outbound and not inbound and not view.snapshot.partial and not is_meant and not is_lost:
        asked_for = view.asked_for(lambda config: config.inbound_ports == ())
        yield Finding(catalogue.NO_INBOUND_CAPTURE, limited([*asked_for, *map(str, outbound)]))


def no_outbound_capture(view: View) -> Iterator[Finding]:
    """Inbound capture alone."""
    outbound, inbound = view.with_role(*OUTBOUND_CAPTURE), view.with_role(Role.INBOUND_CAPTURE)
    is_meant = isinstance(view.expected, Config) and _sends_nothing(view.expected)
    is_lost = bool(emptied(view, "ISTIO_OUTPUT"))
    if inbound and not outbound and not view.snapshot.partial and not is_meant and not is_lost:
        asked_for = view.asked_for(_sends_nothing)
        yield Finding(catalogue.NO_OUTBOUND_CAPTURE, limited([*asked_for, *map(str, inbound)]))


def _sends_nothing(config: Config) -> bool:
    return config.outbound_ranges == () and not config.outbound_ports


def mode_leftovers(view: View) -> Iterator[Finding]:
    """Rules of TPROXY mode beside inbound capture by REDIRECT."""
    redirecting = view.with_role(Role.INBOUND_JUMP, table=Table.NAT)
    tproxy = view.with_role(*TPROXY_ROLES)
    if redirecting and tproxy:
        yield Finding(catalogue.MODE_LEFTOVERS, limited([str(place) for place in (*redirecting, *tproxy)]))


def leftover_routing(view: View) -> Iterator[Finding]:
    """The routing of TPROXY mode where no rule of that mode is left."""
    inferred = view.inferred
    if inferred and inferred.config.mode is InterceptionMode.REDIRECT:
        left = [rule for rule in view.snapshot.routing.rules if rule[1:] == (1337, 133)]
        if left:
            lines = tuple(f"{family.value}: fwmark {mark:#x} lookup {table}" for family, mark, table in left)
            yield Finding(catalogue.MODE_LEFTOVERS, lines)


GUARDRAIL_RULES = frozenset(Rule(protocol=Protocol(name), target=DROP) for name in ("tcp", "udp"))


def guardrails(view: View) -> Iterator[Finding]:
    """Unconditional drops of TCP and UDP on top of filter's chains."""
    if found := standing_guard(view):
        yield Finding(catalogue.GUARDRAILS, tuple(map(str, found)))


def standing_guard(view: View) -> list[RuleAt]:
    """The rules of which `guardrails` tells."""
    return [
        RuleAt(store, family, Table.FILTER, chain, number, entry)
        for (store, family), rules in view.snapshot.rules.items()
        for chain in rules.tables.get(Table.FILTER, {}).values()
        if is_builtin(Table.FILTER, chain.name) and set(chain.rules[:2]) >= GUARDRAIL_RULES
        for number, entry in enumerate(chain.entries[:2], 1)
    ]


def limited(lines: list[str]) -> tuple[str, ...]:
    """The first lines of evidence, and how many more there are."""
    lines = list(dict.fromkeys(lines))
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return (*lines[:SHOWN], *more)
