"""Boot a machine under qemu's emulation, which every processor has, and hear what came of its steps."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPTIONS = "-accel tcg -cpu max -nodefaults -display none -serial stdio -no-reboot -nic none".split()


def boot(kernel: Path, initramfs: Path, *, megabytes: int, processors: int, seconds: float) -> Iterator[dict[str, Any]]:
    """What the machine tells, as it comes; the last is `{"end": true}`, or `{"lost": what it said last}`."""
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "qemu-system-x86_64",
        *OPTIONS,
        "-m",
        str(megabytes),
        "-smp",
        str(processors),
    ]
    command += ["-append", "console=ttyS0 quiet panic=-1", "-kernel", str(kernel), "-initrd", str(initramfs)]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert machine.stdout is not None
    timer = threading.Timer(seconds, machine.kill)
    timer.start()
    beside: list[str] = []
    try:
        for raw in machine.stdout:
            line = raw.decode(errors="replace").rstrip("\r\n")
            if line.startswith("@{"):
                told = json.loads(line[1:])
                yield told
                if told.get("end"):
                    return
            elif line.strip():
                beside = [*beside[-30:], line]
        yield {"lost": "\n".join(beside)}
    finally:
        timer.cancel()
        machine.kill()
        machine.wait()
