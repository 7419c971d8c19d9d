"""The drop-in in a fresh namespace: as installed, and as the image starts it."""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import istio_init
from measure.figures import pairs, show
from measure.programs import DROPIN, rules_file, script_file
from measure.space import Namespace, fresh

IMAGE = Path(__file__).parents[1]
"""Where the scripts are that make the image and start it."""


def cold(rounds: int, directory: str) -> None:
    """Runs beside the interpreter's own start and a bare program that writes the same rules."""
    stores = {
        "injected arguments": ((), "nft-restore", ["iptables-nft-restore"], rules_file(directory)),
        "--native-nftables": (("--native-nftables",), "nft -f", ["nft", "-f", "-"], script_file(directory)),
    }
    starts = {
        "istio-iptables": (DROPIN, [sys.executable], "python -c pass"),
        "of the image:": (*as_in_the_image(directory), "python -IS -c pass"),
    }
    for start, (argv, interpreter, idle) in starts.items():
        for store, (flags, name, program, rules) in stores.items():
            bare = floor([*interpreter, "-c", "pass"], program, rules)
            figures = pairs(rounds, partial(fresh, [*argv, *flags]), bare)
            show(f"cold {start} {store}", figures, f"{idle} + {name}", "aim: at most 3.0" if argv is DROPIN else "")


def floor(idle: list[str], program: list[str], rules: str) -> Callable[[], float]:
    """What no program in Python can be faster than."""

    def bare() -> float:
        with Namespace() as space:
            return space.seconds(idle) + space.seconds(program, rules)

    return bare


def as_in_the_image(directory: str) -> tuple[list[str], list[str]]:
    """The drop-in, laid out as the Containerfile does it, and the interpreter that runs it, as it is started there."""
    root = Path(directory) / "image"
    shutil.copytree(Path(istio_init.__file__).parent, root / "istio_init", ignore=shutil.ignore_patterns("__pycache__"))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(root, quiet=2, force=True, invalidation_mode=unchecked)
    interpreter = [os.path.realpath(sys.executable), "-IS"]
    subprocess.run([*interpreter, str(IMAGE / "image-bundle"), "", str(root)], check=True)
    start = root / "istio-iptables"
    start.write_text((IMAGE / "image-start").read_text().replace("/opt/istio-init", str(root)))
    return [*interpreter, str(start), *DROPIN[1:]], interpreter
