"""What a text of nft means, by the kernel's own word: loaded into a network namespace that is made and lost for it."""

from __future__ import annotations

import re
import resource

from istio_init.errors import InputError, IstioInitError
from istio_init.system import namespaces, process, ruleset
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = 30.0
"""Seconds for loading: a text may well ask nft to wait for ever."""

MEMORY = 1 << 30
"""Bytes, besides our own, for the program that loads: a short text can say of itself that it is a very long one."""

LONGEST = 32 << 20
"""Characters of a text that is loaded."""

MOST_INTERFACES = 64
QUOTED_OR_COMMENT = re.compile(r'"[^"]*"|#[^\n]*')
INCLUDES = re.compile(r"\binclude\b")
QUOTED_INCLUDE = re.compile(r"""\binclude\s*["']""")
INTERFACES = re.compile(r'\b(?:iif|oif|device|devices)\s*(?:[!=]=\s*|=\s*)?(\{[^}]*\}|"[^"]*")')
NAME = re.compile(r'"([^"/\s]{1,15})"')
TABLE = re.compile(r"^table (?:(\w+) )?(\S+) \{", re.MULTILINE)
BRACES = re.compile(r'"[^"]*"|#[^\n]*|[{}]')
EXTENSION = re.compile(r'\bxt (?:match|target) \S+|"[^"]*"|#[^\n]*')
KINDS = ("dummy", "veth", "bridge")
"""Kinds of interfaces of which kernels have the one or the other."""


class Loaded(Value):
    """What ``nft -j list ruleset`` prints of a text, and the tables of iptables that nft prints and does not take."""

    text: str
    left_out: tuple[str, ...] = ()
    """Families and names."""

    dormant: Mapping[tuple[str, str], bool] = {}
    """As `ruleset.dormant` gives it."""


def load(text: str, name: str) -> Loaded:
    """Load a text of ``nft list ruleset`` and have nft print it as JSON; ``name`` is the file's.

    Raises:
        InputError: nft does not take it, or it reads other files.
        IstioInitError: nft is missing, or no namespace can be made.
    """
    if len(text) > LONGEST:
        raise InputError(f"{name}: it is longer than {LONGEST >> 20} MB")
    if QUOTED_INCLUDE.search(text) or INCLUDES.search(QUOTED_OR_COMMENT.sub(" ", text)):
        raise InputError(f"{name}: it includes other files", fix="give what nft list ruleset prints")
    kept, left_out = _without_extensions(text)
    try:
        printed, dormant = namespaces.apart(lambda: _load(kept, name))
    except InputError:
        raise
    except IstioInitError as error:
        what = f"{name}: only nft and the kernel can tell what it means: {error.message}"
        raise type(error)(what, fix="give what nft -j list ruleset prints") from None
    return Loaded(printed, left_out, dormant)


def _without_extensions(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without the tables in which iptables' extensions stand, and those tables."""
    kept, left_out = [], []
    position = 0
    for begin in TABLE.finditer(text):
        if begin.start() < position:
            continue
        end = _closing(text, begin.end())
        tokens = EXTENSION.finditer(text, begin.end(), end)
        if any(token[0].startswith("xt ") for token in tokens):
            kept.append(text[position : begin.start()])
            left_out.append(f"{begin[1] or 'ip'} {begin[2]}")
            position = end
    return "".join([*kept, text[position:]]), tuple(left_out)


def _closing(text: str, position: int) -> int:
    """Where the block ends whose opening brace stands before a position."""
    depth = 1
    for token in BRACES.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def _load(text: str, name: str) -> tuple[str, dict[tuple[str, str], bool]]:
    """Load the text and read it back, in the namespace of this process, which is there for that alone."""
    with open("/proc/self/statm") as file:
        own = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = own + MEMORY if hard < 0 else min(own + MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    found = [each for part in INTERFACES.findall(text) for each in NAME.findall(part)]
    for interface in list(dict.fromkeys(found))[:MOST_INTERFACES]:
        _make(interface)
    completed = process.run([ruleset.PROGRAM, "-f", "-"], stdin=text, timeout=TIMEOUT)
    if completed.status != 0:
        said = completed.stderr.strip().partition("\n")[0].removeprefix("/dev/stdin:")
        raise InputError(
            f"{name}: nft does not take it: {said}", fix="give what nft list ruleset prints, or nft -j list ruleset"
        )
    return ruleset.listed(), ruleset.dormant()


def _make(interface: str) -> None:
    """An interface with a name, for rules that only load where there is one. Without it nft says what is missing."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ip:
        for kind in KINDS:
            try:
                ip.link("add", ifname=interface, kind=kind)
                return
            except NetlinkError:
                continue
