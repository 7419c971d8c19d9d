"""The legacy tables that exist in a namespace. Looking into one that does not would create it."""

from __future__ import annotations

import os

from istio_init.dialects.iptables.tables import Table
from istio_init.errors import PrivilegeError
from istio_init.netfilter.family import Family

TABLE_NAMES = {Family.IPV4: "/proc/self/net/ip_tables_names", Family.IPV6: "/proc/self/net/ip6_tables_names"}


def has_legacy(family: Family) -> bool:
    """Whether legacy iptables is in the kernel, or was loaded into it."""
    return os.access(TABLE_NAMES[family], os.F_OK)


def existing_tables(family: Family) -> frozenset[Table]:
    """The legacy tables that exist in the current namespace; none where the kernel has no legacy iptables.

    Raises:
        PrivilegeError: their list may not be read.
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
