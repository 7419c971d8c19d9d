"""The page of incidents: each command of it, run on a pod with that fault, prints what the page shows."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from inspector.sidecar import Sidecar
from support.command import PROGRAM, execute

from istio_init.netfilter.family import Family
from istio_init.testing import Endpoint
from istio_init.testing.pods import APP, HOSTS, PROXY

PAGE = Path(__file__).parents[2] / "docs" / "incidents.md"
IPV4 = (Family.IPV4,)


class Step(NamedTuple):
    """A command of the page, and the lines that it is to print."""

    command: str
    lines: list[str]


def incidents() -> dict[str, list[Step]]:
    """The steps under each heading."""
    found: dict[str, list[Step]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        steps = found.setdefault(title, [])
        for line in re.findall(r"^    (.*)$", text, re.MULTILINE):
            if line.startswith("$ "):
                steps.append(Step(line[2:], []))
            else:
                steps[-1].lines.append(line)
    return found


@contextlib.contextmanager
def job_as_the_proxy() -> Iterator[str]:
    with Sidecar.create(families=IPV4) as made:
        made.start(PROXY, Endpoint(HOSTS[Family.IPV4].pod, 8081), name="report-job")
        yield made.inside.name


@contextlib.contextmanager
def shadowed_range() -> Iterator[str]:
    with Sidecar.create("-x", "10.96.0.0/12,10.96.5.0/24", families=IPV4) as made:
        made.start(APP, Endpoint(HOSTS[Family.IPV4].pod, 5432))
        yield made.inside.name


@contextlib.contextmanager
def another_server() -> Iterator[str]:
    with Sidecar.create("--redirect-dns", families=IPV4, servers=("10.88.0.53",)) as made:
        made.inside.write_resolv_conf("169.254.20.10")
        yield made.inside.name


PODS: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "A job bypasses the mesh by its user": job_as_the_proxy,
    "An excluded range that another one shadows": shadowed_range,
    "DNS that is not captured": another_server,
}


def matches(shown: list[str], printed: list[str]) -> bool:
    """Whether the words printed are those shown: ``...`` stands for any, a number may be another.

    Only words, as the name of the namespace, which is longer here, wraps lines elsewhere.
    """
    parts = [".*" if line == "..." else _pattern(" ".join(line.split())) for line in shown]
    return re.fullmatch(" ?".join(parts), " ".join(" ".join(printed).split())) is not None


def _pattern(line: str) -> str:
    volatile = r"(?<=pid )\d+|(?<=:)[34]\d{4}(?= ->)|(?<=\[)\d+(?= packets)"
    return r"\d+".join(map(re.escape, re.split(volatile, line)))


def test_every_incident_has_its_pod() -> None:
    assert list(incidents()) == list(PODS)


@pytest.mark.parametrize("title", PODS)
def test_the_page_shows_what_is_printed(real_kernel: None, title: str) -> None:
    steps = incidents()[title]
    assert steps
    with PODS[title]() as name:
        for step in steps:
            words = [name if word == "shop" else word for word in shlex.split(step.command)]
            assert words[0] == "istio-init"
            done = execute(*PROGRAM, *words[1:], env={"COLUMNS": "100"})
            printed = [line for line in done.stdout.replace(name, "shop").splitlines() if line]
            assert matches(step.lines, printed), "\n".join(["", f"$ {step.command}", *printed, done.stderr])
