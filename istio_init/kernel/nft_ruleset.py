"""The chains of nf_tables that are not iptables': what ``nft -j list ruleset`` tells beside iptables-nft's tables."""

from __future__ import annotations

import json

from istio_init.backends.base import XTABLES
from istio_init.errors import ToolError
from istio_init.inspector.snapshot import NativeChain
from istio_init.kernel import process

IPTABLES_FAMILIES = ("ip", "ip6")
TIMEOUT = 30.0


def native_chains() -> tuple[NativeChain, ...]:
    """The chains of every table that iptables-nft does not show.

    Raises:
        NoBackendError: nft is not installed.
        ToolError: it failed.
    """
    completed = process.run(["nft", "-j", "list", "ruleset"], timeout=TIMEOUT)
    if completed.status != 0:
        raise ToolError(f"nft: {completed.stderr.strip()}")
    return parse_ruleset(completed.stdout)


def parse_ruleset(text: str) -> tuple[NativeChain, ...]:
    """The native chains in the JSON of ``nft -j list ruleset`` (libnftables-json(5))."""
    chains: dict[tuple[str, str, str], dict[str, object]] = {}
    counts: dict[tuple[str, str, str], int] = {}
    for item in json.loads(text)["nftables"]:
        if "chain" in item:
            chain = item["chain"]
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif "rule" in item:
            rule = item["rule"]
            key = rule["family"], rule["table"], rule["chain"]
            counts[key] = counts.get(key, 0) + 1
    return tuple(
        NativeChain(*key, hook=_text(chain.get("hook")), priority=_number(chain.get("prio")), rules=counts.get(key, 0))
        for key, chain in chains.items()
        if not (key[0] in IPTABLES_FAMILIES and key[1] in XTABLES)
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
