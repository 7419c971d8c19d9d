"""Rules of native nftables in nft's JSON, from short words: ``iifname lo``, ``ip daddr != 127.0.0.1``, ``accept``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from istio_init.dialects.nft.ruleset import Ruleset, parse

Expression = dict[str, Any]

FIELDS = {
    **{
        name: {"meta": {"key": name}} for name in ("l4proto", "iifname", "oifname", "skuid", "skgid", "mark", "nfproto")
    },
    "ct mark": {"ct": {"key": "mark"}},
    "ct state": {"ct": {"key": "state"}},
    **{
        f"{protocol} {name}": {"payload": {"protocol": protocol, "field": name}}
        for protocol, names in (
            ("ip", "saddr daddr"),
            ("ip6", "saddr daddr"),
            ("tcp", "sport dport"),
            ("udp", "sport dport"),
        )
        for name in names.split()
    },
}
COUNTER: Expression = {"counter": {"packets": 7, "bytes": 420}}


def on(field: str, right: Any, op: str = "==", mask: int | None = None) -> Expression:
    """A match."""
    left = FIELDS[field] if mask is None else {"&": [FIELDS[field], mask]}
    return {"match": {"op": op, "left": left, "right": right}}


def put(field: str, value: Any) -> Expression:
    """A statement that gives a mark or zone a value."""
    key = {"ct": {"key": "zone"}} if field == "ct zone" else FIELDS[field]
    return {"mangle": {"key": key, "value": value}}


def jump(chain: str) -> Expression:
    """A jump."""
    return {"jump": {"target": chain}}


def redirect(port: int) -> Expression:
    """A redirection."""
    return {"redirect": {"port": port}}


ACCEPT: Expression = {"accept": None}
RETURN: Expression = {"return": None}
DROP: Expression = {"drop": None}
TCP = on("l4proto", "tcp")

HOOKS = {"prerouting": "prerouting", "output": "output"}
PRIORITIES = {"nat": -100, "mangle": -150, "raw": -300}


def ruleset(
    prefix: str, tables: Mapping[str, Mapping[str, Sequence[Sequence[Expression]]]], flags: Any = None
) -> Ruleset:
    """What ``nft -j list ruleset`` says of tables of family inet."""
    items: list[dict[str, Any]] = [{"metainfo": {"json_schema_version": 1}}]
    for table, chains in tables.items():
        where = {"family": "inet", "table": f"{prefix}{table}"}
        items.append({"table": {"family": "inet", "name": where["table"], "flags": flags}})
        for chain in chains:
            base = (
                {"type": "nat", "hook": chain, "prio": PRIORITIES[table], "policy": "accept"} if chain in HOOKS else {}
            )
            items.append({"chain": {**where, "name": chain, **base}})
        for chain, rules in chains.items():
            items += [{"rule": {**where, "chain": chain, "expr": list(rule)}} for rule in rules]
    return parse(json.dumps({"nftables": items}))
