"""Problems that the rules alone show."""

from __future__ import annotations

from istio_init.config.model import ALL, InterceptionMode
from istio_init.dialects.save import entry_text
from istio_init.inspector.cover import ends
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, Place, View
from istio_init.inspector.release import is_older, release_span
from istio_init.inspector.shadow import shadows
from istio_init.model.matches import Ctstate, Protocol
from istio_init.model.netfilter import Family, Table
from istio_init.model.rules import Rule, RuleSet, is_builtin
from istio_init.model.targets import DROP, Goto, Jump, OpaqueTarget, Redirect
from istio_init.plan.diff import diff
from istio_init.plan.model import Kind as ChangeKind
from istio_init.policy import sidecar
from istio_init.roles import Role
from istio_init.roles.recognise import is_istio_chain, is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.inspector.infer import Inferred
    from istio_init.inspector.snapshot import NftRule
    from istio_init.model.matches import PortRange
    from istio_init.model.rules import Chain

TPROXY_ROLES = (Role.TPROXY_SAVE_MARK, Role.TPROXY_RESTORE_MARK, Role.TPROXY_CAPTURE, Role.TPROXY_PROXY_LOOPBACK)
OUTBOUND_CAPTURE = (Role.OUTBOUND_CAPTURE_ALL, Role.OUTBOUND_INCLUDED_RANGE, Role.OUTBOUND_INCLUDED_PORT)
SHOWN = 8
"""Rules shown as evidence; the rest is counted."""


def half_applied(view: View) -> Iterator[Finding]:
    """Rules that the configuration behind the others calls for are missing."""
    if view.inferred is None:
        chains = [
            f"{family.value} {table.value} ({view.backend}): {chain.name} has no rule that redirects"
            for family in view.families
            for table, chain in view.rules[family].chains()
            if is_istio_chain(chain.name) and family not in view.snapshot.partial
        ]
        if chains and not view.ambient:
            yield Finding(catalogue.HALF_APPLIED, limited(chains))
        return
    missing = [] if view.inferred.exact or is_older(release_span(view.rules)) else _missing(view, view.inferred)
    found = [*_lost_family(view), *_chains_without_jump(view), *missing]
    if found:
        yield Finding(catalogue.HALF_APPLIED, limited(found))


def _missing(view: View, inferred: Inferred) -> list[str]:
    """What the configuration behind the rules calls for and is not there; only of families that were read whole."""
    unknown = view.snapshot.partial | (frozenset() if view.snapshot.is_live else frozenset(Family) - set(view.rules))
    return [
        f"{family.value} {change.table.value} ({view.backend}): missing: -A {change.chain} {change.text}"
        for family, built in sidecar.rules(inferred.config, inferred.around).items()
        if family not in unknown
        for change in diff(view.rules.get(family, RuleSet(family)), built).changes
        if change.kind is ChangeKind.ADD
    ]


def _lost_family(view: View) -> list[str]:
    """IPv6 capture of which nothing is left but the address that it needs."""
    if Family.IPV6 in (*view.families, *view.snapshot.partial) or not view.snapshot.routing.passthrough_ipv6:
        return []
    return [f"ipv6 ({view.backend}): no rule of ours, though lo has the address ::6/128 that IPv6 capture needs"]


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
                found.append(f"{family.value} {table.value} ({view.backend}): nothing jumps to {chain}")
    return found


def both_backends(view: View) -> Iterator[Finding]:
    """Chains of ours in nft and in legacy tables."""
    holding = {
        backend: sorted(
            {place.chain.name for place in view.places if place.backend == backend and is_istio_chain(place.chain.name)}
        )
        for backend in ("nft", "legacy")
    }
    if all(holding.values()):
        yield Finding(
            catalogue.BOTH_BACKENDS, tuple(f"{name}: {', '.join(chains)}" for name, chains in holding.items())
        )


def duplicates(view: View) -> Iterator[Finding]:
    """The same rule of ours twice in a chain."""
    seen: dict[tuple[object, ...], Place] = {}
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


def foreign_ahead(view: View) -> Iterator[Finding]:
    """A foreign rule before our jump that ends the way of what it matches: in its chain, or in an earlier table."""
    found = list(dict.fromkeys(_dropped_before(view)))
    for jump in view.with_role(Role.INBOUND_JUMP, Role.OUTBOUND_JUMP, Role.DNS_ZONES_OUT_JUMP, Role.DNS_ZONES_IN_JUMP):
        chains = view.rules[jump.family].tables[jump.table]
        for number, entry in enumerate(jump.chain.entries[: jump.number - 1], 1):
            if is_ours(jump.chain.name, entry) or not _can_meet(entry.rule, jump.entry.rule):
                continue
            target = entry.rule.target
            taken = ends(entry.rule, entry.rule, chains) or (
                isinstance(target, Jump) and _may_end(target.chain, chains, set())
            )
            if taken or (target is not None and not isinstance(target, Jump) and _is_nat(target)):
                found.append(str(Place(jump.backend, jump.family, jump.table, jump.chain, number, entry)))
    if found:
        yield Finding(catalogue.FOREIGN_AHEAD, limited(found))


def _dropped_before(view: View) -> Iterator[str]:
    """Foreign rules of raw and mangle that drop, or hide from the tracker, what nat would redirect at the same hook."""
    for jump in view.with_role(Role.INBOUND_JUMP, Role.OUTBOUND_JUMP, table=Table.NAT):
        for table in (Table.RAW, Table.MANGLE):
            chain = view.rules[jump.family].tables.get(table, {}).get(jump.chain.name)
            for number, entry in enumerate(chain.entries if chain is not None else (), 1):
                target = entry.rule.target
                hides = isinstance(target, OpaqueTarget) and "--notrack" in (*target.words, f"--{target.name.lower()}")
                # No connection begins with an invalid packet, so that dropping those takes none away.
                foreign = not is_ours(jump.chain.name, entry) and INVALID not in entry.rule.matches
                if foreign and (target == DROP or hides) and _can_meet(entry.rule, jump.entry.rule):
                    assert chain is not None
                    yield str(Place(jump.backend, jump.family, table, chain, number, entry))


def _can_meet(rule: Rule, jump: Rule) -> bool:
    """Whether a packet may match both, by protocol."""
    one, other = rule.protocol, jump.protocol
    return one is None or other is None or one == other or one.negated or other.negated


def _is_nat(target: object) -> bool:
    return isinstance(target, Redirect) or getattr(target, "name", "") in (
        "DNAT",
        "SNAT",
        "NETMAP",
        "REJECT",
        "NFQUEUE",
    )


def _may_end(name: str, chains: Mapping[str, Chain], seen: set[str]) -> bool:
    """Whether a called chain has any rule that gives a packet a verdict other than coming back."""
    chain = chains.get(name)
    if chain is None or name in seen:
        return False
    seen.add(name)
    for entry in chain.entries:
        target = entry.rule.target
        if isinstance(target, Jump | Goto):
            if _may_end(target.chain, chains, seen):
                return True
        elif target is not None and (_is_nat(target) or getattr(target, "name", "") in ("ACCEPT", "DROP")):
            return True
    return False


def shadowed(view: View) -> Iterator[Finding]:
    """A rule of ours that an earlier rule leaves no packet."""
    found = []
    for family in view.families:
        for table, chain in view.rules[family].chains():
            if not is_istio_chain(chain.name):
                continue
            for index, earlier in shadows(chain, view.rules[family].tables[table]).items():
                entry = chain.entries[index]
                # Istio 1.24 put the bypass for DNS behind the rule for everything that the proxy sends.
                if entry.role is Role.OLDER_DNS_PROXY_BYPASS or chain.entries[earlier].rule == entry.rule:
                    continue
                place = Place(view.backend, family, table, chain, index + 1, entry)
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
    if config is not None and config.inbound_exclude_ports and config.inbound_ports is not ALL:
        excluded, included = map(_listed, (config.inbound_exclude_ports, config.inbound_ports))
        yield Finding(catalogue.EXCLUDE_WITHOUT_ALL, (f"expected: -d {excluded} with -b '{included}'",))


def _listed(ports: tuple[PortRange, ...]) -> str:
    return ",".join(map(str, ports))


def no_inbound_capture(view: View) -> Iterator[Finding]:
    """Outbound capture alone."""
    outbound = view.with_role(*OUTBOUND_CAPTURE)
    inbound = view.with_role(Role.INBOUND_JUMP, Role.INBOUND_CAPTURE)
    if outbound and not inbound and not view.snapshot.partial:
        yield Finding(catalogue.NO_INBOUND_CAPTURE, limited(list(map(str, outbound))))


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


INVALID = Ctstate(("INVALID",))
GUARDRAIL_RULES = frozenset(Rule(protocol=Protocol(name), target=DROP) for name in ("tcp", "udp"))


def guardrails(view: View) -> Iterator[Finding]:
    """Unconditional drops of TCP and UDP on top of filter's chains."""
    found = []
    for (backend, family), rules in view.snapshot.rules.items():
        for chain in rules.tables.get(Table.FILTER, {}).values():
            if is_builtin(Table.FILTER, chain.name) and set(chain.rules[:2]) >= GUARDRAIL_RULES:
                found += [
                    str(Place(backend, family, Table.FILTER, chain, number, entry))
                    for number, entry in enumerate(chain.entries[:2], 1)
                ]
    if found:
        yield Finding(catalogue.GUARDRAILS, tuple(found))


def unfaithful_reader(view: View) -> Iterator[Finding]:
    """The reader said that it cannot show a table, or printed a rule that it does not understand."""
    said = [line for line in view.snapshot.unread if "incompatible" in line]
    odd = [str(place) for place in view.places if "unsupported revision" in (place.entry.text or "")]
    left_out = [f"{rule}; iptables prints: {_printed(view, rule)}" for rule in view.snapshot.nft_rules]
    if said or odd or left_out:
        versions = [f"{name}: {version}" for name, version in view.snapshot.programs.items()]
        yield Finding(catalogue.UNFAITHFUL_READER, (*limited([*said, *odd, *left_out]), *versions))


def _printed(view: View, rule: NftRule) -> str:
    """What iptables made of a rule of nftables' own."""
    wanted = "nft", rule.family, rule.table, rule.chain, rule.number
    for place in view.places:
        if (place.backend, place.family, place.table.value, place.chain.name, place.number) == wanted:
            return f"-A {rule.chain} {entry_text(place.entry)}"
    return "nothing"


def limited(lines: list[str]) -> tuple[str, ...]:
    """The first lines of evidence, and how many more there are."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return (*lines[:SHOWN], *more)
