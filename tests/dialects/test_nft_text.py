"""Rules as nft prints them."""

from __future__ import annotations

from typing import Any

import pytest

from istio_init.dialects.nft.text import rule_text

from .test_nft_ruleset import CORPUS


@pytest.mark.parametrize(("text", "expressions"), CORPUS, ids=[text for text, _ in CORPUS])
def test_a_rule_looks_as_nft_prints_it(text: str, expressions: list[dict[str, Any]]) -> None:
    assert rule_text(expressions) == text


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("flow add @f", {"flow": {"op": "add", "flowtable": "@f"}}),
        ("queue to 3", {"queue": {"num": 3}}),
        ("queue flags bypass to 1-3", {"queue": {"num": {"range": [1, 3]}, "flags": "bypass"}}),
        ('synproxy name "s"', {"synproxy": "s"}),
        ("synproxy mss 1460 wscale 7 timestamp", {"synproxy": {"mss": 1460, "wscale": 7, "flags": ["timestamp"]}}),
        ("xt match multiport", {"xt": {"type": "match", "name": "multiport"}}),
        ("xt", {"xt": None}),
    ],
)
def test_statements_that_not_every_kernel_takes(text: str, expression: dict[str, Any]) -> None:
    assert rule_text([expression]) == text


def test_a_comment_stands_at_the_end() -> None:
    assert rule_text([{"notrack": None}], "hello") == 'notrack comment "hello"'
