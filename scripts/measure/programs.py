"""The programs that are measured, and the bare ones beside them."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from measure.space import Namespace, sh

SCRIPTS = Path(sysconfig.get_path("scripts"))
INJECTED = "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -b * -d 15090,15021,15020".split()
PROGRAM = str(SCRIPTS / "istio-init")
DROPIN = [str(SCRIPTS / "istio-iptables"), *INJECTED, "-x", ""]
STORES: dict[str, tuple[str, ...]] = {"iptables-nft": (), "native": ("--native-nftables",)}
READ = {"iptables-nft": ["iptables-nft-save"], "native": ["nft", "-j", "list", "ruleset"]}
"""What prints the rules of a store."""


def rules_file(directory: str) -> str:
    """What the injected arguments program, as iptables-restore reads it."""
    with Namespace() as space:
        text = sh(f"ip netns exec {space.name} {DROPIN[0]} -n -b '*' -i '*' -d 15090,15021,15020")
    path = Path(directory) / "rules"
    path.write_text("\n".join(line for line in text.splitlines() if line[:1] in "*:-C") + "\n")
    return str(path)


def script_file(directory: str) -> str:
    """The same natively, as nft reads it."""
    with Namespace() as space:
        text = sh(f"ip netns exec {space.name} {DROPIN[0]} -n --native-nftables -b '*' -i '*' -d 15090,15021,15020")
    path = Path(directory) / "script"
    path.write_text("\n".join(text.partition("<<'END'\n")[2].splitlines()[:-1]) + "\n")
    return str(path)
