"""Tables of nf_tables of which only that they are called is known: each rule could do anything."""

from __future__ import annotations

import json

from istio_init.netfilter.rules import (
    BaseChain,
    Cause,
    Chain,
    ChainType,
    Hook,
    Openness,
    Origin,
    Rule,
    Store,
    Table,
    Unknowable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FAMILIES = frozenset(["ip", "ip6", "inet"])


def opaque(text: str) -> tuple[Table, ...]:
    """The tables that ``nft -j list ruleset`` prints (libnftables-json(5)), without what their rules mean."""
    items = json.loads(text)["nftables"]
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    for item in items:
        if "rule" in item:
            rule = item["rule"]
            place = rule["family"], rule["table"], rule["chain"]
            there = rules.setdefault(place, [])
            there.append(_rule(place, len(there) + 1, rule["expr"]))
    chains: dict[tuple[str, str], dict[str, Chain]] = {}
    for item in items:
        if "chain" in item:
            chain = item["chain"]
            place = chain["family"], chain["table"], chain["name"]
            made = Chain(place[2], tuple(rules.get(place, ())), _base(chain))
            chains.setdefault(place[:2], {})[place[2]] = made
    return tuple(
        Table(
            Store.NFT,
            table["family"],
            table["name"],
            chains.get((table["family"], table["name"]), {}),
            is_dormant="dormant" in table.get("flags", ()),
        )
        for table in (item["table"] for item in items if "table" in item)
        if table["family"] in FAMILIES
    )


def _base(chain: dict[str, Any]) -> BaseChain | None:
    if "hook" not in chain or chain["hook"] not in {hook.value for hook in Hook}:
        return None
    drops = chain.get("policy") == "drop"
    return BaseChain(Hook(chain["hook"]), chain["prio"], ChainType(chain["type"]), drops)


def _rule(place: tuple[str, str, str], number: int, expressions: list[Any]) -> Rule:
    words = json.dumps(expressions)
    origin = Origin(Store.NFT, *place, number, words)
    # Perhaps it makes the kernel track connections: taken for granted, as what cannot be told is all the same.
    return Rule((Unknowable(Cause(Openness.NOT_MODELLED, words)),), origin, None, True)
