"""Whether IPsec has anything to do in the current network namespace: what ``ip xfrm policy count`` shows."""

from __future__ import annotations

import os
import struct

from istio_init.system.netlink import answer, parse_attributes, understood
from istio_init.value import Value

NETLINK_XFRM = 6
XFRM_MSG_GETSADINFO, XFRM_MSG_GETSPDINFO = 0x23, 0x25
XFRMA_SAD_CNT = XFRMA_SPD_INFO = 1
"""Numbers of linux/xfrm.h."""

NETLINK_SOCKETS, PFKEY_SOCKETS = "/proc/thread-self/net/netlink", "/proc/thread-self/net/pfkey"
MOST_READ = 1 << 20


class Ipsec(Value):
    """How many policies and states there are."""

    policies: int = 0
    states: int = 0


@understood
def ipsec() -> Ipsec:
    """What the namespace has of them; nothing where the kernel has no part that could have made any.

    Raises:
        OSError: asking is denied: it takes CAP_NET_ADMIN.
    """
    if not _can_be_there():
        return Ipsec()
    policies = _attribute(XFRM_MSG_GETSPDINFO, XFRMA_SPD_INFO)
    states = _attribute(XFRM_MSG_GETSADINFO, XFRMA_SAD_CNT)
    return Ipsec(sum(struct.unpack("=6I", policies[:24])), *struct.unpack("=I", states[:4]))


def _can_be_there() -> bool:
    """Whether xfrm_user or af_key is there. Asking would load the former, and reading is to load nothing."""
    if os.path.exists(PFKEY_SOCKETS):
        return True
    with open(NETLINK_SOCKETS) as file:
        text = file.read(MOST_READ)
    protocols = {words[1] for line in text.splitlines() if len(words := line.split()) > 1}
    return len(text) == MOST_READ or str(NETLINK_XFRM) in protocols


def _attribute(request: int, number: int) -> bytes:
    return parse_attributes(answer(NETLINK_XFRM, request, bytes(4)), 4)[number]
