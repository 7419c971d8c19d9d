"""Where packets really go, in both families and through both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from socket import socket

import pytest
from support.command import istio_init

from istio_init.netfilter.family import Family
from istio_init.testing.entering import ROOT, User
from istio_init.testing.pods import APP, HOSTS, PROXY, Pod
from istio_init.testing.traffic import Datagrams, Endpoint, Listener, ask, connect, talk

OUTBOUND, INBOUND, DNS = 15001, 15006, 15053
"""The ports of the proxy's listeners."""

Apply = Callable[..., Pod]


@pytest.fixture(scope="module")
def applied(backend: str) -> Iterator[Apply]:
    """A dual-stack pod with these arguments applied, made at the first call with them and used by all tests."""
    pods: dict[tuple[object, ...], Pod] = {}
    with ExitStack() as stack:

        def make(*flags: str, servers: tuple[str, ...] = (), **env: str) -> Pod:
            key = (flags, servers, *sorted(env.items()))
            if key not in pods:
                pod = stack.enter_context(Pod.create())
                if servers:
                    pod.inside.write_resolv_conf(*servers)
                arguments = ("--netns", pod.name, "--dual-stack", "--force-iptables-binary", backend, *flags)
                istio_init("apply", *arguments, env=env).ok()
                pods[key] = pod
            return pods[key]

        yield make


def reaches_outbound_listener(pod: Pod, user: User, destination: Endpoint, family: Family) -> None:
    """Check that a connection is handed to the proxy, which can tell its destination."""
    with Listener(pod.inside, family, OUTBOUND) as proxy:
        client = connect(pod.inside, user, destination)
        accepted = proxy.accept()
        assert accepted.original == destination
        talk(client, accepted.connection)


def reaches_peer(pod: Pod, user: User, destination: Endpoint, family: Family) -> None:
    """Check that a connection from the pod is direct."""
    with Listener(pod.peer, family, destination.port) as server:
        client = connect(pod.inside, user, destination)
        accepted = server.accept()
        assert accepted.local == destination
        assert accepted.peer.host == HOSTS[family].pod
        talk(client, accepted.connection)


def reaches_inbound_listener(pod: Pod, port: int, family: Family) -> None:
    """Check that a connection to the pod is handed to the proxy, which can tell its destination."""
    destination = Endpoint(HOSTS[family].pod, port)
    with Listener(pod.inside, family, INBOUND) as proxy:
        client = connect(pod.peer, ROOT, destination)
        accepted = proxy.accept()
        assert accepted.original == destination
        assert accepted.peer.host == HOSTS[family].peer
        talk(client, accepted.connection)


def reaches_application(pod: Pod, port: int, family: Family) -> None:
    """Check that a connection to the pod is direct."""
    destination = Endpoint(HOSTS[family].pod, port)
    with Listener(pod.inside, family, port) as application:
        client = connect(pod.peer, ROOT, destination)
        accepted = application.accept()
        assert accepted.local == destination
        assert accepted.peer == client.getsockname()[:2]
        talk(client, accepted.connection)


class TestOutbound:
    """Connections that begin in the pod, under the rules of the injection template."""

    def test_a_connection_of_the_application_reaches_the_outbound_listener(
        self, applied: Apply, family: Family
    ) -> None:
        reaches_outbound_listener(applied(), APP, Endpoint(HOSTS[family].far, 80), family)

    def test_a_connection_of_root_reaches_the_outbound_listener(self, applied: Apply, family: Family) -> None:
        reaches_outbound_listener(applied(), ROOT, Endpoint(HOSTS[family].peer, 443), family)

    def test_traffic_of_the_proxy_user_is_direct(self, applied: Apply, family: Family) -> None:
        reaches_peer(applied(), User(PROXY.uid, APP.gid), Endpoint(HOSTS[family].far, 80), family)

    def test_traffic_of_the_proxy_group_is_direct(self, applied: Apply, family: Family) -> None:
        reaches_peer(applied(), User(APP.uid, PROXY.gid), Endpoint(HOSTS[family].far, 80), family)

    def test_the_ids_of_another_proxy_can_be_named(self, applied: Apply, family: Family) -> None:
        pod = applied("--proxy-uid", "2001,2002", "--proxy-gid", "2003")
        destination = Endpoint(HOSTS[family].peer, 80)
        for user in (User(2001, APP.gid), User(2002, APP.gid), User(APP.uid, 2003)):
            reaches_peer(pod, user, destination, family)
        reaches_outbound_listener(pod, PROXY, destination, family)

    def test_datagrams_of_the_application_are_direct(self, applied: Apply, family: Family) -> None:
        pod, destination = applied(), Endpoint(HOSTS[family].far, 443)
        with Datagrams(pod.peer, destination) as server:
            client = ask(pod.inside, APP, destination, b"over udp?")
            assert server.answer(b"yes") == b"over udp?"
            assert client.recv(64) == b"yes"


class TestLoopback:
    """Connections that never leave the pod."""

    @pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
    @pytest.mark.parametrize("host", ["loopback", "pod"])
    def test_the_application_reaches_itself(self, applied: Apply, family: Family, host: str, mode: str) -> None:
        pod, destination = applied("-m", mode), Endpoint(getattr(HOSTS[family], host), 8080)
        with Listener(pod.inside, family, 8080) as application:
            client = connect(pod.inside, APP, destination)
            accepted = application.accept()
            assert accepted.local == destination
            talk(client, accepted.connection)

    @pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
    def test_the_proxy_reaches_the_application_over_loopback(self, applied: Apply, family: Family, mode: str) -> None:
        pod, destination = applied("-m", mode), Endpoint(HOSTS[family].loopback, 8080)
        with Listener(pod.inside, family, 8080) as application:
            client = connect(pod.inside, PROXY, destination)
            talk(client, application.accept().connection)

    @pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
    def test_the_proxy_calling_its_own_pod_reaches_the_inbound_listener(
        self, applied: Apply, family: Family, mode: str
    ) -> None:
        pod, destination = applied("-m", mode), Endpoint(HOSTS[family].pod, 8080)
        with Listener(pod.inside, family, INBOUND, transparent=mode == "TPROXY") as proxy:
            client = connect(pod.inside, PROXY, destination)
            accepted = proxy.accept()
            assert accepted.original == destination
            talk(client, accepted.connection)

    @pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
    def test_what_the_proxy_passes_on_reaches_the_application(self, applied: Apply, family: Family, mode: str) -> None:
        pod, hosts = applied("-m", mode), HOSTS[family]
        with Listener(pod.inside, family, 8080) as application:
            client = connect(pod.inside, PROXY, Endpoint(hosts.pod, 8080), source=hosts.passthrough)
            accepted = application.accept()
            assert accepted.peer.host == hosts.passthrough
            talk(client, accepted.connection)


class TestInbound:
    """Connections to the pod, captured by REDIRECT."""

    @pytest.mark.parametrize("port", [1, 80, 8080, 15001, 65535])
    def test_a_connection_to_any_port_reaches_the_inbound_listener(
        self, applied: Apply, family: Family, port: int
    ) -> None:
        reaches_inbound_listener(applied(), port, family)

    @pytest.mark.parametrize("port", [15020, 15021, 15090])
    def test_an_excluded_port_reaches_the_application(self, applied: Apply, family: Family, port: int) -> None:
        reaches_application(applied(), port, family)

    def test_the_tunnel_port_is_never_redirected(self, applied: Apply, family: Family) -> None:
        reaches_application(applied(), 15008, family)

    def test_only_listed_ports_are_captured(self, applied: Apply, family: Family) -> None:
        pod = applied("-b", "8080,9000:9010")
        for port in (8080, 9000, 9010):
            reaches_inbound_listener(pod, port, family)
        for port in (80, 9011):
            reaches_application(pod, port, family)

    def test_without_listed_ports_none_is_captured(self, applied: Apply, family: Family) -> None:
        reaches_application(applied("-b", ""), 8080, family)


class TestTproxy:
    """Connections to the pod, captured by TPROXY."""

    def test_the_listener_sees_the_client_and_bears_the_name_that_it_called(
        self, applied: Apply, family: Family
    ) -> None:
        pod, destination = applied("-m", "TPROXY"), Endpoint(HOSTS[family].pod, 8080)
        with Listener(pod.inside, family, INBOUND, transparent=True) as proxy:
            client = connect(pod.peer, ROOT, destination, source=HOSTS[family].far)
            accepted = proxy.accept()
            assert accepted.peer == client.getsockname()[:2]
            assert accepted.peer.host == HOSTS[family].far
            assert accepted.local == destination
            talk(client, accepted.connection)

    def test_a_mark_and_a_table_of_ones_own_serve_as_well(self, applied: Apply, family: Family) -> None:
        pod, destination = applied("-m", "TPROXY", "-t", "77", "-r", "177"), Endpoint(HOSTS[family].pod, 8080)
        with Listener(pod.inside, family, INBOUND, transparent=True) as proxy:
            client = connect(pod.peer, ROOT, destination)
            accepted = proxy.accept()
            assert accepted.local == destination
            talk(client, accepted.connection)

    def test_an_excluded_port_reaches_the_application(self, applied: Apply, family: Family) -> None:
        reaches_application(applied("-m", "TPROXY"), 15021, family)

    def test_outbound_connections_reach_the_outbound_listener(self, applied: Apply, family: Family) -> None:
        reaches_outbound_listener(applied("-m", "TPROXY"), APP, Endpoint(HOSTS[family].far, 80), family)

    def test_traffic_of_the_proxy_is_direct(self, applied: Apply, family: Family) -> None:
        reaches_peer(applied("-m", "TPROXY"), PROXY, Endpoint(HOSTS[family].far, 80), family)


class TestExceptions:
    """What bypasses the proxy because the configuration says so."""

    EXCLUDING = ("-x", "10.88.0.0/16,fd00:88::/32", "-o", "9000")
    INCLUDING = ("-i", "10.88.0.0/16,fd00:88::/32", "-q", "9000")

    def test_excluded_ranges_bypass_the_proxy(self, applied: Apply, family: Family) -> None:
        pod = applied(*self.EXCLUDING)
        reaches_peer(pod, APP, Endpoint(HOSTS[family].far, 80), family)
        reaches_outbound_listener(pod, APP, Endpoint(HOSTS[family].peer, 80), family)

    def test_excluded_outbound_ports_bypass_the_proxy(self, applied: Apply, family: Family) -> None:
        pod = applied(*self.EXCLUDING)
        reaches_peer(pod, APP, Endpoint(HOSTS[family].peer, 9000), family)
        reaches_outbound_listener(pod, APP, Endpoint(HOSTS[family].peer, 9001), family)

    def test_only_included_ranges_and_ports_are_captured(self, applied: Apply, family: Family) -> None:
        pod = applied(*self.INCLUDING)
        reaches_outbound_listener(pod, APP, Endpoint(HOSTS[family].far, 80), family)
        reaches_outbound_listener(pod, APP, Endpoint(HOSTS[family].peer, 9000), family)
        reaches_peer(pod, APP, Endpoint(HOSTS[family].peer, 80), family)

    @pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
    def test_traffic_of_an_excluded_interface_is_left_alone(self, applied: Apply, family: Family, mode: str) -> None:
        pod = applied("-c", "eth0", "-m", mode)
        reaches_application(pod, 8080, family)
        reaches_peer(pod, APP, Endpoint(HOSTS[family].far, 80), family)

    def test_only_traffic_of_included_owner_groups_is_captured(self, applied: Apply, family: Family) -> None:
        pod, destination = applied(ISTIO_OUTBOUND_OWNER_GROUPS="3000,3100-3200"), Endpoint(HOSTS[family].peer, 80)
        for group in (3000, 3150):
            reaches_outbound_listener(pod, User(APP.uid, group), destination, family)
        reaches_peer(pod, APP, destination, family)

    def test_traffic_of_excluded_owner_groups_bypasses_the_proxy(self, applied: Apply, family: Family) -> None:
        pod, destination = applied(ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE="3000"), Endpoint(HOSTS[family].peer, 80)
        reaches_peer(pod, User(APP.uid, 3000), destination, family)
        reaches_outbound_listener(pod, APP, destination, family)


class TestDns:
    """Queries to the servers of resolv.conf, here the peer in both families."""

    SERVERS = tuple(hosts.peer for hosts in HOSTS.values())

    @pytest.fixture
    def pod(self, applied: Apply) -> Pod:
        """A pod whose DNS is captured."""
        return applied("--redirect-dns", servers=self.SERVERS)

    def test_a_query_over_udp_reaches_the_dns_listener_and_its_answer_the_application(
        self, pod: Pod, family: Family
    ) -> None:
        hosts = HOSTS[family]
        with Datagrams(pod.inside, Endpoint(hosts.loopback, DNS), PROXY) as proxy:
            client = ask(pod.inside, APP, Endpoint(hosts.peer, 53), b"example.com?")
            assert proxy.answer(b"192.0.2.1") == b"example.com?"
            assert client.recv(64) == b"192.0.2.1"

    def test_a_query_over_tcp_reaches_the_dns_listener(self, pod: Pod, family: Family) -> None:
        server = Endpoint(HOSTS[family].peer, 53)
        with Listener(pod.inside, family, DNS) as proxy:
            client = connect(pod.inside, APP, server)
            accepted = proxy.accept()
            assert accepted.original == server
            talk(client, accepted.connection)

    def test_the_proxys_own_query_goes_to_the_real_server(self, pod: Pod, family: Family) -> None:
        server = Endpoint(HOSTS[family].peer, 53)
        with Datagrams(pod.peer, server) as real:
            client = ask(pod.inside, PROXY, server, b"example.com?")
            assert real.answer(b"192.0.2.2") == b"example.com?"
            assert client.recv(64) == b"192.0.2.2"
        reaches_peer(pod, PROXY, server, family)

    def test_a_query_is_answered_with_what_the_proxy_asked_of_the_real_server(self, pod: Pod, family: Family) -> None:
        hosts = HOSTS[family]
        server = Endpoint(hosts.peer, 53)
        with Datagrams(pod.inside, Endpoint(hosts.loopback, DNS), PROXY) as proxy, Datagrams(pod.peer, server) as real:
            for number in range(20):
                application = ask(pod.inside, APP, server, b"%d?" % number)
                upstream = ask(pod.inside, PROXY, server, b"upstream %d?" % number)
                assert real.answer(b"%d!" % number) == b"upstream %d?" % number
                assert proxy.answer(upstream.recv(64)) == b"%d?" % number
                assert application.recv(64) == b"%d!" % number

    def test_a_query_to_another_server_goes_there(self, pod: Pod, family: Family) -> None:
        other = Endpoint(HOSTS[family].far, 53)
        with Datagrams(pod.peer, other) as real:
            client = ask(pod.inside, APP, other, b"example.com?")
            assert real.answer(b"192.0.2.3") == b"example.com?"
            assert client.recv(64) == b"192.0.2.3"

    def test_with_capture_all_a_query_to_any_server_reaches_the_dns_listener(
        self, applied: Apply, family: Family
    ) -> None:
        pod, hosts = applied("--redirect-dns", "--capture-all-dns"), HOSTS[family]
        other = Endpoint(hosts.far, 53)
        with Datagrams(pod.inside, Endpoint(hosts.loopback, DNS), PROXY) as proxy:
            client = ask(pod.inside, APP, other, b"example.com?")
            assert proxy.answer(b"192.0.2.4") == b"example.com?"
            assert client.recv(64) == b"192.0.2.4"

    def test_other_connections_reach_the_outbound_listener(self, pod: Pod, family: Family) -> None:
        reaches_outbound_listener(pod, APP, Endpoint(HOSTS[family].peer, 80), family)


def test_a_pod_with_addresses_of_one_family_is_captured_in_it(backend: str, family: Family) -> None:
    with Pod.create(families=(family,)) as pod:
        istio_init("apply", "--netns", pod.name, "--force-iptables-binary", backend).ok()
        reaches_outbound_listener(pod, APP, Endpoint(HOSTS[family].far, 80), family)
        reaches_inbound_listener(pod, 8080, family)


def test_ipv6_of_a_dual_stack_pod_is_left_alone_unless_asked_for(pod: Pod, backend: str) -> None:
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", backend).ok()
    reaches_inbound_listener(pod, 8080, Family.IPV4)
    reaches_application(pod, 8080, Family.IPV6)
    reaches_peer(pod, APP, Endpoint(HOSTS[Family.IPV6].far, 80), Family.IPV6)


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_after_clean_traffic_goes_direct(pod: Pod, backend: str, mode: str) -> None:
    istio_init("apply", "--netns", pod.name, "--dual-stack", "--force-iptables-binary", backend, "-m", mode).ok()
    for family in Family:
        reaches_outbound_listener(pod, APP, Endpoint(HOSTS[family].far, 80), family)
    istio_init("clean", "--netns", pod.name).ok()
    for family in Family:
        reaches_peer(pod, APP, Endpoint(HOSTS[family].far, 80), family)
        reaches_application(pod, 8080, family)


def test_connections_that_are_open_survive_a_switch(pod: Pod, backend: str) -> None:
    with ExitStack() as stack:
        listeners = [
            [
                stack.enter_context(Listener(pod.inside, family, port, transparent=port == INBOUND))
                for port in (OUTBOUND, INBOUND, 15021)
            ]
            for family in Family
        ]
        connections: list[tuple[socket, socket]] = []
        for mode in ("REDIRECT", "TPROXY", "REDIRECT"):
            arguments = ("--netns", pod.name, "--dual-stack", "--force-iptables-binary", backend, "-m", mode)
            istio_init("apply", *arguments).ok()
            for connection in connections:
                talk(*connection)
            for hosts, (outbound, inbound, application) in zip(HOSTS.values(), listeners, strict=True):
                connections += [
                    (connect(pod.inside, APP, Endpoint(hosts.far, 80)), outbound.accept().connection),
                    (connect(pod.peer, ROOT, Endpoint(hosts.pod, 80)), inbound.accept().connection),
                    (connect(pod.peer, ROOT, Endpoint(hosts.pod, 15021)), application.accept().connection),
                ]
