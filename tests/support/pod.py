"""A pod as a mesh sees it, with all of the rest of the world beyond its only link."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from istio_init.model.netfilter import Family
from support.netns import Namespace, Owner, User, run

APP = User(1000, 1000)
PROXY = User(1337, 1337)


class Endpoint(NamedTuple):
    """An address and a port."""

    host: str
    port: int


class Hosts(NamedTuple):
    """Who has which address in a family."""

    loopback: str
    passthrough: str
    """The source from which Envoy passes inbound connections on to the application."""

    pod: str
    peer: str
    far: str
    """A second address of the peer, in another network."""


HOSTS = {
    Family.IPV4: Hosts("127.0.0.1", "127.0.0.6", "10.77.0.2", "10.77.0.1", "10.88.0.1"),
    Family.IPV6: Hosts("::1", "::6", "fd00:77::2", "fd00:77::1", "fd00:88::1"),
}
PREFIX_LENGTHS = {Family.IPV4: (24, 32), Family.IPV6: (64, 128)}

LINK = "eth0"


@dataclass(frozen=True)
class Pod:
    """Two namespaces joined by veth: the pod's own, and that of the peer, through which its default route leads."""

    inside: Namespace
    peer: Namespace

    @property
    def name(self) -> str:
        """The name of the pod's own namespace."""
        return self.inside.name

    @classmethod
    @contextlib.contextmanager
    def create(cls, *, families: tuple[Family, ...] = tuple(Family), owner: Owner | None = None) -> Iterator[Self]:
        """A new pod with addresses of these families, for the time of the context; ``owner`` as of `Namespace`."""
        with Namespace.create("pod", owner=owner) as inside, Namespace.create("peer") as peer:
            for namespace in (inside, peer):
                namespace.call(_trust_addresses)
            run("ip", "-n", peer.name, "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", inside.name)
            for namespace in (inside, peer):
                run("ip", "-n", namespace.name, "link", "set", LINK, "up")
            for family in families:
                _number(inside, peer, family)
            yield cls(inside, peer)


def _trust_addresses() -> None:
    """Use IPv6 addresses of links to come at once, without asking first whether another host has them."""
    setting = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
    if setting.exists():
        setting.write_text("0")


def _number(inside: Namespace, peer: Namespace, family: Family) -> None:
    """Give both ends their addresses, and the pod its default route."""
    hosts, (link, single) = HOSTS[family], PREFIX_LENGTHS[family]
    commands = f"""
        addr add {hosts.peer}/{link} dev {LINK}
        addr add {hosts.far}/{single} dev {LINK}
    """
    run("ip", "-n", peer.name, "-batch", "-", stdin=commands)
    commands = f"""
        addr add {hosts.pod}/{link} dev {LINK}
        route add default via {hosts.peer} dev {LINK}
    """
    run("ip", "-n", inside.name, "-batch", "-", stdin=commands)
