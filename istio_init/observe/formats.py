"""In which of its forms a text holds rules, told by the text itself."""

from __future__ import annotations

import re
from enum import Enum


class Format(Enum):
    """A form of rules in a file; the value is the program that prints it."""

    SAVE = "iptables-save"
    NFT_JSON = "nft -j list ruleset"
    NFT_TEXT = "nft list ruleset"
    IPSET = "ipset save"
    PASTED = "iptables -S, iptables -L -v -n or iptables-restore --noflush"
    """What `read_pasted` reads."""

    LOG = "the log of istio-init"


_SAVE = re.compile(r"^(?:\*\w+\s*$|# Table `)", re.MULTILINE)
_NFT = re.compile(r"^\s*(?:table|add|create|flush|destroy|delete|define|include)\s", re.MULTILINE)
_IPSET = re.compile(r"^create \S+ \w+:\S+", re.MULTILINE)
_LISTING = re.compile(r"^Chain \S+ \((?:policy|\d+ references?)", re.MULTILINE)
_RULES = re.compile(
    r"^-[PNA] \S+|^\* ?(?:nat|mangle|filter|raw|security)\s*$|"
    r"^.{0,200}(?<![\w-])ip6?tables(?:-nft|-legacy)? .{0,400}-[AN] ",
    re.MULTILINE,
)
_BUILT_IN = re.compile(r"^:(?:PREROUTING|INPUT|OUTPUT|FORWARD|POSTROUTING) ", re.MULTILINE)
_INPUT = re.compile(r"^-N \S+|(?<![\w-])ip6?tables(?:-nft|-legacy)?-restore\s", re.MULTILINE)
RESTORED = re.compile(r"Writing following contents to rules file|Running ip6?tables[ -]restore with")
"""What Istio writes to its log before the input of iptables-restore, of whatever release."""

_LOG = re.compile(
    rf"{RESTORED.pattern}|^(?:Istio iptables )?(?:Environment|environment|Variables|variables):\s*$", re.MULTILINE
)


def format_of(text: str) -> Format:
    """The form of a text; what has none of the others' signs is left to iptables-save's parser, which says why not."""
    if text.lstrip().startswith("{"):
        return Format.NFT_JSON
    if _LOG.search(text):
        return Format.LOG
    if _SAVE.search(text) and (_BUILT_IN.search(text) or not _INPUT.search(text)):
        return Format.SAVE
    if _IPSET.search(text):
        return Format.IPSET
    if _LISTING.search(text) or _RULES.search(text):
        return Format.PASTED
    return Format.NFT_TEXT if _NFT.search(text) else Format.SAVE
