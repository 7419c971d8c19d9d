"""Rule sets of anybody's in a real namespace, which is then redirected and cleaned: the rules of others survive."""

from __future__ import annotations

import ctypes
import json
import random
import re
import traceback
from collections.abc import Mapping
from typing import NamedTuple

from istio_init.config.model import ALL, Config, InterceptionMode
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import SaveError, entry_text, parse_save
from istio_init.errors import IstioInitError
from istio_init.mesh.roles.recognise import MeshKind, is_ours, keep_foreign, recognise
from istio_init.netfilter.family import Family
from istio_init.plan.model import NATIVE
from istio_init.stores import legacy
from istio_init.stores.programmer import Manner, Wanted, program
from istio_init.stores.surroundings import wanted
from istio_init.system import netlink, process
from istio_init.system.places import HERE

from .fuzz_rules import WORDS
from .fuzzing import CORPUS, refused
from .mutating import Form, mutated

CLONE_NEWNET = 0x40000000
LEGACY = "legacy"
EACH = 50
"""Rule sets of one namespace, emptied in between."""

TIMEOUT = 20.0
CONFIGS = (
    Config(outbound_ranges=ALL, inbound_ports=ALL),
    Config(outbound_ranges=ALL, inbound_ports=ALL, mode=InterceptionMode.TPROXY),
    Config(outbound_ranges=ALL, redirect_dns=True, capture_all_dns=True, exclude_interfaces=("eth9",), dual_stack=True),
)
INTERFACES = (
    'a"b',
    "eth0\x1cx",
    "eth0 -p tcp",
    "!x",
    "-j",
    "é",
    "lo\x1d-jRETURN",
    "net+",
    "eth0",
    "\\",
    "'",
    "x\x1b[31m",
)
COMMENTS = (
    'x" ',
    "x\nCOMMIT\n*filter\n-A INPUT -j DROP\nCOMMIT\n",
    "-j",
    "END",
    "\\",
    "\x1b]0;x\x07",
    "$(id)",
    "a\x1cb",
    "",
)
CHAINS = (
    "KUBE-SERVICES",
    "ISTIO_X",
    "ISTIO_OUTPUT",
    "ISTIO_INBOUND",
    'a"b',
    "é",
    "a'b",
    "x\x1cy",
    "COMMIT",
    "!a",
    "ISTIO_\x1c",
)
ERROR_LINE = re.compile(r"line:? ?(\d+)")


ADDRESS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})(?:/(\d{1,2}))?")


class Way(NamedTuple):
    """Which programs the rules are loaded by, which store ours go to, and in which families."""

    loader: str
    backend: str
    families: tuple[Family, ...]

    @property
    def name(self) -> str:
        return f"{self.backend} beside {self.loader}"

    def program(self, family: Family, what: str) -> str:
        """One of the loader's programs."""
        return f"ip{'6' if family is Family.IPV6 else ''}tables-{self.loader}-{what}"


ONE, BOTH = (Family.IPV4,), (Family.IPV4, Family.IPV6)
WAYS = (
    *[Way("nft", "nft", ONE)] * 4, Way("nft", "nft", BOTH), Way("nft", NATIVE, BOTH), Way("nft", NATIVE, ONE),
    Way("nft", LEGACY, ONE), Way(LEGACY, LEGACY, BOTH), Way(LEGACY, "nft", BOTH), Way(LEGACY, NATIVE, ONE),
)  # fmt: skip


class Wrong(NamedTuple):
    """A rule set that was not treated as it has to be."""

    number: int
    what: str
    text: str


def work(seed: str, numbers: range) -> tuple[int, int, list[Wrong]]:
    """Try rule sets: how many were loaded, how many of these were refused, and what went wrong."""
    legacy._reason_not_to_try = lambda: "its child takes longer than all the rest"
    loaded = refusals = 0
    found = []
    for count, number in enumerate(numbers):
        way = WAYS[number % len(WAYS)]
        if count % EACH == 0 or way.loader == LEGACY:
            _new_namespace()
        texts = {}
        for family in way.families:
            text = rule_set(random.Random(f"{seed}/kernel/{number}"))
            texts[family] = text if family is Family.IPV4 else ADDRESS.sub(_in_ipv6, text)
        if all(_load(way, family, text) for family, text in texts.items()):
            loaded += 1
            try:
                refusals += _try(way, number)
            except Exception as error:
                said = "".join(traceback.format_exception(error)[-4:])
                found.append(Wrong(number, f"{way.name}: {said}", texts[way.families[0]]))
        if way.loader == LEGACY:
            _new_namespace()
        else:
            _empty()
    return loaded, refusals, found


def _in_ipv6(address: re.Match[str]) -> str:
    """Another address, of the other family."""
    known = {"127.0.0.1": "::1", "127.0.0.6": "::6"}
    length = f"/{min(128, int(address[2]) * 4)}" if address[2] else ""
    return known.get(address[1], f"fd00::{address[1].replace('.', ':')}") + length


def rule_set(chance: random.Random) -> str:
    """Rules of ours, whole or damaged, among those of others, as iptables-restore takes them."""
    lines = [f"{line}\n" for line in chance.choice(_SAVES).split("\n") if line]
    for _ in range(chance.choice((1, 2, 3, 5, 8, 13))):
        at = chance.randrange(1, max(2, len(lines) - 1))
        match chance.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, chance.choice(lines[1:-1] or lines))
            case 2:
                other = chance.randrange(1, max(2, len(lines) - 1))
                lines[at : at + 1], lines[other : other + 1] = lines[other : other + 1], lines[at : at + 1]
            case 3:
                lines[at] = mutated(chance, [lines[at]], WORDS, Form.TEXT, 0).replace("\n", " ") + "\n"
            case 4:
                lines.insert(1, f":{chance.choice(CHAINS)} - [0:0]\n")
            case _:
                lines.insert(len(lines) - 1, _foreign(chance))
    named = {chain for chain in CHAINS if any(f"-A {chain} " in line or f'"{chain}"' in line for line in lines)}
    declared = {line[1:].split(" ")[0] for line in lines if line[0] == ":"}
    lines[1:1] = [f":{chain} - [0:0]\n" for chain in sorted({*named, "ISTIO_X"} - declared - {"!a"})]
    # A program reads bytes, which spell no lone surrogates.
    return "".join(lines).encode(errors="replace").decode()


def _foreign(chance: random.Random) -> str:
    words = [f"-A {chance.choice(('OUTPUT', 'PREROUTING', *CHAINS))}"]
    if chance.random() < 0.5:
        words.append(f"{chance.choice(('-o', '-i'))} {_quoted(chance.choice(INTERFACES))}")
    if chance.random() < 0.5:
        words.append(chance.choice(("-p tcp -m tcp --dport 80", "-p udp", "-d 10.0.0.0/8", "-m mark --mark 0x1/0x1")))
    if chance.random() < 0.5:
        words.append(f"-m comment --comment {_quoted(chance.choice(COMMENTS))}")
    words.append(chance.choice(("-j RETURN", "-j ACCEPT", "", f"-j {_quoted(chance.choice(CHAINS))}", "-g ISTIO_X")))
    return " ".join(words) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _saves() -> list[str]:
    found = [json.loads(line) for line in (CORPUS / "plan.jsonl").read_text().splitlines()]
    return [each for each in found if each.startswith(("*nat", "*mangle", "*raw")) and "::" not in each]


_SAVES = _saves()


def _new_namespace() -> None:
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        raise OSError("no network namespace can be made")
    for words in ("link set lo up", "addr add 10.9.9.9/32 dev lo", "addr add fd00::9/128 dev lo"):
        process.run(["ip", *words.split()], timeout=TIMEOUT)


def _load(way: Way, family: Family, text: str) -> bool:
    """Load the rules that the kernel takes; whether there is one."""
    for _ in range(15):
        done = process.run([way.program(family, "restore")], stdin=text, timeout=TIMEOUT)
        if done.status == 0:
            return True
        lines = text.split("\n")
        where = ERROR_LINE.search(done.stderr)
        if where is None or not 0 < int(where[1]) < len(lines) - 1:
            return False
        del lines[int(where[1]) - 1]
        text = "\n".join(lines)
    return False


def _empty() -> None:
    process.run(["nft", "flush", "ruleset"], timeout=TIMEOUT)
    if netlink.mark_rules():
        for family in ("-4", "-6"):
            process.run(["ip", family, "rule", "del", "fwmark", "1337"], timeout=TIMEOUT)
            process.run(["ip", family, "route", "flush", "table", "133"], timeout=TIMEOUT)


def _saved(way: Way) -> dict[Family, str]:
    """What the loader's programs print, by family."""
    return {family: _plain(process.run([way.program(family, "save")], timeout=TIMEOUT).stdout) for family in Family}


def _plain(text: str) -> str:
    text = "".join(f"{line}\n" for line in text.split("\n") if not line.startswith("#"))
    text = re.sub(r"(?m)^(:.*) \[\d+:\d+\]$", r"\1", text)
    return re.sub(r"(?m)^\*\w+\n(:[A-Z]+ ACCEPT\n)*COMMIT\n", "", text)  # A table without rules, as is none.


def _others(text: str, family: Family, before: RuleSet | None) -> dict[tuple[str, str], list[str]] | None:
    """The texts of the rules of others by chain; None where what is printed cannot be read back."""
    try:
        live = recognise(parse_save(text, family).rules)
    except SaveError:
        return None
    live = live if before is None else keep_foreign(live, before)
    found: dict[tuple[str, str], list[str]] = {}
    for table, chain, _, entry in live.entries():
        if not is_ours(chain.name, entry):
            found.setdefault((table.value, chain.name), []).append(entry_text(entry))
    return found


def _try(way: Way, number: int) -> bool:
    """Redirect, then clean; whether anything was refused."""
    was_refused = False
    aim = wanted(CONFIGS[number % len(CONFIGS)], HERE, lambda _: None)
    before = _saved(way)
    for each in (aim, Wanted(kind=None), Wanted(kind=MeshKind.SIDECAR)):
        others = {family: _others(text, family, None) for family, text in before.items()}
        refusal = _refusal(each, way.backend)
        after = _saved(way)
        if refusal is not None:
            refused(refusal)
            was_refused = True
            assert after == before, f"it failed, and the rules are others: {refusal}"
            continue
        for family in Family:
            stays = each.rules if way.backend == way.loader else {}
            _compare(family, before[family], after[family], others[family], stays)
        before = after
    return was_refused


def _compare(
    family: Family,
    before: str,
    after: str,
    others: dict[tuple[str, str], list[str]] | None,
    wanted_here: Mapping[Family, RuleSet],
) -> None:
    """The rules of others are the same in a family, and of ours there are but the wanted ones."""
    assert others is not None, "rules that cannot be read back were written over"
    live = recognise(parse_save(before, family).rules)
    assert _others(after, family, live) == others, "rules of others are not what they were"
    allowed = {rule_text(entry.rule) for *_, entry in wanted_here.get(family, RuleSet(family)).entries()}
    ours = [
        rule_text(entry.rule)
        for _, chain, _, entry in keep_foreign(recognise(parse_save(after, family).rules), live).entries()
        if is_ours(chain.name, entry)
    ]
    assert set(ours) <= allowed, f"rules that nobody wanted: {sorted(set(ours) - allowed)}"


def _refusal(aim: Wanted, backend: str) -> IstioInitError | None:
    """What is said where the namespace is not brought to what is wanted."""
    try:
        program(aim, Manner(allow_host=True, backend=backend, wait=2.0, beside_meshes=True), warn=lambda _: None)
    except IstioInitError as error:
        return error
    return None


def told(wrong: Wrong, seed: str) -> str:
    """What went wrong, and with which rules."""
    return f"kernel: rule set {wrong.number} of seed {seed}:\n{wrong.what}\n{wrong.text!r}\n"
