"""Tables of nftables as ``nft -j list ruleset`` prints them (libnftables-json(5)), out of the values read from it."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from istio_init.dialects.nft.ruleset import Chain, Set, Table


def render(tables: Iterable[Table]) -> str:
    """One line of JSON, which `istio_init.dialects.nft.ruleset.parse` reads back."""
    items = [{"metainfo": {"json_schema_version": 1}}, *(item for table in tables for item in _items(table))]
    return json.dumps({"nftables": items})


def _items(table: Table) -> Iterator[dict[str, Any]]:
    """What a rule refers to comes before it."""
    where = {"family": table.family, "table": table.name}
    flags = sorted({*table.flags, "dormant"} if table.is_dormant else table.flags - {"dormant"})
    own = {"family": table.family, "name": table.name, "handle": table.handle, "flags": flags or None}
    yield {"table": _given(own)}
    for each in table.objects:
        yield {each.kind: each.body}
    for chain in table.chains:
        yield {"chain": {**where, **_chain(chain)}}
    for found in table.sets.values():
        yield {"set" if found.data is None else "map": {**where, **_set(found)}}
    for chain in table.chains:
        for rule in chain.rules:
            own = {"handle": rule.handle, "comment": rule.comment}
            yield {"rule": {**where, "chain": chain.name, **_given(own), "expr": list(rule.expressions)}}


def _chain(chain: Chain) -> dict[str, Any]:
    devices = chain.devices[0] if len(chain.devices) == 1 else list(chain.devices)
    return _given(
        {
            "name": chain.name,
            "handle": chain.handle,
            "type": chain.type,
            "hook": chain.hook,
            "prio": chain.priority,
            "dev": devices or None,
            "policy": chain.policy,
        }
    )


def _set(found: Set) -> dict[str, Any]:
    return _given(
        {
            "name": found.name,
            "type": found.type,
            "map": found.data,
            "flags": sorted(found.flags) or None,
            "timeout": found.timeout,
            "size": found.size,
            "elem": list(found.elements) or None,
        }
    )


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
