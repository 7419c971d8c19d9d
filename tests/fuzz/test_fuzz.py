"""Parsers stand what nobody would write: a sample of scripts/fuzz, and all that they once did not stand."""

from __future__ import annotations

import time

import pytest
from judge import fuzz_kernel, fuzz_netlink, fuzz_rules, fuzz_texts
from judge.fuzzing import CORPUS, Parser, an_input, attempt, fuzz, timed, told

from istio_init.system.workers import in_child

PARSERS = {parser.name: parser for module in (fuzz_rules, fuzz_texts, fuzz_netlink) for parser in module.parsers()}
SEED, INPUTS, RULE_SETS = "tests", 250, 20


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_stands_its_corpus_and_what_is_made_of_it(name: str) -> None:
    done, failures = fuzz(PARSERS[name], SEED, range(INPUTS))

    assert not failures, "\n".join(told(each, PARSERS[name], SEED) for each in failures)
    assert done == INPUTS


def test_rules_of_others_survive_in_a_namespace_whatever_they_are(real_kernel: None) -> None:
    loaded, _, wrong = in_child(lambda: fuzz_kernel.work(SEED, range(RULE_SETS)))

    assert not wrong, "\n".join(fuzz_kernel.told(each, SEED) for each in wrong)
    assert loaded > RULE_SETS // 3


def test_every_parser_has_a_corpus_and_every_corpus_a_parser() -> None:
    assert {path.stem for path in CORPUS.glob("*")} == set(PARSERS)


@pytest.mark.parametrize("name", ["save", "nft-json", "netlink-routes", "argv"])
def test_a_seed_makes_the_same_inputs_and_no_two_alike(name: str) -> None:
    parser = PARSERS[name]
    seeds = parser.seeds()

    once, again = ([an_input(parser, seeds, SEED, number) for number in range(200)] for _ in range(2))

    assert once == again
    assert len(set(once)) > 140


def breaks_at_a_word(text: str) -> None:
    if "ISTIO_OUTPUT" in text:
        raise KeyError(text)


def goes_on_and_on(text: str) -> None:
    while len(text) > 10:
        pass


def forges_a_line(text: str) -> None:
    raise ValueError(f"not a rule: {text}\nall is well")


@pytest.mark.parametrize(
    ("check", "what"),
    [(breaks_at_a_word, "KeyError"), (forges_a_line, "AssertionError")],
)
def test_what_a_parser_does_not_stand_is_found_and_shortened(check: object, what: str) -> None:
    parser = Parser("rule", check, (ValueError,))  # type: ignore[arg-type]

    _, [failure] = fuzz(parser, SEED, range(300))

    assert failure.what.startswith(what)
    assert failure.text in ("ISTIO_OUTPUT", "")


def test_an_input_that_takes_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("judge.fuzzing.LONGEST", 0.1)
    with timed():
        began = time.process_time()
        found = attempt(Parser("rule", goes_on_and_on), "x" * 11)

    assert found is not None and found[0].startswith("SlowError")
    assert time.process_time() - began < 5
