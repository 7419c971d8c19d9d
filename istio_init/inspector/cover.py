"""Whether one rule takes every packet that another could match."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import (
    Address,
    Comment,
    Ctstate,
    IdRange,
    Interface,
    Mark,
    Match,
    Multiport,
    Owner,
    PortMatch,
    PortRange,
    PortTest,
    Protocol,
)
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.targets import RETURN, Goto, Jump, Redirect, Tproxy, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.iptables.rules import Chain


def ends(rule: Rule, packet: Rule, chains: Mapping[str, Chain]) -> bool:
    """Whether a rule that matches ends the way of the packets through its chain.

    ``packet`` is a rule whose tests all those packets pass.
    """
    match rule.target:
        case Verdict() | Redirect() | Tproxy() | Goto():
            return True
        case Jump(name) if name in chains:
            return _ends_within(chains[name], packet, chains, depth=8)
        case _:
            return False


def _ends_within(chain: Chain, packet: Rule, chains: Mapping[str, Chain], depth: int) -> bool:
    """Whether a called chain gives all the packets a verdict, so that they do not come back."""
    for entry in chain.entries:
        if not covers(entry.rule, packet):
            if entry.rule.target == RETURN or isinstance(entry.rule.target, Goto):
                return False
            continue
        match entry.rule.target:
            case Redirect() | Tproxy():
                return True
            case Verdict(name):
                return name != "RETURN"
            case Jump(name) if name in chains and depth and _ends_within(chains[name], packet, chains, depth - 1):
                return True
            case Goto():
                return False
    return False


def covers(earlier: Rule, later: Rule) -> bool:
    """Whether every packet that ``later`` matches passes all tests of ``earlier``. False where that cannot be told."""
    return (
        covers_address(earlier.source, later.source)
        and covers_address(earlier.destination, later.destination)
        and _interface(earlier.in_interface, later.in_interface)
        and _interface(earlier.out_interface, later.out_interface)
        and _protocol(earlier.protocol, later.protocol)
        and all(_implied(match, later) for match in earlier.matches)
    )


def covers_address(earlier: Address | None, later: Address | None) -> bool:
    """Whether every address that passes ``later`` passes ``earlier``."""
    if earlier is None or earlier == later:
        return True
    if later is None or earlier.network.version != later.network.version:
        return False
    outer, inner = earlier.network, later.network
    if not earlier.negated:
        return not later.negated and _within(inner, outer)
    if later.negated:
        return _within(outer, inner)
    return not outer.overlaps(inner)


def _within(inner: object, outer: object) -> bool:
    return bool(inner.subnet_of(outer))  # type: ignore[attr-defined]


def _interface(earlier: Interface | None, later: Interface | None) -> bool:
    if earlier is None or earlier == later:
        return True
    if later is None or earlier.negated or later.negated or not earlier.name.endswith("+"):
        return False
    return later.name.removesuffix("+").startswith(earlier.name[:-1])


def _protocol(earlier: Protocol | None, later: Protocol | None) -> bool:
    if earlier is None or earlier == later:
        return True
    return earlier.negated and later is not None and not later.negated and later.name != earlier.name


def _implied(match: Match, later: Rule) -> bool:
    if isinstance(match, Comment) or match in later.matches:
        return True
    match match:
        case PortMatch(protocol, None, None):
            return later.protocol == Protocol(protocol)
        case PortMatch():
            return any(_covers_ports(match, each) for each in later.matches if isinstance(each, PortMatch))
        case Multiport("destination", ports, negated):
            others = [each for each in later.matches if isinstance(each, PortMatch)]
            return any(_in_set(ports, negated, each.destination) for each in others)
        case Ctstate(states, False):
            known = [set(each.states) for each in later.matches if isinstance(each, Ctstate) and not each.negated]
            return any(each <= set(states) for each in known)
        case Owner():
            return any(_owner(match, each) for each in later.matches if isinstance(each, Owner))
        case Mark(value, mask, negated):
            exact = [each for each in later.matches if isinstance(each, Mark) and not each.negated]
            return any(mask & ~each.mask == 0 and (each.value & mask == value) is not negated for each in exact)
    return False


def _covers_ports(earlier: PortMatch, later: PortMatch) -> bool:
    return covers_port(earlier.source, later.source) and covers_port(earlier.destination, later.destination)


def covers_port(earlier: PortTest | None, later: PortTest | None) -> bool:
    """Whether every port that passes ``later`` passes ``earlier``."""
    if earlier is None or earlier == later:
        return True
    if later is None:
        return False
    if not earlier.negated:
        return not later.negated and _inside(later.ports, earlier.ports)
    return _inside(earlier.ports, later.ports) if later.negated else not _overlap(earlier.ports, later.ports)


def _in_set(ports: tuple[PortRange, ...], negated: bool, later: PortTest | None) -> bool:
    if later is None or later.negated:
        return False
    if negated:
        return not any(_overlap(each, later.ports) for each in ports)
    return any(_inside(later.ports, each) for each in ports)


def _inside(inner: PortRange, outer: PortRange) -> bool:
    return outer.first <= inner.first and inner.last <= outer.last


def _overlap(one: PortRange, other: PortRange) -> bool:
    return one.first <= other.last and other.first <= one.last


def _owner(earlier: Owner, later: Owner) -> bool:
    """Owner tests hold only for packets with a socket, which any owner test of the later rule ensures."""
    return _ids(earlier.uid, earlier.uid_negated, later.uid, later.uid_negated) and _ids(
        earlier.gid, earlier.gid_negated, later.gid, later.gid_negated
    )


def _ids(earlier: IdRange | None, earlier_negated: bool, later: IdRange | None, later_negated: bool) -> bool:
    if earlier is None or (earlier, earlier_negated) == (later, later_negated):
        return True
    if later is None:
        return False
    inside = earlier.first <= later.first and later.last <= earlier.last
    apart = later.last < earlier.first or earlier.last < later.first
    if not earlier_negated:
        return not later_negated and inside
    return not later_negated and apart
