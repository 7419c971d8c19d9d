"""Rules as ``iptables -L`` lists them, read back as iptables-save would print them.

A listing is for people: it leaves things out, and writes others in ways that are not told apart. What it does not say
with certainty becomes a test of the match ``listing``, which nobody can decide, with the words as they were listed.
"""

from __future__ import annotations

import re
from ipaddress import ip_network

from istio_init.dialects.iptables.quoting import is_word
from istio_init.dialects.iptables.rules import Counters
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MATCH = "listing"
UNREAD, NO_INTERFACES = "--unread", "--without-interfaces"

_PROTOCOLS = {"0": "all", "1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "132": "sctp"}
"""By their numbers, which 1.8.9 lists with -n where others have names."""

_ADDRESS = r"!?(?:[0-9a-fA-F:.]*[:.][0-9a-fA-F:.]*(?:/[0-9a-fA-F:.]+)?|anywhere)"
_PROTOCOL = r"!?[a-z0-9][a-z0-9-]*"
_OPTION = r"(?P<option>--|-f|!f)"
_TARGET = r"(?:(?P<target>\S+)\s+)?"


def _form(option: str, interfaces: str, address: str) -> re.Pattern[str]:
    return re.compile(
        rf"{_TARGET}(?P<protocol>{_PROTOCOL})\s+{option}{interfaces}"
        rf"(?P<source>{address})\s+(?P<destination>{address})(?:\s+(?P<rest>.*))?"
    )


_IN_AND_OUT = r"(?P<in>\S+)\s+(?P<out>\S+)\s+"
_ROWS = _form(rf"(?:{_OPTION}\s+)?", "", _ADDRESS), _form(rf"{_OPTION}\s+", "", r"\S+")
_VERBOSE_ROWS = _form(rf"(?:{_OPTION}\s+)?", _IN_AND_OUT, _ADDRESS), _form(rf"{_OPTION}\s+", _IN_AND_OUT, r"\S+")
"""With addresses; and with names instead, as without -n, where the options tell which column is which."""

_COUNTS = re.compile(r"\s*(\d+[KMGT]?)\s+(\d+[KMGT]?)\s+")
_NUMBER = re.compile(r"\s*\d+\s+")

_IS_ADDRESS = re.compile(r"!?[0-9a-fA-F:.]*[:.][0-9a-fA-F:.]*(?:/[0-9a-fA-F:.]+)?")
HEADER = re.compile(
    r"(?P<numbered>num\s+)?(?P<verbose>pkts\s+bytes\s+)?target\s+prot\s+opt\s+(?:in\s+out\s+)?source\s+destination"
)
CHAIN = re.compile(r"Chain (?P<name>\S+) \((?:policy (?P<policy>[A-Z]+)(?: \S+ packets, \S+ bytes)?|\d+ references?)\)")


class Columns(Value):
    """What a listing has of each rule: numbers with --line-numbers, counters and interfaces with -v."""

    numbered: bool
    verbose: bool


class Listed(Value):
    """A rule as iptables-save would print it, behind ``-A CHAIN``; ``is_whole`` where the listing says all of it."""

    text: str
    counters: Counters | None = None
    is_whole: bool = True


class ListingError(ValueError):
    """A line is no rule of a listing."""


def read_row(line: str, columns: Columns) -> Listed:
    """A line below the names of the columns.

    Raises:
        ListingError: it is none, or could be read in two ways.
    """
    counters = None
    if columns.numbered:
        if (number := _NUMBER.match(line)) is None:
            raise ListingError("it begins with no number")
        line = line[number.end() - 1 :]
    if columns.verbose:
        if (counts := _COUNTS.match(line)) is None:
            raise ListingError("it begins with no counters")
        line = line[counts.end() :]
        if counts[1].isdigit() and counts[2].isdigit():
            counters = Counters(int(counts[1]), int(counts[2]))
    forms = _VERBOSE_ROWS if columns.verbose else _ROWS
    row = _split(line.strip(), next((form for form in forms if form.fullmatch(line.strip())), forms[0]))
    words = _header(row, verbose=columns.verbose)
    return _rule(row, words, counters, verbose=columns.verbose)


def _split(text: str, form: re.Pattern[str]) -> dict[str, str | None]:
    """The columns. A rule without a target has nothing there, so that what follows could be taken for one."""
    found = form.fullmatch(text)
    if found is None:
        raise ListingError("it has not the columns of a rule")
    without = re.fullmatch(form.pattern.removeprefix(_TARGET), text)
    if without is not None and found["target"]:
        raise ListingError("it can be read with a target and without one")
    return found.groupdict()


def _header(row: dict[str, str | None], *, verbose: bool) -> list[str]:
    """Addresses, interfaces and protocol."""
    words: list[str] = []
    for flag, name in (("-s", "source"), ("-d", "destination")):
        value = row[name] or ""
        try:
            network = None if value.strip("!") == "anywhere" else ip_network(value.removeprefix("!"), strict=False)
        except ValueError:
            if _IS_ADDRESS.fullmatch(value):  # Under a mask that is no prefix; a name is told by `_names`.
                words += _negatable(flag, value, value.removeprefix("!"))
            continue
        if network is not None and (network.prefixlen or value.startswith("!")):
            words += _negatable(flag, value, str(network) if "." not in value.partition("/")[2] else value.strip("!"))
    for flag, name in (("-i", "in"), ("-o", "out")):
        if verbose and (value := row[name] or "*") not in ("*", "any"):
            if not is_word(value.removeprefix("!")):
                raise ListingError("the name of an interface in it is none")
            words += _negatable(flag, value, value.removeprefix("!"))
    words += {"-f": ["-f"], "!f": ["!", "-f"]}.get(row["option"] or "", [])
    protocol = row["protocol"] or ""
    name = _PROTOCOLS.get(protocol.removeprefix("!"), protocol.removeprefix("!"))
    if name != "all":
        words += _negatable("-p", protocol, name)
    return words


def _names(row: dict[str, str | None]) -> list[str]:
    """The names that stand for addresses, which only the machine of the listing could tell."""
    values = [row[name] or "" for name in ("source", "destination")]
    return [value for value in values if value.strip("!") != "anywhere" and not _IS_ADDRESS.fullmatch(value)]


def _negatable(flag: str, listed: str, value: str) -> list[str]:
    return ["!", flag, value] if listed.startswith("!") else [flag, value]


def _rule(row: dict[str, str | None], words: list[str], counters: Counters | None, *, verbose: bool) -> Listed:
    rest = (row["rest"] or "").strip()
    target = row["target"] or ""
    matches, left = _matches(rest)
    options, left = _options(target, left)
    left = " ".join([*_names(row), *([left] if left else [])])
    is_whole = not left
    if not verbose:
        matches = [*matches, "-m", MATCH, NO_INTERFACES]
    if left:
        matches = [*matches, "-m", MATCH, UNREAD, _quoted(left)]
    flag = "-g" if options == ["-g"] else "-j"
    if target:
        words = [*words, *matches, flag, target, *(options if flag == "-j" else [])]
        if left and target in _WITH_OPTIONS:
            words += [UNREAD, _quoted(left)]
    else:
        words = [*words, *matches]
    return Listed(" ".join(words), counters, is_whole and verbose)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_PORTS = r"(!?\d+(?::\d+)?)"
_MARK = r"(0x[0-9a-f]+(?:/0x[0-9a-f]+)?)"
_LIST = r"(!?[0-9:,]+)"
_SPOTS = {"dpt": "--dport", "dpts": "--dport", "spt": "--sport", "spts": "--sport"}


def _port_words(found: re.Match[str]) -> list[str]:
    words = ["-m", found[1]]
    for kind, value in re.findall(r"(dpts?|spts?):(!?[0-9:]+)", found[0]):
        words += _negatable(_SPOTS[kind], value, value.strip("!"))
    return words


_TESTS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], list[str]]], ...] = (
    (re.compile(rf"(tcp|udp)((?: [sd]pts?:{_PORTS})+)(?= |$)"), _port_words),
    (re.compile(r"(tcp|udp)(?= |$)"), lambda found: ["-m", found[1]]),
    (
        re.compile(rf"multiport (dports|sports|ports) +{_LIST}(?= |$)"),
        lambda found: ["-m", "multiport", *_negatable(f"--{found[1]}", found[2], found[2].strip("!"))],
    ),
    (
        re.compile(r"(! )?owner (UID|GID) match (\d+(?:-\d+)?)(?= |$)"),
        lambda found: ["-m", "owner", *(["!"] if found[1] else []), f"--{found[2].lower()}-owner", found[3]],
    ),
    (
        re.compile(rf"(mark|connmark) match +(! )?{_MARK}(?= |$)"),
        lambda found: ["-m", found[1], *(["!"] if found[2] else []), "--mark", found[3]],
    ),
    (
        re.compile(r"(! )?(ctstate|state) ([A-Z,]+)(?= |$)"),
        lambda found: [
            "-m",
            "conntrack" if found[2] == "ctstate" else "state",
            *(["!"] if found[1] else []),
            f"--{found[2]}",
            found[3],
        ],
    ),
)
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
"""What iptables-save prints without quotes."""

_COMMENT = re.compile(r"/\* (.*) \*/(?= |$)")


def _matches(rest: str) -> tuple[list[str], str]:
    """The matches that are read with certainty, and what is left."""
    words: list[str] = []
    while rest:
        comment = _COMMENT.match(rest)
        if comment is not None and not ("/*" in comment[1] or "*/" in comment[1]):
            words += ["-m", "comment", "--comment", comment[1] if _PLAIN.fullmatch(comment[1]) else _quoted(comment[1])]
            rest = rest[comment.end() :].lstrip()
            continue
        for form, said in _TESTS:
            if (found := form.match(rest)) is not None:
                words += said(found)
                rest = rest[found.end() :].lstrip()
                break
        else:
            break
    return words, rest


_WITH_OPTIONS = frozenset("REDIRECT DNAT SNAT MASQUERADE TPROXY MARK CONNMARK CT REJECT NETMAP".split())
_WHOLE_MARK = "/0xffffffff"
_BOTH_MASKS = ["--nfmask", "0xffffffff", "--ctmask", "0xffffffff"]
_TARGETS: dict[str, tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], list[str]]], ...]] = {
    "REDIRECT": ((re.compile(r"redir ports (\d+(?:-\d+)?)"), lambda found: ["--to-ports", found[1]]),),
    "DNAT": ((re.compile(r"to:([0-9a-fA-F.:\[\]-]+)"), lambda found: ["--to-destination", found[1]]),),
    "SNAT": ((re.compile(r"to:([0-9a-fA-F.:\[\]-]+)"), lambda found: ["--to-source", found[1]]),),
    "REJECT": ((re.compile(r"reject-with ([a-z0-9-]+)"), lambda found: ["--reject-with", found[1]]),),
    "MARK": (
        (re.compile(r"MARK set (0x[0-9a-f]+)"), lambda found: ["--set-xmark", found[1] + _WHOLE_MARK]),
        (re.compile(rf"MARK xset {_MARK}"), lambda found: ["--set-xmark", found[1]]),
    ),
    "CONNMARK": (
        (re.compile(r"CONNMARK save"), lambda found: ["--save-mark", *_BOTH_MASKS]),
        (re.compile(r"CONNMARK restore"), lambda found: ["--restore-mark", *_BOTH_MASKS]),
        (re.compile(r"CONNMARK set (0x[0-9a-f]+)"), lambda found: ["--set-xmark", found[1] + _WHOLE_MARK]),
        (re.compile(rf"CONNMARK xset {_MARK}"), lambda found: ["--set-xmark", found[1]]),
    ),
    "TPROXY": (
        (
            re.compile(r"TPROXY redirect ([0-9.]+|[0-9a-f:]+):(\d+) mark (0x[0-9a-f]+/0x[0-9a-f]+)"),
            lambda found: ["--on-port", found[2], "--on-ip", found[1], "--tproxy-mark", found[3]],
        ),
    ),
    "CT": (
        (re.compile(r"CT zone (\d+)"), lambda found: ["--zone", found[1]]),
        (re.compile(r"NOTRACK"), lambda _: ["--notrack"]),
    ),
}


def _options(target: str, rest: str) -> tuple[list[str], str]:
    """The options of the target, where the words that are left are just these, and else what is left."""
    if rest == "[goto]":
        return ["-g"], ""
    for form, said in _TARGETS.get(target, ()):
        if (found := form.fullmatch(rest)) is not None:
            return said(found), ""
    return [], rest
