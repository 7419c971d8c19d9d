"""What takes packets at an interface before or behind all rules: programs of XDP, filters of traffic control.

They can lead a packet anywhere and write anything into it, and nobody follows them here: it is enough that they are
there. So it is with an interface that took the name of the loopback. Formats: linux/if_link.h, pkt_sched.h.
"""

from __future__ import annotations

import errno
import struct

from istio_init.netfilter.host import LOOPBACK
from istio_init.system.netlink import NETLINK_ROUTE, dump, parse_attributes, text_of, understood
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RTM_GETLINK, RTM_GETQDISC, RTM_GETTFILTER = 18, 38, 46
IFLA_IFNAME, IFLA_XDP, XDP_ATTACHED = 3, 43, 2
TCA_KIND, INGRESS_BLOCK, EGRESS_BLOCK = 1, 13, 14
MESSAGE = struct.Struct("=B3xiIII")
"""struct tcmsg: family, interface, handle, parent, info."""

RENAMED = "a name lo that is not the loopback interface's"
INGRESS, TO_INGRESS, TO_EGRESS = 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
FILTER = "a filter of traffic control"
NOT_THERE = frozenset([errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT, errno.ENODEV])


class Taps(Value):
    """What is there, by interface."""

    ingress: Mapping[str, str] = {}
    egress: Mapping[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.ingress or self.egress)


NONE = Taps()


@understood
def taps() -> Taps:
    """Those of all interfaces of the current network namespace.

    Raises:
        OSError: the kernel does not tell.
    """
    names: dict[int, str] = {}
    ingress: dict[str, str] = {}
    egress: dict[str, str] = {}
    for body in dump(NETLINK_ROUTE, RTM_GETLINK, bytes(16)):
        kind, index = struct.unpack_from("=2xHi", body)
        attributes = parse_attributes(body, 16)
        names[index] = name = text_of(attributes[IFLA_IFNAME])
        if (kind == LOOPBACK) is not (name == "lo"):
            # Rules go by names; what is sent over the loopback comes back, and over another of that name it does not.
            ingress[""] = egress[""] = RENAMED
        if any(parse_attributes(attributes.get(IFLA_XDP, b""), 0).get(XDP_ATTACHED, b"")):
            ingress[name] = "a program of XDP"
    for index, is_ingress in _filtered():
        if index in names:  # Else it was made in between.
            (ingress if is_ingress else egress).setdefault(names[index], FILTER)
    return Taps(ingress, egress)


def _filtered() -> Iterator[tuple[int, bool]]:
    """The interfaces with filters, and whether these are for what comes in."""
    try:
        disciplines = dump(NETLINK_ROUTE, RTM_GETQDISC, bytes(MESSAGE.size))
    except OSError as error:
        if error.errno in NOT_THERE:
            return  # A kernel without traffic control.
        raise
    for body in disciplines:
        _, index, handle, _, _ = MESSAGE.unpack_from(body)
        attributes = parse_attributes(body, MESSAGE.size)
        kind = text_of(attributes[TCA_KIND])
        places = {"clsact": (TO_INGRESS, TO_EGRESS), "ingress": (INGRESS,)}.get(kind, (handle,) if handle else ())
        shared = {True: INGRESS_BLOCK in attributes, False: EGRESS_BLOCK in attributes}
        for parent in places:
            is_ingress = parent in (INGRESS, TO_INGRESS)
            if shared[is_ingress] or _has_filters(index, parent):
                yield index, is_ingress


def _has_filters(index: int, parent: int) -> bool:
    try:
        return bool(dump(NETLINK_ROUTE, RTM_GETTFILTER, MESSAGE.pack(0, index, 0, parent, 0)))
    except OSError as error:
        if error.errno in NOT_THERE:
            return False  # It went away in between, or takes none.
        raise
