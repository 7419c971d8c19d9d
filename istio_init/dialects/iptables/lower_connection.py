"""Matches that look at the packet's connection."""

from __future__ import annotations

from istio_init.dialects.iptables.lower_extension import masked_test, network, number_range
from istio_init.netfilter.fields import CtState, CtStatus, Field
from istio_init.netfilter.intervals import EMPTY, contains, difference, size, union
from istio_init.netfilter.protocols import DCCP, GRE, ICMP, ICMPV6, WITH_PORTS, protocol_number
from istio_init.netfilter.rules import AnyOf, Openness, Test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.lower_extension import Asked, Lowered, Option
    from istio_init.netfilter.rules import Condition

_STATE_FLAGS = frozenset(["--ctstate", "--state"])
_ANY_STATE = ((1, int(sum(CtState))),)
_ANY_STATUS = ((1, 0xFFFFFFFF),)
_PORTED = union([((each, each),) for each in WITH_PORTS - {DCCP}])
_ODD = union([((each, each),) for each in (ICMP, ICMPV6, GRE, DCCP)])
"""Of ICMP the number of the echo, or type and code; GRE and DCCP are not tracked by every kernel."""
_WITHOUT = difference(((0, 255),), union([_PORTED, _ODD]))
_DIRECTIONS = {"ORIGINAL": 0, "REPLY": 1}
_ADDRESSES = {
    "--ctorigsrc": Field.CT_ORIG_SOURCE,
    "--ctorigdst": Field.CT_ORIG_DESTINATION,
    "--ctreplsrc": Field.CT_REPLY_SOURCE,
    "--ctrepldst": Field.CT_REPLY_DESTINATION,
}
_PORTS = {
    "--ctorigsrcport": Field.CT_ORIG_SPORT,
    "--ctorigdstport": Field.CT_ORIG_DPORT,
    "--ctreplsrcport": Field.CT_REPLY_SPORT,
    "--ctrepldstport": Field.CT_REPLY_DPORT,
}


def conntrack(asked: Asked) -> Lowered:
    """conntrack, state: facts of the connection (conntrack_mt in xt_conntrack.c).

    A packet without a connection fails, negated or not; but where the state is asked and holds, it has matched, and
    nothing else is looked at.
    """
    options = asked.options()
    states = [option for option in options if option[0] in _STATE_FLAGS]
    if not options:
        raise ValueError("nothing to test")
    others = [_other(asked, option, if_absent=bool(states)) for option in options if option not in states]
    return (*map(_state, states), *others)


def _state(option: Option) -> Condition:
    """The packet's state is one of several. Without a connection it is INVALID, or UNTRACKED."""
    _, negated, [value] = option
    try:
        bits = sum({CtState[name] for name in value.split(",")})
    except KeyError:
        raise ValueError(value) from None
    return Test(Field.CT_STATE, _ANY_STATE, int(bits), negated, bool(bits & CtState.INVALID) is not negated)


def _other(asked: Asked, option: Option, *, if_absent: bool) -> Condition:
    flag, negated, [value] = option
    if flag in _ADDRESSES:
        return Test(_ADDRESSES[flag], network(value, asked.family), None, negated, if_absent)
    if flag in _PORTS:
        test = Test(_PORTS[flag], number_range(value, ":", 65535), None, negated, if_absent)
        return _of_any_protocol(asked, test) if negated or size(test.within) > 1 else test
    match flag:
        case "--ctproto":
            number = protocol_number(value)
            return Test(Field.CT_PROTOCOL, ((number, number),), None, negated, if_absent)
        case "--ctdir":
            direction = _DIRECTIONS[value]
            return Test(Field.CT_DIRECTION, ((direction, direction),), None, negated, if_absent)
        case "--ctstatus":
            bits = sum({CtStatus[name] for name in value.split(",") if name != "NONE"})
            if not bits:  # No bit to test: it never holds, its negation always does.
                return Test(Field.CT_STATUS, EMPTY, None, negated, if_absent)
            return Test(Field.CT_STATUS, _ANY_STATUS, int(bits), negated, if_absent)
        case "--ctexpire":
            return asked.undecided(Openness.OPEN)
    raise ValueError(flag)


def _of_any_protocol(asked: Asked, test: Test) -> Condition:
    """Ports of a connection: most protocols without ports have 0 there, some what is not told, hardly one port."""
    zero = ((Test(Field.CT_PROTOCOL, _WITHOUT),),) if contains(test.within, 0) is not test.negated else ()
    odd = (Test(Field.CT_PROTOCOL, _ODD), asked.undecided(Openness.NOT_GIVEN))
    return AnyOf(((Test(Field.CT_PROTOCOL, _PORTED, None, False, test.if_absent), test), odd, *zero))


def connmark(asked: Asked) -> Lowered:
    """connmark: the connection's mark under a mask; without a connection false, negated or not (xt_connmark.c)."""
    [(_, negated, [value])] = asked.options()
    return (masked_test(Field.CT_MARK, value, negated),)
