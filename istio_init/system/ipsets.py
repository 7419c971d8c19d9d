"""The sets that ``-m set`` and ``-j SET`` name, as ``ipset save`` prints them (ipset(8))."""

from __future__ import annotations

from istio_init.errors import IstioInitError, NoBackendError, PrivilegeError, ToolError
from istio_init.system import process

PROGRAM = "ipset"
TIMEOUT = 60.0


def read() -> str | IstioInitError:
    """The text, or why there is none."""
    if process.find_binary(PROGRAM) is None:
        return NoBackendError(f"{PROGRAM} is not installed", fix="install the package ipset")
    try:
        completed = process.run([PROGRAM, "save"], timeout=TIMEOUT)
    except IstioInitError as error:
        return error
    said = completed.stderr.strip()
    if completed.status != 0 and "not permitted" in said:
        return PrivilegeError(f"{PROGRAM}: {said}", fix="run as root, or with the capability NET_ADMIN")
    if completed.status != 0:
        return ToolError(f"{PROGRAM} failed with status {completed.status}: {said}")
    return completed.stdout
