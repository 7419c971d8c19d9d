"""What the kernel calls at each hook, in its own order: what ``nft list hooks`` shows (net/netfilter/nfnetlink_hook.c).

Asking may load the kernel module nfnetlink_hook. Base chains of type nat are not listed: one function of the kernel's
calls them all, and keeps their order to itself. Of x_tables' functions the module or the priority tells the table.
"""

from __future__ import annotations

import errno
import struct

from istio_init.netfilter.family import Family
from istio_init.netfilter.rules import Hook, Store
from istio_init.netfilter.stages import Core
from istio_init.system.netlink import NETLINK_NETFILTER, dump, parse_attributes, text_of, understood

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.netfilter.stages import Registered

HOOK_GET = 12 << 8
"""NFNL_SUBSYS_HOOK, NFNL_MSG_HOOK_GET (linux/netfilter/nfnetlink_hook.h)."""

HOOKNUM, PRIORITY, FUNCTION, MODULE, CHAIN_INFO = 1, 2, 4, 5, 6
DESCRIPTION, TYPE, NF_TABLES = 1, 2, 1
TABLE, FAMILY, NAME = 1, 2, 3
NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}
FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
ORDER = (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING)
"""By their number (linux/netfilter.h, NF_INET_…)."""

LEGACY = {-450: "raw", -300: "raw", -150: "mangle", 0: "filter", 50: "security"}
"""The tables of x_tables by priority (linux/netfilter_ipv4.h); its nat chains are called by the one nat hook.

raw lies at -450 where iptable_raw was loaded with raw_before_defrag.
"""

LEGACY_FUNCTIONS = frozenset(["ipt_do_table", "ip6t_do_table", "iptable_mangle_hook", "ip6table_mangle_hook"])
NAT_FUNCTIONS = ("nf_nat_ipv4_", "nf_nat_ipv6_", "nf_nat_inet_")
CONNTRACK_FUNCTIONS = frozenset(
    ["ipv4_conntrack_in", "ipv4_conntrack_local", "ipv6_conntrack_in", "ipv6_conntrack_local"]
)
NOT_THERE = frozenset([errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT])


@understood
def order() -> dict[tuple[Family, Hook], tuple[Registered | Core, ...]]:
    """What is registered by family and hook, in the order in which it is called; nothing where the kernel cannot tell.

    Raises:
        OSError: asking is denied.
    """
    found = {}
    for family, number in NUMBERS.items():
        for hooknum, hook in enumerate(ORDER):
            try:
                bodies = dump(NETLINK_NETFILTER, HOOK_GET, request(number, hooknum))
            except OSError as error:
                if error.errno not in NOT_THERE:
                    raise
                continue
            if bodies:
                found[family, hook] = tuple(registered(bodies, family))
    return found


def request(family: int, hooknum: int) -> bytes:
    """The body of a request for the functions of a hook."""
    return struct.pack("!BBH", family, 0, 0) + struct.pack("=HH", 8, HOOKNUM) + struct.pack("!I", hooknum)


def registered(bodies: Iterable[bytes], family: Family) -> Iterable[Registered | Core]:
    """The functions of one hook, as far as rules or what happens between them go, from the kernel's messages."""
    for body in bodies:
        attributes = parse_attributes(body, 4)
        info = parse_attributes(attributes.get(CHAIN_INFO, b""), 0)
        function = text_of(attributes.get(FUNCTION, b"")).partition(" ")[0]
        (priority,) = struct.unpack("!i", attributes[PRIORITY])
        if info.get(TYPE) == struct.pack("!I", NF_TABLES):
            chain = parse_attributes(info[DESCRIPTION], 0)
            name = FAMILIES.get(chain[FAMILY][-1])
            if name is not None:
                yield Store.NFT, name, text_of(chain[TABLE]), text_of(chain[NAME])
        elif function in CONNTRACK_FUNCTIONS:
            yield Core.CONNTRACK
        elif function.startswith(NAT_FUNCTIONS):
            yield Core.NAT
        elif (table := _legacy(function, text_of(attributes.get(MODULE, b"")), priority)) is not None:
            (hooknum,) = struct.unpack("!I", attributes[HOOKNUM])
            yield Store.LEGACY, "ip" if family is Family.IPV4 else "ip6", table, ORDER[hooknum].name


def _legacy(function: str, module: str, priority: int) -> str | None:
    """The table of x_tables whose rules a function evaluates."""
    name = module.strip("[]").removeprefix("ip6table_").removeprefix("iptable_")
    if name in LEGACY.values():
        return name
    return LEGACY.get(priority) if function in LEGACY_FUNCTIONS else None
