"""A rule as iptables-save prints it (libxtables' save functions, 1.8.9)."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import (
    Comment,
    Connmark,
    Ctstate,
    Mark,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
)
from istio_init.dialects.iptables.targets import (
    CtZone,
    Goto,
    Jump,
    OpaqueTarget,
    Redirect,
    RestoreMark,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
    Verdict,
)
from istio_init.netfilter.family import MAX_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.matches import Match
    from istio_init.dialects.iptables.rules import Rule
    from istio_init.dialects.iptables.targets import Target

_MULTIPORT_FLAGS = {"source": "--sports", "destination": "--dports", "either": "--ports"}


def rule_text(rule: Rule) -> str:
    """The rule's text, without ``-A CHAIN``."""
    words: list[str] = []
    for flag, address in (("-s", rule.source), ("-d", rule.destination)):
        if address is not None:
            words += [*_not(address.negated), flag, str(address.network)]
    for flag, interface in (("-i", rule.in_interface), ("-o", rule.out_interface)):
        if interface is not None:
            words += [*_not(interface.negated), flag, interface.name]
    if rule.protocol is not None:
        words += [*_not(rule.protocol.negated), "-p", rule.protocol.name]
    for match in rule.matches:
        words += match_words(match)
    if rule.target is not None:
        words += target_words(rule.target)
    return " ".join(words)


def match_words(match: Match) -> list[str]:
    """The words of one match, ``-m`` included."""
    match match:
        case PortMatch(protocol, source, destination):
            words = ["-m", protocol]
            for flag, test in (("--sport", source), ("--dport", destination)):
                if test is not None:
                    words += [*_not(test.negated), flag, str(test.ports)]
            return words
        case Multiport(side, ports, negated):
            return ["-m", "multiport", *_not(negated), _MULTIPORT_FLAGS[side], ",".join(map(str, ports))]
        case Owner(uid, uid_negated, gid, gid_negated):
            words = ["-m", "owner"]
            for flag, ids, negated in (("--uid-owner", uid, uid_negated), ("--gid-owner", gid, gid_negated)):
                if ids is not None:
                    words += [*_not(negated), flag, str(ids)]
            return words
        case Mark(value, mask, negated):
            return ["-m", "mark", *_not(negated), "--mark", _masked(value, mask)]
        case Connmark(value, mask, negated):
            return ["-m", "connmark", *_not(negated), "--mark", _masked(value, mask)]
        case Ctstate(states, negated):
            return ["-m", "conntrack", *_not(negated), "--ctstate", ",".join(states)]
        case Comment(quoted):
            return ["-m", "comment", "--comment", quoted]
        case OpaqueMatch(None, words):
            return list(words)
        case OpaqueMatch(name, words):
            return ["-m", str(name), *words]


def target_words(target: Target) -> list[str]:
    """The words of a target, ``-j`` or ``-g`` included."""
    match target:
        case Verdict(name) | Jump(name):
            return ["-j", name]
        case Goto(chain):
            return ["-g", chain]
        case Redirect(ports):
            return ["-j", "REDIRECT", *([] if ports is None else ["--to-ports", str(ports).replace(":", "-")])]
        case Tproxy(port, address, mark, mask):
            where = ["--on-port", str(port), "--on-ip", str(address)]
            return ["-j", "TPROXY", *where, "--tproxy-mark", f"{mark:#x}/{mask:#x}"]
        case SetMark(value, mask):
            return ["-j", "MARK", "--set-xmark", f"{value:#x}/{mask:#x}"]
        case SetConnmark(value, mask):
            return ["-j", "CONNMARK", "--set-xmark", f"{value:#x}/{mask:#x}"]
        case SaveMark(nfmask, ctmask):
            return ["-j", "CONNMARK", "--save-mark", "--nfmask", f"{nfmask:#x}", "--ctmask", f"{ctmask:#x}"]
        case RestoreMark(nfmask, ctmask):
            return ["-j", "CONNMARK", "--restore-mark", "--nfmask", f"{nfmask:#x}", "--ctmask", f"{ctmask:#x}"]
        case CtZone(zone):
            return ["-j", "CT", "--zone", str(zone)]
        case OpaqueTarget(name, words):
            return ["-j", name, *words]


def _not(negated: bool) -> list[str]:
    return ["!"] if negated else []


def _masked(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == MAX_MARK else f"{value:#x}/{mask:#x}"
