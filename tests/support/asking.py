"""A process that looks like a pod's proxy: name, user, environment, and a downward API volume of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from istio_init.testing.entering import CLONE_NEWNS, MS_REC, MS_SLAVE, Entrance, User, become, end_with_parent, unshare
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import PROXY

VOLUME = Path("/etc/istio/pod")
LONGEST = 15
"""Characters of a process's name that the kernel keeps."""


def downward(annotations: Mapping[str, str]) -> str:
    """As the kubelet writes them: sorted, quoted as Go does."""
    quoted = {
        key: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for key, value in annotations.items()
    }
    return "\n".join(f'{key}="{quoted[key]}"' for key in sorted(quoted))


@contextlib.contextmanager
def proxy_that_says(
    inside: Namespace,
    annotations: Mapping[str, str] | str,
    env: Mapping[str, str] | None = None,
    *,
    user: User = PROXY,
    name: str = "pilot-agent",
    role: str = "sidecar",
) -> Iterator[int]:
    """Such a process in a namespace; its process id. Annotations that are text are the file as it stands."""
    text = annotations if isinstance(annotations, str) else downward(annotations)
    parent, program = os.getpid(), shutil.which("sh")
    assert program is not None
    pid = os.fork()
    if not pid:
        try:
            Entrance(Path(f"/run/netns/{inside.name}")).enter()
            _own_volume(text)
            shutil.copy(program, VOLUME / name)
            become(user)
            end_with_parent(parent)
            os.execve(VOLUME / name, [name, "-c", "kill -STOP $$", "proxy", role], {"PATH": "/", **(env or {})})
        finally:
            os._exit(1)
    try:
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}/comm").read_text().strip() != name[:LONGEST]:
            assert time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0), "it did not start"
            time.sleep(0.005)
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _own_volume(annotations: str) -> None:
    unshare(CLONE_NEWNS)
    libc = ctypes.CDLL(None, use_errno=True)
    for words in ((b"none", b"/", None, MS_REC | MS_SLAVE, None), (b"none", b"/etc", b"tmpfs", 0, b"mode=755")):
        if libc.mount(*words) != 0:
            raise OSError(ctypes.get_errno(), "mount")
    VOLUME.mkdir(parents=True)
    (VOLUME / "annotations").write_text(annotations)
