"""One rule of native nftables as iptables would write it: its expressions, in nft's JSON, as matches and a target.

Only what Istio's native rules consist of is read. Whatever else a rule holds stays in it as an opaque match or target,
so that it is never taken for less than it says (libnftables-json(5) has the expressions).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from json import dumps

from istio_init.dialects.iptables.matches import (
    Address,
    Connmark,
    Ctstate,
    IdRange,
    Interface,
    Mark,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
    PortRange,
    PortTest,
    Protocol,
)
from istio_init.dialects.iptables.rules import Counters, Rule
from istio_init.dialects.iptables.targets import (
    ACCEPT,
    DROP,
    RETURN,
    CtZone,
    Goto,
    Jump,
    OpaqueTarget,
    Redirect,
    RestoreMark,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
)
from istio_init.mesh.nft_values import Unread, bounds, interface, key_of, network_text, number, states, text
from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.netfilter.protocols import protocol_name
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from istio_init.dialects.iptables.matches import Match
    from istio_init.dialects.iptables.targets import Target

ANY_ADDRESS: dict[Family, IPv4Address | IPv6Address] = {
    Family.IPV4: IPv4Address("0.0.0.0"),
    Family.IPV6: IPv6Address("::"),
}
_NAMED = {"ip": Family.IPV4, "ipv4": Family.IPV4, "ip6": Family.IPV6, "ipv6": Family.IPV6}
_MARKS: dict[tuple[str, str], type[Mark] | type[Connmark]] = {("meta", "mark"): Mark, ("ct", "mark"): Connmark}
_ORDER = (PortMatch, Multiport, Ctstate, Mark, Connmark, Owner, OpaqueMatch)
_BAD = (Unread, KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration)
"""What an expression of another form than nft prints leads to."""

_ENDS: dict[str, Target] = {"accept": ACCEPT, "drop": DROP, "return": RETURN}


class Lifted(Value):
    """A rule as iptables would write it, with the families whose packets it can match."""

    rule: Rule
    families: tuple[Family, ...]
    counters: Counters | None = None
    is_whole: bool = True
    """Whether all of it could be read."""


def lift(expressions: Sequence[Mapping[str, Any]], families: Sequence[Family] = tuple(Family)) -> Lifted:
    """What iptables would write for a rule of a table of these families."""
    lifting = _Lifting(families)
    effects: list[Mapping[str, Any]] = []
    counters = None
    for each in expressions:
        kind, content = next(iter(each.items()))
        if kind == "match":
            lifting.match(content)
        elif kind == "counter":
            seen = content if isinstance(content, dict) else {}
            counters = Counters(seen.get("packets", 0), seen.get("bytes", 0))
        elif kind != "comment":
            effects.append(each)
    target = _target(effects, lifting)
    is_whole = not lifting.opaque and not isinstance(target, OpaqueTarget)
    return Lifted(lifting.rule(target), tuple(lifting.families), counters, is_whole)


def in_order(rule: Rule) -> Rule:
    """The rule with its matches, and a list of ports, in one order; neither order means anything."""
    matches = [
        match.replace(ports=tuple(sorted(set(match.ports), key=_port_order))) if isinstance(match, Multiport) else match
        for match in rule.matches
    ]
    return rule.replace(matches=tuple(sorted(matches, key=_rank)))


def _port_order(ports: PortRange) -> tuple[int, int]:
    return ports.first, ports.last


def _rank(match: Match) -> int:
    return _ORDER.index(type(match)) if type(match) in _ORDER else len(_ORDER)


class _Lifting:
    """The tests of a rule, collected."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.families = list(families)
        self.headers: dict[str, Any] = {}
        self.ports: dict[str, PortTest | None] = {}
        self.matches: list[Match] = []
        self.opaque: list[OpaqueMatch] = []

    def rule(self, target: Target | None) -> Rule:
        matches = [*self.matches, *self.opaque]
        if self.ports:
            protocol = self.headers["protocol"].name
            matches.append(PortMatch(protocol, self.ports.get("sport"), self.ports.get("dport")))
        return in_order(Rule(**self.headers, matches=tuple(matches), target=target))

    def match(self, content: Mapping[str, Any]) -> None:
        try:
            operator = content["op"]
            if operator not in ("==", "!=", "in"):
                raise Unread
            self._test(content["left"], content["right"], negated=operator == "!=", operator=operator)
        except _BAD:
            self.opaque.append(OpaqueMatch(None, (dumps(content),)))

    def of(self, family: Family) -> None:
        """The rule matches packets of this family alone."""
        self.families = [each for each in self.families if each is family]

    def _test(self, left: Any, right: Any, *, negated: bool, operator: str) -> None:
        kind, content = next(iter(left.items()))
        if kind == "payload":
            self._payload(content["protocol"], content["field"], right, negated=negated)
        elif kind == "&" and (mark := _MARKS.get(key_of(content[0]))):
            self.matches.append(mark(number(right), number(content[1]), negated))
        elif mark := _MARKS.get(key_of(left)):
            self.matches.append(mark(number(right), MAX_MARK, negated))
        elif key_of(left) == ("ct", "state"):
            self.matches.append(states(right, negated=negated, operator=operator))
        elif kind == "meta":
            self._meta(content["key"], right, negated=negated)
        else:
            raise Unread

    def _meta(self, key: str, right: Any, *, negated: bool) -> None:
        match key:
            case "l4proto":
                # Where /etc/protocols is missing, as in slim images, nft prints the number.
                name = protocol_name(right) if isinstance(right, int) else text(right)
                self._header("protocol", Protocol(name, negated))
            case "iifname":
                self._header("in_interface", Interface(interface(right), negated))
            case "oifname":
                self._header("out_interface", Interface(interface(right), negated))
            case "skuid":
                self.matches.append(Owner(uid=IdRange(*bounds(right)), uid_negated=negated))
            case "skgid":
                self.matches.append(Owner(gid=IdRange(*bounds(right)), gid_negated=negated))
            case "nfproto" | "protocol" if not negated:
                self.of(_NAMED[right])
            case _:
                raise Unread

    def _payload(self, protocol: str, field: str, right: Any, *, negated: bool) -> None:
        if protocol in ("ip", "ip6") and field in ("saddr", "daddr"):
            network = ip_network(network_text(right))
            if network.prefixlen or negated:
                self._header("source" if field == "saddr" else "destination", Address(network, negated))
            self.of(_NAMED[protocol])
        elif protocol in ("tcp", "udp") and field in ("sport", "dport"):
            self._ports(protocol, field, right, negated=negated)
        else:
            raise Unread

    def _ports(self, protocol: str, field: str, right: Any, *, negated: bool) -> None:
        many = right.get("set") if isinstance(right, dict) else None
        if many is not None:
            ports = tuple(PortRange(*bounds(each)) for each in many)
            side = "source" if field == "sport" else "destination"
            self._header("protocol", Protocol(protocol))
            self.matches.append(Multiport(side, ports, negated))
            return
        tested = PortRange(*bounds(right))
        self._header("protocol", Protocol(protocol))
        if field in self.ports:
            raise Unread
        every = tested == PortRange(0, 65535) and not negated
        self.ports[field] = None if every else PortTest(tested, negated)

    def _header(self, name: str, value: object) -> None:
        if self.headers.setdefault(name, value) != value:
            raise Unread


def _target(effects: Sequence[Mapping[str, Any]], lifting: _Lifting) -> Target | None:
    try:
        kinds = [next(iter(each)) for each in effects]
        if not kinds:
            return None
        if sorted(kinds) == ["accept", "mangle", "tproxy"] and kinds[-1] == "accept":
            return _tproxy({kind: each[kind] for kind, each in zip(kinds, effects, strict=True)}, lifting)
        if len(kinds) == 1:
            return _ENDS.get(kinds[0]) or _one(kinds[0], effects[0][kinds[0]])
    except _BAD:
        pass
    return OpaqueTarget("nft", tuple(dumps(each) for each in effects))


def _one(kind: str, content: Any) -> Target:
    match kind:
        case "jump":
            return Jump(text(content["target"]))
        case "goto":
            return Goto(text(content["target"]))
        case "redirect" if content is None or not content.keys() - {"port"}:
            port = (content or {}).get("port")
            return Redirect(None if port is None else PortRange(*bounds(port)))
        case "mangle":
            return _mangle(key_of(content["key"]), content["value"])
        case _:
            raise Unread


def _mangle(key: tuple[str, str], value: Any) -> Target:
    if key == ("ct", "zone"):
        return CtZone(number(value))
    if key not in _MARKS:
        raise Unread
    is_packet = key == ("meta", "mark")
    if isinstance(value, dict) and key_of(value) in _MARKS and key_of(value) != key:
        return RestoreMark() if is_packet else SaveMark()
    given, mask = _new_mark(key, value)
    return SetMark(given, mask) if is_packet else SetConnmark(given, mask)


def _new_mark(key: tuple[str, str], value: Any) -> tuple[int, int]:
    """Value and mask of ``--set-xmark``, which gives ``(mark & ~mask) ^ value``."""
    if not isinstance(value, dict):
        return number(value), MAX_MARK
    operator, (left, right) = next(iter(value.items()))
    if operator in ("|", "^") and isinstance(left, dict) and "&" in left:
        of, kept = left["&"][0], number(left["&"][1])
    elif operator in ("|", "^"):
        of, kept = left, MAX_MARK
    else:
        of, kept, right = left, number(right), 0
    if key_of(of) != key:
        raise Unread
    given = number(right)
    return given, MAX_MARK ^ (kept & ~given if operator == "|" else kept)


def _tproxy(parts: Mapping[str, Any], lifting: _Lifting) -> Target:
    """Hand over, mark, accept: what TPROXY does at once."""
    how = parts["tproxy"]
    mark = _mangle(key_of(parts["mangle"]["key"]), parts["mangle"]["value"])
    if not isinstance(mark, SetMark) or how.keys() - {"family", "port", "addr"}:
        raise Unread
    if "family" in how:
        lifting.of(_NAMED[how["family"]])
    (family,) = lifting.families
    address = ANY_ADDRESS[family]
    if "addr" in how:
        address = type(address)(how["addr"])
    return Tproxy(number(how["port"]), address, mark.value, mark.mask)
