"""A pod's namespace and that of its peer, joined by two links, in which the rules under test are live.

Nothing of what is sent gets out: a table of nf_tables tells how each packet begins and ends, and drops it at its last
hook, so that there are no answers. What is neither TCP nor UDP, such as neighbour discovery, meets no rule.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from istio_init.config.model import Config, Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.errors import ToolError
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.family import Family
from istio_init.stores.legacy import RESTORE as LEGACY_RESTORE
from istio_init.stores.legacy import SAVE as LEGACY_SAVE
from istio_init.stores.legacy import IptablesLegacy
from istio_init.stores.nft import RESTORE as NFT_RESTORE
from istio_init.stores.nft import IptablesNft
from istio_init.stores.programmer import Manner, Wanted, program
from istio_init.system import namespaces, places, process, routing
from istio_init.system.nft_trace import Listener
from istio_init.system.transparent import make_transparent
from istio_init.trace.observed import Place

T = TypeVar("T")

LINKS = ("eth0", "net1")
POD = {
    ("eth0", Family.IPV4): "10.77.0.2",
    ("eth0", Family.IPV6): "fd00:77::2",
    ("net1", Family.IPV4): "10.99.0.2",
    ("net1", Family.IPV6): "fd00:99::2",
}
PEER = {key: address[:-1] + "1" for key, address in POD.items()}
LENGTHS = {Family.IPV4: 24, Family.IPV6: 64}
SETTINGS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
}

PREFIX = "istio-judge"
PATIENCE = 10.0
"""Seconds for the links to come up."""

OWN_TABLE = """\
table inet judge {
  chain OUTPUT { type filter hook output priority -400; meta l4proto != { tcp, udp } drop; meta nftrace set 1; }
  chain PREROUTING { type filter hook prerouting priority -400; meta l4proto != { tcp, udp } drop; meta nftrace set 1; }
  chain INPUT { type filter hook input priority 400; drop; }
  chain FORWARD { type filter hook forward priority 400; drop; }
  chain POSTROUTING { type filter hook postrouting priority 400; oif != lo drop; }
}
"""


class Lab:
    """Make it with `Lab.create`."""

    def __init__(self, name: str, backend: str, stack: contextlib.ExitStack) -> None:
        self.backend = backend
        self._stack = stack
        self._pod = _place(f"{name}-pod", stack)
        self._peer = _place(f"{name}-peer", stack)
        self._wire(f"{name}-pod", f"{name}-peer")
        self.inside(lambda: _run("nft", "-f", "-", stdin=OWN_TABLE))
        self.listener: Listener = self.inside(lambda: stack.enter_context(Listener()))

    @classmethod
    @contextlib.contextmanager
    def create(cls, backend: str) -> Iterator[Lab]:
        """New namespaces for the time of the context."""
        with contextlib.ExitStack() as stack:
            yield cls(f"{PREFIX}-{os.getpid()}-{secrets.token_hex(2)}", backend, stack)

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in the pod's namespace."""
        return namespaces.call_in(self._pod, function)

    def outside(self, function: Callable[[], T]) -> T:
        """Call a function in the peer's namespace."""
        return namespaces.call_in(self._peer, function)

    def _wire(self, pod: str, peer: str) -> None:
        """Join both by links with fixed addresses, of which each end knows the other's."""
        for where in (self.inside, self.outside):
            where(_settings)
        _ip(pod, "link set lo up")
        _ip(peer, "link set lo up")
        for number, link in enumerate(LINKS):
            macs = [f"02:00:00:00:0{number}:0{end}" for end in (1, 2)]
            _ip(peer, f"link add {link} address {macs[0]} type veth peer name {link} address {macs[1]} netns {pod}")
        ours, theirs = [], []
        for number, link in enumerate(LINKS):
            ours += [f"link set {link} up"]
            theirs += [f"link set {link} up"]
            for family in Family:
                here, there, length = POD[link, family], PEER[link, family], LENGTHS[family]
                ours += [f"addr add {here}/{length} dev {link}"]
                theirs += [
                    f"addr add {there}/{length} dev {link}",
                    f"neigh replace {here} lladdr 02:00:00:00:0{number}:02 nud permanent dev {link}",
                ]
        for family in Family:
            ours.append(f"route add default via {PEER['eth0', family]} dev eth0")
        for number, link in enumerate(LINKS):
            for family in Family:
                # What is sent to strangers by a link, with that link as its device, goes to the pod.
                theirs.append(f"route add default via {POD[link, family]} dev {link} metric {10 + number}")
        _ip(pod, *ours)
        _ip(peer, *theirs)
        deadline = time.monotonic() + PATIENCE
        while waiting := _run("ip", "-n", pod, "-6", "-o", "address", "show", "tentative"):
            if time.monotonic() > deadline:
                raise ToolError(f"addresses of the pod do not become ready: {waiting}")
            time.sleep(0.01)

    def apply(self, config: Config, around: Surroundings, foreign: dict[Family, str]) -> None:
        """Make the rules live, and then those of others, which are given as text for iptables-restore."""
        rules, routes = sidecar.rules(config, around), sidecar.routing(config, around)
        self.inside(lambda: program(Wanted(rules, routes, config), Manner(backend=self.backend)))
        programs = NFT_RESTORE if self.backend == "nft" else LEGACY_RESTORE
        for family, text in foreign.items():
            if text:
                self.inside(lambda: _run(programs[family], "--noflush", stdin=text))  # noqa: B023 - called at once

    def rules(self) -> dict[Family, RuleSet]:
        """The rules that are live."""
        backend = IptablesNft(1.0) if self.backend == "nft" else IptablesLegacy(1.0, binding=False)
        return self.inside(lambda: {family: backend.read(family) for family in Family})

    def local_marks(self) -> dict[Family, frozenset[int]]:
        """The marks that lead to the pod itself."""
        live = self.inside(lambda: routing.read(frozenset()))
        return {
            family: frozenset(
                m for each, m, table in live.rules if each is family and (each, table) in live.local_tables
            )
            for family in Family
        }

    def counters(self, family: Family) -> dict[Place, int]:
        """How often each rule of the legacy backend matched."""
        found: dict[Place, int] = {}
        numbers: Counter[tuple[str, str]] = Counter()
        table = ""
        for line in self.inside(lambda: _run(LEGACY_SAVE[family], "-c")).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("["):
                count, _, chain, *_ = line.split(" ", 3)
                numbers[table, chain] += 1
                found[table, chain, numbers[table, chain]] = int(count[1 : count.index(":")])
        return found

    def listen(self, port: int) -> None:
        """Have a transparent listener, without which TPROXY drops what it takes."""

        def make() -> None:
            for family in (socket.AF_INET, socket.AF_INET6):
                made = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                make_transparent(made)
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(("", port))
                made.listen()

        self.inside(make)


def sweep() -> None:
    """Remove the namespaces that runs left behind which were killed: their names hold the process."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{PREFIX}-") and not os.path.exists(f"/proc/{name.split('-')[2]}"):
            _run("ip", "netns", "delete", name)


def _place(name: str, stack: contextlib.ExitStack) -> places.Place:
    _run("ip", "netns", "add", name)
    stack.callback(process.run, ["ip", "netns", "delete", name], timeout=30)
    place = places.of_netns(name).replace(userns=None)
    stack.callback(place.close)
    return place


def _settings() -> None:
    for name, value in SETTINGS.items():
        with open(f"/proc/sys/{name}", "w") as file:
            file.write(value)


def _ip(name: str, *commands: str) -> None:
    _run("ip", "-n", name, "-batch", "-", stdin="\n".join(commands) + "\n")


def _run(*argv: str, stdin: str = "") -> str:
    done = process.run(argv, stdin=stdin, timeout=60)
    if done.status != 0:
        raise ToolError(f"{' '.join(argv)}: status {done.status}: {done.stderr}\n{stdin}")
    return done.stdout
