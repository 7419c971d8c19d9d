"""Processes that look otherwise in /proc than others do hide neither themselves nor what they hold."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from support.command import istio_init
from support.processes import wait_until

from istio_init.observe.namespace import observe
from istio_init.system import places
from istio_init.testing.entering import Entrance
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod

LONG = 600.0


@contextlib.contextmanager
def without_first_thread(namespace: Namespace) -> Iterator[int]:
    """A process there that listens at the proxy's port, and whose first thread has ended."""
    held: list[socket.socket] = []
    pid = os.fork()
    if not pid:
        try:
            Entrance(namespace.path, None, namespace.path).enter()
            held.append(socket.create_server(("0.0.0.0", 15001)))
            threading.Thread(target=time.sleep, args=(LONG,)).start()
            ctypes.CDLL(None).syscall(ctypes.c_long(EXIT), 0)
        finally:
            os._exit(1)
    try:
        wait_until(lambda: " Z " in Path(f"/proc/{pid}/stat").read_text())
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


EXIT = {"x86_64": 60}.get(os.uname().machine, 93)
"""exit(2) of one thread, as other architectures have it."""


def test_a_process_whose_first_thread_has_ended_is_seen_with_its_namespace_and_sockets() -> None:
    with Pod.create() as pod:
        istio_init("apply", "--netns", pod.name).ok()
        with without_first_thread(pod.inside) as pid:
            listed = json.loads(istio_init("ps", "--format", "json").ok().stdout)
            named = istio_init("trace", "--pid", str(pid), "outbound", "tcp", "192.0.2.9:80").ok()
            seen = pod.inside.call(lambda: observe(places.HERE, versions=False))

    assert pid in [each["pid"] for each in listed["namespaces"]]
    assert named.stdout.splitlines()[-1].startswith("=> proxied")
    [holder] = [each.process for each in seen.listeners if each.port == 15001]
    assert holder is not None and holder.pid == pid
