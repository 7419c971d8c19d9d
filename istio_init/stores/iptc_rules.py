"""Rules to and from python-iptables' objects."""

from __future__ import annotations

from ipaddress import ip_network

from istio_init.dialects.iptables.matches import OpaqueMatch
from istio_init.dialects.iptables.quoting import words
from istio_init.dialects.iptables.render import match_words, target_words
from istio_init.dialects.iptables.targets import Goto, Jump, Verdict
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from istio_init.dialects.iptables.rules import Rule

UNQUOTED = frozenset("_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


IS_FRAGMENT, IS_NO_FRAGMENT = 0x01, 0x20
SILENT = frozenset(["CT", "HL", "TTL"])
"""Targets that libxtables prints without a word where python-iptables has it print another revision, or an alias."""


class CannotExpress(Exception):
    """python-iptables has no way to say this rule."""


def build(iptc: Any, family: Family, rule: Rule, chain: Any = None) -> Any:
    """The rule as an object of python-iptables.

    Raises:
        CannotExpress: a flag of the rule itself is not known.
    """
    made = (iptc.Rule if family is Family.IPV4 else iptc.Rule6)(chain=chain)
    if rule.source is not None:
        made.src = _negatable(str(rule.source.network), rule.source.negated)
    if rule.destination is not None:
        made.dst = _negatable(str(rule.destination.network), rule.destination.negated)
    if rule.in_interface is not None:
        made.in_interface = _negatable(rule.in_interface.name, rule.in_interface.negated)
    if rule.out_interface is not None:
        made.out_interface = _negatable(rule.out_interface.name, rule.out_interface.negated)
    if family is Family.IPV6:
        _mend_interface_masks(made)
    if rule.protocol is not None:
        made.protocol = _negatable(rule.protocol.name, rule.protocol.negated)
    for match in rule.matches:
        if isinstance(match, OpaqueMatch) and match.name is None:
            raise CannotExpress(" ".join(match.words))
        _, name, *options = match_words(match)
        _set(made.create_match(name), options)
    match rule.target:
        case None:
            made.create_target("")
        case Verdict(name) | Jump(name):
            made.create_target(name)
        case Goto(name):
            made.create_target(name, goto=True)
        case target:
            _, name, *options = target_words(target)
            _set(made.create_target(name), _without_defaults(options))
    return made


def _mend_interface_masks(made: Any) -> None:
    """Set whole masks of interfaces: python-iptables sets a bit a byte for IPv6, and ``lo`` matched ``net1``."""
    for side in ("iniface", "outiface"):
        mask = getattr(made.entry.ipv6, f"{side}_mask")
        setattr(made.entry.ipv6, f"{side}_mask", b"\xff" * len(mask))


def masks_are_whole(made: Any, family: Family) -> bool:
    """Whether each byte of the interfaces' masks has all its bits."""
    header = made.entry.ip if family is Family.IPV4 else made.entry.ipv6
    return not (set(header.iniface_mask) | set(header.outiface_mask)) - {0xFF}


def _without_defaults(options: list[str]) -> list[str]:
    """Leave out ``--on-ip`` of no address, which the kernel sets itself and an IPv6 parser would refuse to combine."""
    for unset in (["--on-ip", "0.0.0.0"], ["--on-ip", "::"]):
        for index in range(len(options) - 1):
            if options[index : index + 2] == unset:
                return options[:index] + options[index + 2 :]
    return options


def _negatable(value: str, negated: bool) -> str:
    return f"!{value}" if negated else value


def _set(extension: Any, options: list[str]) -> None:
    """Set an extension's options from words such as ``! --dport 53``."""
    index, negated = 0, False
    while index < len(options):
        word = options[index]
        index += 1
        if word == "!":
            negated = True
            continue
        values = []
        while index < len(options) and options[index] != "!" and not options[index].startswith("--"):
            values.append(_unquoted(options[index]))
            index += 1
        if negated:
            values = [f"!{values[0]}", *values[1:]] if len(values) < 2 else ["!", *values]
        extension.set_parameter(word[2:], values[0] if len(values) == 1 else values or None)
        negated = False


def _unquoted(word: str) -> str:
    return word[1:-1].replace('\\"', '"').replace("\\\\", "\\") if word.startswith('"') else word


def _quoted(word: str) -> str:
    if set(word) <= UNQUOTED:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def text_of(rule: Any) -> str:
    """A rule of python-iptables as iptables-save prints it.

    Raises:
        CannotExpress: the libraries do not say what an extension does, or what a mask is.
    """
    _require_prefixes(rule)
    found: list[str] = []
    for flag, address in (("-s", rule.src), ("-d", rule.dst)):
        value = _with_prefix(address.removeprefix("!"))
        negated = address.startswith("!")
        if negated or not value.endswith("/0"):
            found += [*(["!"] if negated else []), flag, value]
    for flag, interface in (("-i", rule.in_interface), ("-o", rule.out_interface)):
        if interface:
            found += [*(["!"] if interface.startswith("!") else []), flag, interface.removeprefix("!")]
    protocol = rule.protocol
    if protocol.removeprefix("!") not in ("ip", "all", "0"):
        found += [*(["!"] if protocol.startswith("!") else []), "-p", protocol.removeprefix("!")]
    found += _fragment_words(rule)
    for match in rule.matches:
        found += ["-m", match.name, *_option_words(match)]
    found += _target_words(rule)
    return " ".join(found)


def _require_prefixes(rule: Any) -> None:
    """python-iptables counts the bits of IPv6's masks, wherever they are."""
    header = getattr(rule.entry, "ipv6", None)
    for mask in () if header is None else (header.smsk, header.dmsk):
        missing = int.from_bytes(bytes(mask.s6_addr)) ^ ((1 << 128) - 1)
        if missing & (missing + 1):
            raise CannotExpress("an IPv6 mask that is no prefix")


def _fragment_words(rule: Any) -> list[str]:
    """``-f`` or its negation, of which python-iptables says nothing (linux/netfilter_ipv4/ip_tables.h)."""
    header = getattr(rule.entry, "ip", None)
    if header is None or not header.flags & IS_FRAGMENT:
        return []
    return ["!", "-f"] if header.invflags & IS_NO_FRAGMENT else ["-f"]


def _with_prefix(address: str) -> str:
    """``10.0.0.0/255.0.0.0`` as ``10.0.0.0/8``; a mask that is no prefix stays as it is."""
    try:
        network = ip_network(address, strict=False)
    except ValueError:
        return address
    mask = address.partition("/")[2]
    return str(network) if "." not in mask or str(network.netmask) == mask else address


def _target_words(rule: Any) -> list[str]:
    target = rule.target
    name = target.standard_target or target.name
    if not name:
        return []
    if target.goto:
        return ["-g", name]
    if name in SILENT and not _option_words(target):
        raise CannotExpress(f"-j {name} without a word")
    is_extension = target.name == name and name not in ("ACCEPT", "DROP", "RETURN", "QUEUE")
    return ["-j", name, *(_option_words(target) if is_extension else [])]


def _option_words(extension: Any) -> list[str]:
    saved = extension._get_saved_buf(extension.rule.get_ip())
    return words(saved.decode().rstrip("\n")) if saved else []
