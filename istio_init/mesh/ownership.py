"""Who holds a namespace: a sidecar, an ambient pod, another mesh; and whether a run may program it all the same.

Each kind of pod has rules of its own, and so has every mesh. What one run writes is no use beside another's: of two
that redirect the same connections one comes first, and the other never sees them.
"""

from __future__ import annotations

from istio_init.dialects.iptables.rules import RuleSet
from istio_init.errors import NamespaceError
from istio_init.mesh.neighbours import MESHES, maker, prefixes_of
from istio_init.mesh.roles.recognise import BOTH_KINDS, MeshKind, is_istio_chain, kinds
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from istio_init.mesh.neighbours import Neighbour

_NATIVE = {"istio-proxy-": MeshKind.SIDECAR, "istio-ambient-": MeshKind.AMBIENT}
"""How the names of Istio's own tables of nftables begin."""

_SHOWN = 4
"""So many places are evidence enough."""

_ADVICE = {
    MeshKind.SIDECAR: "take the sidecar out of the pod (label sidecar.istio.io/inject=false) and restart it",
    MeshKind.AMBIENT: "take the pod out of the ambient mesh (label istio.io/dataplane-mode=none)",
}


class Holder(Value):
    """A mesh, or a kind of pod, whose rules a namespace holds. ``places`` is where they stand, in words."""

    who: MeshKind | Neighbour
    places: tuple[str, ...]
    is_native: bool = False
    """Whether some stand in a table of nftables' own."""

    @property
    def name(self) -> str:
        """How ``--replace-other`` calls them."""
        return name_of(self.who)

    @property
    def finding(self) -> str:
        """What was found, in words."""
        more = f" and {len(self.places) - _SHOWN} more" if len(self.places) > _SHOWN else ""
        who = self.who
        whose = f"rules of {'an ambient pod' if who is MeshKind.AMBIENT else 'a sidecar'}"
        does = ""
        if not isinstance(who, MeshKind):
            whose, does = f"rules of {who.name}", f". {who.does}"
        return f"{whose} are here: {', '.join(self.places[:_SHOWN])}{more}{does}"


class Permit(Value):
    """What a run may take away: what is of these kinds of pods, and other chains whose names begin so.

    ``beside`` are other meshes that stay.
    """

    owned: frozenset[MeshKind]
    also: tuple[str, ...] = ()
    beside: tuple[Holder, ...] = ()


def name_of(who: MeshKind | Neighbour) -> str:
    """How ``--replace-other`` calls a kind of pod, or a mesh: a word of lower-case letters and hyphens."""
    return who.value if isinstance(who, MeshKind) else who.name.lower().replace(" ", "-")


NAMES = tuple(map(name_of, (*MeshKind, *MESHES)))
"""All that can be replaced by name."""


def holders(
    rule_sets: Iterable[tuple[str, RuleSet]], istios: Iterable[str] = (), tables: Iterable[str] = ()
) -> tuple[Holder, ...]:
    """Who holds a namespace, by the rules of each store, named, by Istio's own tables of nftables and by other ones.

    Istio's are those that have its names and are of its family: only these are ever read, replaced or removed.
    """
    places: dict[MeshKind | Neighbour, list[str]] = {}
    for store, rules in rule_sets:
        for who, place in _of_iptables(rules):
            places.setdefault(who, []).append(f"{place} ({store}, {rules.family.value})")
    native: set[MeshKind | Neighbour] = set()
    told = [(name, kind) for name in istios for prefix, kind in _NATIVE.items() if name.startswith(prefix)]
    for name, found in (*told, *[(name, _mesh(name, "")) for name in tables]):
        if found is not None:
            places.setdefault(found, []).append(f"{name} (nftables)")
            native.add(found)
    return tuple(Holder(who, tuple(dict.fromkeys(where)), who in native) for who, where in places.items())


def _of_iptables(rules: RuleSet) -> Iterator[tuple[MeshKind | Neighbour, str]]:
    found = kinds(rules)
    for table, chain in rules.chains():
        if is_istio_chain(chain.name):
            alone = next(iter(found)) if len(found) == 1 else None
            for kind in [alone] if alone else kinds(RuleSet(rules.family, {table: rules.tables[table]})):
                yield kind, table.value
        elif (mesh := _mesh(table.value, chain.name)) is not None:
            yield mesh, f"{table.value} {chain.name}"


def _mesh(table: str, chain: str) -> Neighbour | None:
    found = maker(table, chain)
    return found if found is not None and found.is_mesh else None


def permit(
    found: Collection[Holder],
    kind: MeshKind | None,
    replace: Collection[str] = (),
    *,
    beside_meshes: bool = False,
) -> Permit:
    """What a run of one kind may take away in a namespace that these hold; None: of whichever kind is there alone.

    ``replace`` names those whose rules are to go besides. ``beside_meshes`` goes on beside another mesh.

    Raises:
        NamespaceError: another mesh, or the other kind of pod, holds the namespace and is not to be replaced.
    """
    if kind is None:
        kind = _the_one(found, replace)
    others = [each for each in found if each.who is not kind]
    beside = [each for each in others if beside_meshes and not isinstance(each.who, MeshKind)]
    refused = [each for each in others if each.name not in replace and each not in beside]
    if refused:
        raise NamespaceError("; ".join(each.finding for each in refused), fix=_fix(refused))
    replaced = [each for each in others if each.name in replace]
    tables = [
        place for each in replaced if each.is_native and not isinstance(each.who, MeshKind) for place in each.places
    ]
    if tables:
        raise NamespaceError(
            f"only chains of iptables can be replaced, and these are not: {', '.join(tables)}",
            fix="remove them as their maker says",
        )
    kinds_owned = (
        BOTH_KINDS if kind is None else frozenset([kind, *(e.who for e in replaced if isinstance(e.who, MeshKind))])
    )
    also = tuple(prefix for each in replaced if not isinstance(each.who, MeshKind) for prefix in prefixes_of(each.who))
    return Permit(kinds_owned, also, tuple(beside))


def _the_one(found: Collection[Holder], replace: Collection[str]) -> MeshKind | None:
    """The kind that is there. Of both, the one that is not named; None where neither is there."""
    here = [each.who for each in found if isinstance(each.who, MeshKind)]
    if len(here) < 2:
        return here[0] if here else None
    return next((kind for kind in here if name_of(kind) not in replace), here[0])


def _fix(refused: list[Holder]) -> str:
    ways = [
        _ADVICE[each.who] if isinstance(each.who, MeshKind) else f"take the pod out of {each.who.name}"
        for each in refused
    ]
    names = " ".join(f"--replace-other {each.name}" for each in refused)
    return (
        "of two redirections in one pod, one takes connections that the other was to see; "
        f"{', and '.join(ways)}; or have istio-init apply or clean remove the rules, too, with {names}"
    )
