"""Rules of nft, given as its JSON has them, lowered for a test."""

from __future__ import annotations

import json
from typing import Any

from istio_init.dialects.nft.lower import lower
from istio_init.dialects.nft.ruleset import parse
from istio_init.netfilter.chains import Table
from istio_init.netfilter.rules import Rule, Statement

Json = Any


def document(*items: Json, family: str = "inet", **table: Json) -> str:
    """The output of ``nft -j list ruleset`` for one table t; items say neither its name nor its family."""
    first = {"table": {"family": family, "name": "t", **table}}
    rest = [{kind: {"family": family, "table": "t", **body}} for item in items for kind, body in item.items()]
    return json.dumps({"nftables": [first, *rest]})


def chain(name: str = "c", **base: Json) -> Json:
    """A chain."""
    return {"chain": {"name": name, **base}}


def in_chain(*expressions: Json, **more: Json) -> Json:
    """A rule of the chain c."""
    return {"rule": {"chain": "c", "expr": expressions, **more}}


def table(*items: Json, family: str = "inet", **more: Json) -> Table:
    """The lowered table."""
    [found] = lower(parse(document(*items, family=family, **more)))
    return found


def rules(*expressions: Json, family: str = "inet", sets: tuple[Json, ...] = ()) -> tuple[Rule, ...]:
    """One rule, lowered: to several where it does one of several things."""
    return table(*sets, chain(), in_chain(*expressions), family=family).chains["c"].rules


def body(*expressions: Json, family: str = "inet", sets: tuple[Json, ...] = ()) -> tuple[Statement, ...]:
    """The statements of one rule."""
    [rule] = rules(*expressions, family=family, sets=sets)
    return rule.body


def match(left: Json, right: Json, operator: str = "==") -> Json:
    """A match."""
    return {"match": {"op": operator, "left": left, "right": right}}


def header(protocol: str, field: str) -> Json:
    """A field of a header."""
    return {"payload": {"protocol": protocol, "field": field}}


def meta(key: str) -> Json:
    """A fact of a packet."""
    return {"meta": {"key": key}}


def ct(key: str, direction: str | None = None) -> Json:
    """A fact of its connection."""
    return {"ct": {"key": key} if direction is None else {"key": key, "dir": direction}}


def verdict(name: str, target: str | None = None) -> Json:
    """A verdict."""
    return {name: None if target is None else {"target": target}}
