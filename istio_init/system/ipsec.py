"""Whether IPsec has anything to do in the current network namespace: what ``ip xfrm policy count`` shows.

Asking may load the kernel module xfrm_user.
"""

from __future__ import annotations

import errno
import struct

from istio_init.system.netlink import answer, parse_attributes, understood
from istio_init.value import Value

NETLINK_XFRM = 6
XFRM_MSG_GETSADINFO, XFRM_MSG_GETSPDINFO = 0x23, 0x25
XFRMA_SAD_CNT = XFRMA_SPD_INFO = 1
"""Numbers of linux/xfrm.h."""

NOT_THERE = frozenset([errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT])
"""The kernel has no IPsec."""


class Ipsec(Value):
    """How many policies and states there are."""

    policies: int = 0
    states: int = 0


@understood
def ipsec() -> Ipsec:
    """What the namespace has of them; nothing where the kernel has none of it.

    Raises:
        OSError: asking is denied: it takes CAP_NET_ADMIN.
    """
    try:
        policies = _attribute(XFRM_MSG_GETSPDINFO, XFRMA_SPD_INFO)
        states = _attribute(XFRM_MSG_GETSADINFO, XFRMA_SAD_CNT)
    except OSError as error:
        if error.errno in NOT_THERE:
            return Ipsec()
        raise
    return Ipsec(sum(struct.unpack("=6I", policies[:24])), *struct.unpack("=I", states[:4]))


def _attribute(request: int, number: int) -> bytes:
    return parse_attributes(answer(NETLINK_XFRM, request, bytes(4)), 4)[number]
