"""What holds for every rule of netfilter: the two families, and the size of a mark."""

from __future__ import annotations

from enum import Enum


class Family(Enum):
    """An address family; the value is how reports and JSON name it."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    # Enum's own __hash__ is Python code; families are dictionary keys everywhere.
    __hash__ = object.__hash__

    @property
    def version(self) -> int:
        """The version of the protocol, as `ipaddress` has it."""
        return 4 if self is Family.IPV4 else 6

    @property
    def bits(self) -> int:
        """Length of an address, in bits."""
        return 32 if self is Family.IPV4 else 128


MAX_MARK = 0xFFFFFFFF
