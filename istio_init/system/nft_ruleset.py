"""What ``nft -j list ruleset`` tells and iptables-nft does not: other tables' chains, and rules it cannot print."""

from __future__ import annotations

import json
from typing import Any

from istio_init.dialects.iptables.tables import XTABLES
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import NativeChain, NftRule

IPTABLES_FAMILIES = {"ip": Family.IPV4, "ip6": Family.IPV6}

Native = tuple[tuple[NativeChain, ...], tuple[NftRule, ...]]
"""Chains of tables that are not iptables', and rules in its tables that it did not write."""

# What iptables-nft writes (1.8.9, nft-shared.c): all matches and targets without a form of their own are "xt".
# Whatever else stands in its tables was put there by nft.
WRITTEN = frozenset("counter xt accept drop return jump goto continue limit log queue".split())
WRITTEN_META = frozenset("iifname oifname iif oif l4proto mark".split())
WRITTEN_PAYLOADS = frozenset("ip ip6 tcp udp udplite sctp dccp icmp icmpv6 th".split())


def parse_ruleset(text: str) -> Native:
    """The chains of every table that iptables-nft does not show, and the rules in its own that it did not write.

    ``text`` is the JSON of ``nft -j list ruleset`` (libnftables-json(5)).
    """
    chains: dict[tuple[str, str, str], dict[str, object]] = {}
    counts: dict[tuple[str, str, str], int] = {}
    rules: list[NftRule] = []
    for item in json.loads(text)["nftables"]:
        if "chain" in item:
            chain = item["chain"]
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif "rule" in item:
            rule = item["rule"]
            key = rule["family"], rule["table"], rule["chain"]
            counts[key] = counts.get(key, 0) + 1
            if _is_iptables(key) and not all(map(_is_written, rule["expr"])):
                rules.append(NftRule(IPTABLES_FAMILIES[key[0]], *key[1:], counts[key], _shown(rule["expr"])))
    native = tuple(
        NativeChain(
            *key,
            hook=_text(chain.get("hook")),
            priority=_number(chain.get("prio")),
            rules=counts.get(key, 0),
            drops=chain.get("policy") == "drop",
        )
        for key, chain in chains.items()
        if not _is_iptables(key)
    )
    return native, tuple(rules)


def _is_iptables(key: tuple[str, str, str]) -> bool:
    return key[0] in IPTABLES_FAMILIES and key[1] in XTABLES


def _is_written(expression: dict[str, Any]) -> bool:
    """Whether iptables-nft writes such an expression."""
    if "mangle" in expression:
        return bool(expression["mangle"]["key"] == {"meta": {"key": "nftrace"}})  # the target TRACE
    if "match" not in expression:
        return expression.keys() <= WRITTEN
    left, right = expression["match"]["left"], expression["match"]["right"]
    if isinstance(right, dict) and not right.keys() <= {"prefix", "range", "|", "&"}:
        return False
    if isinstance(right, str) and right.startswith("@"):
        return False
    while "&" in left:
        left = left["&"][0]
    if "meta" in left:
        return left["meta"]["key"] in WRITTEN_META
    return "payload" in left and left["payload"].get("protocol", "th") in WRITTEN_PAYLOADS


def _shown(expressions: list[dict[str, Any]]) -> str:
    """A rule nearly as nft prints it."""
    words = []
    for expression in expressions:
        [(kind, value)] = expression.items()
        if kind == "match":
            operator = "" if value["op"] in ("==", "in") else f"{value['op']} "
            words.append(f"{_operand(value['left'])} {operator}{_operand(value['right'])}")
        elif kind != "counter":
            words.append(kind if value is None else f"{kind} {_operand(value)}")
    return " ".join(words)


def _operand(value: object) -> str:
    match value:
        case {"payload": {"protocol": protocol, "field": field}}:
            return f"{protocol} {field}"
        case {"meta": {"key": key}}:
            return f"meta {key}"
        case {"ct": {"key": key}}:
            return f"ct {key}"
        case {"set": list(items)}:
            return "{ " + ", ".join(map(_operand, items)) + " }"
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case str() | int():
            return str(value)
    return json.dumps(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
