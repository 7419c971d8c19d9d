"""A pod with a real Envoy beside an application, another pod that calls it, and a server in the rest of the world."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from istio_init.netfilter.family import Family
from istio_init.testing.entering import ROOT
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP, PROXY, Mesh, Pod
from istio_init.testing.processes import Worker
from istio_init.testing.traffic import Endpoint, Listener

from .bootstrap import ADMIN, bootstrap
from .web import Answer, get, serve, text

SERVICE, EXCLUDED = 8080, 8081
"""The application's ports: of its service, and the one that the rules leave alone."""

PORTS = "16000 65000"
"""Whence connections come: enough for those that the kernel still remembers."""

READY = 20.0
"""Seconds for Envoy to start."""

CAPABILITIES = "-all,+net_admin,+net_raw"


class Sidecar:
    """Make it with `Sidecar.create`."""

    def __init__(self, mesh: Mesh, binary: Path, directory: Path, stack: contextlib.ExitStack, mode: str) -> None:
        self.mode = mode
        self.client: Pod = mesh.pod("client")
        self.pod: Pod = mesh.pod("server")
        self.world = mesh.peer
        self.log = directory / "access.log"
        self._binary = binary
        self._directory = directory
        for namespace in (self.client.inside, self.pod.inside, self.world):
            namespace.call(_widen_ports)
        self._serve(stack, self.pod.inside, SERVICE, EXCLUDED)
        self._serve(stack, self.world, 80, 9000)
        self._start()

    @classmethod
    @contextlib.contextmanager
    def create(cls, binary: Path, directory: Path, mode: str) -> Iterator[Self]:
        """All of them, for the time of the context; nothing is redirected yet."""
        with Mesh.create() as mesh, contextlib.ExitStack() as stack:
            yield cls(mesh, binary, directory, stack, mode)

    def apply(self, arguments: str = "") -> None:
        """Redirect the pod's traffic of both families in this mode, with more arguments of istio-iptables."""
        self.pod.redirect(f"--dual-stack -m {self.mode} -d 15090,15021,15020,{EXCLUDED} {arguments}")

    def call(self, family: Family, path: str, port: int = SERVICE) -> Answer:
        """Call the pod from the other one."""
        return get(self.client.inside, APP, Endpoint(self.pod.hosts[family].pod, port), path)

    def call_out(self, host: str, path: str, port: int = 80) -> Answer:
        """Call an address from the application."""
        return get(self.pod.inside, APP, Endpoint(host, port), path)

    def logged(self, path: str, count: int) -> list[dict[str, Any]]:
        """The lines of the access log about a path, once there are so many of them."""
        deadline = time.monotonic() + 30
        while True:
            lines = [json.loads(line) for line in self.log.read_text().splitlines()]
            found = [line for line in lines if line["path"] == path]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def completed(self) -> Counter[str]:
        """How many requests Envoy completed so far, outbound and inbound, by its statistics."""
        names = ("outbound", "inbound")
        return Counter({each: self.statistic(f"http.{each}.downstream_rq_completed") for each in names})

    def statistic(self, name: str) -> int:
        """A counter or gauge of Envoy's."""
        lines = self._admin(f"/stats?filter=^{name}$").split()
        return int(lines[-1])

    def _admin(self, path: str) -> str:
        return text(self.pod.inside, Endpoint("127.0.0.1", ADMIN), path)

    def _serve(self, stack: contextlib.ExitStack, namespace: Namespace, *ports: int) -> None:
        listeners = [
            stack.enter_context(Listener(namespace, family, port)).socket for family in Family for port in ports
        ]
        worker: Worker[None] = namespace.start(partial(serve, listeners), APP, keep=listeners)
        stack.callback(worker.kill)

    def _start(self) -> None:
        """Start Envoy as Istio's injection template does: as user and group 1337, with TPROXY as root of group 1337."""
        transparent = self.mode == "TPROXY"
        configuration = self._directory / "envoy.json"
        configuration.write_text(json.dumps(bootstrap(self.pod, self.log, transparent=transparent)))
        self.log.touch()
        self.log.chmod(0o666)
        uid = ROOT.uid if transparent else PROXY.uid
        capabilities = CAPABILITIES if transparent else "-all"
        privileges = ("--reuid", str(uid), "--regid", str(PROXY.gid), "--clear-groups", "--inh-caps", capabilities,
                      "--bounding-set", capabilities, "--pdeathsig", "KILL")  # fmt: skip
        options = ("-c", str(configuration), "--log-level", "warn", "--log-path", str(self._directory / "envoy.log"),
                   "--disable-hot-restart", "--concurrency", "2", "--file-flush-interval-msec", "50")  # fmt: skip
        (self._directory / "envoy.log").touch()
        (self._directory / "envoy.log").chmod(0o666)
        child = self.pod.inside.spawn("setpriv", *privileges, str(self._binary), *options)
        deadline = time.monotonic() + READY
        while not self._is_ready():
            said = (self._directory / "envoy.log").read_text()
            assert child.poll() is None, f"Envoy ended with status {child.returncode}:\n{said}"
            assert time.monotonic() < deadline, f"Envoy is not ready:\n{said}"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self._admin("/ready").strip() == "LIVE"
        return False


def _widen_ports() -> None:
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(PORTS)
