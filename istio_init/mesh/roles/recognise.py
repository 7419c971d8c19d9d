"""Which live rules are ours, and why each exists.

A rule in a chain of Istio's, and a jump to one, are ours. A rule in a built-in chain is ours when its shape is in the
catalogue and its table, in its family, holds a chain of Istio's.
"""

from __future__ import annotations

from enum import Enum

from istio_init.dialects.iptables.matches import Comment, Owner, PortMatch, PortRange
from istio_init.dialects.iptables.rules import Chain, Entry, Rule, RuleSet, is_builtin
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import RETURN, CtZone, Redirect
from istio_init.dialects.role import Role
from istio_init.mesh.roles.shapes import AMBIENT_CHAIN, AMBIENT_SHAPES, SHAPES, shape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.matches import IdRange

PREFIX = "ISTIO_"
SIDECAR_CHAIN = "ISTIO_INBOUND"
SHARED_CHAIN = "ISTIO_OUTPUT"
"""A chain of both kinds of pods."""

_DNS_PORTS = (53, 15053)
_OLDER_ROLES = (Role.OLDER_DROP_INVALID, Role.OLDER_DNS_ZONE)


class MeshKind(Enum):
    """Whose redirection it is: a sidecar's, or an ambient pod's. Each is owned apart from the other."""

    SIDECAR = "sidecar"
    AMBIENT = "ambient"


BOTH_KINDS = frozenset(MeshKind)


def is_istio_chain(name: str, also: tuple[str, ...] = ()) -> bool:
    """Whether the chain is Istio's, by its name; ``also`` are the beginnings of others' names that count as ours."""
    return name.startswith(PREFIX) or name.startswith(also)


def is_ours(chain: str, entry: Entry, also: tuple[str, ...] = ()) -> bool:
    """Whether a rule of a recognised rule set is ours."""
    return is_istio_chain(chain, also) or entry.role is not None or is_istio_chain(entry.rule.called_chain or "", also)


def kinds(rules: RuleSet) -> set[MeshKind]:
    """The kinds of pods whose chains a rule set holds, told table by table."""
    ambient = any(AMBIENT_CHAIN in chains for chains in rules.tables.values())
    found: set[MeshKind] = set()
    for table, chains in rules.tables.items():
        names = {name for name in chains if is_istio_chain(name)}
        if AMBIENT_CHAIN in names:
            found.add(MeshKind.AMBIENT)
        if names - {AMBIENT_CHAIN, SHARED_CHAIN}:
            found.add(MeshKind.SIDECAR)
        elif names == {SHARED_CHAIN}:
            found.add(_kind_of_shared(table, chains[SHARED_CHAIN]) if ambient else MeshKind.SIDECAR)
    return found


def _kind_of_shared(table: Table, chain: Chain) -> MeshKind:
    """Beside an ambient pod's tables: whose the chain ISTIO_OUTPUT is, in a table without another chain of Istio's."""
    shapes = AMBIENT_SHAPES.get((table, chain.name), {})
    is_ambient = not chain.entries or any(shape(rule) in shapes for rule in chain.rules)
    return MeshKind.AMBIENT if is_ambient else MeshKind.SIDECAR


def recognise(rules: RuleSet) -> RuleSet:
    """The rule set with the role of each rule that is ours; None for what is foreign or not in the catalogue."""
    tables = {}
    ambient = any(AMBIENT_CHAIN in chains for chains in rules.tables.values())
    for table, chains in rules.tables.items():
        if not any(map(is_istio_chain, chains)):
            tables[table] = dict(chains)
            continue
        if AMBIENT_CHAIN in chains or (ambient and SIDECAR_CHAIN not in chains):
            tables[table] = {
                name: _by_shape(chain, AMBIENT_SHAPES.get((table, name))) for name, chain in chains.items()
            }
            continue
        excluded = _excluded_interfaces(chains.get("OUTPUT"))
        tables[table] = {name: _recognise_chain(table, chain, excluded) for name, chain in chains.items()}
    return RuleSet(rules.family, tables)


def resembles(table: Table, chain: str, rule: Rule) -> Role | None:
    """What an older release's rule would be for, in a built-in chain of a table that holds no chain of Istio's.

    Nothing tells there whose it is, so it counts as foreign.
    """
    shapes = SHAPES.get((table, chain))
    if shapes is None or not is_builtin(table, chain):
        return None
    role = shapes.get(shape(rule))
    return role if role in _OLDER_ROLES and _may_be_ours(role, rule) else None


def _recognise_chain(table: Table, chain: Chain, excluded: list[str]) -> Chain:
    shapes = SHAPES.get((table, chain.name))
    if shapes is None:
        return chain
    entries = []
    for entry in chain.entries:
        role = shapes.get(shape(entry.rule))
        if is_builtin(table, chain.name) and not _may_be_ours(role, entry.rule):
            role = None
        entries.append(entry.replace(role=role))
    if (table, chain.name) == (Table.NAT, "ISTIO_OUTPUT"):
        entries = _tell_owners_apart(entries)
        entries = _first_differs(entries, Role.OUTBOUND_EXCLUDED_RANGE, Role.OUTBOUND_LOOPBACK)
        entries = _tell_final_return(entries)
    elif (table, chain.name) == (Table.NAT, "ISTIO_INBOUND"):
        entries = _first_differs(entries, Role.INBOUND_EXCLUDED_PORT, Role.INBOUND_TUNNEL_PORT)
    elif (table, chain.name) == (Table.NAT, "PREROUTING"):
        entries = _tell_interfaces_apart(entries, excluded)
    return chain.replace(entries=tuple(entries))


def _by_shape(chain: Chain, shapes: dict[str, Role] | None) -> Chain:
    if shapes is None:
        return chain
    return chain.replace(entries=tuple([entry.replace(role=shapes.get(shape(entry.rule))) for entry in chain.entries]))


def _tell_final_return(entries: list[Entry]) -> list[Entry]:
    """A bare RETURN after what is included excludes nothing: some releases ended the chain so."""
    including = (Role.OUTBOUND_INCLUDED_RANGE, Role.OUTBOUND_INCLUDED_PORT)
    if len(entries) < 2 or entries[-1].rule != Rule(target=RETURN) or entries[-2].role not in including:
        return entries
    return [*entries[:-1], entries[-1].replace(role=Role.OLDER_FINAL_RETURN)]


def _may_be_ours(role: Role | None, rule: Rule) -> bool:
    """Whether a rule in a built-in chain is such as Istio's are: without a comment; DNS rules name DNS's ports."""
    if any(isinstance(match, Comment) for match in rule.matches) and rule.called_chain is None:
        return False
    if role not in (Role.OLDER_DNS_PROXY_BYPASS, Role.OLDER_DNS_REDIRECT, Role.OLDER_DNS_ZONE):
        return True
    tests = [match.source or match.destination for match in rule.matches if isinstance(match, PortMatch)]
    if not all(test is not None and test.ports.first == test.ports.last in _DNS_PORTS for test in tests):
        return False
    return rule.target in (RETURN, Redirect(PortRange(15053, 15053)), CtZone(1), CtZone(2))


def _excluded_interfaces(output: Chain | None) -> list[str]:
    """Names of the ``-o IF RETURN`` rules of OUTPUT: excluded interfaces have one, virtual interfaces have none."""
    if output is None:
        return []
    rules = [rule for rule in output.rules if shape(rule) == "-o RETURN"]
    return [rule.out_interface.name for rule in rules if rule.out_interface is not None]


def _tell_interfaces_apart(entries: list[Entry], excluded: list[str]) -> list[Entry]:
    """``-i IF RETURN``: the lowest one of each excluded interface is the exclusion, others are of virtual ones."""
    left = list(excluded)
    told = list(entries)
    for index in reversed(range(len(entries))):
        entry = entries[index]
        if entry.role is Role.EXCLUDED_INTERFACE_IN and entry.rule.in_interface is not None:
            if entry.rule.in_interface.name in left:
                left.remove(entry.rule.in_interface.name)
            else:
                told[index] = entry.replace(role=Role.VIRTUAL_INTERFACE_RETURN)
    return told


def _first_differs(entries: list[Entry], usual: Role, first: Role) -> list[Entry]:
    """The first rule of a role has another one: its shape is the same, but it always comes first."""
    for index, entry in enumerate(entries):
        if entry.role is usual and (entry.rule.destination is not None or entry.rule.matches):
            return [*entries[:index], entry.replace(role=first), *entries[index + 1 :]]
    return entries


def _tell_owners_apart(entries: list[Entry]) -> list[Entry]:
    """``--gid-owner G RETURN`` is the proxy's own when a rule for the proxy's traffic to itself named G before."""
    open_groups: list[IdRange] = []
    told = []
    for entry in entries:
        owner = next((match for match in entry.rule.matches if isinstance(match, Owner)), None)
        if owner is not None and owner.gid is not None:
            if entry.role is Role.PROXY_TO_SELF:
                open_groups.append(owner.gid)
            elif entry.role is Role.OWNER_GROUP_EXCLUDED and owner.gid in open_groups:
                open_groups.remove(owner.gid)
                entry = entry.replace(role=Role.PROXY_BYPASS)
        told.append(entry)
    return told


def keep_foreign(rules: RuleSet, before: RuleSet) -> RuleSet:
    """The recognised rule set, where what was foreign in an earlier state of built-in chains is foreign still."""
    tables = {}
    for table, chains in rules.tables.items():
        kept = dict(chains)
        for name, chain in chains.items():
            earlier = before.chain(table, name)
            if earlier is None or not is_builtin(table, name):
                continue
            foreign = [entry.rule for entry in earlier.entries if not is_ours(name, entry)]
            entries = []
            for entry in chain.entries:
                if entry.role is not None and entry.rule in foreign:
                    foreign.remove(entry.rule)
                    entry = entry.replace(role=None)
                entries.append(entry)
            kept[name] = chain.replace(entries=tuple(entries))
        tables[table] = kept
    return RuleSet(rules.family, tables)
