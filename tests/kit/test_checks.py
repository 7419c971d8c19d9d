"""What a test hands to the kit is checked there, and the answer says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from istio_init.testing import checks


@pytest.mark.parametrize(
    ("check", "given", "said"),
    [
        (checks.checked_address, "db.local", "an IP address is needed, not 'db.local': pods have no names that could"),
        (checks.checked_address, "10.0.0.0/8", "an IP address is needed, not '10.0.0.0/8'"),
        (checks.checked_address, "10.0.0.1:80", "an IP address is needed, not '10.0.0.1:80'"),
        (checks.checked_address, None, "an IP address is needed, not None"),
        (checks.checked_port, "80", "a port is a number from 1 to 65535, not '80'"),
        (checks.checked_port, 0, "a port is a number from 1 to 65535, not 0"),
        (checks.checked_port, 65536, "a port is a number from 1 to 65535, not 65536"),
        (checks.checked_port, True, "a port is a number from 1 to 65535, not True"),
        (checks.checked_port, 80.0, "a port is a number from 1 to 65535, not 80.0"),
        (checks.checked_seconds, 0, "within= is a number of seconds above 0, not 0"),
        (checks.checked_seconds, float("nan"), "within= is a number of seconds above 0, not nan"),
        (checks.checked_seconds, "2s", "within= is a number of seconds above 0, not '2s'"),
        (lambda given: checks.checked_user(given, 0), "istio-proxy", "a user is given by its number, from 0 to 4294"),
        (lambda given: checks.checked_user(0, given), -1, "a group is given by its number, from 0 to 4294967294, not"),
        (lambda given: checks.checked_user(given, 0), 2**32 - 1, "a user is given by its number"),
        (checks.checked_label, "a/b", "a pod or namespace is named by at most 63 letters, digits,"),
        (checks.checked_label, "", "not ''"),
        (checks.checked_label, "..", r"not '\.\.': its name is a file in /run/netns"),
        (checks.checked_label, "a" * 64, "at most 63 letters"),
        (checks.checked_label, 5, "not 5"),
    ],
)
def test_what_cannot_be_is_refused(check: Callable[[object], object], given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(given)


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (checks.checked_address, "fd00:77::2"),
        (checks.checked_port, 1),
        (checks.checked_port, 65535),
        (checks.checked_seconds, 0.2),
        (lambda given: checks.checked_user(given, given), 2**32 - 2),
        (checks.checked_label, "payment-7f9c.1"),
        (checks.checked_label, "a" * 63),
    ],
)
def test_what_can_be_is_taken(check: Callable[[object], object], given: object) -> None:
    check(given)
