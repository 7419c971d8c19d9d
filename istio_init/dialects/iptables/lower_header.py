"""The tests of a rule's header: addresses, interfaces, protocol, fragments (ip_packet_match in ip_tables.c)."""

from __future__ import annotations

from ipaddress import ip_address

from istio_init.netfilter.fields import Field
from istio_init.netfilter.names import exactly, with_prefix
from istio_init.netfilter.protocols import protocol_number
from istio_init.netfilter.rules import Cause, Never, Openness, Test, Undecided

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.lower_extension import Lowered
    from istio_init.dialects.iptables.matches import Address, Interface
    from istio_init.netfilter.family import Family
    from istio_init.netfilter.rules import Condition

NEVER = Never()
_SIDES = {"-s": Field.SOURCE, "-d": Field.DESTINATION}


def address_test(field: Field, test: Address) -> Condition:
    """``-s`` or ``-d``. Everything but everything is what iptables-legacy accepts, and never matches."""
    network = test.network
    if network.prefixlen == 0 and test.negated:
        return NEVER
    first = int(network.network_address)
    last = first | ((1 << network.max_prefixlen - network.prefixlen) - 1)
    return Test(field, ((first, last),), None, test.negated, False)


def interface_test(field: Field, test: Interface) -> Condition:
    """``-i`` or ``-o``. At a hook without that interface the kernel compares with an empty name."""
    name, negated = test.name, test.negated
    if name == "+":
        return NEVER if negated else Test(field, with_prefix(""), None, False, True)
    within = with_prefix(name[:-1]) if name.endswith("+") else exactly(name)
    return Test(field, within, None, negated, negated)


def protocol_test(name: str, negated: bool) -> Lowered:
    """``-p``; 0 is every protocol."""
    try:
        number = protocol_number(name)
    except ValueError:
        return (Undecided(Cause(Openness.NOT_MODELLED, f"{'! ' if negated else ''}-p {name}")),)
    if number == 0:
        return (NEVER,) if negated else ()
    return (Test(Field.PROTOCOL, ((number, number),), None, negated, False),)


def odd_header(words: tuple[str, ...], family: Family) -> Lowered:
    """What the parser has no value for: ``-f``, and addresses with masks that are no prefixes.

    A packet here is a whole one, or the first of its fragments: its ports are known. ``-f`` is the others.
    """
    negated = words[:1] == ("!",)
    match words[1:] if negated else words:
        case ("-f",):
            return () if negated else (NEVER,)
        case ("-4" | "-6",):
            return ()
        case ("-s" | "-d" as flag, value):
            text, _, mask_text = value.partition("/")
            try:
                wanted, mask = int(ip_address(text)), int(ip_address(mask_text))
            except ValueError:
                pass
            else:
                if max(wanted, mask) < 1 << family.bits:
                    return (Test(_SIDES[flag], ((wanted & mask, wanted & mask),), mask, negated, False),)
    return (Undecided(Cause(Openness.NOT_MODELLED, " ".join(words))),)
