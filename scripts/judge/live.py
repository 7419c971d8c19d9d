"""Wild rules made live, read as the product reads them, and packets judged by what the kernel did with them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from istio_init.netfilter.host import Host
from istio_init.netfilter.stages import Netfilter
from istio_init.observe.namespace import observe
from istio_init.observe.unread import Part
from istio_init.system.places import HERE
from judge.compare import Judged, Verdict, case, judged
from judge.predict import Predictor
from judge.record import recording
from judge.wild_lab import OWN
from judge.wild_load import LabError


class Seen(NamedTuple):
    """What the product read of a namespace; ``missing`` are rules that it could not read, in words."""

    netfilter: Netfilter
    host: Host
    missing: tuple[str, ...]


class Result(NamedTuple):
    """One rule set: verdicts, causes of what is undecided otherwise, and cases in words."""

    seed: str
    verdicts: Counter[Verdict]
    causes: Counter[str]
    cases: list[str]
    failed: str = ""


def look() -> Seen:
    """Read the current namespace, without the laboratory's own table."""
    snapshot = observe(HERE, (), versions=False)
    found = snapshot.netfilter
    tables = [table for table in found.tables if table.name != OWN]
    netfilter = Netfilter(tables, found.order, found.tracks, ingress=found.ingress, egress=found.egress)
    missing = [each for each in snapshot.unread if each.part is Part.NATIVE or each in snapshot.missing_rules]
    return Seen(netfilter, snapshot.host, tuple(map(str, missing)))


def judge_live(seed: str, count: int, lacking: Mapping[str, Sequence[str]], wanted: int | None = None) -> Result:
    """One rule set; ``wanted`` is the number of a packet that is to be told of whatever its verdict."""
    result = Result(seed, Counter(), Counter(), [])
    try:
        found, seen = recording(seed, count, lacking, look)
    except (LabError, OSError) as error:
        return result._replace(failed=f"{type(error).__name__}: {error}")
    for number, each, verdict in judged(found, Predictor(seen.netfilter, seen.host, found["ruleset"]["sysctls"])):
        if seen.missing:
            verdict = Judged(Verdict.OTHER, seen.missing, verdict.trace)
        result.verdicts[verdict.verdict] += 1
        if verdict.verdict is Verdict.OTHER:
            result.causes.update(verdict.why)
        if verdict.verdict is Verdict.WRONG or number == wanted:
            result.cases.append(case(found, number, each, verdict))
    return result


def texts(seed: str, lacking: Mapping[str, Sequence[str]]) -> str:
    """The rules and their surroundings, as programs print them."""
    ruleset = recording(seed, 0, lacking, lambda: None)[0]["ruleset"]
    parts = [*ruleset["setup"], *(ruleset[name] for name in ("nft_text", "nft4", "nft6", "legacy4", "legacy6"))]
    return "\n".join(filter(None, [*parts, ruleset["ipset_save"]]))


def cores() -> int:
    """How many there are for us."""
    return len(os.sched_getaffinity(0))
