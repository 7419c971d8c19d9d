"""A pod with a proxy's stand-in and an application in it, whose connections have met the rules."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from support.command import istio_init
from support.rules import program

from istio_init.netfilter.family import Family
from istio_init.system.transparent import make_transparent
from istio_init.testing.entering import ROOT, User
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP, HOSTS, PROXY, Pod
from istio_init.testing.processes import Worker
from istio_init.testing.traffic import ADDRESS_FAMILIES, Endpoint, connect, family_of

OUTBOUND, INBOUND, DNS, SERVICE = 15001, 15006, 15053, 8080
"""The ports of the proxy's listeners, and that of the application."""

PR_SET_NAME = 15
"""prctl(2): what ps(1) shows as the name of a process."""

ANY = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}


class Socket(NamedTuple):
    """What a process waits on."""

    address: Endpoint
    kind: int = socket.SOCK_STREAM
    transparent: bool = False


class Inhabitant:
    """A process of a namespace that waits on sockets; connections to it are accepted by the kernel alone."""

    def __init__(self, namespace: Namespace, user: User, *sockets: Socket, name: str = "app") -> None:
        opened = [_open(namespace, user, each) for each in sockets]
        reading, writing = os.pipe()

        def wait() -> None:
            ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())
            os.write(writing, str(os.getpid()).encode())
            os.close(writing)
            while True:
                signal.pause()

        self._worker: Worker[None] = namespace.start(wait, user, keep=(writing, *opened))
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        if not told:
            self._worker.result()
        self.pid = int(told)
        for each in opened:
            each.close()

    def kill(self) -> None:
        """End the process, and with it its sockets."""
        self._worker.kill()


def _open(namespace: Namespace, user: User, wanted: Socket) -> socket.socket:
    family = family_of(wanted.address)
    made = namespace.open_socket(ADDRESS_FAMILIES[family], wanted.kind, user)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family is Family.IPV6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if wanted.transparent:
        make_transparent(made)
    made.bind(wanted.address)
    if wanted.kind == socket.SOCK_STREAM:
        made.listen()
    return made


class Sidecar:
    """The pod and who lives in it. Make it with `Sidecar.create`."""

    def __init__(self, pod: Pod, families: tuple[Family, ...]) -> None:
        self.pod = pod
        self.inside = pod.inside
        self.families = families
        self.proxy = self.start_proxy()
        self.app = self.start(APP, *(Endpoint(HOSTS[family].pod, SERVICE) for family in families))

    @classmethod
    @contextlib.contextmanager
    def create(
        cls,
        *flags: str,
        backend: str = "nft",
        families: tuple[Family, ...] = tuple(Family),
        servers: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Iterator[Self]:
        """A pod with these arguments applied and connections in both directions, for the time of the context."""
        with Pod.create(families=families) as pod:
            if servers:
                pod.inside.write_resolv_conf(*servers)
            made = cls(pod, families)
            made.apply("--force-iptables-binary", backend, *flags, env=env)
            made.connect()
            yield made
            made.proxy.kill()
            made.app.kill()

    def start_proxy(self, user: User = PROXY, name: str = "envoy") -> Inhabitant:
        """Something that listens where the proxy does, also for TPROXY."""
        sockets = []
        for family in self.families:
            sockets += [Socket(Endpoint(ANY[family], port), transparent=True) for port in (OUTBOUND, INBOUND)]
            sockets += [Socket(Endpoint(ANY[family], DNS), kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        return Inhabitant(self.inside, user, *sockets, name=name)

    def start(self, user: User, *addresses: Endpoint, name: str = "app") -> Inhabitant:
        """A process that listens for connections to these addresses."""
        return Inhabitant(self.inside, user, *map(Socket, addresses), name=name)

    def apply(self, *flags: str, env: dict[str, str] | None = None) -> None:
        """Program the pod."""
        istio_init("apply", "--netns", self.inside.name, *flags, env=env).ok()

    def connect(self) -> None:
        """Connect from the application to the world, and from the world to the application, in each family."""
        for family in self.families:
            hosts = HOSTS[family]
            connect(self.inside, APP, Endpoint(hosts.far, 80))
            connect(self.pod.peer, ROOT, Endpoint(hosts.pod, SERVICE))

    def iptables(self, *words: str, family: Family = Family.IPV4, backend: str = "nft") -> None:
        """Change rules by hand."""
        self.inside.run(program(backend, family), *words)

    def explain(self, *flags: str) -> dict[str, Any]:
        """What ``explain --format json`` says."""
        done = istio_init("explain", "--netns", self.inside.name, "--format", "json", *flags).ok()
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def findings(self, *flags: str) -> dict[str, list[str]]:
        """The evidence of each finding, by its code."""
        found: dict[str, list[str]] = {}
        for finding in self.explain(*flags)["findings"]:
            found.setdefault(finding["code"], []).extend(finding["evidence"])
        return found
