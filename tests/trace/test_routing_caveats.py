"""A routing rule that a trace does not follow is said, as it may lead a packet elsewhere."""

from __future__ import annotations

import pytest
from support.command import istio_init

from istio_init.testing.namespaces import Namespace


def said_of(rule: str | None) -> str:
    with Namespace.create() as namespace:
        if rule is not None:
            namespace.run("ip", "rule", "add", *rule.split())
        return istio_init("trace", "outbound", "tcp", "10.0.0.1:80", "--netns", namespace.name).ok().stderr


@pytest.mark.parametrize("rule", [None, "fwmark 0x539 lookup 133", "pref 7 fwmark 5 lookup 9"])
def test_rules_that_are_followed_are_not_mentioned(real_kernel: None, rule: str | None) -> None:
    assert said_of(rule) == ""


@pytest.mark.parametrize(
    "rule",
    [
        "fwmark 0x1/0x1 lookup 133",
        "pref 40000 fwmark 0x5 lookup 133",
        "from 10.1.2.3 lookup 100",
        "not fwmark 0x539 lookup 133",
        "fwmark 0x539 uidrange 5-6 lookup 133",
        "fwmark 0x539 to 10.200.0.0/16 lookup 133",
        "iif lo lookup 133",
        "to 10.2.3.4 blackhole",
    ],
)
def test_rules_that_select_by_more_than_a_mark_are(real_kernel: None, rule: str) -> None:
    priority = "40000" if "40000" in rule else "32765"

    assert f"warning: ipv4: the routing rule {priority} (ip rule) counts, too, and is not followed\n" in said_of(rule)
