"""The recorded cases, read and written as iptables-save text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from istio_init.netfilter.family import Family

from .conftest import VARIABLE

Case = dict[str, Any]

KEYS = {Family.IPV4: "v4", Family.IPV6: "v6"}


def recorded() -> list[Case]:
    """The cases: arguments, addresses, name servers, and the state that came of them."""
    cases: list[Case] = json.loads(Path(os.environ[VARIABLE], "cases.json").read_text())
    return cases


def save_text(chains_by_table: dict[str, dict[str, list[str]]]) -> str:
    """The recorded chains of a family as text for iptables-restore."""
    lines = []
    for table, chains in chains_by_table.items():
        lines.append(f"*{table}")
        lines += [f":{chain} {'-' if chain.startswith('ISTIO_') else 'ACCEPT'} [0:0]" for chain in chains]
        lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"
