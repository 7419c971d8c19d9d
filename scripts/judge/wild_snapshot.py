"""What is live in the laboratory, as a predictor would read it."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from judge.wild_lab import OWN, Lab
from judge.wild_load import LabError, attempt, run
from judge.wild_pools import LINKS

SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.bindv6only",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.ip_early_demux",
    "net.ipv4.fwmark_reflect",
    "net.netfilter.nf_conntrack_tcp_loose",
    "net.netfilter.nf_conntrack_checksum",
)
BY_LINK = (
    "ipv4/forwarding",
    "ipv4/rp_filter",
    "ipv4/route_localnet",
    "ipv4/src_valid_mark",
    "ipv4/accept_local",
    "ipv6/forwarding",
)
STORES = {
    "nft4": "iptables-nft-save",
    "nft6": "ip6tables-nft-save",
    "legacy4": "iptables-legacy-save",
    "legacy6": "ip6tables-legacy-save",
}


def ruleset(lab: Lab, setup: list[str]) -> dict[str, Any]:
    """All that is live."""
    found: dict[str, Any] = {"setup": setup, "loaded": lab.loader.loaded, "refused": lab.loader.refused}
    found["save_errors"] = {}
    for name, program in STORES.items():
        done = attempt(program)
        found[name] = done.stdout
        if done.returncode:
            found["save_errors"][name] = done.stderr
    text = run("nft", "list", "ruleset")
    found["nft_text"] = re.sub(rf"^table inet {OWN} \{{\n.*?^\}}\n", "", text, flags=re.M | re.S)
    found["nft_json"] = None
    with contextlib.suppress(LabError, ValueError):
        listed = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
        found["nft_json"] = {"nftables": [each for each in listed if not _is_own(each)]}
    found["nft_netlink"] = lab.netlink.dumped(OWN)
    found["hooks"] = None
    with contextlib.suppress(LabError):  # nft 0.9.8 has no such command.
        found["hooks"] = run("nft", "list", "hooks") or None
    found["ipset_save"] = ""
    with contextlib.suppress(LabError):  # A kernel without x_tables may have no sets of ipset's either.
        found["ipset_save"] = run("ipset", "save")
    found["rules"] = {family: json.loads(run("ip", f"-{family}", "-j", "rule")) for family in ("4", "6")}
    shown = {family: run("ip", f"-{family}", "-j", "route", "show", "table", "all") for family in ("4", "6")}
    found["routes"] = {family: json.loads(text or "[]") for family, text in shown.items()}
    found["addresses"] = json.loads(run("ip", "-j", "addr"))
    found["sysctls"] = _sysctls()
    found["listeners"] = [listener._asdict() for listener in lab.listeners()]
    return found


def _is_own(entry: dict[str, Any]) -> bool:
    return any(
        part.get("table") == OWN or (kind == "table" and part.get("name") == OWN) for kind, part in entry.items()
    )


def _sysctls() -> dict[str, int]:
    names = list(SYSCTLS)
    for link in ("all", "lo", *LINKS):
        names += [each.replace("/", f".conf.{link}.") for each in BY_LINK]
    found = {}
    for name in names:
        short = name if name.startswith("net.") else f"net.{name}"
        with contextlib.suppress(OSError), open(f"/proc/sys/{short.replace('.', '/')}") as file:
            found[short] = int(file.read())
    return found
