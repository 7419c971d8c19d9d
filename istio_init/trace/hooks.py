"""The order in which the kernel asks, and what is known of targets that this package has no values for."""

from __future__ import annotations

from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.iptables.targets import OpaqueTarget
from istio_init.netfilter.family import Family
from istio_init.trace.packet import Direction

LOOPBACK = {Family.IPV4: 0x7F000001, Family.IPV6: 1}
"""Where REDIRECT sends an outbound packet: 127.0.0.1, ::1 (nf_nat_redirect)."""

OUTPUT_TABLES = (Table.RAW, Table.MANGLE, Table.NAT, Table.FILTER, Table.SECURITY)
POSTROUTING_TABLES = (Table.MANGLE, Table.NAT)
PREROUTING_TABLES = (Table.RAW, Table.MANGLE, Table.NAT)
LOOPBACK_TABLES = (Table.RAW, Table.MANGLE)
INPUT_TABLES = (Table.MANGLE, Table.FILTER, Table.SECURITY, Table.NAT)

ENTERING = frozenset(["PREROUTING", "INPUT"])
"""Hooks at which a packet has come in by an interface; at the others it is to leave by one."""

FIRST_HOOKS = {
    Direction.OUTBOUND: ("OUTPUT", "POSTROUTING", "PREROUTING", "INPUT"),
    Direction.INBOUND: ("PREROUTING", "INPUT"),
}
"""The hooks that a connection's first packet can meet."""

CONTINUING = frozenset(
    "AUDIT CHECKSUM CLASSIFY CONNSECMARK DSCP ECN HL IDLETIMER LED LOG NFLOG RATEEST SECMARK SET TCPMSS "
    "TCPOPTSTRIP TEE TOS TRACE TTL ULOG".split()
)
"""Targets after which the next rule is looked at (iptables-extensions(8))."""


def goes_on(target: object) -> bool:
    """Whether it makes no difference to a packet's way if a rule with this target matches."""
    return target is None or (isinstance(target, OpaqueTarget) and target.name in CONTINUING)


SOURCE_TARGETS = frozenset(["MASQUERADE", "SNAT"])
"""Targets that give a connection another source and let it pass."""

UNTRANSLATED = frozenset(["ESTABLISHED", "INVALID", "UNTRACKED"])
"""States in which nat is not asked: it decides on a connection's first packet (nf_nat_inet_fn)."""

REDIRECTIONS = frozenset(["redirect", "tproxy"])

MAX_DEPTH = 64
