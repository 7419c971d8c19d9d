"""Reads the rules of the current network namespace, each store's once, and makes one model of them."""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import SaveError, parse_save
from istio_init.dialects.nft.ruleset import Ruleset, RulesetError, parse
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import IstioInitError, NoBackendError, PrivilegeError, ToolError
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.netfilter.stages import Netfilter
from istio_init.observe.native import is_told
from istio_init.observe.netfilter import Known, Reading, has_ties, names_sets, not_printed
from istio_init.observe.unread import RULES_OF, Part, Unread, unread
from istio_init.stores.detect import backends
from istio_init.stores.nft import SAVE as NFT_SAVE
from istio_init.system import extensions, hooks, ipsets, links, nft_kernel, nft_state, process, ruleset, taps
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.ruleset import Table
    from istio_init.system.nft_state import State

MOST_KEPT = 32
"""Different states of rules that are kept."""

READING = 60.0
"""Seconds for a program that prints rules."""


class Rules(Value):
    """All rules: as they were read, and the model that holds whatever is registered."""

    reading: Reading
    partial: frozenset[Family]
    """The families of which not all rules could be read."""

    ruleset: Ruleset | None
    netfilter: Netfilter
    unread: tuple[Unread, ...]


class Kept:
    """Rules as they were read, for namespaces with the same: most pods of a node have them.

    Counts of packets are those of the first such namespace, but for whether there were any.
    """

    def __init__(self) -> None:
        self._by_state: dict[State, Rules] = {}

    def read(self) -> Rules:
        """The rules of the current namespace, as `read_rules` gives them."""
        before = _state()
        if before is not None and before[1] in self._by_state:
            return self._by_state[before[1]]
        found = read_rules()
        is_plain = not found.unread and found.reading.order is None
        # Whoever changes rules and changes them back meanwhile must not have others take them for theirs.
        if before is not None and is_plain and _state() == before and len(self._by_state) < MOST_KEPT:
            self._by_state[before[1]] = found
        return found


def _state() -> tuple[int, State] | None:
    """What there is, and the number of its last change; None where it is not to be kept, or was changed meanwhile."""
    try:
        number = nft_state.generation()
        state = None if taps.taps() else nft_state.state()
        return (number, state) if state is not None and nft_state.generation() == number else None
    except OSError:
        return None  # What cannot be read is said by whoever reads it.


def read_rules() -> Rules:
    """The rules of the current namespace. Nothing is raised: what cannot be read is said."""
    left: list[Unread] = []
    iptables, partial = _of_iptables(left)
    tables = _of_nft(left)
    told = {each for each in left if is_told(each, iptables, tables)}
    left = [each for each in left if each not in told]
    partial -= {each.family for each in told} - {each.family for each in left}
    beside = extensions.read(hidden) if (hidden := not_printed(iptables, tables)) else {}
    asks_sets = names_sets(iptables) or any(names_sets({(RuleStore.NFT, key): each}) for key, each in beside.items())
    known = _known(left, asks_sets=asks_sets, has_tables=bool(tables.tables)).replace(extensions=beside)
    try:
        at_interfaces = taps.taps()
    except OSError as error:
        left.append(unread(Part.INTERFACES, error))
        at_interfaces = taps.NONE
    reading = Reading(iptables, known, ingress=at_interfaces.ingress, egress=at_interfaces.egress)
    netfilter = reading.model(tables)
    if has_ties(netfilter):
        try:
            reading = reading.replace(order=hooks.order())
            netfilter = netfilter.in_order(reading.order or {})
        except OSError as error:
            left.append(unread(Part.ORDER, error))
    return Rules(reading, partial, tables, netfilter, tuple(left))


def _of_nft(left: list[Unread]) -> Ruleset:
    """What nft prints of all tables; nothing where it cannot."""
    found = ruleset.read()
    if isinstance(found, NoBackendError | PrivilegeError):
        left.append(unread(Part.NATIVE, found))
        return Ruleset(())
    try:
        tables = parse(found) if isinstance(found, str) else _of_nft_apart(left)
    except RulesetError:
        tables = _of_nft_apart(left)
    if any(table.sets or table.chains for table in tables.tables):
        _tell_garbled(left)
    return tables


def _tell_garbled(left: list[Unread]) -> None:
    """Say of which sets nft does not print every element."""
    try:
        if garbled := nft_kernel.garbled_sets():
            family, table, name = garbled[0]
            count = "the set" if len(garbled) == 1 else f"{len(garbled)} sets, such as"
            place = f"{count} {name} of table {family} {table}"
            what = f"nft does not print all of {place}: an element has bytes that mean nothing"
            left.append(Unread(Part.NATIVE, what))
    except OSError as error:
        left.append(unread(Part.NATIVE, error))


def _of_nft_apart(left: list[Unread]) -> Ruleset:
    """The same, table by table: the fault may be in one alone, and matters only where the kernel calls that."""
    tables: list[Table] = []
    for table, text in ruleset.listed_apart():
        try:
            if isinstance(text, str):
                tables += parse(text).tables
                continue
            error = text
        except RulesetError as refused:
            error = ToolError(f"nft printed what is not understood of table {table.name}: {refused}")
        if not table.is_dormant:
            left.append(unread(Part.NATIVE, error))
    return Ruleset(tuple(tables))


def _known(left: list[Unread], *, asks_sets: bool, has_tables: bool) -> Known:
    """What decides about rules besides them, as far as it is asked about."""
    sets = ipsets.read() if asks_sets else None
    if isinstance(sets, IstioInitError):
        left.append(unread(Part.SETS, sets))
        sets = None
    if not has_tables:
        return Known(sets)
    try:
        names = {each.index: each for each in links.links()[0]}
        return Known(sets, names, ruleset.dormant(), nft_kernel.devices(), told=nft_kernel.told())
    except (IstioInitError, OSError) as error:
        left.append(unread(Part.NATIVE, error))
        return Known(sets)


def _of_iptables(left: list[Unread]) -> tuple[dict[tuple[RuleStore, Family], RuleSet], frozenset[Family]]:
    """The rules of iptables in both stores, and the families of which not all could be read."""
    found: dict[tuple[RuleStore, Family], RuleSet] = {}
    partial: set[Family] = set()
    for backend in backends(wait=1.0, whole=True):
        try:
            families = backend.families()
        except (IstioInitError, OSError) as error:
            left.append(unread(RULES_OF[backend.name], error))
            partial.update(Family)
            continue
        for family in families:
            try:
                rules = backend.read(family, counters=True)
            except (IstioInitError, OSError, SaveError) as error:
                left.append(unread(RULES_OF[backend.name], error, family))
                partial.add(family)
                rules = _what_can_be_read(backend.name, family)
            found[backend.name, family] = recognise(rules)
    return found, frozenset(partial)


def _what_can_be_read(backend: RuleStore, family: Family) -> RuleSet:
    """The tables that iptables-nft prints beside one that it cannot print."""
    if backend is RuleStore.NFT:
        try:
            completed = process.run([NFT_SAVE[family], "-c"], timeout=READING)
            return parse_save(process.bounded(completed), family).rules
        except (IstioInitError, SaveError):
            pass
    return RuleSet(family)
