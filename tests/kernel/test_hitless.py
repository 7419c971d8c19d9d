"""Switching between configurations while clients connect without pause: nothing is refused, nothing escapes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from typing import NamedTuple

import pytest

from istio_init.config.parse import Names, gather, parse
from istio_init.netfilter.family import Family
from istio_init.stores import session
from istio_init.stores.legacy import IptablesLegacy
from istio_init.stores.nft import IptablesNft
from istio_init.stores.programmer import Manner, Wanted, program
from istio_init.stores.surroundings import NOTHING, wanted
from istio_init.system import namespaces, places
from istio_init.testing.entering import ROOT, User
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP, HOSTS, Pod
from istio_init.testing.traffic import ADDRESS_FAMILIES, Endpoint, Listener, connect, family_of

SWITCHES = int(os.environ.get("ISTIO_INIT_SWITCHES", "20"))
CAPTURED, ESCAPED = b"captured", b"escaped"
OUTBOUND, INBOUND = 15001, 15006
SERVER, APPLICATION = 80, 8080
"""The ports that clients call, outside and in the pod."""

MINIMUM = 10 * SWITCHES
"""Connections in each direction below which a run has shown nothing."""

SOURCE_PORTS = range(1025, 65536)
"""Those of clients, one after the other: one used again soon may meet its last connection in the tracker, and what
belongs to an established connection goes past TPROXY, whatever the rules were in the meantime."""

ENDING = ("fin_wait", "close_wait", "last_ack", "time_wait", "close")
"""States of a connection that the tracker is to forget soon, for the same reason."""

PATIENCE = 10
"""How nice traffic is: at equal priority it holds every switch up, and there are fewer switches to meet."""

Configuration = dict[str, str]

REDIRECT: tuple[Configuration, Configuration] = (
    {},
    {
        "--istio-local-exclude-ports": "15090,15021,9000:9100",
        "--istio-service-exclude-cidr": "192.0.2.0/24,198.51.100.0/24,2001:db8::/32",
        "--istio-local-outbound-ports-exclude": "9000",
    },
)
TPROXY: tuple[Configuration, Configuration] = (
    {"--istio-inbound-interception-mode": "TPROXY"},
    {
        **REDIRECT[1],
        "--istio-inbound-interception-mode": "TPROXY",
        "--istio-inbound-tproxy-mark": "77",
        "--istio-inbound-tproxy-route-table": "177",
    },
)
BETWEEN_MODES = (REDIRECT[0], TPROXY[1])


class Traffic(NamedTuple):
    """What clients met by the time that they were stopped: answers, or errors by name."""

    outbound: Counter[str]
    inbound: Counter[str]


def answer_each(listening: socket.socket, words: bytes) -> None:
    """Tell everyone who connects where they are, for ever."""
    os.nice(PATIENCE)
    listening.settimeout(None)
    while True:
        connection, _ = listening.accept()
        with connection:
            try:
                connection.sendall(words)
            except OSError:
                continue  # The client has gone, and counts what it met.


def connect_until(stop: Event, addresses: Sequence[Endpoint]) -> Counter[str]:
    """Connect to one address after the other, again and again; how often who answered, or what failed."""
    os.nice(PATIENCE)
    met: Counter[str] = Counter()
    for address, port in zip(itertools.cycle(addresses), itertools.cycle(SOURCE_PORTS)):
        if stop.is_set():
            break
        with socket.socket(ADDRESS_FAMILIES[family_of(address)], socket.SOCK_STREAM) as client:
            client.settimeout(5)
            # Leave no port in TIME_WAIT behind, as there would soon be none left.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                client.bind(("", port))
            except OSError:
                continue
            try:
                client.connect(address)
                met[client.recv(64).decode() or "closed without a word"] += 1
            except OSError as error:
                met[type(error).__name__] += 1
    return met


class Clients:
    """Clients of a pod, outbound and inbound, and everyone who could answer them."""

    def __init__(self, pod: Pod, families: tuple[Family, ...], *, transparent: bool) -> None:
        self._pod = pod
        self._families = families
        self._stack = ExitStack()
        self._transparent = transparent

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answer_where_captured(self) -> None:
        """Start the proxy's listeners."""
        for family in self._families:
            self._serve(self._pod.inside, family, OUTBOUND, CAPTURED)
            self._serve(self._pod.inside, family, INBOUND, CAPTURED, transparent=self._transparent)

    def answer_where_escaped(self) -> None:
        """Start those whom the clients meant to call, and check that they answer: nothing is captured yet."""
        for family in self._families:
            self._serve(self._pod.peer, family, SERVER, ESCAPED)
            self._serve(self._pod.inside, family, APPLICATION, ESCAPED)
        for namespace, user, addresses in self._calls():
            for address in addresses:
                with connect(namespace, user, address) as client:
                    assert client.recv(64) == ESCAPED

    def _serve(
        self, namespace: Namespace, family: Family, port: int, words: bytes, *, transparent: bool = False
    ) -> None:
        listener = self._stack.enter_context(Listener(namespace, family, port, transparent=transparent))
        worker = namespace.start(partial(answer_each, listener.socket, words), keep=(listener.socket,))
        self._stack.callback(worker.kill)

    def _calls(self) -> tuple[tuple[Namespace, User, list[Endpoint]], ...]:
        """From where and by whom calls are made, and to which addresses: outbound, inbound."""
        hosts = [HOSTS[family] for family in self._families]
        return (
            (self._pod.inside, APP, [Endpoint(each.far, SERVER) for each in hosts]),
            (self._pod.peer, ROOT, [Endpoint(each.pod, APPLICATION) for each in hosts]),
        )

    @contextmanager
    def connecting(self) -> Iterator[Traffic]:
        """Let all clients connect during the context; what they met is known after it."""
        stop = multiprocessing.get_context("fork").Event()
        workers = []
        for namespace, user, addresses in self._calls():
            worker = namespace.start(partial(connect_until, stop, addresses), user)
            self._stack.callback(worker.kill)
            workers.append(worker)
        traffic = Traffic(Counter(), Counter())
        time.sleep(0.2)
        try:
            yield traffic
        finally:
            stop.set()
        for met, worker in zip(traffic, workers, strict=True):
            met.update(worker.result())


def _expected_warning(words: str) -> None:
    assert "IPv6 is not captured" in words


class Switch:
    """Programs a pod with one configuration after the other."""

    def __init__(self, pod: Pod, backend: str, configurations: tuple[Configuration, ...], *, dual_stack: bool) -> None:
        self._place = places.of_netns(pod.name)
        self._manner = Manner(backend=backend)
        self._aims = [self._aim({"--dual-stack": str(dual_stack), **each}) for each in configurations]

    def _aim(self, configuration: Configuration) -> Wanted:
        config, _ = parse(gather(configuration, {}, apply=True), Names())
        return namespaces.call_in(self._place, lambda: wanted(config, self._place, _expected_warning))

    def to(self, number: int) -> None:
        """Switch to a configuration by its number, beginning anew after the last."""
        self._program(self._aims[number % len(self._aims)])

    def to_nothing(self) -> None:
        """Remove everything that a configuration means."""
        self._program(NOTHING)

    def in_store(self, store: str, number: int) -> None:
        """Switch to a configuration, in a store that need not be the one in which another is live."""
        aim, manner = self._aims[number % len(self._aims)], self._manner.replace(backend=store)
        namespaces.call_in(self._place, lambda: program(aim, manner))

    def _program(self, aim: Wanted) -> None:
        done = namespaces.call_in(self._place, lambda: program(aim, self._manner))
        assert done.written


@pytest.fixture(params=["nft", "legacy", "legacy programs", "native"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A way to the rules: python-iptables, which starts slowly, and the legacy programs lead to the same store."""
    name: str = request.param
    if name == "legacy programs":
        monkeypatch.setattr(session, "backends", lambda wait: (IptablesNft(wait), IptablesLegacy(wait, binding=False)))
    return name


def switch_under_traffic(
    pod: Pod, means: str, configurations: tuple[Configuration, ...], *, transparent: bool, switches: int = SWITCHES
) -> Traffic:
    """Switch to and fro while clients of both families connect; what they met."""
    families = tuple(Family)
    if means == "legacy":
        families, switches = (Family.IPV4,), max(2, switches // 10)
    for state in ENDING:
        pod.inside.run("sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_timeout_{state}=2")
    with Clients(pod, families, transparent=transparent) as clients:
        clients.answer_where_escaped()
        clients.answer_where_captured()
        switch = Switch(pod, means.partition(" ")[0], configurations, dual_stack=len(families) > 1)
        switch.to(0)
        with clients.connecting() as traffic:
            for number in range(1, switches + 1):
                switch.to(number)
    return traffic


@pytest.mark.parametrize(
    ("configurations", "transparent"), [(REDIRECT, False), (TPROXY, True)], ids=["redirect", "tproxy"]
)
def test_no_connection_is_refused_and_none_escapes_when_a_mode_is_configured_anew(
    pod: Pod, means: str, configurations: tuple[Configuration, ...], transparent: bool
) -> None:
    traffic = switch_under_traffic(pod, means, configurations, transparent=transparent)
    for met in traffic:
        assert set(met) == {CAPTURED.decode()}, met
        assert met.total() > MINIMUM


def test_no_connection_escapes_between_the_modes(pod: Pod, means: str) -> None:
    traffic = switch_under_traffic(pod, means, BETWEEN_MODES, transparent=True)
    for met in traffic:
        assert ESCAPED.decode() not in met, met
        assert met[CAPTURED.decode()] > MINIMUM


def test_the_clients_would_notice_if_rules_were_gone_for_a_moment(pod: Pod) -> None:
    with Clients(pod, tuple(Family), transparent=False) as clients:
        clients.answer_where_escaped()
        clients.answer_where_captured()
        switch = Switch(pod, "nft", (REDIRECT[0],), dual_stack=True)
        switch.to(0)
        with clients.connecting() as traffic:
            for _ in range(3):
                switch.to_nothing()
                time.sleep(0.1)
                switch.to(0)
                time.sleep(0.1)
    for met in traffic:
        assert met[ESCAPED.decode()] > 0
        assert met[CAPTURED.decode()] > 0


SLOW_RULES = 30_000
"""So many rules between mangle and nat that a packet is on its way for a good part of a switch."""


def slow_down(pod: Pod) -> None:
    """Give the pod a table of somebody else's that each of its packets takes a while to pass."""
    rules = "".join(f"ip protocol tcp ip saddr 203.0.113.{number & 255} counter\n" for number in range(SLOW_RULES))
    table = f"table inet slow {{ chain prerouting {{ type filter hook prerouting priority -120;\n{rules}}}\n}}\n"
    pod.inside.run("nft", "-f", "-", stdin=table)


@pytest.mark.parametrize("means", ["nft", "native"])
def test_no_packet_escapes_that_is_on_its_way_during_a_switch(pod: Pod, means: str) -> None:
    slow_down(pod)
    traffic = switch_under_traffic(pod, means, BETWEEN_MODES, transparent=True, switches=20)
    assert ESCAPED.decode() not in traffic.inbound
    assert traffic.inbound[CAPTURED.decode()] > 50
