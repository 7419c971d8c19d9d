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


_SAVE = re.compile(r"^(?:\*\w+\s*$|# Table `)", re.MULTILINE)
_NFT = re.compile(r"^\s*(?:table|add|create|flush|destroy|delete|define|include)\s", re.MULTILINE)
_IPSET = re.compile(r"^create \S+ \w+:\S+", re.MULTILINE)


def format_of(text: str) -> Format:
    """The form of a text; what has none of the others' signs is left to iptables-save's parser, which says why not."""
    if text.lstrip().startswith("{"):
        return Format.NFT_JSON
    if _SAVE.search(text):
        return Format.SAVE
    if _IPSET.search(text):
        return Format.IPSET
    return Format.NFT_TEXT if _NFT.search(text) else Format.SAVE
