"""Ten thousand requests through Envoy: none is lost and none escapes, whatever is done to the rules meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from istio_init.model.netfilter import Family
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP
from istio_init.testing.traffic import Endpoint

from .sidecar import SERVICE, Sidecar
from .test_requests import WORLD
from .web import ask_often

REQUESTS = 10_000
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
    """Apply what is live already, which changes nothing, and then every rule anew."""
    sidecar.apply()
    line = f"--dual-stack --istio-inbound-interception-mode={sidecar.mode} --reconcile --force-apply"
    exclusions = "-b * -i * -d 15090,15021,15020,8081"
    sidecar.pod.inside.run("istio-iptables", *line.split(), *exclusions.split())


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


@pytest.mark.parametrize("change", [leave, apply_again, switch], ids=["at rest", "applied again", "switched"])
def test_no_request_is_lost_and_none_escapes(sidecar: Sidecar, change: Change, figures: list[str]) -> None:
    before, began = sidecar.completed(), time.monotonic()
    workers = {
        direction: namespace.start(partial(ask_often, REQUESTS // 2, addresses, direction), APP)
        for direction, namespace, addresses in calls(sidecar)
    }
    changes = 0
    while not all(worker.is_done() for worker in workers.values()):
        change(sidecar, changes)
        changes += change is not leave
    met = {direction: worker.result() for direction, worker in workers.items()}
    seconds = time.monotonic() - began
    seen = sidecar.completed() - before
    lost = REQUESTS - sum(each["answered"] for each in met.values())
    figures.append(
        f"{sidecar.mode}, {changes} changes of the rules: sent {REQUESTS}, through Envoy {seen.total()}, lost {lost}, "
        f"in {seconds:.1f} s"
    )
    assert met == {direction: Counter(answered=REQUESTS // 2) for direction in met}
    assert seen == dict.fromkeys(met, REQUESTS // 2)
    if change is not leave:
        assert changes > 5
