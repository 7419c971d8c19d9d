"""Statements: what a rule does with the packets that its matches let through."""

from __future__ import annotations

from istio_init.dialects.nft.changes import change
from istio_init.dialects.nft.loads import load_all
from istio_init.dialects.nft.loads_header import IPV4, IPV6
from istio_init.dialects.nft.maps import CALLS, VERDICTS, dispatch, mapped, verdict
from istio_init.dialects.nft.matches import match
from istio_init.dialects.nft.text import expression_text
from istio_init.dialects.nft.translations import NATS, nat, tproxy, untold
from istio_init.dialects.nft.values import OddError
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import (
    AnyOf,
    Cause,
    End,
    Lookup,
    Never,
    Note,
    Openness,
    Test,
    Undecided,
    Unknowable,
    Untrack,
    Verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.nft.ruleset import Expression, Json
    from istio_init.dialects.nft.scope import Body
    from istio_init.netfilter.rules import Statement

_NOTED = frozenset(["log", "dup", "reset", "last", "secmark", "ct timeout", "ct expectation", "ct helper"])
_CHANCE = frozenset(["limit", "quota", "ct count"])
_TRACKING = frozenset(["ct count", "ct timeout", "ct expectation", "ct helper", "flow", "synproxy"])
"""What makes the kernel track connections, as any look at one does (nf_ct_netns_get in their init)."""

_TRACKING_XT = frozenset(
    [
        *("CONNMARK", "CONNSECMARK", "CT", "DNAT", "MASQUERADE", "NETMAP", "REDIRECT", "SNAT", "SYNPROXY"),
        *("cluster", "connbytes", "connlabel", "connlimit", "connmark", "conntrack", "helper", "state"),
    ]
)
"""The extensions of x_tables that do so (nf_ct_netns_get in net/netfilter/xt_*.c)."""

_CONDITIONS = (Test, Lookup, AnyOf, Undecided, Never, Note)
_TCP = Test(Field.PROTOCOL, ((6, 6),))
_REJECTED = {"tcp reset": (_TCP,), "icmp": (IPV4,), "icmpv6": (IPV6,)}
"""What nft tests by itself before it rejects in a form, and leaves out when it prints."""

_SYN_OR_ACK = Test(Field.TCP_FLAGS, ((1, 255),), mask=0x12)


def lower(body: Body, expressions: tuple[Expression, ...]) -> list[list[Statement]]:
    """Append what expressions do; returned is what may be done one of several ways, each in a rule of its own."""
    for place, expression in enumerate(expressions):
        [kind] = expression
        if kind == "match":
            match(body, expression)
        elif kind == "vmap":
            ways, may_go_on = _dispatch(body, expression)
            if not may_go_on or len(ways) > 1:
                return ways if not may_go_on else _rest_unknown(ways, expressions[place + 1 :])
            body.statements += ways[0]
        elif kind in NATS:
            ways = nat(body, expression)
            return ways if len(ways) == 1 or _only_tests(body) else [[untold(expression)]]
        elif not _plain(body, kind, expression, is_last=place == len(expressions) - 1):
            break
    return []


def _rest_unknown(ways: list[list[Statement]], rest: tuple[Expression, ...]) -> list[list[Statement]]:
    if rest:
        words = " ".join([expression_text(each) for each in rest])
        ways[-1].append(Unknowable(Cause(Openness.NOT_MODELLED, words)))
    return ways


def _dispatch(body: Body, expression: Expression) -> tuple[list[list[Statement]], bool]:
    try:
        ways, may_go_on = dispatch(body, expression)
    except OddError:
        return [[_unknowable(expression)]], False
    return (ways, may_go_on) if len(ways) == 1 or _only_tests(body) else ([[_unknowable(expression)]], False)


def _only_tests(body: Body) -> bool:
    """Whether nothing was changed so far: each way would change it once more."""
    return all(isinstance(each, _CONDITIONS) for each in body.statements)


def _plain(body: Body, kind: str, expression: Expression, *, is_last: bool) -> bool:
    """Append one statement; whether the rule may go on behind it."""
    content = expression[kind]
    body.tracks |= kind in _TRACKING or (kind == "xt" and _tracks(content))
    if kind == "continue":
        return True  # The next statement is what it goes on with (nft_do_chain).
    if kind in VERDICTS or kind in CALLS or kind == "queue":
        try:
            end = verdict(expression)
        except OddError:
            end = None
        body.statements.append(_unknowable(expression) if end is None else end)
        return False
    if kind == "reject":
        form = content.get("type") if isinstance(content, dict) else None
        body.need(_REJECTED.get(form, ()) if isinstance(form, str) else ())
        body.statements.append(End(Verdict.REJECT))
        return False
    if kind == "fwd":
        body.statements.append(End(Verdict.STOLEN))
        return False
    if kind == "mangle":
        body.statements += change(body, expression)
    elif kind == "tproxy":
        body.statements += tproxy(body, expression)
    elif kind == "notrack":
        body.statements.append(Untrack())
    elif kind == "counter":
        _counter(body, content, expression)
    elif kind in _NOTED:
        body.statements.append(Note(expression_text(expression)))
    elif kind in _CHANCE:
        body.add(Undecided(Cause(Openness.OPEN, expression_text(expression))))
    elif kind in ("set", "meter", "map"):
        _add_element(body, content, expression)
    elif kind == "flow":
        _offload(body, expression, is_last=is_last)
    elif kind == "xt" and isinstance(content, dict) and content.get("type") == "match":
        body.add(Undecided(_unknowable(expression).cause))
    elif kind == "synproxy":
        return _synproxy(body, expression, is_last=is_last)
    else:
        body.statements.append(_unknowable(expression))
    return True


def _tracks(extension: Json) -> bool:
    return isinstance(extension, dict) and extension.get("name") in _TRACKING_XT


def _unknowable(expression: Expression) -> Unknowable:
    return Unknowable(Cause(Openness.NOT_MODELLED, expression_text(expression)))


def _counter(body: Body, content: Json, expression: Expression) -> None:
    """Anonymous counters are the rule's own. One by a map leaves the rule where the map has none."""
    if isinstance(content, str):
        body.statements.append(Note(expression_text(expression)))
    elif isinstance(content, dict) and isinstance(content.get("map"), dict):
        _object_of_map(body, content["map"], expression)


def _object_of_map(body: Body, asked: dict[str, Json], expression: Expression) -> None:
    try:
        found = mapped(asked.get("key"), asked.get("data"), body)
        is_known = found.unknown is None
    except OddError:
        is_known = False
    if is_known:
        body.add(found.has_key())
    else:
        body.add(Undecided(Cause(Openness.NOT_MODELLED, expression_text(expression))))
    body.statements.append(Note(expression_text(expression)))


def _add_element(body: Body, content: Json, expression: Expression) -> None:
    """An element is added to a set, or deleted. A limit or count of the element's own may leave the rule."""
    if not isinstance(content, dict):
        body.statements.append(_unknowable(expression))
        return
    key = content.get("elem", content.get("key"))
    match key:
        case {"elem": {"val": inner}}:
            key = inner
    try:
        body.take(load_all(key, body.family))
    except OddError:
        body.add(Undecided(Cause(Openness.NOT_MODELLED, expression_text(expression))))
    inner = content.get("stmt")
    statements = inner if isinstance(inner, list) else [inner]
    if any(isinstance(each, dict) and each.keys() & _CHANCE for each in statements):
        body.tracks |= any("ct count" in each for each in statements if isinstance(each, dict))
        body.add(Undecided(Cause(Openness.OPEN, expression_text(expression))))
    else:
        body.statements.append(Note(expression_text(expression)))


def _offload(body: Body, expression: Expression, *, is_last: bool) -> None:
    """Established flows go by a shortcut from then on; others leave the rule (nft_flow_offload_eval)."""
    words = expression_text(expression)
    body.statements.append(Note(words) if is_last else Undecided(Cause(Openness.NOT_MODELLED, words)))


def _synproxy(body: Body, expression: Expression, *, is_last: bool) -> bool:
    """SYN and ACK of a handshake are answered by the kernel itself (nft_synproxy_eval)."""
    if not is_last:
        body.statements.append(_unknowable(expression))
        return False
    body.need((_TCP,))
    body.statements += [_SYN_OR_ACK, End(Verdict.STOLEN)]
    return False
