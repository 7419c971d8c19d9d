"""What docs/oncall.md and docs/incidents.md show is what the commands print, in pods made as the pages say.

Where a page leaves lines out (``...``) those that it shows have to be there, in their order.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import istio_init

from istio_init.netfilter.family import Family
from istio_init.testing.pods import PROXY, Pod

from .sidecar import Sidecar

DOCS = Path(__file__).parents[2] / "docs"
PROMPT = "    $ "
FLAGS = "-p 15001 -z 15006 -u 1337 -i '*' -b '*' -d 15090,15021,15020"
VOLATILE = re.compile(r"(?<=pid )\d+|(?<=10\.77\.0\.2:)(?!40000\b|15021\b|8080\b|80\b)\d+")
"""What is another each time: ids of processes, and the port of a connection that was sent."""


def shown(page: str, first: str, last: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """The commands of a page from one heading to another, each with the output that stands below it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    text = text[text.index(f"\n## {first}") :]
    lines = (text[: text.index(f"\n## {last}")] if last is not None else text).split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith(PROMPT)]
    for start in starts:
        end = start + 1
        while end < len(lines) and end not in starts and (not lines[end] or lines[end].startswith("    ")):
            end += 1
        yield (
            lines[start].removeprefix(PROMPT),
            [line[4:] for line in "\n".join(lines[start + 1 : end]).rstrip().split("\n")],
        )


def printed(command: str, name: str) -> list[str]:
    """What a command of a page prints of the pod with this name."""
    words = [name if word == "shop" else word for word in shlex.split(command)]
    return istio_init(*words[1:]).stdout.replace(name, "shop").rstrip("\n").split("\n")


def _words(lines: list[str]) -> str:
    return VOLATILE.sub("N", " ".join("\n".join(lines).split()))


def assert_shown(page: str, pod: Sidecar | Pod, first: str, last: str | None = None) -> None:
    """Run the commands of a part of a page, and compare. Where lines are broken depends on the name of the pod."""
    compared = 0
    for command, lines in shown(page, first, last):
        found = _words(printed(command, pod.inside.name))
        parts = [_words(part.split("\n")) for part in "\n".join(lines).split("\n...")]
        if len(parts) == 1:
            assert found == parts[0], command
        for part in filter(None, parts):
            before, there, found = found.partition(part)
            assert there, (command, part, before)
        compared += 1
    assert compared


@pytest.fixture
def pod(real_kernel: None, request: pytest.FixtureRequest) -> Iterator[Sidecar]:
    """A pod with these arguments besides."""
    more, servers = request.param
    with Sidecar.create(*shlex.split(f"{FLAGS}{more}"), families=(Family.IPV4,), servers=servers) as made:
        yield made


@pytest.mark.parametrize("pod", [("", ())], indirect=True)
def test_from_the_page_to_the_cure(pod: Sidecar) -> None:
    pod.iptables("-t", "nat", "-F", "ISTIO_INBOUND")
    rule = ("-p", "tcp", "--dport", "443", "-m", "comment", "--comment", "node agent", "-j", "ACCEPT")
    pod.iptables("-t", "nat", "-I", "OUTPUT", *rule)
    assert_shown("oncall.md", pod, "1. ", "3. ")
    first, *_ = shown("oncall.md", "3. ", "More")
    assert _words(printed(first[0], pod.inside.name)) == _words(first[1])
    pod.iptables("-t", "nat", "-D", "OUTPUT", *rule)
    *_, last = shown("oncall.md", "3. ", "More")
    assert _words(printed(last[0], pod.inside.name)) == _words(last[1])


@pytest.mark.parametrize("pod", [("", ())], indirect=True)
def test_a_job_that_bypasses_the_mesh(pod: Sidecar) -> None:
    job = pod.start(PROXY, name="report-job")
    assert_shown("incidents.md", pod, "A job", "An excluded")
    job.kill()


@pytest.mark.parametrize("pod", [(" -x 10.96.0.0/12,10.96.5.0/24", ())], indirect=True)
def test_a_range_that_another_one_shadows(pod: Sidecar) -> None:
    assert_shown("incidents.md", pod, "An excluded", "DNS")


@pytest.mark.parametrize("pod", [(" --redirect-dns", ("10.88.0.53",))], indirect=True)
def test_dns_that_is_not_captured(pod: Sidecar) -> None:
    pod.inside.write_resolv_conf("169.254.20.10")
    assert_shown("incidents.md", pod, "DNS")
