"""A run of pytest by a user without any privilege, on a machine that looks as it should to that user.

Only the run sees the changes: a mount namespace of its own, in which the interpreter can be read by everybody and
/etc/subuid says what it is told.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from .project import CHECKOUT, Outcome, command, environment

NOBODY = 65534
RANGE = f"{NOBODY}:200000:65536\n"
"""A line of subuid(5): as many ids as distributions give to every user that they make."""


def run_unprivileged(directory: Path, *flags: str, ids: str, timeout: float = 120) -> Outcome:
    """Run the tests of a directory as nobody, with these lines in /etc/subuid and /etc/subgid."""
    user = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--inh-caps=-all")
    with tempfile.TemporaryDirectory(prefix="stage-") as name:
        stage = Path(name)
        (stage / "ids").write_text(ids)
        lines = ["set -e"]
        for file in ("subuid", "subgid"):
            lines.append(shlex.join(["mount", "--bind", str(stage / "ids"), f"/etc/{file}"]))
        lines += _opened(stage)
        lines.append(f"exec {shlex.join([*user, *command(directory, *flags)])}")
        with (stage / "output").open("w+") as output:  # What a killed run left behind would keep a pipe open.
            done = subprocess.run(
                ["unshare", "--mount", "bash", "-c", "\n".join(lines)],
                cwd=directory,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        return Outcome(done.returncode, (stage / "output").read_text())


def _opened(stage: Path) -> list[str]:
    """Commands that make the interpreter and the checkout readable, with a stand-in for each closed directory above."""
    wanted = dict.fromkeys(Path(path).resolve() for path in (sys.base_prefix, sys.prefix, CHECKOUT))
    closed = {path: [each for each in reversed(path.parents) if not each.stat().st_mode & 1] for path in wanted}
    lines: list[str] = []
    for number, path in enumerate(path for path in wanted if closed[path]):
        (stage / str(number)).mkdir()
        lines.append(shlex.join(["mount", "--bind", str(path), str(stage / str(number))]))
    for directory in {above[0] for above in closed.values() if above}:
        lines.append(shlex.join(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(directory)]))
    for number, path in enumerate(path for path in wanted if closed[path]):
        lines.append(shlex.join(["mkdir", "-p", str(path)]))
        lines.append(shlex.join(["mount", "--bind", str(stage / str(number)), str(path)]))
    return lines
