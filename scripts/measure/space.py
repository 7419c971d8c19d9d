"""Network namespaces in which programs are timed."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable

NAME = "istio-init-bench"
SETUP = "ip link set lo up; ip link add eth0 type veth peer name peer0; ip addr add 10.1.2.3/24 dev eth0"


def sh(command: str, **more: object) -> str:
    return subprocess.run(["bash", "-ec", command], check=True, capture_output=True, text=True, **more).stdout  # type: ignore[call-overload,no-any-return]


class Namespace:
    """A named network namespace with an address, for the length of a `with`."""

    def __init__(self, name: str = NAME) -> None:
        self.name = name

    def __enter__(self) -> Namespace:
        sh(f"ip netns add {self.name}; ip netns exec {self.name} bash -ec '{SETUP}'")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def seconds(self, argv: list[str], stdin: str | None = None) -> float:
        """Wall time of a program inside, without the time that entering takes."""
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        with open(stdin or os.devnull) as source, open(os.devnull, "w") as sink:
            process = None

            def enter() -> None:
                setns(descriptor)

            start = time.perf_counter()
            process = subprocess.Popen(argv, stdin=source, stdout=sink, stderr=subprocess.PIPE, preexec_fn=enter)
            _, errors = process.communicate()
            elapsed = time.perf_counter() - start
        os.close(descriptor)
        if process.returncode:
            raise SystemExit(f"{argv[0]} failed: {errors.decode()}")
        return elapsed

    def call(self, work: Callable[[], float]) -> float:
        """What a function gives that runs inside, in a process of its own."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            setns(descriptor)
            os.write(writing, str(work()).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        return float(text)


def fresh(argv: list[str], stdin: str | None = None) -> float:
    with Namespace() as space:
        return space.seconds(argv, stdin)


def setns(descriptor: int) -> None:
    if hasattr(os, "setns"):
        os.setns(descriptor, 0)
    else:
        LIBC.setns(descriptor, 0)


LIBC = ctypes.CDLL(None)
