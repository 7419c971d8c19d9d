"""What the kernel has of x_tables: the legacy tables of a namespace, and whether rules of iptables can be in nf_tables.

Looking into a legacy table that does not exist would create it.
"""

from __future__ import annotations

import os
import struct

from istio_init.dialects.iptables.tables import Table
from istio_init.errors import PrivilegeError
from istio_init.netfilter.family import Family
from istio_init.system.netlink import NETLINK_NETFILTER, ask

COMPAT_GET, COMPAT_NAME, COMPAT_REVISION, COMPAT_TYPE, COMPAT_TARGET = 11 << 8, 1, 2, 3, 1
TABLE_NAMES = {Family.IPV4: "/proc/self/net/ip_tables_names", Family.IPV6: "/proc/self/net/ip6_tables_names"}


def has_legacy(family: Family) -> bool:
    """Whether legacy iptables is in the kernel, or was loaded into it."""
    return os.access(TABLE_NAMES[family], os.F_OK)


def runs_in_nft() -> bool:
    """Whether nf_tables can hold what iptables writes, in the kernel's own words: x_tables' targets, here REDIRECT.

    Asking has the kernel load what it has of them, as iptables-nft does (linux/netfilter/nf_tables_compat.h).
    """
    name = b"REDIRECT\0"
    attributes = struct.pack("=HH", 4 + len(name), COMPAT_NAME) + name.ljust(12, b"\0")
    for kind, value in ((COMPAT_REVISION, 0), (COMPAT_TYPE, COMPAT_TARGET)):
        attributes += struct.pack("=HH", 8, kind) + struct.pack(">I", value)
    return not ask(NETLINK_NETFILTER, COMPAT_GET, struct.pack("=BBH", 2, 0, 0) + attributes)


def existing_tables(family: Family) -> frozenset[Table]:
    """The legacy tables that exist in the current namespace; none where the kernel has no legacy iptables.

    Raises:
        PrivilegeError: reading their list is denied.
    """
    try:
        names = os.open(TABLE_NAMES[family], os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return frozenset()
    except PermissionError:
        raise PrivilegeError(f"{TABLE_NAMES[family]} cannot be read: permission denied", fix="run as root") from None
    try:
        return frozenset(Table(name) for name in os.pread(names, 4096, 0).decode().split())
    finally:
        os.close(names)
