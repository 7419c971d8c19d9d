"""Rules of the model in words: what their statements test, and what becomes of a packet that matches."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import (
    AnyOf,
    Assign,
    AssignFrom,
    Dispatch,
    End,
    Forget,
    Lookup,
    Nat,
    NatKind,
    Never,
    Note,
    Rule,
    Test,
    Tproxy,
    Undecided,
    Unknowable,
    Untrack,
    Verdict,
    Zone,
)
from istio_init.wording.values import IPV4_BITS, bits_text, head, value_texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.rules import Condition, Key, Statement

LISTED = 6
"""Values that are named; the rest is counted."""

VERDICTS = {
    Verdict.ACCEPT: "accepted",
    Verdict.DROP: "dropped",
    Verdict.REJECT: "rejected",
    Verdict.RETURN: "returned",
    Verdict.QUEUE: "given to a program",
    Verdict.STOLEN: "taken away",
}


def condition_words(condition: Condition | Dispatch, *, is_ipv6: bool = False) -> str:
    """What a test asks for, for example ``port 80``, ``not from 10.0.0.0/8``."""
    match condition:
        case Test():
            return _test(condition, is_ipv6=is_ipv6)
        case Lookup(keys, elements, negated):
            return f"{_not(negated)}{_keys(keys)} in {elements.name}"
        case Dispatch(keys, _, _, name):
            return f"{_keys(keys)} in {name or 'a verdict map'}"
        case AnyOf(options, negated):
            texts = [" and ".join(condition_words(each, is_ipv6=is_ipv6) for each in option) for option in options]
            return f"{'none of ' if negated else ''}{' or '.join(texts[:LISTED])}"
        case Undecided(cause):
            return cause.words
        case Never():
            return "anything"


def _test(test: Test, *, is_ipv6: bool) -> str:
    field, found = test.field, test.within
    if field is Field.SOCKET:
        return "no socket" if (found == ((0, 0),)) is not test.negated else "a socket"
    if field is Field.IPSEC:
        return "not protected by IPsec" if (found == ((0, 0),)) is not test.negated else "protected by IPsec"
    if field in (Field.CT_STATE, Field.CT_STATUS) and test.mask is not None:
        return f"{_not(test.negated)}{head(field)}{bits_text(field, test.mask)}"
    under = f"/{test.mask:#x}" if test.mask is not None else ""
    values = [text + under for text in value_texts(field, found, is_ipv6=is_ipv6, most=LISTED)]
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"{_not(test.negated)}{head(field)}{' or '.join(values) or 'nothing'}{more}"


def _keys(keys: tuple[Key, ...]) -> str:
    return " and ".join(key.field.value for key in keys)


def action_words(rule: Rule) -> str:
    """What a rule does with a packet that matches; for a jump the chain."""
    done = [text for statement in rule.body if (text := _effect(statement, is_ipv6=rule.origin.family == "ip6"))]
    return ", ".join(done) or "counted"


def _effect(statement: Statement, *, is_ipv6: bool) -> str | None:
    match statement:
        case End(verdict, chain):
            return VERDICTS[verdict] if chain is None else chain
        case Dispatch():
            return "the verdict of a map"
        case Nat():
            return nat_words(statement)
        case Tproxy(_, port):
            return f"handed to port {port}, addresses kept" if port else "handed to its own port, addresses kept"
        case Assign(Field.MARK, parts, constant) if all(field is Field.MARK for field, _ in parts):
            return f"marked {constant:#x}"
        case Assign(Field.MARK, _, _):
            return "mark of the connection restored"
        case Assign(Field.CT_MARK, parts, _) if any(field is Field.MARK for field, _ in parts):
            return "mark kept with the connection"
        case Assign(Field.CT_MARK, _, constant):
            return f"connection marked {constant:#x}"
        case Assign(field, _, _) | AssignFrom(field, _, _) | Forget(field, _):
            return f"{field.value} set"
        case Zone(zone):
            return f"tracked in zone {zone}"
        case Untrack():
            return "not tracked"
        case Unknowable(cause):
            return cause.words
        case Note(words):
            return words or None
    return None


def nat_words(nat: Nat) -> str:
    """What a translation does."""
    ports = (
        "" if nat.ports is None else f"{nat.ports[0]}" + (f"-{nat.ports[1]}" if nat.ports[1] != nat.ports[0] else "")
    )
    match nat.kind:
        case NatKind.REDIRECT:
            return f"redirected to port {ports}" if ports else "redirected to this machine"
        case NatKind.MASQUERADE:
            return "sent with the address of its interface"
        case NatKind.SNAT:
            return f"sent from {_address(nat)}"
        case NatKind.DNAT:
            goal = " ".join(part for part in (_address(nat), f"port {ports}" if ports else "") if part)
            return f"sent to {goal or 'another destination'}"


def _address(nat: Nat) -> str:
    if nat.addresses is None:
        return ""
    texts = [str(IPv6Address(number) if number >> IPV4_BITS else IPv4Address(number)) for number in nat.addresses]
    return texts[0] if texts[0] == texts[1] else "-".join(texts)


def _not(negated: bool) -> str:
    return "not " if negated else ""
