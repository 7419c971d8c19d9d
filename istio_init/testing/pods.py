"""Pods as a mesh sees them: namespaces with one link, beyond which is all the rest of the world."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple, Self

from istio_init.errors import IstioInitError
from istio_init.mesh.policy.ambient import PROXY_MARK
from istio_init.netfilter.family import Family
from istio_init.testing.checks import checked_label, checked_user
from istio_init.testing.entering import ROOT, User
from istio_init.testing.expectations import Sender
from istio_init.testing.hiding import tells_of_the_test
from istio_init.testing.namespaces import Namespace
from istio_init.testing.owners import Owner
from istio_init.testing.processes import CommandError

__tracebackhide__ = tells_of_the_test

APP = User(1000, 1000)
PROXY = User(1337, 1337)

LINK = "eth0"
"""A pod's interface."""

PEER = "peer"
"""What the namespace of the rest of the world is called."""

MOST_PODS = 256
"""Addresses of pods are told apart by one byte."""

FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
PREFIX_LENGTHS = {Family.IPV4: (24, 32), Family.IPV6: (64, 128)}


class Hosts(NamedTuple):
    """Who has which address in a family."""

    loopback: str
    passthrough: str
    """The source from which Envoy passes inbound connections on to the application."""

    pod: str
    peer: str
    far: str
    """A second address of the peer, in another network."""


def _hosts(number: int) -> dict[Family, Hosts]:
    """The addresses around the pod of a number."""
    four, six = f"10.77.{number}", f"fd00:77:0:{number:x}:"
    return {
        Family.IPV4: Hosts("127.0.0.1", "127.0.0.6", f"{four}.2", f"{four}.1", "10.88.0.1"),
        Family.IPV6: Hosts("::1", "::6", str(ip_address(f"{six}:2")), str(ip_address(f"{six}:1")), "fd00:88::1"),
    }


HOSTS = _hosts(0)
"""The addresses around a mesh's first pod."""


@dataclass(frozen=True)
class Pod:
    """Two namespaces joined by veth: the pod's own, and that of the peer, through which its default route leads."""

    inside: Namespace
    peer: Namespace
    hosts: Mapping[Family, Hosts] = field(repr=False)
    mesh: Mesh = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the pod's own namespace."""
        return self.inside.name

    @property
    def ipv4(self) -> str:
        """The pod's IPv4 address."""
        return self.hosts[Family.IPV4].pod

    @property
    def ipv6(self) -> str:
        """The pod's IPv6 address."""
        return self.hosts[Family.IPV6].pod

    @property
    def app(self) -> Sender:
        """The application, user and group 1000, in the pod's user namespace where it has one of its own."""
        return self.user(*APP)

    @property
    def proxy(self) -> Sender:
        """The proxy, user and group 1337, in the pod's user namespace where it has one of its own."""
        return self.user(*PROXY)

    @property
    def ztunnel(self) -> Sender:
        """The proxy of an ambient mesh: root in the pod, with ztunnel's mark on all that it sends."""
        return Sender(self.inside, ROOT, self.whose, PROXY_MARK)

    def user(self, uid: int, gid: int) -> Sender:
        """Somebody in the pod.

        Raises:
            ValueError: one of them is no number of a user or group.
        """
        return Sender(self.inside, checked_user(uid, gid), self.whose)

    @property
    def outside(self) -> Sender:
        """Somebody in the rest of the world."""
        return Sender(self.peer, ROOT, self.whose)

    def whose(self, address: IPv4Address | IPv6Address) -> Namespace:
        """The namespace that a packet to an address gets to: that of a pod of the mesh, else the peer's."""
        owners = (each.inside for each in self.mesh.pods if address in map(ip_address, (each.ipv4, each.ipv6)))
        return next(owners, self.peer)

    def redirect(self, arguments: str = "", *, native: bool = False, env: Mapping[str, str] | None = None) -> str:
        """Redirect the pod's traffic, with the arguments of istio-iptables, or the injection template's without any.

        Rules of an earlier call, also of `ambient`, are replaced. ``env`` are variables such as
        ISTIO_OUTBOUND_OWNER_GROUPS; no others count. ``native`` writes nftables instead of iptables. What
        ``istio-init apply`` printed comes back.

        Raises:
            CommandError: the arguments are wrong, or the kernel refused; the text lists every problem.
            Unavailable: the proxy's user does not exist in this user namespace.
        """
        words = shlex.split(arguments)
        try:
            return self._istio_init("apply", "--replace-other", "ambient", *_store(native=native), *words, env=env)
        except CommandError:
            proxy = _proxy_of(words, env or {})
            if proxy is not None:
                self.inside.require(proxy)
            raise

    def ambient(self, arguments: str = "", *, native: bool = False, env: Mapping[str, str] | None = None) -> str:
        """Redirect the pod's traffic as in an ambient mesh, with the arguments of ``istio-init apply --ambient``.

        ztunnel's ports are 15001 outbound, 15006 inbound, 15053 for DNS; tunnels come to 15008 directly. Rules of an
        earlier call, also of `redirect`, are replaced. ``native`` and ``env`` are as of `redirect`. What
        ``istio-init apply`` printed comes back.

        Raises:
            CommandError: the arguments are wrong, or the kernel refused; the text lists every problem.
        """
        words = shlex.split(arguments)
        ambient = ("--ambient", "--replace-other", "sidecar")
        return self._istio_init("apply", *ambient, *_store(native=native), *words, env=env)

    def clean(self) -> str:
        """Remove all redirection from the pod; what ``istio-init clean`` printed comes back."""
        return self._istio_init("clean")

    def _istio_init(self, *argv: str, env: Mapping[str, str] | None = None) -> str:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        return self.inside.run_program(*argv, env={**kept, **(env or {})})

    @classmethod
    @contextlib.contextmanager
    def create(cls, *, families: tuple[Family, ...] = tuple(Family), owner: Owner | None = None) -> Iterator[Pod]:
        """A new pod, alone in its mesh, with addresses of these families, for the time of the context.

        ``owner`` is as of `Namespace`.
        """
        with Mesh.create() as mesh:
            yield mesh.pod(families=families, owner=owner)


class Mesh:
    """Pods that reach each other through the namespace of their common peer. Make it with `Mesh.create`.

    The peer stands for the rest of the world: it has every address that is no pod's.
    """

    def __init__(self, peer: Namespace, stack: contextlib.ExitStack) -> None:
        self.peer = peer
        self.pods: list[Pod] = []
        self._stack = stack
        self._numbers = itertools.count()

    @classmethod
    @contextlib.contextmanager
    def create(cls) -> Iterator[Self]:
        """A new mesh without pods, for the time of the context."""
        with contextlib.ExitStack() as stack:
            peer = stack.enter_context(Namespace.create(PEER))
            peer.call(_stand_for_the_world)
            everything = (f"route add local {each} dev lo table main\n" for each in ("0.0.0.0/0", "::/0"))
            peer.run("ip", "-batch", "-", stdin="".join(everything))
            yield cls(peer, stack)

    def pod(
        self, label: str = "pod", *, families: tuple[Family, ...] = tuple(Family), owner: Owner | None = None
    ) -> Pod:
        """Add a pod with addresses of these families; it stays as long as the mesh.

        Raises:
            ValueError: another is called so already, it cannot be called so, or the mesh is full.
        """
        if checked_label(label) in {PEER, *(each.inside.label for each in self.pods)}:
            raise ValueError(f"the mesh has a {label!r} already: give each pod a name of its own")
        if len(self.pods) >= MOST_PODS:
            raise ValueError(f"a mesh has at most {MOST_PODS} pods")
        number = next(self._numbers)
        inside = self._stack.enter_context(Namespace.create(label, owner=owner))
        pod = Pod(inside, self.peer, _hosts(number), self)
        inside.call(_trust_addresses)
        link = f"{LINK}-{number}"
        joined = f"link add {link} type veth peer name {LINK} netns {inside.link_target}\nlink set {link} up\n"
        there = "".join(
            _numbering_the_world(pod.hosts[family], family, link, is_first=number == 0) for family in families
        )
        self.peer.run("ip", "-batch", "-", stdin=joined + there)
        here = "".join(_numbering(pod.hosts[family], family) for family in families)
        inside.run("ip", "-batch", "-", stdin=f"link set {LINK} up\n{here}")
        if Family.IPV6 in families:
            inside.call(_await_ipv6)
        self.pods.append(pod)
        return pod


def _store(*, native: bool) -> list[str]:
    return ["--native-nftables"] if native else []


def _proxy_of(words: list[str], env: Mapping[str, str]) -> User | None:
    """The highest ids that arguments of ``apply`` and variables name as the proxy's; None if they are wrong."""
    import click

    from istio_init.cli.apply import apply
    from istio_init.config.listfile import expand
    from istio_init.config.parse import gather, parse
    from istio_init.options import OPTIONS
    from istio_init.system.names import FileNames

    try:
        values = apply.make_context("apply", list(words)).params
        flags = [option.flag for option in OPTIONS if option.flag]
        given = {flag: values.get(flag[2:].replace("-", "_")) for flag in flags}
        known = {flag: value for flag, value in given.items() if value is not None}
        config, _ = parse(expand(gather(known, env, apply=True)), FileNames())
    except (click.ClickException, click.exceptions.Exit, IstioInitError):
        return None
    return User(max(each.last for each in config.proxy_uids), max(each.last for each in config.proxy_gids))


def _trust_addresses() -> None:
    """Use IPv6 addresses of links to come at once, without asking first whether another host has them."""
    setting = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
    if setting.exists():
        setting.write_text("0")


def _await_ipv6() -> None:
    """Wait for the routes of the link's addresses: the kernel adds them a moment later (addrconf_dad_work)."""
    deadline = time.monotonic() + 1
    while not _has_ipv6() and time.monotonic() < deadline:
        time.sleep(0.002)


def _has_ipv6() -> bool:
    addresses = [line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines()]
    routes = {line.split()[0] for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()}
    ours = {address for address, *_, name in addresses if name == LINK}
    return any(each.startswith("fe80") for each in ours) and ours <= routes


def _stand_for_the_world() -> None:
    _trust_addresses()
    for name in FORWARDING:
        setting = Path("/proc/sys/net", name)
        if setting.exists():
            setting.write_text("1")


def _numbering_the_world(hosts: Hosts, family: Family, link: str, *, is_first: bool) -> str:
    """What ip(8) takes to give the world's end of a link its address, and the first such the far one as well."""
    length, single = PREFIX_LENGTHS[family]
    far = f"addr add {hosts.far}/{single} dev {link}\n" if is_first else ""
    return f"addr add {hosts.peer}/{length} dev {link}\n{far}"


def _numbering(hosts: Hosts, family: Family) -> str:
    """What ip(8) takes to give the pod its address and its default route."""
    length, _ = PREFIX_LENGTHS[family]
    default = "0.0.0.0/0" if family is Family.IPV4 else "::/0"
    return f"addr add {hosts.pod}/{length} dev {LINK}\nroute add {default} via {hosts.peer} dev {LINK}\n"
