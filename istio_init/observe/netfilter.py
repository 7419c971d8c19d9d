"""All rules of a namespace as one model: those of every store, in the order in which the kernel calls them."""

from __future__ import annotations

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.matches import OpaqueMatch
from istio_init.dialects.iptables.targets import OpaqueTarget
from istio_init.dialects.nft.lower import lower as lower_nft
from istio_init.dialects.nft.lower import present
from istio_init.dialects.nft.misprints import misprinted
from istio_init.dialects.nft.xtables import is_iptables, lacks_extensions, merge
from istio_init.dialects.rule_store import RuleStore
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import AnyOf, Assign, Hook, Lookup, Store, Test, Tproxy
from istio_init.netfilter.stages import NFT_FAMILIES, Call, Core, Netfilter, registered
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from istio_init.dialects.iptables.ipset import IpSet
    from istio_init.dialects.iptables.rules import Entry, RuleSet
    from istio_init.dialects.nft.misprints import Told
    from istio_init.dialects.nft.ruleset import Ruleset
    from istio_init.netfilter.chains import Table
    from istio_init.netfilter.host import Link
    from istio_init.netfilter.rules import Rule, Statement
    from istio_init.netfilter.stages import Registered, Stage

STORES = {RuleStore.NFT: Store.NFT, RuleStore.LEGACY: Store.LEGACY}
"""The stores of iptables, as the model of netfilter names them."""
SOCKET_FIELDS = frozenset(
    [Field.SOCKET_FOUND, Field.SOCKET_FOUND_ANY, Field.SOCKET_TRANSPARENT, Field.SOCKET_TRANSPARENT_ANY]
)


class Known(Value):
    """What lowering asks about besides the rules: sets of ipset, interfaces by index, whether tables are dormant."""

    sets: Mapping[str, IpSet] | None = None
    links: Mapping[int, Link] = {}
    dormant: Mapping[tuple[str, str], bool] = {}
    """By family and name, of nf_tables' tables."""

    devices: Mapping[tuple[str, str, str], tuple[str, ...]] = {}
    """By family, table and name: the interfaces of chains that are called at one. nft 1.0.6 does not tell in JSON."""

    extensions: Mapping[Family, RuleSet] = {}
    """Of rules of iptables that it does not print: their extensions (`xtables.extension_chain`)."""

    told: Mapping[tuple[str, str, str, int], Told] | None = None
    """By family, table, chain and handle: what the kernel has of rules that nft may print wrongly. None: unknown."""


class Reading(Value):
    """All that was read of rules, as it was read: the model is made of this and of what nft prints, and of no more."""

    iptables: Mapping[tuple[RuleStore, Family], RuleSet] = {}
    known: Known = Known()
    order: Mapping[tuple[Family, Hook], tuple[Registered | Core, ...]] | None = None
    """What the kernel told of the order at its hooks; None where it was not asked."""
    ingress: Mapping[str, str] = {}
    egress: Mapping[str, str] = {}
    """By interface, what takes packets there that is no chain."""

    def model(self, ruleset: Ruleset | None) -> Netfilter:
        """The model of these rules beside what nft prints."""
        found = model(self.iptables, ruleset, self.known).beside(self.ingress, self.egress)
        return found if self.order is None else found.in_order(self.order)


def model(
    rules: Mapping[tuple[RuleStore, Family], RuleSet], ruleset: Ruleset | None, known: Known | None = None
) -> Netfilter:
    """The model of rules of iptables, by store and family, and of what nft prints of nf_tables, if it is known.

    iptables' own tables are what both tell of them (`xtables.merge`); of the others nft alone tells.
    """
    known = known or Known()
    tables = [
        table
        for (backend, _), each in rules.items()
        if backend in STORES
        for table in _of_iptables(each, STORES[backend], known)
    ]
    if ruleset is None:
        return Netfilter(tables)
    printed = {(table.family, table.name): table for table in tables if table.store is Store.NFT}
    by_name = {(table.family, table.name): table for table in ruleset.tables}
    of_nft = []
    extended = {
        (table.family, table.name): table
        for each in known.extensions.values()
        for table in lower(each, Store.NFT, known.sets)
    }
    odd = misprinted(ruleset, known.told) if known.told is not None else {}
    texts = {
        (family, name, chain.name): tuple([rule.origin.text for rule in chain.rules])
        for (family, name), table in printed.items()
        for chain in table.chains.values()
    }
    for lowered in lower_nft(ruleset, known.links, dormant=known.dormant, misprinted=odd, texts=texts):
        name = lowered.family, lowered.name
        text, table = printed.pop(name, None), by_name[name]
        of_nft.append(merge(text, lowered, table, extended.get(name)) if is_iptables(table) else lowered)
    legacy = [table for table in tables if table.store is Store.LEGACY]
    ingress, egress = (_at_devices(ruleset, known, hook) for hook in ("ingress", "egress"))
    return Netfilter([*of_nft, *printed.values(), *legacy], ingress=ingress, egress=egress)


def _at_devices(ruleset: Ruleset, known: Known, hook: str) -> dict[str, str]:
    """The chains at interfaces that may do something, which the model does not have, by interface."""
    found: dict[str, str] = {}
    for each in present(ruleset):
        if each.hook == hook and (each.rules or each.drops) and not known.dormant.get((each.family, each.table)):
            devices = each.devices or known.devices.get((each.family, each.table, each.chain), ("",))
            found |= dict.fromkeys(devices, f"chain {each.family} {each.table} {each.chain}")
    return found


def _of_iptables(rules: RuleSet, store: Store, known: Known) -> tuple[Table, ...]:
    family = "ip" if rules.family is Family.IPV4 else "ip6"
    asleep = {name for (each, name), is_dormant in known.dormant.items() if each == family and is_dormant}
    return lower(rules, store, known.sets, dormant=frozenset(asleep if store is Store.NFT else ()))


def not_printed(rules: Mapping[tuple[RuleStore, Family], RuleSet], ruleset: Ruleset) -> frozenset[tuple[Family, str]]:
    """The tables of iptables', by family and name, whose extensions iptables-nft does not all print."""
    families = {"ip": Family.IPV4, "ip6": Family.IPV6}
    printed: dict[tuple[Family, str], dict[str, int]] = {}
    for (store, family), each in rules.items():
        if store is RuleStore.NFT:
            for table, chains in each.tables.items():
                printed[family, table.value] = {name: len(chain.entries) for name, chain in chains.items()}
    return frozenset(
        [
            (families[table.family], table.name)
            for table in ruleset.tables
            if is_iptables(table) and lacks_extensions(printed.get((families[table.family], table.name), {}), table)
        ]
    )


def names_sets(rules: Mapping[tuple[RuleStore, Family], RuleSet]) -> bool:
    """Whether a rule looks something up in a set of ipset, or changes one."""
    return any(_names_set(entry) for each in rules.values() for *_, entry in each.entries())


def _names_set(entry: Entry) -> bool:
    target = entry.rule.target
    if isinstance(target, OpaqueTarget) and target.name == "SET":
        return True
    return any(isinstance(match, OpaqueMatch) and match.name == "set" for match in entry.rule.matches)


def has_ties(netfilter: Netfilter) -> bool:
    """Whether more than priorities decides in which order something is called, as far as the kernel would tell.

    Of nat chains it does not: the order in which their one hook calls them is its secret.
    """
    return any(
        len({tuple(map(_place, stages)) for stages in netfilter.stages(family, hook)}) > 1
        for family in Family
        for hook in Hook
    )


def _place(stage: Stage) -> Registered | Core:
    if isinstance(stage, Call):
        return registered(stage)
    return stage if isinstance(stage, Core) else Core.NAT


def asks_for_sockets(tables: Iterable[Table]) -> bool:
    """Whether rules depend on what sockets wait for traffic, and on what those were told."""
    return any(map(_asks, (statement for table in tables for rule in _rules(table) for statement in rule.body)))


def _asks(statement: Statement) -> bool:
    match statement:
        case Tproxy():
            return True
        case Test(field=field):
            return field in SOCKET_FIELDS
        case Lookup(keys=keys):
            return any(key.field in SOCKET_FIELDS for key in keys)
        case AnyOf(options=options):
            return any(_asks(each) for option in options for each in option)
    return False


def local_marks(tables: Iterable[Table]) -> dict[Family, frozenset[int]]:
    """The marks that rules give what they hand to a transparent socket: a routing rule must lead them to this machine.

    That is what is assumed where nothing is known of the routing.
    """
    found: dict[Family, set[int]] = {family: set() for family in Family}
    for table in tables:
        for rule in _rules(table):
            if any(isinstance(each, Tproxy) for each in rule.body):
                marks = set(_marks(rule))
                for family in Family:
                    if table.family in NFT_FAMILIES[family]:
                        found[family] |= marks
    return {family: frozenset(marks) for family, marks in found.items()}


def _marks(rule: Rule) -> Iterator[int]:
    """The marks that a rule sets, as far as they are constants."""
    for statement in rule.body:
        if isinstance(statement, Tproxy) and statement.mask:
            yield statement.mark & statement.mask
        elif isinstance(statement, Assign) and statement.field is Field.MARK:
            yield statement.constant


def _rules(table: Table) -> Iterator[Rule]:
    for chain in table.chains.values():
        yield from chain.rules
