"""Problems that show in which store holds what, and in what of it could be read."""

from __future__ import annotations

from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.nft.xtables import is_exact, is_iptables
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, View
from istio_init.inspector.findings.rules import limited
from istio_init.inspector.rows import unprinted
from istio_init.mesh.roles.recognise import MeshKind, kinds
from istio_init.netfilter.family import Family
from istio_init.netfilter.rules import Store
from istio_init.observe.unread import Part, Why

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.observe.snapshot import NftRule, Snapshot
    from istio_init.observe.unread import Unread

FAMILIES = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def both_backends(view: View) -> Iterator[Finding]:
    """Chains of Istio's in more than one store, unless each has another mode's: that is `both_modes`."""
    modes = [each.modes for each in view.holdings]
    are_apart = all(len(each) == 1 for each in modes) and len({each[0].is_sidecar for each in modes}) == len(modes)
    if len(view.holdings) > 1 and not are_apart:
        evidence = tuple(f"{each.store.value}: {', '.join(each.chains)}" for each in view.holdings)
        yield Finding(catalogue.BOTH_BACKENDS, evidence)


def both_modes(view: View) -> Iterator[Finding]:
    """A sidecar's rules beside those of an ambient pod, in whatever stores."""
    sidecar = list(_told("sidecar", MeshKind.SIDECAR, view, [each.sidecar is not None for each in view.holdings]))
    ambient = list(_told("ambient", MeshKind.AMBIENT, view, [each.ambient is not None for each in view.holdings]))
    if sidecar and ambient:
        yield Finding(catalogue.BOTH_MODES, (*sidecar, *ambient))


def _told(mode: str, kind: MeshKind, view: View, whole: list[bool]) -> Iterator[str]:
    """Where rules of a mode are; of one that is not ``whole`` chains are left that the other has not."""
    for each, is_whole in zip(view.holdings, whole, strict=True):
        left = (
            [] if each.store is RuleStore.NATIVE else [name for name in each.rules if kind in kinds(each.rules[name])]
        )
        families = list(each.rules) if is_whole else left
        if families:
            yield f"{mode}: {each.store.value}, {' and '.join(family.value for family in families)}"


def unfaithful_reader(view: View) -> Iterator[Finding]:
    """A reader said that it cannot show a table, or printed a rule that it does not understand."""
    snapshot = view.snapshot
    said = [str(each) for each in snapshot.unread if _is_refused(each, snapshot)]
    odd = [str(place) for place in view.places if "unsupported revision" in (place.entry.text or "")]
    left_out = [f"{rule}; iptables prints: {_printed(view, rule)}" for rule in _not_told(snapshot)]
    asleep = [
        f"inet {table}: nothing tells whether it is dormant" for each in snapshot.raised for table in each.in_doubt
    ]
    if said or odd or left_out or asleep:
        versions = [f"{name}: {version}" for name, version in snapshot.programs.items()]
        yield Finding(catalogue.UNFAITHFUL_READER, (*limited([*said, *odd, *left_out, *asleep]), *versions))


def _is_refused(left: Unread, snapshot: Snapshot) -> bool:
    """Whether a program does not print rules that are there."""
    if left.why is Why.FAILED and left.part is Part.RULES_NFT and left.family is not None:
        return any(table.family == FAMILIES[left.family] and is_iptables(table) for table in unprinted(snapshot))
    return left.why is Why.NOT_EXPRESSIBLE


def _not_told(snapshot: Snapshot) -> Iterator[NftRule]:
    """Rules that iptables did not write, of which the model of all rules leaves something open as well."""
    if not snapshot.nft_rules:
        return
    exact = {
        (rule.origin.family, rule.origin.table, rule.origin.chain, rule.origin.number): is_exact(rule.body)
        for table in snapshot.netfilter.tables
        if table.store is Store.NFT
        for chain in table.chains.values()
        for rule in chain.rules
    }
    for rule in snapshot.nft_rules:
        if not exact.get((FAMILIES[rule.family], rule.table, rule.chain, rule.number)):
            yield rule


def _printed(view: View, rule: NftRule) -> str:
    """What iptables made of a rule of nftables' own."""
    wanted = RuleStore.NFT, rule.family, rule.table, rule.chain, rule.number
    for place in view.places:
        if (place.backend, place.family, place.table.value, place.chain.name, place.number) == wanted:
            return f"-A {rule.chain} {entry_text(place.entry)}"
    return "nothing"
