"""Targets that translate a connection or hand the packet to a proxy."""

from __future__ import annotations

import re

from istio_init.dialects.iptables.lower_extension import address, address_range, masked, network, number, number_range
from istio_init.netfilter.family import Family
from istio_init.netfilter.rules import End, Hook, Nat, NatKind, Openness, Tproxy, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.lower_extension import Asked, Lowered

    Pair = tuple[int, int]

_RANDOM = frozenset(["--random", "--random-fully"])
_ONLY_PORTS = re.compile(r":\d+(-\d+)?(/\d+)?")
_IN_BRACKETS = re.compile(r"\[([^\]]+)\](?:-\[([^\]]+)\])?(?::(.*))?")


def redirect(asked: Asked) -> Lowered:
    """REDIRECT: to an address of this machine; no port keeps the packet's (nf_nat_redirect.c)."""
    return _local(asked, NatKind.REDIRECT)


def masquerade(asked: Asked) -> Lowered:
    """MASQUERADE: from the address of the outgoing interface (nf_nat_masquerade.c)."""
    return _local(asked, NatKind.MASQUERADE)


def _local(asked: Asked, kind: NatKind) -> Lowered:
    ports, random = None, False
    for flag, _, values in asked.options():
        if flag == "--to-ports":
            [value] = values
            [ports] = number_range(value, "-", 65535)
        elif flag in _RANDOM:
            random = True
        else:
            raise ValueError(flag)
    return (Nat(kind, None, ports, random),)


def dnat(asked: Asked) -> Lowered:
    """DNAT: to other addresses, ports, or both (xt_nat.c)."""
    return _given(asked, NatKind.DNAT, "--to-destination")


def snat(asked: Asked) -> Lowered:
    """SNAT: from other addresses, ports, or both (xt_nat.c)."""
    return _given(asked, NatKind.SNAT, "--to-source")


def _given(asked: Asked, kind: NatKind, wanted: str) -> Lowered:
    addresses: Pair | None = None
    ports: Pair | None = None
    random, cause, seen = False, None, 0
    for flag, _, values in asked.options():
        if flag == wanted:
            [value] = values
            addresses, port_text = _target(value, asked.family)
            ports, shifted = _ports(port_text)
            seen += 1
            if shifted or seen > 1:
                cause = asked.cause(Openness.NOT_MODELLED)
        elif flag in _RANDOM:
            random = True
        elif flag != "--persistent":
            raise ValueError(flag)
    return (Nat(kind, addresses, ports, random, False, cause),)


def _target(text: str, family: Family) -> tuple[Pair | None, str]:
    """Addresses, and the text of the ports, of ``A-B:P-Q``; in IPv6 ``[A-B]:P-Q``."""
    if _ONLY_PORTS.fullmatch(text):
        return None, text[1:]
    if family is Family.IPV4:
        addresses, _, ports = text.partition(":")
        return address_range(addresses, family), ports
    found = _IN_BRACKETS.fullmatch(text)
    if found is None:
        return address_range(text, family), ""
    first, last, ports = found.groups()
    return address_range(f"{first}-{last}" if last else first, family), ports or ""


def _ports(text: str) -> tuple[Pair | None, bool]:
    """The ports, and whether they are shifted from a base (``80-90/8080``), which is not modelled."""
    if not text:
        return None, False
    ports, slash, _ = text.partition("/")
    [found] = number_range(ports, "-", 65535)
    return found, bool(slash)


_DESTINATION_HOOKS = frozenset([Hook.PREROUTING, Hook.OUTPUT])


def netmap(asked: Asked) -> Lowered:
    """NETMAP: to another network, hosts kept; source or destination by the hook (xt_NETMAP.c)."""
    [(_, _, [value])] = asked.options()
    [addresses] = network(value, asked.family)
    hooks = asked.hooks()
    source = hooks - _DESTINATION_HOOKS
    if source and source != hooks:
        return (asked.unknowable(),)
    return (Nat(NatKind.SNAT if source else NatKind.DNAT, addresses, None, False, True),)


def tproxy(asked: Asked) -> Lowered:
    """TPROXY: to a transparent socket, accepted; dropped where there is none (xt_TPROXY.c)."""
    port, on, mark, mask = 0, 0, 0, 0
    for flag, _, values in asked.options():
        [value] = values
        match flag:
            case "--on-port":
                port = number(value, 65535)
            case "--on-ip":
                on = address(value, asked.family)
            case "--tproxy-mark":
                mark, mask = masked(value)
            case _:
                raise ValueError(flag)
    return Tproxy(on or None, port or None, mark, mask, True), End(Verdict.ACCEPT)
