"""A pod that incidents are made in, one after the other; in between it is emptied, which is sooner than a new one."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Self

from inspector.sidecar import Inhabitant, Sidecar, Socket
from support.command import istio_init
from support.rules import program

from istio_init.cli.expect import expected_config
from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import InterceptionMode
from istio_init.config.parse import Names
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import render_save, with_texts
from istio_init.inspector.explain import Explanation, explain
from istio_init.mesh.meaning import settle
from istio_init.mesh.policy import ambient, sidecar
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.observe.snapshot import Snapshot
from istio_init.system import places
from istio_init.testing.entering import User
from istio_init.testing.pods import Pod

INJECTED = "-p 15001 -z 15006 -u 1337 -i * -b * -d 15090,15021,15020 --dual-stack"
SERVER = "10.77.0.1"


class Ward:
    """A dual-stack pod with a proxy and an application, without rules until they are asked for."""

    def __init__(self, pod: Sidecar) -> None:
        self.sidecar = pod
        self.inside = pod.inside
        self.guests: list[Inhabitant] = []
        self.closing = contextlib.ExitStack()
        self.routes = "".join(
            f"ip {family} route replace {line}; "
            for family in ("-4", "-6")
            for line in sorted(self.run(f"ip {family} route").splitlines(), key=lambda line: line.startswith("default"))
            if not line.startswith("fe80")
        )

    @classmethod
    @contextlib.contextmanager
    def create(cls) -> Iterator[Self]:
        """For the time of the context."""
        with Pod.create(families=tuple(Family)) as pod:
            pod.inside.write_resolv_conf(SERVER)
            ward = cls(Sidecar(pod, tuple(Family)))
            yield ward
            ward.empty()
            ward.sidecar.proxy.kill()
            ward.sidecar.app.kill()

    def empty(self) -> None:
        """Without rules, routing, guests and what else incidents leave; with a proxy that runs."""
        self.closing.close()
        for guest in self.guests:
            guest.kill()
        self.guests.clear()
        self.run(
            "nft flush ruleset; for t in nat filter mangle raw; do "
            "grep -qx $t /proc/net/ip_tables_names 2>/dev/null && iptables-legacy -t $t -F; done; "
            "grep -qx filter /proc/net/ip_tables_names 2>/dev/null && iptables-legacy -P INPUT ACCEPT; "
            "ip link set lo up; ip addr del ::6/128 dev lo 2>/dev/null; "
            "for f in -4 -6; do while ip $f rule del pref 32764 2>/dev/null; do :; done; "
            "while ip $f rule del fwmark 1337 2>/dev/null; do :; done; "
            "while ip $f rule del pref 100 2>/dev/null; do :; done; "
            "ip $f route flush table 51820 2>/dev/null; "
            "ip $f route flush table 133 2>/dev/null; ip $f route flush table 100 2>/dev/null; done; "
            "for i in docker0 br-12ab net1; do ip link del $i 2>/dev/null; done; "
            "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.lo.disable_ipv6=0 net.ipv4.conf.eth0.rp_filter=0; "
            "ip addr replace 127.0.0.1/8 dev lo; ip link set eth0 up; ip addr del 10.77.0.99/24 dev eth0 2>/dev/null; "
            "ip -6 addr replace fd00:77::2/64 dev eth0 nodad; true"
        )
        self.run(f"ip route flush table main; {self.routes}true")
        self.flush_legacy()

    def flush_legacy(self) -> None:
        """Without rules of iptables-legacy, in tables that exist."""
        for family, names in ((Family.IPV4, "ip_tables_names"), (Family.IPV6, "ip6_tables_names")):
            for table in self.run(f"cat /proc/net/{names} 2>/dev/null || true").split():
                tool = program("legacy", family)
                self.run(f"{tool} -t {table} -F; {tool} -t {table} -X")
                for chain in self.run(f"{tool} -t {table} -S | awk '$1 == \"-P\" {{print $2}}'").split():
                    self.run(f"{tool} -t {table} -P {chain} ACCEPT")

    def program(self, line: str, store: str = "nft") -> None:
        """The rules of a sidecar with these arguments of ``istio-iptables``."""
        config, _ = expected_config(line, Names())
        meaning = settle(config, (ip_address(SERVER),), ipv6=config.dual_stack)
        self._restore(sidecar.rules(meaning.config, meaning.around), store)
        if config.dual_stack:
            self.run("ip addr add ::6/128 dev lo 2>/dev/null; true")
        if config.mode is InterceptionMode.TPROXY:
            self.run(
                "for f in -4 -6; do ip $f rule add fwmark 1337 lookup 133; "
                "ip $f route add local default dev lo table 133; done"
            )

    def program_ambient(self, store: str = "nft") -> None:
        """The rules and the routing of a pod in an ambient mesh."""
        self._restore(ambient.rules(AmbientConfig()), store)
        self.run(
            "for f in -4 -6; do ip $f rule add pref 32764 fwmark 0x111/0xfff lookup 100; "
            "ip $f route add local default dev lo table 100; done"
        )

    def _restore(self, rules: Mapping[Family, RuleSet], store: str) -> None:
        for family, each in rules.items():
            self.inside.run(program(store, family, "restore"), stdin=render_save(with_texts(each)))

    def run(self, script: str) -> str:
        """What a shell prints inside."""
        return self.inside.run("sh", "-c", script)

    def replace_proxy(self, user: User, *sockets: Socket, name: str = "envoy") -> Inhabitant:
        """Another process in the proxy's place until the pod is emptied, or none without sockets."""
        self.sidecar.proxy.kill()
        made = Inhabitant(self.inside, user, *sockets, name=name)

        def put_back() -> None:
            made.kill()
            self.sidecar.proxy = self.sidecar.start_proxy()

        self.closing.callback(put_back)
        return made

    def observe(self) -> Snapshot:
        """What explain reads."""
        place = places.of_netns(self.inside.name)
        try:
            snapshot = self.inside.call(lambda: observe(place, versions=False))
        finally:
            place.close()
        return snapshot.replace(target=("--netns", self.inside.name))

    def look(self) -> Explanation:
        """What explain says."""
        return explain(self.observe())

    def paste(self, command: str) -> int:
        """Run a command of ours as it was given; the exit status."""
        words = shlex.split(command)
        env = dict(word.split("=", 1) for word in words[: words.index("istio-init")])
        return istio_init(*words[words.index("istio-init") + 1 :], env=env).status
