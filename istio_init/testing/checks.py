"""What a test hands to the kit, checked where it is handed over: addresses, ports, users, names."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_init.testing.entering import User
from istio_init.testing.hiding import tells_of_the_test

__tracebackhide__ = tells_of_the_test

LAST_PORT = 65535
LAST_ID = 2**32 - 2
"""The highest id; the one after it means that none is given (chown(2))."""

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def checked_address(host: object) -> IPv4Address | IPv6Address:
    """An address from its text.

    Raises:
        ValueError: it is a name, or anything else.
    """
    try:
        return ip_address(host)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"an IP address is needed, not {host!r}: pods have no names that could be resolved") from None


def checked_port(port: object) -> int:
    """A port that something can be sent to.

    Raises:
        ValueError: it is no whole number, or out of range.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port <= LAST_PORT:
        raise ValueError(f"a port is a number from 1 to {LAST_PORT}, not {port!r}")
    return port


def checked_seconds(within: float) -> float:
    """A time to wait.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(within, int | float) or not 0 < within < float("inf"):
        raise ValueError(f"within= is a number of seconds above 0, not {within!r}")
    return within


def checked_user(uid: object, gid: object) -> User:
    """A user and a group by their numbers.

    Raises:
        ValueError: one of them is a name, or out of range.
    """
    for what, number in (("user", uid), ("group", gid)):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= LAST_ID:
            raise ValueError(f"a {what} is given by its number, from 0 to {LAST_ID}, not {number!r}")
    return User(uid, gid)  # type: ignore[arg-type]


def checked_label(label: object) -> str:
    """What a namespace is called in messages, and in /run/netns.

    Raises:
        ValueError: it can be no part of a file's name.
    """
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise ValueError(
            f"a pod or namespace is named by at most 63 letters, digits, '.', '_' and '-', not {label!r}: its name is "
            "a file in /run/netns"
        )
    return label
