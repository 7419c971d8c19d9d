"""A rule as people and programs give it to iptables, in the form in which iptables-save prints it."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import OpaqueMatch
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.quoting import words
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.targets import OpaqueTarget
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_IMPLIED = frozenset(["--sport", "--dport", "--source-port", "--destination-port"])
"""Options that a protocol's own match takes, which iptables loads by itself."""

_LONG = {
    "--source-port": "--sport",
    "--destination-port": "--dport",
    "--to-port": "--to-ports",
    "--source": "-s",
    "--destination": "-d",
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--protocol": "-p",
    "--jump": "-j",
    "--goto": "-g",
    "--match": "-m",
}
_NUMBERS = {"6": "tcp", "17": "udp", "132": "sctp"}
_WHOLE = "0xffffffff"


def canonical(text: str, family: Family) -> str:
    """The text of a rule without ``-A CHAIN``; as it was given where the rule holds what is not known."""
    rest = [_LONG.get(word, word) for word in words(text)]
    made = _completed(list(_with_matches(rest)), family)
    rule = parse_rule(" ".join(made))
    if isinstance(rule.target, OpaqueTarget) or any(isinstance(match, OpaqueMatch) for match in rule.matches):
        return " ".join(made)
    return rule_text(rule)


def _with_matches(rest: list[str]) -> Iterable[str]:
    """The words with ``-m tcp`` before options of it that stand without it."""
    protocol, name = "", ""
    for at, word in enumerate(rest):
        following = rest[at + 1] if at + 1 < len(rest) else ""
        if word == "-p":
            protocol = _NUMBERS.get(following, following)
        elif word == "-m":
            name = following
        elif word in ("-j", "-g"):
            name = word
        negated_option = word == "!" and following in _IMPLIED
        if (word in _IMPLIED or negated_option) and protocol and name not in (protocol, "multiport", "-j", "-g"):
            name = protocol
            yield from ("-m", protocol)
        yield word


def _completed(rest: list[str], family: Family) -> list[str]:
    """The words with what iptables-save adds to a target's."""
    if "-j" not in rest:
        return rest
    at = rest.index("-j") + 1
    head, target, options = rest[:at], rest[at] if at < len(rest) else "", rest[at + 1 :]
    match target, options:
        case "MARK" | "CONNMARK", ["--set-mark", mark]:
            value, slash, mask = mark.partition("/")
            if not slash and value.isalnum():
                return [*head, target, "--set-xmark", f"{value}/{_WHOLE}"]
            if mask and target == "MARK":
                return rest  # It sets the mask's bits, as well, which is another operation.
        case "MARK" | "CONNMARK", ["--set-xmark", mark] if "/" not in mark:
            return [*head, target, "--set-xmark", f"{mark}/{_WHOLE}"]
        case "CONNMARK", ["--save-mark" | "--restore-mark" as kind]:
            return [*head, target, kind, "--nfmask", _WHOLE, "--ctmask", _WHOLE]
        case "TPROXY", [*_] if "--on-port" in options and "--tproxy-mark" in options:
            given = dict(zip(options[::2], options[1::2], strict=False))
            nowhere = "0.0.0.0" if family is Family.IPV4 else "::"
            mark = given["--tproxy-mark"]
            mark = mark if "/" in mark else f"{mark}/{_WHOLE}"
            order = (given["--on-port"], "--on-ip", given.get("--on-ip", nowhere), "--tproxy-mark", mark)
            if given.keys() <= {"--on-port", "--on-ip", "--tproxy-mark"}:
                return [*head, target, "--on-port", *order]
    return rest
