"""What inspecting costs: beside many rules, of many packets, over many namespaces."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from judge.large import deny, firewall, kube_proxy

from measure.figures import cost
from measure.programs import INJECTED, PROGRAM
from measure.space import NAME, SETUP, Namespace, sh


def written(directory: str, text: str) -> str:
    """A file with rules."""
    path = Path(directory) / f"rules-{len(os.listdir(directory))}"
    path.write_text(text)
    return str(path)


def explain(count: int = 20_000) -> None:
    with Namespace():
        subprocess.run([PROGRAM, "apply", "--netns", NAME], check=True, stdout=subprocess.DEVNULL)
        sh(f"ip netns exec {NAME} iptables-nft-restore --noflush", input=kube_proxy(count))
        what = f"explain beside {count:,} rules like kube-proxy's"
        cost(what, [PROGRAM, "explain", "--netns", NAME], "aim: at most 5 s, 250 MB")
        packet = ["outbound", "tcp", "10.96.3.4:80"]
        what = f"trace beside {count:,} of them, the rest assumed"
        cost(what, [PROGRAM, "trace", *packet, "--netns", NAME], "aim: at most 3 s")


def trace() -> None:
    packets = [
        {"direction": "outbound", "proto": "tcp", "dst": f"10.0.{n >> 8 & 255}.{n & 255}", "dport": 1 + n % 65535,
         "uid": 1000 + n % 2, "gid": 1000, "src": "10.1.2.3", "sport": 40000, "interface": "eth0", "mark": 0,
         "ctstate": "NEW"}
        for n in range(20_000)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        path = written(directory, "".join(json.dumps(packet) + "\n" for packet in packets))
        argv = [PROGRAM, "trace", "--expect", " ".join(map(shlex.quote, INJECTED)), "--batch", path]
        cost("trace of 20,000 packets, all given", argv, "")


def map_all() -> None:
    aims = {100: "0.5", 300: "1", 1_000: "2", 3_000: "6"}
    with tempfile.TemporaryDirectory() as directory:
        for count, aim in aims.items():
            argv = [PROGRAM, "map", "--file", written(directory, firewall(count))]
            cost(f"map of {count:,} rules of address and ports", argv, f"aim: at most {aim} s")
        argv = [PROGRAM, "map", "--file", written(directory, deny(20_000))]
        cost("map of 20,000 deny rules", argv, "aim: at most 8 s, 250 MB")
        argv = [PROGRAM, "map", "--file", written(directory, kube_proxy(5_000))]
        cost("map of 5,000 rules like kube-proxy's", argv, "")


def diff() -> None:
    with tempfile.TemporaryDirectory() as directory:
        one, other = written(directory, firewall(1_000)), written(directory, firewall(1_000, seed=3))
        cost("diff of 1,000 rules of address and ports", [PROGRAM, "diff", one, other], "aim: at most 4 s")


def ps(count: int = 200) -> None:
    names = [f"{NAME}-{index}" for index in range(count)]
    sh("\n".join(f"ip netns add {name}; ip netns exec {name} bash -ec '{SETUP}'" for name in names))
    holders = [subprocess.Popen(["ip", "netns", "exec", name, "sleep", "600"]) for name in names]
    try:
        argv = [PROGRAM, "apply"]
        for name in names:
            argv += ["--netns", name]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        cost(f"ps over {count} programmed namespaces", [PROGRAM, "ps"], "")
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
        sh("\n".join(f"ip netns del {name}" for name in names))


INSPECTION = {"explain": explain, "ps": ps, "trace": trace, "map": map_all, "diff": diff}
