"""Tables of nftables can be written as JSON again."""

from __future__ import annotations

import json

import pytest

from istio_init.dialects.nft.render import render
from istio_init.dialects.nft.ruleset import parse

WHERE = {"family": "inet", "table": "t"}
CHAIN = {"chain": {**WHERE, "name": "c", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{"table": {"family": "ip", "name": "nat", "handle": 1}}],
        [{"table": {"family": "inet", "name": "t", "flags": "dormant"}}],
        [{"table": {"family": "inet", "name": "t"}}, CHAIN],
        [{"table": {"family": "netdev", "name": "t"}},
         {"chain": {"family": "netdev", "table": "t", "name": "c", "type": "filter", "hook": "ingress", "prio": 0,
                    "dev": ["a", "b"]}}],
        [{"table": {"family": "inet", "name": "t"}}, CHAIN,
         {"rule": {**WHERE, "chain": "c", "handle": 3, "comment": "why", "expr": [{"accept": None}]}}],
        [{"table": {"family": "inet", "name": "t"}},
         {"set": {**WHERE, "name": "s", "type": "ipv4_addr", "flags": ["interval"], "elem": ["10.0.0.1"], "size": 9}},
         {"map": {**WHERE, "name": "m", "type": "inet_service", "map": "verdict", "elem": [[80, {"accept": None}]]}},
         {"counter": {**WHERE, "name": "n", "packets": 1, "bytes": 2}}],
    ],
)  # fmt: skip
def test_what_was_read_is_written_so_that_it_reads_the_same(items: list[object]) -> None:
    read = parse(json.dumps({"nftables": items}))

    assert parse(render(read.tables)) == read
