"""Which packets have a field, and fields that are the same for all of them."""

from __future__ import annotations

from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import PORTS, Field
from istio_init.space.layout import NO_SOCKET, ORIGINAL, REPLY, TRACKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.space.boxes import Region
    from istio_init.space.layout import Layout

TCP, PORTED, ICMP = 6, ((6, 6), (17, 17), (33, 33), (132, 132), (136, 136)), ((1, 1), (58, 58))
"""Protocols with ports (linux/netfilter/xt_multiport), and those with types."""

SYN = 2
IPV4_NUMBER, IPV6_NUMBER = 2, 10

OF_CONNECTIONS = frozenset(
    [Field.CT_STATUS, Field.CT_MARK, Field.CT_ZONE, Field.CT_DIRECTION, Field.CT_PROTOCOL, *ORIGINAL, *REPLY]
)


def presence(layout: Layout, field: Field) -> Region:
    """Where packets have a field."""
    found: Region = {}
    if field in OF_CONNECTIONS:
        found[layout.track] = ((TRACKED, TRACKED),)
    if field in PORTS:
        found[layout.dim(Field.PROTOCOL)] = PORTED
    if field in (Field.UID, Field.GID):
        found[layout.dim(Field.UID)] = ((0, NO_SOCKET - 1),)
    if field is Field.TCP_FLAGS:
        found[layout.dim(Field.PROTOCOL)] = ((TCP, TCP),)
    if field in (Field.ICMP_TYPE, Field.ICMP_CODE):
        found[layout.dim(Field.PROTOCOL)] = ICMP
    return found


def constant(field: Field, family: Family) -> int | None:
    """The number that a field has for every packet, if there is one."""
    if field is Field.NFPROTO:
        return IPV4_NUMBER if family is Family.IPV4 else IPV6_NUMBER
    return {Field.TCP_FLAGS: SYN, Field.CT_DIRECTION: 0}.get(field)
