"""What rules ask of an interface besides its name: type, group and kind, which the interfaces that there are tell."""

from __future__ import annotations

from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import union
from istio_init.netfilter.names import exactly
from istio_init.netfilter.rules import Never, Test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.dialects.nft.ruleset import Json
    from istio_init.netfilter.host import Link

_KEYS = {
    f"{way}if{fact}": (field, fact)
    for way, field in (("i", Field.IN_INTERFACE), ("o", Field.OUT_INTERFACE))
    for fact in ("type", "group", "kind")
}
_NUMBERS = {"type": {"ether": 1, "ppp": 512, "loopback": 772}, "group": {"default": 0}}
"""By the names that nft prints (linux/if_arp.h, /etc/iproute2/group)."""


def of_link(links: Iterable[Link], left: Json, operator: str, right: Json) -> Test | Never | None:
    """The test of such a fact, as one of names; None where it is none, or where not all interfaces tell.

    A packet without an interface, and one whose interface has no kind, leaves the rule, negated or not
    (nft_meta_get_eval).
    """
    asked = left.get("meta") if isinstance(left, dict) and len(left) == 1 else None
    key = asked.get("key") if isinstance(asked, dict) else None
    if not isinstance(key, str) or key not in _KEYS or operator not in ("==", "!="):
        return None
    field, fact = _KEYS[key]
    value = _value(fact, right)
    known = [(link.name, getattr(link, fact)) for link in links]
    if value is None or not known or any(of_it is None for _, of_it in known):
        return None
    names = [name for name, of_it in known if of_it != "" and (of_it == value) is (operator == "==")]
    return Test(field, union([exactly(name) for name in names])) if names else Never()


def _value(fact: str, right: Json) -> int | str | None:
    if fact == "kind":
        return right if isinstance(right, str) and not right.startswith("@") and "*" not in right else None
    if isinstance(right, str):
        return _NUMBERS[fact].get(right)
    return right if isinstance(right, int) and not isinstance(right, bool) else None
