"""What a pod's proxies say that it asked for: the downward API's files, and the environment of their processes.

All of it is hostile: read in a child that has a time to do so, and no more than fits. A process is pinned by its
directory in /proc before anything is read, so that a process id that is used again leads nowhere.
"""

from __future__ import annotations

import os

from istio_init.config import asked, downward
from istio_init.config.asked import Pod
from istio_init.options import OPTIONS
from istio_init.system.pinned import PROXIES, beginning, pinned, variables
from istio_init.system.rooted import read_beneath
from istio_init.system.workers import bytes_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.system.processes import Process

PROXY_ID = 1337
MOST = 3
"""Processes that are asked."""

FILE = "/etc/istio/pod/annotations"
LONGEST = 1 << 20
"""Bytes of each file; Kubernetes keeps at most 256 KiB of annotations."""

LONGEST_NAME = 253
"""Characters of the name of a pod."""

PATIENCE = 3.0
"""Seconds for all that is read of one process."""

WANTED = frozenset(
    [
        *("POD_NAME", "POD_NAMESPACE", asked.MODE_VARIABLE, *asked.PROXYS, *asked.INIT_ALONE),
        *(name for option in OPTIONS for name in option.env if option.flag is None),
    ]
)
"""Variables of which something is taken."""


def said_by(processes: Iterable[Process]) -> tuple[Pod, ...]:
    """What each proxy among the processes of a namespace says; those that the mesh's own ids run come first."""
    named = [each for each in processes if each.name in PROXIES]
    named.sort(key=lambda each: (PROXY_ID not in (each.uid, each.gid), each.name != "pilot-agent", each.pid))
    return tuple(pod for each in named[:MOST] if (pod := _said(each)) is not None)


def _said(process: Process) -> Pod | None:
    """None where it is no more, lives elsewhere, or has no such file that is read whole."""
    with pinned(process.pid) as at:
        data = None if at is None else bytes_within(PATIENCE, lambda: _files(at), most=4 * LONGEST)
    if data is None:
        return None
    sizes, _, rest = data.partition(b"\n")
    parts = []
    for size in map(int, sizes.split()):
        parts.append(rest[:size])
        rest = rest[size:]
    annotations, environment, command = parts
    if len(annotations) > LONGEST:
        return None
    found = variables(environment, WANTED)
    own, space = (found.pop(each, "")[:LONGEST_NAME] for each in ("POD_NAME", "POD_NAMESPACE"))
    return Pod(
        source=f"annotations in the proxy's /etc/istio/pod, and its environment (pid {process.pid})",
        name="/".join(filter(None, [space, own])) or None,
        annotations=asked.needed(downward.parse(annotations.decode(errors="replace"))),
        variables=found,
        uid=process.uid,
        gid=process.gid,
        command=asked.telling(tuple(command.decode(errors="replace").split("\0"))),
    )


def _files(process: str) -> bytes | None:
    """In a child: the annotations, the environment and the command, after the length of each."""
    here, there = (os.stat(f"{each}/ns/net") for each in ("/proc/thread-self", process))
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        return None
    annotations = read_beneath(f"{process}/root", FILE, LONGEST)
    if annotations is None:
        return None
    parts = [annotations, beginning(f"{process}/environ", LONGEST), beginning(f"{process}/cmdline", LONGEST)]
    return b" ".join(b"%d" % len(each) for each in parts) + b"\n" + b"".join(parts)
