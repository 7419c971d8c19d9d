"""What passes through Envoy and what does not, in each mode and family; Envoy's own log and statistics say so."""

from __future__ import annotations

import itertools

import pytest

from istio_init.netfilter.family import Family
from istio_init.testing.entering import ROOT
from istio_init.testing.pods import APP
from istio_init.testing.traffic import Endpoint

from .bootstrap import INBOUND, PASSTHROUGH, SELF
from .sidecar import EXCLUDED, SERVICE, Sidecar
from .web import get

WORLD = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8::7"}
OTHER = {Family.IPV4: "198.51.100.7", Family.IPV6: "2001:db8:1::7"}
"""Addresses of the rest of the world, the second in a range that some tests exclude."""

EXCLUSIONS = "-x 198.51.100.0/24,2001:db8:1::/48 -o 9000"

_numbers = itertools.count(1)


@pytest.fixture(params=Family, ids=lambda family: family.value)
def family(request: pytest.FixtureRequest) -> Family:
    """Each address family."""
    found: Family = request.param
    return found


@pytest.fixture
def path() -> str:
    """A path that nobody asked for before."""
    return f"/{next(_numbers)}"


def ways(sidecar: Sidecar, path: str, count: int) -> list[str]:
    """Through which of Envoy's listeners a request came, in the order in which they were done with it."""
    return [line["direction"] for line in sidecar.logged(path, count)]


def test_an_inbound_request_passes_through_envoy_to_the_application(
    sidecar: Sidecar, family: Family, path: str
) -> None:
    before = sidecar.completed()
    answer = sidecar.call(family, path)
    assert (answer.status, answer.path) == (200, path)
    assert answer.local == sidecar.pod.hosts[family].pod
    [line] = sidecar.logged(path, 1)
    assert (line["direction"], line["status"]) == ("inbound", 200)
    assert line["client"].rpartition(":")[0].strip("[]") == sidecar.client.hosts[family].pod
    assert sidecar.completed() - before == {"inbound": 1}


def test_the_application_sees_envoys_own_address_or_with_tproxy_the_clients(
    sidecar: Sidecar, family: Family, path: str
) -> None:
    seen = {"REDIRECT": PASSTHROUGH[family], "TPROXY": sidecar.client.hosts[family].pod}
    assert sidecar.call(family, path).peer == seen[sidecar.mode]


def test_an_outbound_request_passes_through_envoy_to_where_it_was_meant_to_go(
    sidecar: Sidecar, family: Family, path: str
) -> None:
    before = sidecar.completed()
    answer = sidecar.call_out(WORLD[family], path)
    assert (answer.status, answer.path, answer.local) == (200, path, WORLD[family])
    assert answer.peer == sidecar.pod.hosts[family].pod
    [line] = sidecar.logged(path, 1)
    assert line["direction"] == "outbound"
    assert line["upstream"] == str(Endpoint(WORLD[family], 80))
    assert sidecar.completed() - before == {"outbound": 1}


def test_a_request_to_an_excluded_inbound_port_does_not(sidecar: Sidecar, family: Family, path: str) -> None:
    before = sidecar.completed()
    answer = sidecar.call(family, path, port=EXCLUDED)
    assert answer.peer == sidecar.client.hosts[family].pod
    assert sidecar.completed() == before


def test_a_request_to_an_excluded_range_or_outbound_port_does_not(sidecar: Sidecar, family: Family, path: str) -> None:
    sidecar.apply(EXCLUSIONS)
    try:
        before = sidecar.completed()
        assert sidecar.call_out(OTHER[family], path).path == path
        assert sidecar.call_out(WORLD[family], path, port=9000).path == path
        assert sidecar.completed() == before
        assert sidecar.call_out(WORLD[family], path).path == path
        assert sidecar.completed() - before == {"outbound": 1}
    finally:
        sidecar.apply()


def test_the_application_calling_itself_does_not(sidecar: Sidecar, family: Family, path: str) -> None:
    before = sidecar.completed()
    for host in (sidecar.pod.hosts[family].loopback, sidecar.pod.hosts[family].pod):
        assert sidecar.call_out(host, path, port=SERVICE).path == path
    assert sidecar.completed() == before


def test_envoy_calling_its_own_pod_passes_through_each_listener_once(
    sidecar: Sidecar, family: Family, path: str
) -> None:
    before = sidecar.completed()
    answer = sidecar.call_out(WORLD[family], f"{SELF}{path}")
    assert (answer.status, answer.local) == (200, sidecar.pod.hosts[family].pod)
    assert sorted(ways(sidecar, f"{SELF}{path}", 2)) == ["inbound", "outbound"]
    assert sidecar.completed() - before == {"inbound": 1, "outbound": 1}


def test_a_call_to_the_inbound_listener_by_its_own_port_comes_to_nothing_once(
    sidecar: Sidecar, family: Family, path: str
) -> None:
    refused = sidecar.statistic("tcp.blackhole.downstream_cx_total")
    with pytest.raises(ConnectionError):
        sidecar.call(family, path, port=INBOUND)
    assert sidecar.statistic("tcp.blackhole.downstream_cx_total") == refused + 1


def test_a_pod_without_rules_shows_that_envoy_is_not_in_the_way_by_itself(
    sidecar: Sidecar, family: Family, path: str
) -> None:
    sidecar.pod.clean()
    try:
        before = sidecar.completed()
        assert sidecar.call(family, path).peer == sidecar.client.hosts[family].pod
        assert sidecar.call_out(WORLD[family], path).path == path
        assert sidecar.completed() == before
    finally:
        sidecar.apply()


def test_root_of_the_pod_is_captured_as_the_application_is(sidecar: Sidecar, family: Family, path: str) -> None:
    before = sidecar.completed()
    for user in (ROOT, APP):
        assert get(sidecar.pod.inside, user, Endpoint(WORLD[family], 80), path).path == path
    assert sidecar.completed() - before == {"outbound": 2}
