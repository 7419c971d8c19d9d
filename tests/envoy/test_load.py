"""Thousands of requests through Envoy: none is lost and none escapes, whatever is done to the rules meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest

from istio_init.netfilter.family import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP
from istio_init.testing.traffic import Endpoint

from .sidecar import EXCLUDED, SERVICE, Sidecar
from .test_requests import WORLD
from .web import ask_often

REQUESTS = int(os.environ.get("ISTIO_INIT_REQUESTS", "3000"))
"""Half of them inbound, half outbound; of both families alike."""

OTHERS = (
    "-x 192.0.2.0/24,2001:db8:2::/48 -o 9000 --drop-invalid",
    "-c unused0 -o 9000,9001 --redirect-dns --capture-all-dns",
    "",
)
"""Configurations that treat these requests alike and differ in every table."""

Change = Callable[[Sidecar, int], None]


def leave(sidecar: Sidecar, number: int) -> None:
    """Change nothing."""
    time.sleep(0.05)


def apply_again(sidecar: Sidecar, number: int) -> None:
    """Apply what is live already, which changes nothing, and then every rule of it anew, as the drop-in does."""
    sidecar.apply()
    line = f"-b * -i * -d 15090,15021,15020,{EXCLUDED} -m {sidecar.mode} --dual-stack --force-apply"
    sidecar.pod.inside.run(sys.executable, "-m", "istio_init", "istio-iptables", *line.split())


def switch(sidecar: Sidecar, number: int) -> None:
    """Switch to the next configuration."""
    sidecar.apply(OTHERS[number % len(OTHERS)])


def calls(sidecar: Sidecar) -> tuple[tuple[str, Namespace, list[Endpoint]], ...]:
    """Who calls whom: inbound from the other pod, outbound from the application."""
    hosts = sidecar.pod.hosts
    return (
        ("inbound", sidecar.client.inside, [Endpoint(hosts[family].pod, SERVICE) for family in Family]),
        ("outbound", sidecar.pod.inside, [Endpoint(WORLD[family], 80) for family in Family]),
    )


def remove(sidecar: Sidecar, number: int) -> None:
    """Leave the pod without rules for a moment."""
    sidecar.pod.clean()
    time.sleep(0.3)
    sidecar.apply()


class Run(NamedTuple):
    """What came of requests while the rules were changed."""

    met: Counter[str]
    """How often a client was answered, or what failed."""

    seen: Counter[str]
    """How many requests Envoy completed, by direction."""

    changes: int
    seconds: float


def run(sidecar: Sidecar, requests: int, change: Change) -> Run:
    """Let clients ask, half of them inbound and half outbound, and change the rules until they are done."""
    before, began, changes = sidecar.completed(), time.monotonic(), 0
    with contextlib.ExitStack() as stack:
        workers = []
        for direction, namespace, addresses in calls(sidecar):
            worker = namespace.start(partial(ask_often, requests // 2, addresses, direction), APP)
            stack.callback(worker.kill)
            workers.append(worker)
        while not all(worker.is_done() for worker in workers):
            change(sidecar, changes)
            changes += change is not leave
        met = sum((worker.result() for worker in workers), Counter[str]())
    return Run(met, sidecar.completed() - before, changes, time.monotonic() - began)


@pytest.mark.parametrize("change", [leave, apply_again, switch], ids=["at rest", "applied again", "switched"])
def test_no_request_is_lost_and_none_escapes(sidecar: Sidecar, change: Change, figures: list[str]) -> None:
    done = run(sidecar, REQUESTS, change)
    figures.append(
        f"{sidecar.mode}, {done.changes} changes of the rules: sent {REQUESTS}, through Envoy {done.seen.total()}, "
        f"lost {REQUESTS - done.met['answered']}, in {done.seconds:.1f} s"
    )
    assert done.met == {"answered": REQUESTS}
    assert done.seen == {"inbound": REQUESTS // 2, "outbound": REQUESTS // 2}
    if change is not leave:
        assert done.changes > 3


@pytest.mark.parametrize("sidecar", ["REDIRECT"], indirect=True)
def test_the_figures_would_show_if_rules_were_gone_for_a_moment(sidecar: Sidecar) -> None:
    done = run(sidecar, REQUESTS, remove)
    assert done.changes > 0
    assert done.seen.total() < REQUESTS
