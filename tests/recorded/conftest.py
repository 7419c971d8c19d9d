"""Where the recorded cases are. Without them nothing here is collected, so that nothing has to be skipped."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ISTIO_INIT_CONFORMANCE"
"""The variable that names the folder of recorded cases, which is no part of this project."""

FOLDER = os.environ.get(VARIABLE)
collect_ignore_glob = [] if FOLDER else ["test_*.py"]


def pytest_report_collectionfinish() -> str:
    """Say why, or what is checked."""
    if FOLDER:
        return f"recorded cases: those in {Path(FOLDER).resolve()}"
    return f"recorded cases: left out, as {VARIABLE} names no folder of them"
