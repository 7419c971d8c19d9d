"""A snapshot's files without what tells whose they are: names of hosts and processes, comments, public addresses.

The same is replaced by the same everywhere, and what rules do stays as it is. What a rule or a finding depends on
stays, too: names of interfaces, chains, tables and sets, ports, user ids, and the names of programs of a mesh.
"""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network

from istio_init.config import asked
from istio_init.dialects.iptables.quoting import words
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.role import Role
from istio_init.errors import InputError
from istio_init.observe.bundle import FACTS, NATIVE
from istio_init.observe.pseudonyms import NoPrefixError, Pseudonyms, ranges_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from istio_init.dialects.iptables.rules import Entry, RuleSet
    from istio_init.observe.snapshot import Snapshot

PROGRAMS = frozenset(
    "envoy pilot-agent istio-proxy ztunnel istio-init istio-iptables linkerd2-proxy dockerd nginx".split()
)
"""Names of processes that stay: a finding says of them what they are."""

OURS = frozenset(role.value for role in Role)
"""Comments by which rules say what they are."""

BIT_TESTS = re.compile(r"-m (?:u32|bpf|string) |-j (?:NETMAP|CLUSTERIP) ")
"""What looks at addresses as numbers, or changes them by their parts."""

WORDS = frozenset(["*", "REDIRECT", "TPROXY", asked.NONE, *asked.TRUE, *asked.FALSE, "sidecar", "gateway"])
STATUSES = frozenset(json.dumps({"initContainers": found}) for found in ([], [asked.INIT], [asked.VALIDATION]))
NUMBERS = re.compile(r"|\d+([:-]\d+)?|[\da-fA-F.:]*[.:][\da-fA-F.:]*(/\d+)?")
"""What of a pod's own word stays: what a rule can be made of."""

FIX = "keep the addresses as they are, with --keep-addresses"


class _Names:
    """Names by kind and number, the same for the same."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], str] = {}

    def of(self, kind: str, name: str) -> str:
        number = sum(each == kind for each, _ in self.known) + 1
        return self.known.setdefault((kind, name), f"{kind}-{number}")


def without_comments(snapshot: Snapshot) -> Snapshot:
    """The snapshot with the comments of iptables' rules replaced; those of nft `redacted` replaces."""
    reading = snapshot.reading
    if reading is None:
        return snapshot
    names = _Names()
    rules = {key: _commented(each, names) for key, each in reading.iptables.items()}
    extensions = {key: _commented(each, names) for key, each in reading.known.extensions.items()}
    known = reading.known.replace(extensions=extensions)
    return snapshot.replace(reading=reading.replace(iptables=rules, known=known))


def _commented(rules: RuleSet, names: _Names) -> RuleSet:
    def entry(each: Entry) -> Entry:
        rest = words(rule_text(each.rule) if each.text is None else each.text)
        for at in range(len(rest) - 3):
            if rest[at : at + 3] == ["-m", "comment", "--comment"]:
                rest[at + 3] = names.of("comment", rest[at + 3].strip('"'))
        return each.replace(text=" ".join(rest))

    tables = {
        table: {
            name: chain.replace(entries=tuple([entry(each) for each in chain.entries]))
            for name, chain in chains.items()
        }
        for table, chains in rules.tables.items()
    }
    return type(rules)(rules.family, tables)


def redacted(files: Mapping[str, bytes], secret: bytes, *, addresses: bool) -> dict[str, bytes]:
    """The files of a snapshot without comments, redacted; ``addresses`` says whether public ones are replaced, too.

    Raises:
        InputError: a rule tests bits of addresses, so that none could be replaced.
    """
    texts = {name: each.decode(errors="surrogateescape") for name, each in files.items()}
    facts, native = json.loads(texts[FACTS]), json.loads(texts.get(NATIVE, "null"))
    _rename(facts, native, _Names())
    if addresses:
        saves = {name: text for name, text in texts.items() if name not in (FACTS, NATIVE)}
        pseudonyms = Pseudonyms(secret, _ranges(saves, facts, native))
        try:
            texts |= {name: pseudonyms.text(text) for name, text in saves.items()}
            programs = facts["snapshot"].pop("programs")
            for part in ("snapshot", "known"):
                facts[part] = _each_text(facts[part], pseudonyms.text)
            facts["snapshot"]["programs"] = programs
        except NoPrefixError as error:
            raise InputError(f"the mask of {error} is no prefix, so that no address can be replaced", fix=FIX) from None
        native = _native(native, pseudonyms)
    texts[FACTS] = json.dumps(facts, indent=1) + "\n"
    if native is not None:
        texts[NATIVE] = json.dumps(native) + "\n"
    return {name: text.encode(errors="surrogateescape") for name, text in texts.items()}


def _rename(facts: dict[str, Any], native: Any, names: _Names) -> None:
    """Replace names and comments where they stand."""
    facts["taken"]["is_redacted"] = True
    facts["taken"]["host"] = names.of("host", facts["taken"]["host"])
    snapshot = facts["snapshot"]
    for word in snapshot["target"]:
        if not word.startswith("--") and not word.isdigit():
            snapshot["label"] = snapshot["label"].replace(word, names.of("pod", word))
    snapshot["target"] = [
        word if word.startswith("--") or word.isdigit() else names.of("pod", word) for word in snapshot["target"]
    ]
    for each in _objects([snapshot, native]):
        if each.keys() >= {"pid", "name", "uid", "gid"} and each["name"] not in PROGRAMS:
            each["name"] = names.of("process", each["name"])
        if isinstance(each.get("comment"), str) and each["comment"] not in OURS:
            each["comment"] = names.of("comment", each["comment"])
    known = {each["name"] for each in snapshot["interfaces"]} | WORDS
    for pod in snapshot["said"]:
        pod["name"] = None if pod["name"] is None else names.of("pod", pod["name"])
        for part in ("annotations", "variables"):
            pod[part] = {name: _kept(value, known, names) for name, value in pod[part].items()}
    for _, found in (facts["known"]["sets"] or {}).items():
        for element in found["elements"]:
            element["extensions"] = [
                [name, names.of("comment", value) if name == "comment" else value]
                for name, value in element["extensions"]
            ]


def _kept(value: str, known: set[str], names: _Names) -> str:
    """What a pod asked for, without words that are neither numbers, addresses nor names that rules depend on."""
    if value in STATUSES:
        return value
    items = (item.strip() for item in value.split(","))
    return ",".join(item if item in known or NUMBERS.fullmatch(item) else names.of("word", item) for item in items)


def _ranges(saves: Mapping[str, str], facts: Any, native: Any) -> list[Any]:
    """All ranges of addresses, which have to stay ranges."""
    for name, text in saves.items():
        if (found := BIT_TESTS.search(text)) is not None:
            raise InputError(
                f"{name}: {found[0].strip()!r} looks at parts of addresses, which none stands for", fix=FIX
            )
    ranges = [each for text in (*saves.values(), *_texts(facts)) for each in ranges_in(text)]
    for each in _objects(native):
        if "payload" in each and isinstance(each["payload"], dict) and "base" in each["payload"]:
            raise InputError(f"{NATIVE}: a rule looks at bytes of packets, which may be an address's", fix=FIX)
        for operator in ("&", "|", "^"):
            if any(_address(text) is not None for text in _texts(each.get(operator))):
                raise InputError(f"{NATIVE}: a rule looks at bits of addresses", fix=FIX)
        match each.get("range"):
            case [str(first), str(last)]:
                ends = _address(first), _address(last)
                ranges += [ends] if None not in ends else []
    return ranges


def _address(text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _native(value: Any, pseudonyms: Pseudonyms) -> Any:
    """What nft prints, with addresses replaced where they stand alone or as prefixes."""
    if isinstance(value, dict):
        match value.get("prefix"):
            case {"addr": str(address), "len": int(size)} if _address(address) is not None:
                network = pseudonyms.network(ip_network(f"{address}/{size}", strict=False))
                return {**value, "prefix": {"addr": str(network.network_address), "len": size}}
        return {key: _native(each, pseudonyms) for key, each in value.items()}
    if isinstance(value, list):
        return [_native(each, pseudonyms) for each in value]
    if isinstance(value, str) and (address := _address(value)) is not None:
        return str(pseudonyms.address(address))
    return value


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _each_text(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(each)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(each)
