"""Sentences about where traffic ends up: what makes each hold, and what each says when it does not."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from istio_init.testing import (
    APP,
    ROOT,
    Attempt,
    CommandError,
    Endpoint,
    Family,
    Listener,
    Mesh,
    Owner,
    Pod,
    connect,
    watching,
)

TEMPLATE = "-b '*' -i '*' -d 15090,15021,15020 --dual-stack"
WORLD = {Family.IPV4: "203.0.113.7", Family.IPV6: "2001:db8::7"}
"""Addresses of nobody's in particular."""

DESTINATION = Endpoint(WORLD[Family.IPV4], 80)

Sentence = Callable[[Attempt], object]


@pytest.fixture
def pod(istio_pod: Pod) -> Pod:
    """A pod under the rules of the injection template, in both families."""
    istio_pod.redirect(TEMPLATE)
    return istio_pod


@pytest.fixture(params=Family, ids=lambda family: family.value)
def family(request: pytest.FixtureRequest) -> Family:
    """Each address family."""
    found: Family = request.param
    return found


def reach(port: int) -> Sentence:
    """That the proxy gets it at a port."""
    return lambda attempt: attempt.must_reach_proxy(port)


def failure(sentence: Sentence, attempt: Attempt) -> list[str]:
    """The lines of what a sentence says that does not hold."""
    with pytest.raises(AssertionError) as caught:
        sentence(attempt)
    return str(caught.value).splitlines()


class TestWhatHolds:
    """Each sentence where it is true, which the next class shows it need not be."""

    def test_the_applications_connection_reaches_the_proxy_that_knows_its_destination(
        self, pod: Pod, family: Family
    ) -> None:
        arrival = pod.app.connecting_to(WORLD[family], 443).must_reach_proxy(15001)
        assert arrival.spot.namespace is pod.inside
        assert arrival.original == Endpoint(WORLD[family], 443)

    def test_a_connection_from_outside_reaches_the_proxy(self, pod: Pod, family: Family) -> None:
        arrival = pod.outside.connecting_to(pod.hosts[family].pod, 8080).must_reach_proxy(15006)
        assert arrival.peer.host == pod.hosts[family].peer

    def test_what_is_excluded_is_direct(self, pod: Pod, family: Family) -> None:
        pod.outside.connecting_to(pod.hosts[family].pod, 15021).must_be_direct()
        pod.proxy.connecting_to(WORLD[family], 443).must_be_direct()

    def test_the_user_and_the_group_of_a_connection_are_those_that_are_named(self, pod: Pod) -> None:
        pod.redirect("-u 2001 -g 2002")
        for uid, gid in ((2001, 1), (1, 2002)):
            pod.user(uid, gid).connecting_to(WORLD[Family.IPV4], 80).must_be_direct()
        pod.user(2002, 2001).connecting_to(WORLD[Family.IPV4], 80).must_reach_proxy(15001)

    def test_the_application_reaches_itself(self, pod: Pod, family: Family) -> None:
        for host in (pod.hosts[family].loopback, pod.hosts[family].pod):
            pod.app.connecting_to(host, 8080).must_be_direct()

    def test_with_tproxy_the_proxy_sees_the_client(self, istio_pod: Pod, family: Family) -> None:
        istio_pod.redirect(f"{TEMPLATE} -m TPROXY")
        arrival = istio_pod.outside.connecting_to(istio_pod.hosts[family].pod, 8080).must_reach_proxy(15006)
        assert arrival.peer.host == istio_pod.hosts[family].peer

    def test_a_query_reaches_the_dns_listener_and_another_datagram_its_destination(
        self, pod: Pod, family: Family
    ) -> None:
        pod.redirect(f"{TEMPLATE} --redirect-dns --capture-all-dns")
        pod.app.sending_to(WORLD[family], 53).must_reach_proxy(15053)
        pod.app.sending_to(WORLD[family], 443).must_be_direct()

    def test_what_a_rule_rejects_is_refused_and_what_it_drops_is_dropped(self, pod: Pod) -> None:
        for port, target in ((81, "REJECT"), (82, "DROP")):
            for protocol in ("tcp", "udp"):
                rule = ("-p", protocol, "--dport", str(port), "-j", target)
                pod.inside.run("iptables", "-A", "OUTPUT", *rule)
        for sending in (pod.proxy.connecting_to, pod.proxy.sending_to):
            sending(WORLD[Family.IPV4], 81).must_be_refused()
            sending(WORLD[Family.IPV4], 82, within=1.2).must_be_dropped()


class TestStrangers:
    """Others who come to a place at which a sentence looks: they change nothing about it."""

    @pytest.fixture
    def strangers(self, istio_pod: Pod, monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
        """Connections that came to the destination before what a sentence speaks of; three of them."""
        found: list[socket.socket] = []
        original = watching._send

        def send(*arguments: Any) -> watching.Sent:
            found.extend(connect(istio_pod.peer, ROOT, DESTINATION) for _ in "123")
            for each in found:
                self.behave(each)
            return original(*arguments)

        monkeypatch.setattr(watching, "_send", send)
        return found

    @pytest.fixture(autouse=True, params=["silent", "brief", "talkative", "leaving", "resetting"])
    def behaviour(self, request: pytest.FixtureRequest) -> None:
        """What they do."""
        self.behaves = request.param

    def behave(self, stranger: socket.socket) -> None:
        """Do it."""
        match self.behaves:
            case "brief":
                stranger.sendall(b"hello")
            case "talkative":
                stranger.sendall(b"hello" * 10)
            case "leaving":
                stranger.close()
            case "resetting":
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stranger.close()

    def test_what_arrives_after_them_is_seen(self, istio_pod: Pod, strangers: list[socket.socket]) -> None:
        istio_pod.app.connecting_to(*DESTINATION, within=1.5).must_be_direct()
        assert len(strangers) == 3

    def test_nobody_is_refused_because_of_them(self, istio_pod: Pod, strangers: list[socket.socket]) -> None:
        said = failure(Attempt.must_be_refused, istio_pod.app.connecting_to(*DESTINATION, within=1.5))
        assert said[1].startswith("but it was direct: it reached its destination, port 80 of peer")


def test_many_open_files_are_no_obstacle(istio_pod: Pod) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this takes 2048 descriptors")
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
        for _ in range(1024):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        istio_pod.app.connecting_to(*DESTINATION).must_be_direct()
        istio_pod.app.sending_to(*DESTINATION).must_be_direct()


class TestWhatDoesNotHold:
    """Each sentence where it is false: what happened instead, and the way of the packet to the deciding rule."""

    def test_a_connection_that_the_proxy_must_get_is_direct(self, pod: Pod) -> None:
        said = failure(reach(15001), pod.proxy.connecting_to(WORLD[Family.IPV4], 80))
        assert (
            said[0] == "user 1337, group 1337 of pod, connecting to 203.0.113.7:80, must reach the proxy at port 15001"
        )
        assert said[1].startswith("but it was direct: it reached its destination, port 80 of peer, from 10.77.0.2:")
        assert said[2] == "In the rules of pod:"
        assert "  => direct to 203.0.113.7:80: rule 4 of nat ISTIO_OUTPUT" in "\n".join(said)

    def test_a_connection_that_must_be_direct_reaches_the_proxy(self, pod: Pod) -> None:
        said = failure(Attempt.must_be_direct, pod.app.connecting_to(WORLD[Family.IPV6], 80))
        assert said[0] == "user 1000, group 1000 of pod, connecting to [2001:db8::7]:80, must be direct"
        assert said[1].startswith(
            "but it reached port 15001 of pod, whose original destination is [2001:db8::7]:80, from [fd00:77::2]:"
        )
        assert said[-2].startswith(
            "  => proxied to port 15001, Envoy's outbound listener; original destination [2001:db8::7]:80"
        )
        assert said[-1] == "It never leaves pod: a rule there sends it to port 15001."

    def test_a_rule_misses_as_a_redirect_came_before(self, pod: Pod) -> None:
        pod.inside.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", "REJECT")
        said = failure(Attempt.must_be_refused, pod.app.connecting_to(WORLD[Family.IPV4], 80))
        assert "      1 -p tcp -m tcp --dport 80 -j REJECT" in "\n".join(said)
        assert any(line.endswith("=> no: not “port 80”, now to port 15001") for line in said), said

    def test_a_call_of_the_destinations_own_port_is_not_taken_for_a_proxys(self, istio_pod: Pod) -> None:
        for attempt in (
            istio_pod.app.connecting_to(WORLD[Family.IPV4], 15001),
            istio_pod.outside.connecting_to(istio_pod.ipv6, 15001),
        ):
            said = failure(reach(15001), attempt)
            assert said[1].startswith("but it was direct: it reached its destination, port 15001 of ")

    def test_an_inbound_connection_is_traced_through_the_rules_of_the_pod_that_gets_it(self, pod: Pod) -> None:
        said = failure(reach(15006), pod.outside.connecting_to(pod.ipv4, 15021))
        assert "peer has no ipv4 rules." in said
        assert said[-1].startswith("  => direct to 10.77.0.2:15021: rule 3 of nat ISTIO_INBOUND")

    def test_a_connection_reaches_the_proxy_at_another_port(self, pod: Pod) -> None:
        said = failure(reach(15006), pod.app.connecting_to(WORLD[Family.IPV4], 80))
        assert said[1].startswith("but it reached port 15001 of pod")

    def test_a_proxy_cannot_tell_the_destination_that_another_rule_changed(self, istio_mesh: Mesh) -> None:
        client, server = istio_mesh.pod("client"), istio_mesh.pod("server")
        server.redirect(TEMPLATE)
        rule = ("-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", f"{server.ipv4}:8080")
        client.inside.run("iptables", "-t", "nat", "-A", "OUTPUT", *rule)
        attempt = client.app.connecting_to(server.ipv4, 80)
        said = failure(reach(15006), attempt)
        assert said[0].endswith("must reach the proxy at port 15006 with the original destination")
        assert f"whose original destination is {server.ipv4}:8080" in said[1]

    @pytest.mark.parametrize("sentence", [Attempt.must_be_refused, Attempt.must_be_dropped])
    def test_what_must_not_arrive_arrives(self, pod: Pod, sentence: Sentence) -> None:
        for attempt in (pod.proxy.connecting_to(WORLD[Family.IPV4], 80), pod.app.sending_to(WORLD[Family.IPV4], 80)):
            assert failure(sentence, attempt)[1].startswith(
                "but it was direct: it reached its destination, port 80 of peer"
            )

    def test_what_must_arrive_is_refused_or_dropped(self, pod: Pod) -> None:
        for target, words, outcome in (
            ("REJECT", "it was refused: ", "rejected"),
            ("DROP", "it came out nowhere within 1.2 s", "dropped"),
        ):
            pod.inside.run("iptables", "-I", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", target)
            said = failure(Attempt.must_be_direct, pod.proxy.connecting_to(WORLD[Family.IPV4], 80, within=1.2))
            assert said[1].startswith(f"but {words}")
            assert any(line.startswith(f"  => {outcome}: rule 1 of filter OUTPUT") for line in said)

    def test_a_refused_one_is_not_dropped_and_a_dropped_one_is_not_refused(self, pod: Pod) -> None:
        for target, sentence in (("REJECT", Attempt.must_be_dropped), ("DROP", Attempt.must_be_refused)):
            pod.inside.run("iptables", "-I", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", target)
            failure(sentence, pod.proxy.connecting_to(WORLD[Family.IPV4], 80, within=1.2))

    def test_there_is_no_route(self, pod: Pod) -> None:
        pod.inside.run("ip", "route", "delete", "default")
        said = failure(Attempt.must_be_refused, pod.proxy.connecting_to(WORLD[Family.IPV4], 80))
        assert said[1] == "but it could not be sent: Network is unreachable"

    def test_a_listener_of_the_tests_own_takes_it_out_of_sight(self, pod: Pod) -> None:
        with Listener(pod.inside, Family.IPV4, 15001):
            said = failure(reach(15001), pod.app.connecting_to(WORLD[Family.IPV4], 80))
        assert said[1] == "but it was accepted out of sight: the test has listeners of its own at port 15001 of pod"


class TestApplyingRules:
    """From a line of istio-iptables' arguments to live rules."""

    def test_without_arguments_the_injection_template_holds(self, istio_pod: Pod) -> None:
        istio_pod.redirect()
        istio_pod.outside.connecting_to(istio_pod.ipv4, 15090).must_be_direct()
        istio_pod.outside.connecting_to(istio_pod.ipv4, 15091).must_reach_proxy(15006)

    def test_a_second_line_replaces_the_first(self, pod: Pod) -> None:
        pod.redirect("-x 203.0.113.0/24")
        pod.app.connecting_to(WORLD[Family.IPV4], 80).must_be_direct()

    def test_variables_count_when_they_are_given_and_not_when_they_are_set(
        self, istio_pod: Pod, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exclusion = {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": str(APP.gid)}
        monkeypatch.setenv(*next(iter(exclusion.items())))
        istio_pod.redirect()
        istio_pod.app.connecting_to(WORLD[Family.IPV4], 80).must_reach_proxy(15001)
        istio_pod.redirect(env=exclusion)
        istio_pod.app.connecting_to(WORLD[Family.IPV4], 80).must_be_direct()

    def test_a_cleaned_pod_has_no_redirection(self, pod: Pod) -> None:
        pod.clean()
        pod.app.connecting_to(WORLD[Family.IPV4], 80).must_be_direct()

    def test_wrong_arguments_are_listed(self, istio_pod: Pod) -> None:
        with pytest.raises(CommandError, match="-m") as caught:
            istio_pod.redirect("-m SIDEWAYS -p 99999")
        assert "99999" in str(caught.value)


class TestPodWithAnOwner:
    """A pod that a user namespace of its own owns, made by root."""

    @pytest.fixture
    def owned(self, as_root: None) -> Iterator[Pod]:
        """Such a pod."""
        with Pod.create(owner=Owner("0 100000 65536")) as made:
            yield made

    def test_it_is_redirected_and_cleaned(self, owned: Pod, family: Family) -> None:
        owned.redirect(TEMPLATE)
        owned.app.connecting_to(WORLD[family], 443).must_reach_proxy(15001)
        owned.outside.connecting_to(owned.hosts[family].pod, 8080).must_reach_proxy(15006)
        owned.clean()
        owned.app.connecting_to(WORLD[family], 443).must_be_direct()

    def test_its_users_are_those_of_its_user_namespace(self, owned: Pod) -> None:
        owned.redirect("-u 0 -g 2002")
        owned.user(0, 1).connecting_to(WORLD[Family.IPV4], 443).must_be_direct()
        owned.user(1, 2002).connecting_to(WORLD[Family.IPV4], 443).must_be_direct()
        said = failure(Attempt.must_be_direct, owned.proxy.connecting_to(WORLD[Family.IPV4], 443))
        assert said[0].startswith("user 1337, group 1337 of pod")

    def test_its_own_resolv_conf_counts(self, owned: Pod) -> None:
        owned.inside.write_resolv_conf("192.0.2.53")
        owned.redirect("--redirect-dns")
        owned.app.sending_to("192.0.2.53", 53).must_reach_proxy(15053)
        owned.app.sending_to(WORLD[Family.IPV4], 53).must_be_direct()

    def test_a_user_whom_it_does_not_have_sends_nothing(self, as_root: None) -> None:
        with Pod.create(owner=Owner("0 100000 1000")) as pod:
            pod.user(999, 999).connecting_to(WORLD[Family.IPV4], 443).must_be_direct()
            with pytest.raises(ValueError, match="user 1337, group 1337 does not exist"):
                pod.proxy.connecting_to(WORLD[Family.IPV4], 443).must_be_direct()
            with pytest.raises(CommandError, match="1337"):
                pod.redirect()


class TestMesh:
    """Several pods and the rest of the world."""

    def test_pods_reach_each_other_under_their_own_addresses(self, istio_mesh: Mesh, family: Family) -> None:
        pods = [istio_mesh.pod(f"pod-{number}") for number in range(3)]
        for client in pods:
            for server in pods:
                arrival = client.app.connecting_to(server.hosts[family].pod, 80).must_be_direct()
                assert arrival.spot.namespace is server.inside
                assert arrival.peer.host == client.hosts[family].pod

    def test_each_pod_has_a_name_of_its_own(self, istio_mesh: Mesh) -> None:
        istio_mesh.pod("one")
        for label in ("one", "peer"):
            with pytest.raises(ValueError, match=f"the mesh has a '{label}' already: give each pod a name of its own"):
                istio_mesh.pod(label)

    def test_each_pod_has_rules_of_its_own(self, istio_mesh: Mesh, family: Family) -> None:
        client, server = istio_mesh.pod("client"), istio_mesh.pod("server")
        server.redirect(TEMPLATE)
        arrival = client.app.connecting_to(server.hosts[family].pod, 80).must_reach_proxy(15006)
        assert arrival.spot.namespace is server.inside
        client.redirect(TEMPLATE)
        arrival = client.app.connecting_to(server.hosts[family].pod, 80).must_reach_proxy(15001)
        assert arrival.spot.namespace is client.inside

    def test_the_rest_of_the_world_reaches_every_pod(self, istio_mesh: Mesh) -> None:
        pods = [istio_mesh.pod("one"), istio_mesh.pod("two")]
        for pod in pods:
            assert pod.outside.user == ROOT
            pods[0].outside.connecting_to(pod.ipv6, 80).must_be_direct()
