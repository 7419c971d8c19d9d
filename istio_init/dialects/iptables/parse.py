"""A rule from a line of iptables-save, of any release and either backend.

What is known becomes a typed value; everything else becomes an opaque one that keeps its words. Nothing is dropped.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from istio_init.dialects.iptables.matches import (
    CTSTATES,
    Address,
    Comment,
    Connmark,
    Ctstate,
    IdRange,
    Interface,
    Mark,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
    PortRange,
    PortTest,
    Protocol,
)
from istio_init.dialects.iptables.quoting import words
from istio_init.dialects.iptables.rules import Rule
from istio_init.dialects.iptables.targets import (
    VERDICTS,
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
    from collections.abc import Callable, Sequence

    from istio_init.dialects.iptables.matches import Match
    from istio_init.dialects.iptables.targets import Target

_HEADER_FLAGS = {"-s": "source", "-d": "destination", "-i": "in_interface", "-o": "out_interface", "-p": "protocol"}
_EXTENSION_TARGETS = frozenset(["REDIRECT", "TPROXY", "MARK", "CONNMARK", "CT"])


def parse_rule(text: str) -> Rule:
    """The meaning of a rule's text, given without ``-A CHAIN``. Never fails."""
    rest = words(text)
    fields: dict[str, object] = {}
    matches: list[Match] = []
    negation: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "!":
            negation = ["!"]
            continue
        if word == "-m" and rest:
            name = rest.pop(0)
            matches.append(_match(name, _take_options(rest)))
        elif word in ("-j", "-g") and rest:
            fields["target"] = _target(word, rest[0], rest[1:])
            rest = []
        elif word in _HEADER_FLAGS and rest:
            value = rest.pop(0)
            try:
                _add_header(fields, word, _header(word, value, bool(negation)))
            except (LookupError, ValueError):
                matches.append(OpaqueMatch(None, (*negation, word, value)))
        else:
            matches.append(OpaqueMatch(None, (*negation, word)))
        negation = []
    return Rule(matches=tuple(matches), **fields)  # type: ignore[arg-type]


def _add_header(fields: dict[str, object], flag: str, value: object) -> None:
    if _HEADER_FLAGS[flag] in fields:
        raise ValueError("a repeated flag")
    fields[_HEADER_FLAGS[flag]] = value


def _take_options(rest: list[str]) -> list[str]:
    taken: list[str] = []
    if rest[:1] == ["--comment"]:  # Its value may begin with a dash, and has no quotes then.
        taken, rest[:2] = rest[:2], []
    while rest and rest[0] not in ("-m", "-j", "-g"):
        taken.append(rest.pop(0))
    return taken


def _header(flag: str, value: str, negated: bool) -> Address | Interface | Protocol | None:
    if flag in ("-s", "-d"):
        network = ip_network(value, strict=False)
        if "." in (mask := value.partition("/")[2]) and str(network.netmask) != mask:
            raise ValueError("a mask that is no prefix")
        return None if network.prefixlen == 0 and not negated else Address(network, negated)
    if flag == "-p":
        return None if value in ("all", "0", "ip", "hopopt") and not negated else Protocol(value, negated)
    return None if value == "+" and not negated else Interface(value, negated)


def _options(args: Sequence[str]) -> dict[str, tuple[bool, list[str]]]:
    """``! --flag value`` groups: by flag, whether it is negated, and its values."""
    options: dict[str, tuple[bool, list[str]]] = {}
    negated = False
    values: list[str] | None = None
    for word in args:
        if word == "!":
            negated = True
        elif word.startswith("--"):
            if word in options:
                raise ValueError("a repeated flag")
            values = []
            options[word] = (negated, values)
            negated = False
        elif values is None or negated:
            raise ValueError("a value without its flag")
        else:
            values.append(word)
    return options


def _match(name: str, args: list[str]) -> Match:
    if name == "comment" and len(args) == 2 and args[0] == "--comment":
        return Comment(args[1])
    try:
        parser = _MATCHES.get(name)
        parsed = parser(name, _options(args)) if parser else None
    except (ValueError, KeyError):
        parsed = None
    return OpaqueMatch(name, tuple(args)) if parsed is None else parsed


_Options = dict[str, tuple[bool, list[str]]]


def _one(options: _Options, *allowed: str) -> None:
    """Refuse options other than the allowed, or with other than one value."""
    for flag, (_, values) in options.items():
        if flag not in allowed or len(values) != 1:
            raise ValueError(flag)


def _ports(name: str, options: _Options) -> Match:
    _one(options, "--sport", "--dport")
    tests = {}
    for flag, (negated, [value]) in options.items():
        ports = _port_range(value)
        trivial = (ports.first, ports.last, negated) == (0, 65535, False)
        tests[flag] = None if trivial else PortTest(ports, negated)
    return PortMatch(name, tests.get("--sport"), tests.get("--dport"))


def _port_range(text: str) -> PortRange:
    first, colon, last = text.partition(":")
    low = int(first) if first else 0
    return PortRange(low, (int(last) if last else 65535) if colon else low)


_SIDES = {"--sports": "source", "--dports": "destination", "--ports": "either"}


def _multiport(_: str, options: _Options) -> Match:
    [(flag, (negated, [value]))] = options.items()
    return Multiport(_SIDES[flag], tuple(map(_port_range, value.split(","))), negated)


def _ids(text: str) -> IdRange:
    first, dash, last = text.partition("-")
    return IdRange(int(first), int(last if dash else first))


def _owner(_: str, options: _Options) -> Match:
    _one(options, "--uid-owner", "--gid-owner")
    fields: dict[str, object] = {}
    for flag, (negated, [value]) in options.items():
        name = flag[2:5]
        fields |= {name: _ids(value), f"{name}_negated": negated}
    return Owner(**fields)  # type: ignore[arg-type]


def _masked(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if slash else MAX_MARK


def _mark(name: str, options: _Options) -> Match:
    [(_, (negated, [text]))] = [(flag, option) for flag, option in options.items() if flag == "--mark" or _refuse()]
    value, mask = _masked(text)
    return Mark(value, mask, negated) if name == "mark" else Connmark(value, mask, negated)


def _refuse() -> bool:
    raise ValueError("an option that is not known")


def _conntrack(name: str, options: _Options) -> Match:
    flag = "--ctstate" if name == "conntrack" else "--state"
    _one(options, flag)
    negated, [value] = options[flag]
    states = value.split(",")
    if not set(states) <= set(CTSTATES):
        raise ValueError(value)
    return Ctstate(tuple([state for state in CTSTATES if state in states]), negated)


_MATCHES: dict[str, Callable[[str, _Options], Match]] = {
    "tcp": _ports,
    "udp": _ports,
    "multiport": _multiport,
    "owner": _owner,
    "mark": _mark,
    "connmark": _mark,
    "conntrack": _conntrack,
    "state": _conntrack,
}


def _target(flag: str, name: str, args: list[str]) -> Target:
    if flag == "-g":
        return Goto(name) if not args else OpaqueTarget(name, ("-g", *args))
    if name in VERDICTS and not args:
        return Verdict(name)
    if name in _EXTENSION_TARGETS:
        try:
            return _extension_target(name, _options(args))
        except (ValueError, KeyError):
            return OpaqueTarget(name, tuple(args))
    if args or (name.isupper() and name in _OPAQUE_TARGETS):
        return OpaqueTarget(name, tuple(args))
    return Jump(name)


_OPAQUE_TARGETS = frozenset(
    "AUDIT CHECKSUM CLASSIFY CLUSTERIP CONNSECMARK DNAT DNPT DSCP ECN HL HMARK IDLETIMER LED LOG MASQUERADE NETMAP "
    "NFLOG NFQUEUE NOTRACK RATEEST REJECT SECMARK SET SNAT SNPT SYNPROXY TCPMSS TCPOPTSTRIP TEE TOS TRACE TTL "
    "ULOG".split()
)
"""Extension targets that may print no option of their own (iptables-extensions(8)); any other bare name is a chain."""


def _extension_target(name: str, options: _Options) -> Target:
    if any(negated for negated, _ in options.values()):
        raise ValueError("a negated option")
    values = {flag: given[0] if len(given) == 1 else None for flag, (_, given) in options.items()}
    flags = set(values)
    match name:
        case "REDIRECT" if not flags:
            return Redirect()
        case "REDIRECT" if flags == {"--to-ports"}:
            return Redirect(_port_range(_given(values["--to-ports"]).replace("-", ":")))
        case "TPROXY" if flags == {"--on-port", "--on-ip", "--tproxy-mark"}:
            port, address, mark = (_given(values[flag]) for flag in ("--on-port", "--on-ip", "--tproxy-mark"))
            return Tproxy(int(port), ip_address(address), *_masked(mark))
        case "MARK" if flags == {"--set-xmark"}:
            return SetMark(*_masked(_given(values["--set-xmark"])))
        case "CONNMARK" if flags == {"--set-xmark"}:
            return SetConnmark(*_masked(_given(values["--set-xmark"])))
        case "CONNMARK" if flags == {"--save-mark", "--nfmask", "--ctmask"}:
            return SaveMark(int(_given(values["--nfmask"]), 0), int(_given(values["--ctmask"]), 0))
        case "CONNMARK" if flags == {"--restore-mark", "--nfmask", "--ctmask"}:
            return RestoreMark(int(_given(values["--nfmask"]), 0), int(_given(values["--ctmask"]), 0))
        case "CT" if flags == {"--zone"}:
            return CtZone(int(_given(values["--zone"])))
    raise ValueError(name)


def _given(value: str | None) -> str:
    if value is None:
        raise ValueError("an option with other than one value")
    return value
