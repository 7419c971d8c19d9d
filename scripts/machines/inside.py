"""Run in the machine: the steps of the plan, one after the other; what comes of each is a line of JSON."""

import json
import os
import platform
import subprocess
import sys
import time

OUTSIDE = """
link set lo up
netns add pod
link add far type veth peer name eth0 netns pod
link set far up
"""
INSIDE = """
link set lo up
link set eth0 up
addr add 10.44.0.7/24 dev eth0
addr add fd00:44::7/64 dev eth0 nodad
route add default via 10.44.0.1
route add default via fd00:44::1
"""


def pod() -> None:
    """A pod of which only its end of the wire is there."""
    subprocess.run(["ip", "netns", "del", "pod"], stderr=subprocess.DEVNULL, check=False)
    for lines, where in ((OUTSIDE, []), (INSIDE, ["-n", "pod"])):
        for line in filter(None, lines.split("\n")):
            subprocess.run(["ip", *where, *line.split()], check=True)


def version(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.split()[1].lstrip("v") if done.returncode == 0 else "none"


def tell(**words: object) -> None:
    print("\n@" + json.dumps(words), flush=True)


def main() -> None:
    os.makedirs("/run/netns", exist_ok=True)
    python = platform.python_version()
    tell(kernel=platform.release(), iptables=version("iptables", "-V"), nft=version("nft", "-v"), python=python)
    with open("/plan.json") as file:
        plan = json.load(file)
    for step in plan:
        if step["fresh"]:
            pod()
        argv = [sys.executable if word == "PYTHON" else word for word in step["argv"]]
        start = time.monotonic()
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=step["seconds"], errors="replace")
            status, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            status, said = -1, f"no end in {error.timeout} s\n{(error.stdout or b'')[-20000:]!r}"
        is_ok = status == 0 and all(each in said for each in step["words"])
        tell(
            what=step["what"],
            is_ok=is_ok,
            status=status,
            seconds=round(time.monotonic() - start, 1),
            said=said[-20000:],
        )
    tell(end=True)


main()
