"""The chains of nf_tables that are not iptables': what ``nft -j list ruleset`` tells beside iptables-nft's tables."""

from __future__ import annotations

import json
from typing import Any

from istio_init.backends.base import XTABLES
from istio_init.errors import ToolError
from istio_init.inspector.snapshot import NativeChain, NftRule
from istio_init.kernel import process
from istio_init.model.netfilter import Family

IPTABLES_FAMILIES = {"ip": Family.IPV4, "ip6": Family.IPV6}
TIMEOUT = 30.0


# What iptables-nft writes (nft_rule_to_iptables_command_state and its writing counterpart, 1.8.9): every match and target
# without a form of its own is "xt". Whatever else stands in its tables was put there by nft.
WRITTEN = frozenset("match counter xt accept drop return jump goto continue limit log queue".split())
WRITTEN_META = frozenset("iifname oifname iif oif l4proto mark".split())
WRITTEN_PAYLOADS = frozenset("ip ip6 tcp udp udplite sctp dccp icmp icmpv6 th".split())


def read() -> tuple[tuple[NativeChain, ...], tuple[NftRule, ...]]:
    """The chains of every table that iptables-nft does not show, and the rules in its own that it did not write.

    Raises:
        NoBackendError: nft is not installed.
        ToolError: it failed.
    """
    completed = process.run(["nft", "-j", "list", "ruleset"], timeout=TIMEOUT)
    if completed.status != 0:
        raise ToolError(f"nft: {completed.stderr.strip()}")
    return parse_ruleset(completed.stdout)


def parse_ruleset(text: str) -> tuple[tuple[NativeChain, ...], tuple[NftRule, ...]]:
    """What `read` gives, from the JSON of ``nft -j list ruleset`` (libnftables-json(5))."""
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
        NativeChain(*key, hook=_text(chain.get("hook")), priority=_number(chain.get("prio")), rules=counts.get(key, 0))
        for key, chain in chains.items()
        if not _is_iptables(key)
    )
    return native, tuple(rules)


def _is_iptables(key: tuple[str, str, str]) -> bool:
    return key[0] in IPTABLES_FAMILIES and key[1] in XTABLES


def _is_written(expression: dict[str, Any]) -> bool:
    """Whether iptables-nft writes such an expression."""
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
    return json.dumps([each for each in expressions if "counter" not in each])


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
