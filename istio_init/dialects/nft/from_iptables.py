"""A rule of iptables as expressions of nft, in the JSON that nft prints (libnftables-json(5)).

The rule is to stand in a table of family ``inet``, and to count. Negated tests of a packet's sender are not written:
nft's match no packet without a socket, iptables' match all of them.
"""

from __future__ import annotations

from istio_init.dialects.iptables.matches import (
    CTSTATES,
    Address,
    Connmark,
    Ctstate,
    Interface,
    Mark,
    Multiport,
    Owner,
    PortMatch,
    PortRange,
)
from istio_init.dialects.iptables.targets import (
    CtZone,
    Jump,
    Redirect,
    RestoreMark,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
    Verdict,
)
from istio_init.netfilter.family import MAX_MARK, Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.dialects.iptables.matches import IPNetwork, Match
    from istio_init.dialects.iptables.rules import Rule
    from istio_init.dialects.iptables.targets import Target
    from istio_init.dialects.nft.ruleset import Expression, Json

COUNTER: Expression = {"counter": {"packets": 0, "bytes": 0}}
NAMES = {Family.IPV4: "ip", Family.IPV6: "ip6"}
OF_FAMILY = {Family.IPV4: "ipv4", Family.IPV6: "ipv6"}
STATES = tuple(sorted(CTSTATES[:5], key=("ESTABLISHED", "RELATED", "INVALID", "NEW", "UNTRACKED").index))
"""In the order in which nft prints them."""


class CannotRenderError(ValueError):
    """The rule tests or does what has no form here."""


def meta(key: str) -> Expression:
    """What is known of the packet besides its bytes."""
    return {"meta": {"key": key}}


def of_connection(key: str) -> Expression:
    """What is known of the packet's connection."""
    return {"ct": {"key": key}}


def header(protocol: str, field: str) -> Expression:
    """A field of a header."""
    return {"payload": {"protocol": protocol, "field": field}}


def compared(left: Expression, right: Json, *, negated: bool = False) -> Expression:
    """A comparison; ``right`` may be ``@name`` of a set."""
    return {"match": {"op": "!=" if negated else "==", "left": left, "right": right}}


def of_family(family: Family) -> Expression:
    """The packet is of the family."""
    return compared(meta("nfproto"), OF_FAMILY[family])


def network(value: IPNetwork) -> Json:
    """An address, or a network."""
    if value.prefixlen == value.max_prefixlen:
        return str(value.network_address)
    return {"prefix": {"addr": str(value.network_address), "len": value.prefixlen}}


def bounds(first: int, last: int) -> Json:
    """A number, or a range of them."""
    return first if first == last else {"range": [first, last]}


def name_of(interface: str) -> str:
    """``eth+`` of iptables is ``eth*``; a star that belongs to the name is told apart."""
    if interface.endswith("+"):
        return f"{interface[:-1]}*"
    return f"{interface[:-1]}\\*" if interface.endswith("*") else interface


def expressions(rule: Rule, family: Family, tests: tuple[Expression, ...] = ()) -> tuple[Expression, ...]:
    """The expressions of a rule, with more tests that it has none of itself. The family is that of its addresses.

    Raises:
        CannotRenderError: something of it has no form here.
    """
    found = [*_interfaces(rule), *_addresses(rule, family), *tests]
    has_ports = any(isinstance(each, PortMatch | Multiport) for each in rule.matches) or any(map(_is_port, tests))
    if rule.protocol is not None and (rule.protocol.negated or not has_ports):
        found.append(compared(meta("l4proto"), rule.protocol.name, negated=rule.protocol.negated))
    for each in rule.matches:
        found += _match(each, rule)
    return (*found, COUNTER, *([] if rule.target is None else statements(rule.target, family)))


def _is_port(test: Expression) -> bool:
    return test["match"]["left"].get("payload", {}).get("field") in ("sport", "dport")


def _interfaces(rule: Rule) -> Iterator[Expression]:
    for key, interface in (("iifname", rule.in_interface), ("oifname", rule.out_interface)):
        match interface:
            case Interface(name, negated):
                yield compared(meta(key), name_of(name), negated=negated)


def _addresses(rule: Rule, family: Family) -> Iterator[Expression]:
    for field, address in (("saddr", rule.source), ("daddr", rule.destination)):
        match address:
            case Address(value, negated):
                yield compared(header(NAMES[family], field), network(value), negated=negated)


def _match(test: Match, rule: Rule) -> Iterator[Expression]:
    match test:
        case PortMatch(protocol, source, destination):
            for field, ports in (("sport", source), ("dport", destination)):
                if ports is not None:
                    right = bounds(ports.ports.first, ports.ports.last)
                    yield compared(header(protocol, field), right, negated=ports.negated)
            if source is None and destination is None:
                yield compared(meta("l4proto"), protocol)
        case Multiport("source" | "destination" as side, ports, negated) if rule.protocol is not None:
            right = {"set": [bounds(each.first, each.last) for each in sorted(ports, key=_first)]}
            yield compared(header(rule.protocol.name, f"{side[0]}port"), right, negated=negated)
        case Ctstate(states, negated) if set(states) <= set(STATES):
            right = [state.lower() for state in STATES if state in states]
            shown: Json = right if len(right) > 1 else right[0]
            yield {"match": {"op": "!=" if negated else "in", "left": of_connection("state"), "right": shown}}
        case Mark(value, mask, negated):
            yield compared(_masked(meta("mark"), mask), value, negated=negated)
        case Connmark(value, mask, negated):
            yield compared(_masked(of_connection("mark"), mask), value, negated=negated)
        case Owner(uid, False, gid, False):
            for key, ids in (("skuid", uid), ("skgid", gid)):
                if ids is not None:
                    yield compared(meta(key), bounds(ids.first, ids.last))
        case _:
            raise CannotRenderError(test)


def _first(ports: PortRange) -> int:
    return ports.first


def _masked(left: Expression, mask: int) -> Expression:
    return left if mask == MAX_MARK else {"&": [left, mask]}


def statements(target: Target, family: Family) -> tuple[Expression, ...]:
    """What the target does.

    TPROXY accepts what it handed over. What it finds no socket for it drops, which takes a rule of its own.

    Raises:
        CannotRenderError: it has no form here.
    """
    match target:
        case Verdict("ACCEPT" | "DROP" | "RETURN" as name):
            return ({name.lower(): None},)
        case Jump(chain):
            return ({"jump": {"target": chain}},)
        case Redirect(PortRange(first, last)):
            return ({"redirect": {"port": bounds(first, last)}},)
        case Tproxy(port, address, mark, mask) if address.is_unspecified:
            handed = {"tproxy": {"family": NAMES[family], "port": port}}
            return (handed, _given(meta("mark"), mark, mask), {"accept": None})
        case SetMark(value, mask):
            return (_given(meta("mark"), value, mask),)
        case SetConnmark(value, mask):
            return (_given(of_connection("mark"), value, mask),)
        case SaveMark(nfmask, ctmask) if nfmask == ctmask == MAX_MARK:
            return (_put(of_connection("mark"), meta("mark")),)
        case RestoreMark(nfmask, ctmask) if nfmask == ctmask == MAX_MARK:
            return (_put(meta("mark"), of_connection("mark")),)
        case CtZone(zone):
            return (_put(of_connection("zone"), zone),)
        case _:
            raise CannotRenderError(target)


def _put(key: Expression, value: Json) -> Expression:
    return {"mangle": {"key": key, "value": value}}


def _given(key: Expression, value: int, mask: int) -> Expression:
    """``--set-xmark``: of what the mask names, the value; the rest stays (its bits beyond the mask are flipped)."""
    if mask == MAX_MARK:
        return _put(key, value)
    if value & ~mask:
        return _put(key, {"^": [{"&": [key, MAX_MARK ^ mask]}, value]})
    # What nft would read back: bits that are set anyway need not be cleared before.
    return _put(key, {"|": [{"&": [key, MAX_MARK ^ mask ^ value]}, value]})
