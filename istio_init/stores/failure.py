"""What the failure of an iptables program means, in words that name the cause."""

from __future__ import annotations

from itertools import pairwise

from istio_init.errors import BusyError, ForeignRulesError, LackError, PrivilegeError, ToolError
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.errors import IstioInitError
    from istio_init.system.process import Completed

FOREIGN_NFT_RULES = (
    "the table holds rules of nft that iptables cannot express (see nft list ruleset): remove them, or restart the pod"
)

LOCK_HELD_STATUS = 4
"""Exit status of iptables for a resource problem, above all a lock that is held (iptables(8))."""


def failure(completed: Completed, text: str = "") -> IstioInitError:
    """The error for a failed run; ``text`` is what the program read, of which the refused line is shown."""
    name = completed.argv[0].rpartition("/")[2]
    said = "\n".join(line for line in completed.stderr.splitlines() if not line.startswith("Try `")).strip()
    lowered = said.lower()
    # iptables-nft-restore exits so for any transaction that the kernel refuses.
    held = completed.status == LOCK_HELD_STATUS and name == "python-iptables"
    if held or "xtables lock" in lowered:
        return BusyError(f"{name}: another program holds the xtables lock", fix="try again, or give a longer --wait")
    if "permission denied" in lowered or "operation not permitted" in lowered:
        return PrivilegeError(f"{name}: {said}", fix="run as root, or with the capabilities NET_ADMIN and NET_RAW")
    lacking = _missing_part(lowered)
    if "initialize" in lowered and lacking is not None:
        # Of a table that the kernel does not have, legacy iptables says EAGAIN as well.
        return LackError(f"{name}: {said}", fix=lacking)
    if "resource temporarily unavailable" in lowered:
        return BusyError(f"{name}: another program keeps changing the rules", fix="try again, or give a longer --wait")
    if "incompatible" in lowered:
        return ForeignRulesError(f"{name}: {said}", fix=FOREIGN_NFT_RULES)
    message = f"{name} failed with status {completed.status}: {said}"
    if (line := _refused_line(said, text)) is not None:
        message += f"\n  refused: {visible(line)}"
    return ToolError(message) if lacking is None else LackError(message, fix=lacking)


def _refused_line(said: str, text: str) -> str | None:
    """The line that the program complains of: ``line 12 failed`` or ``Error occurred at line: 12``."""
    words = said.replace(":", " ").split()
    lines = text.split("\n")
    for word, following in pairwise(words):
        if (
            word == "line"
            and following.isascii()
            and following.isdigit()
            and len(following) < 10
            and 0 < int(following) <= len(lines)
        ):
            return lines[int(following) - 1]
    return None


def _missing_part(said: str) -> str | None:
    if "table does not exist" in said or "can't initialize" in said or "unable to initialize" in said:
        return "this kernel lacks the table or may not load it: on the node, load iptable_<table> or nf_tables"
    if "missing kernel module" in said or "no chain/target/match by that name" in said or "not supported" in said:
        return "this kernel lacks the match or target: load its module on the node (xt_owner, xt_REDIRECT, …)"
    return None
