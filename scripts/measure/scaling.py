"""What programming costs with many ranges, namespaces and connections, and in memory."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
import time
from functools import partial

from measure.figures import pairs, show
from measure.programs import DROPIN, PROGRAM, READ, STORES
from measure.space import NAME, SETUP, Namespace, sh


def rerun(rounds: int, store: str) -> None:
    for count in (0, 1_000, 10_000):
        ranges = ",".join(f"10.{n >> 8 & 255}.{n & 255}.0/24" for n in range(count))
        argv = [*DROPIN[:-1], ranges, *STORES[store]]
        with Namespace() as space, tempfile.NamedTemporaryFile("w") as file:
            if len(ranges) > 100_000:
                file.write(ranges)
                file.flush()
                argv = [PROGRAM, "apply", "-x", f"@{file.name}", *STORES[store]]
            space.seconds(argv)
            again, bare = partial(space.seconds, argv), partial(space.seconds, READ[store])
            figures = pairs(max(3, rounds // 2), again, bare)
        aim = "aim: under 300 ms" if count == 1_000 else ""
        show(f"rerun, {store}, {count:,} excluded ranges", figures, " ".join(READ[store]), aim)


def connect(rounds: int, count: int = 10_000) -> None:
    """A new connection of an application, redirected to a listener in the pod, behind no exclusions and many."""
    ranges = "\n".join([f"10.{n >> 8 & 255}.{n & 255}.0/25" for n in range(count)])
    with Namespace() as none, Namespace(f"{NAME}-many") as many, tempfile.NamedTemporaryFile("w") as file:
        file.write(ranges)
        file.flush()
        for space in (none, many):
            up = "ip link set eth0 up; ip link set peer0 up; ip route add default dev eth0"
            sh(f"ip netns exec {space.name} bash -ec '{up}'")
        for store, flags in (("iptables-nft", ["--force-iptables-binary", "nft"]), ("native", ["--native-nftables"])):
            none.seconds([PROGRAM, "apply", *flags])
            many.seconds([PROGRAM, "apply", *flags, "-x", f"@{file.name}"])
            figures = pairs(rounds, lambda: many.call(connect_often), lambda: none.call(connect_often))
            what = f"{CONNECTIONS:,} connections, {store}, {count:,} exclusions"
            show(what, figures, "no exclusions", "aim: at most 1.3" if store == "native" else "")


CONNECTIONS = 1_000


def connect_often() -> float:
    """Seconds that an application's connections take, each of which is taken by a listener on the proxy's port."""
    with socket.create_server(("", 15001), backlog=CONNECTIONS) as server:
        os.setresuid(1000, 1000, 0)
        start = time.perf_counter()
        for _ in range(CONNECTIONS):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.connect(("192.0.2.1", 80))
                server.accept()[0].close()
        return time.perf_counter() - start


def many(store: str, program: list[str], rules: str, count: int = 200, rounds: int = 3) -> None:
    """All namespaces by one process of ours, beside a program that reads the rules in each."""
    names = [f"{NAME}-{index}" for index in range(count)]
    argv = [PROGRAM, "apply", *STORES[store]]
    for name in names:
        argv += ["--netns", name]

    def prepare() -> None:
        clear()
        sh("\n".join(f"ip netns add {name}; ip netns exec {name} bash -ec '{SETUP}'" for name in names))

    def clear() -> None:
        sh("\n".join(f"ip netns del {name} 2>/dev/null || true" for name in names))

    def ours() -> float:
        prepare()
        start = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - start) / count

    def bare() -> float:
        prepare()
        start = time.perf_counter()
        for name in names:
            with open(rules) as source:
                subprocess.run(["nsenter", f"--net=/run/netns/{name}", *program], stdin=source, check=True)
        return (time.perf_counter() - start) / count

    try:
        show(
            f"one process, {store}, {count} namespaces, each",
            pairs(rounds, ours, bare),
            f"nsenter {' '.join(program)}",
            "aim: at most 1.5",
        )
    finally:
        clear()


def memory(store: str) -> None:
    with Namespace():
        program = ["ip", "netns", "exec", NAME, *DROPIN, "--log_output_level=error", *STORES[store]]
        pid = os.posix_spawn("/usr/bin/env", ["env", *program], os.environ)
        _, status, usage = os.wait4(pid, 0)
        if status:
            raise SystemExit("istio-iptables failed")
    print(
        f"{f'peak memory of a cold istio-iptables, {store}':<52}{usage.ru_maxrss / 1024:8.1f} MB   aim: under 25 MB",
        flush=True,
    )
