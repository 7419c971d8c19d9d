"""What people paste of iptables: ``-S``, ``-L``, the input of iptables-restore, commands; several tables in one text.

Which table and family a part is of is told by the command before it, or by its built-in chains. Nothing is skipped that
could be a rule: a line that is not understood ends the reading with an error that says how far it came.
"""

from __future__ import annotations

import re
from enum import Enum

from istio_init.dialects.iptables.arguments import canonical
from istio_init.dialects.iptables.listing import CHAIN, HEADER, Columns, ListingError, read_row
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.quoting import doubt, is_word, words
from istio_init.dialects.iptables.rules import Chain, Counters, Entry
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.rule_store import RuleStore
from istio_init.netfilter.family import Family
from istio_init.value import Value
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_LINE = 8192
COMMAND = re.compile(r"(?<![\w-])(?P<program>ip6?tables)(?P<store>-nft|-legacy)?(?P<words>(?:\s+\S+)*)\s*$")
_TABLE = re.compile(r"(?:^|\s)(?:-t\s*|--table[= ])(raw|mangle|nat|filter|security)(?=\s|$)")
_CHANGE = re.compile(r"(?:^|\s)(-[ANIPDFX])(?=\s|$)(.*)")
_TITLE = re.compile(r"[^\w-]*(?:table\s+)?(raw|mangle|nat|filter|security)(?:\s+table)?\W*", re.IGNORECASE)
_RESTORE = re.compile(r"\*\s*(raw|mangle|nat|filter|security)\s*")
_PROGRAM = re.compile(r"(?<![\w-])(?P<program>ip6?tables)(?P<store>-nft|-legacy)?-restore(?=\s|$)")
_MADE = re.compile(r":(\S+) ([A-Z]+|-)(?: \[\d+:\d+\])?")
_RULE = re.compile(r"-[ANIP] .*")
_HOOKS = BUILTIN_CHAINS[Table.MANGLE]
"""The order in which -S prints policies."""

_OLD_NAT = frozenset(["PREROUTING", "POSTROUTING", "OUTPUT"])
LEGACY_WARNING = "Warning: iptables-legacy tables present"


class Form(Enum):
    """A form of what is pasted; the value is the program that prints it, or takes it."""

    RULES = "iptables -S"
    VERBOSE = "iptables -L -v"
    LISTING = "iptables -L"
    RESTORE = "iptables-restore"
    COMMANDS = "iptables -A"


class PastedTable(Value):
    """One table; ``store`` and ``family`` are None where the text does not say."""

    form: Form
    table: Table
    chains: dict[str, Chain]
    store: RuleStore | None = None
    family: Family | None = None


class Pasted(Value):
    """All of a text. ``is_legacy_left`` says that the program warned of rules of iptables-legacy beside these."""

    tables: tuple[PastedTable, ...]
    unread: tuple[str, ...] = ()
    """Rules of which the listing does not say all, with where they stand."""

    is_legacy_left: bool = False


class PasteError(ValueError):
    """The text is not understood; says where the reading ended, and what was read before."""


class _Block:
    """A table that is being read."""

    def __init__(self, form: Form, hint: _Hint) -> None:
        self.form, self.hint = form, hint
        self.columns: Columns | None = None
        self.chains: dict[str, list[Entry]] = {}
        self.policies: dict[str, tuple[str | None, Counters | None]] = {}
        self.current = ""


class _Hint(Value):
    """What a command before a part says of it."""

    store: RuleStore | None = None
    family: Family | None = None
    table: Table | None = None


def _named(found: re.Match[str]) -> _Hint:
    """What the name of a program says."""
    family = Family.IPV6 if found["program"] == "ip6tables" else Family.IPV4
    return _Hint({"-nft": RuleStore.NFT, "-legacy": RuleStore.LEGACY}.get(found["store"] or ""), family)


def read_pasted(lines: Iterable[tuple[int, str]], family: Family) -> Pasted:
    """Read numbered lines; ``family`` is that of what does not say.

    Raises:
        PasteError: a line is not understood, or a part cannot be told to be of one table.
    """
    reading = _Reading(family)
    for number, line in lines:
        try:
            if len(line) > LONGEST_LINE:
                raise PasteError("a line longer than any rule")
            reading.line(line.strip())
        except (PasteError, ListingError) as error:
            shown = visible(line.strip()[:200])
            raise PasteError(f"line {number}: {error}: {shown!r}; {reading.understood()}") from None
    try:
        reading.close()
    except PasteError as error:
        raise PasteError(f"{error}; {reading.understood()}") from None
    return Pasted(tuple(reading.tables), tuple(reading.unread), reading.is_legacy_left)


class _Reading:
    def __init__(self, family: Family) -> None:
        self.family = family
        self.tables: list[PastedTable] = []
        self.unread: list[str] = []
        self.is_legacy_left = False
        self.hint = _Hint()
        self.block: _Block | None = None

    def understood(self) -> str:
        names = [f"{each.table.value} ({each.form.value})" for each in self.tables]
        return f"read before it: {', '.join(names)}" if names else "no table was read before it"

    def line(self, line: str) -> None:
        if LEGACY_WARNING in line:
            self.is_legacy_left = True
        elif not line:
            return
        elif (title := _RESTORE.fullmatch(line)) is not None:
            self.open(Form.RESTORE, self.hint.replace(table=Table(title[1])))
        elif line in ("COMMIT", "END"):
            self.close()
        elif (made := _MADE.fullmatch(line)) is not None and self.block is not None:
            self.change("-N" if made[2] == "-" else "-P", f"{made[1]} {made[2]}")
        elif (chain := CHAIN.fullmatch(line)) is not None:
            self.listed_chain(chain["name"], chain["policy"])
        elif (header := HEADER.fullmatch(line)) is not None:
            self.listed_header(Columns(bool(header["numbered"]), bool(header["verbose"])))
        elif _RULE.fullmatch(line):
            self.change(line[:2], line[3:])
        elif self.block is not None and self.block.columns is not None:
            if not self.command(line):
                self.row(line)
        elif not (self.command(line) or self.title(line) or line.startswith("#")):
            raise PasteError("it is not understood")

    def command(self, line: str) -> bool:
        """Take a line for the command that printed what follows, or for one that changes a rule."""
        if (program := _PROGRAM.search(line)) is not None:
            self.close()
            self.hint = _named(program)
            return True
        found = COMMAND.search(line)
        if found is None:
            return False
        table = _TABLE.search(found["words"])
        hint = _named(found).replace(table=Table(table[1]) if table else Table.FILTER)
        if (change := _CHANGE.search(_TABLE.sub("", found["words"]))) is not None:
            if self.block is None or self.block.form is not Form.COMMANDS or self.block.hint != hint:
                self.reopen(hint)
            self.change(change[1], change[2].strip())
            return True
        self.close()
        self.hint = hint
        return True

    def title(self, line: str) -> bool:
        """Take a line for the name of the table that follows."""
        found = _TITLE.fullmatch(line)
        if found is None:
            return False
        self.close()
        self.hint = self.hint.replace(table=Table(found[1].lower()))
        return True

    def open(self, form: Form, hint: _Hint) -> _Block:
        self.close()
        self.block = _Block(form, hint)
        if form in (Form.RESTORE, Form.COMMANDS):
            assert hint.table is not None
            self.block.policies = dict.fromkeys(BUILTIN_CHAINS[hint.table], ("ACCEPT", None))
            self.block.chains = {name: [] for name in self.block.policies}
        return self.block

    def reopen(self, hint: _Hint) -> None:
        """Go on with the table of a command, which others may have come between."""
        self.close()
        key = (hint.store, hint.family, hint.table)
        before = [each for each in self.tables if (each.store, each.family, each.table) == key]
        block = self.open(Form.COMMANDS, hint)
        for each in before:
            if each.form is Form.COMMANDS:
                self.tables.remove(each)
                block.chains = {name: list(chain.entries) for name, chain in each.chains.items()}
                block.policies = {name: (chain.policy, None) for name, chain in each.chains.items()}

    def listed_chain(self, name: str, policy: str | None) -> None:
        block = self.block
        if block is None or block.form not in (Form.LISTING, Form.VERBOSE) or name in block.chains:
            block = self.open(Form.LISTING, self.hint)
        if name in BUILTIN_CHAINS[Table.MANGLE] and policy is None:
            raise PasteError("a built-in chain without a policy")
        block.chains[name], block.policies[name] = [], (policy, None)
        block.current, block.columns = name, None

    def listed_header(self, columns: Columns) -> None:
        if self.block is None or self.block.form not in (Form.LISTING, Form.VERBOSE):
            raise PasteError("the names of columns without a chain before them")
        self.block.columns = columns
        self.block.form = Form.VERBOSE if columns.verbose else Form.LISTING

    def row(self, line: str) -> None:
        assert self.block is not None and self.block.columns is not None
        listed = read_row(line, self.block.columns)
        entries = self.block.chains[self.block.current]
        entries.append(Entry(parse_rule(listed.text), text=listed.text, counters=listed.counters))
        if not listed.is_whole and self.block.columns.verbose:
            self.unread.append(f"{self.block.current} {len(entries)}: {visible(line)}")

    def change(self, flag: str, rest: str) -> None:
        """A line such as ``-A CHAIN …``, of -S, of the input of iptables-restore, or a command's."""
        name, _, text = rest.partition(" ")
        if not is_word(name) and flag not in ("-F", "-X"):
            raise PasteError("it names no chain")
        block = self.block
        if block is None or block.form in (Form.LISTING, Form.VERBOSE) or (flag == "-P" and self.is_next(name)):
            block = self.open(Form.RULES, self.hint)
        text, counters = _counted(text.strip())
        if flag == "-P":
            block.policies[name] = (text, counters)
            block.chains.setdefault(name, [])
        elif flag == "-N":
            block.chains.setdefault(name, [])
            block.policies.setdefault(name, (None, None))
        elif flag in ("-D", "-F", "-X"):
            if block.form is not Form.COMMANDS or (block.chains.get(name) or (not name and any(block.chains.values()))):
                raise PasteError("it takes away what was added before it, which is not followed")
        else:
            self.rule(block, flag, name, text, counters)

    def is_next(self, name: str) -> bool:
        """Whether a policy begins another table of -S, which prints them first."""
        block = self.block
        assert block is not None
        before = [_HOOKS.index(each) for each, (policy, _) in block.policies.items() if policy and each in _HOOKS]
        is_earlier = name in _HOOKS and bool(before) and _HOOKS.index(name) <= before[-1]
        return block.form is Form.RULES and (is_earlier or any(block.chains.values()))

    def rule(self, block: _Block, flag: str, name: str, text: str, counters: Counters | None) -> None:
        if name not in block.chains:
            raise PasteError("a rule of a chain that was not made before it")
        at = len(block.chains[name])
        if flag == "-I":
            number, _, behind = text.partition(" ")
            at, text = (int(number) - 1, behind) if number.isdigit() else (0, text)
            if not 0 <= at <= len(block.chains[name]):
                raise PasteError("a place that the chain does not have")
        if block.form is not Form.RULES:
            text = canonical(text, block.hint.family or self.family)
        if (why := doubt(text)) is not None:
            raise PasteError(why)
        block.chains[name].insert(at, Entry(parse_rule(text), text=text, counters=counters))

    def close(self) -> None:
        """End the table that is being read."""
        block, self.block = self.block, None
        if block is None:
            return
        table = block.hint.table if block.form in (Form.RESTORE, Form.COMMANDS) else _table_of(block)
        assert table is not None
        chains = {
            name: Chain(name, tuple(entries), *block.policies.get(name, (None, None)))
            for name, entries in block.chains.items()
        }
        self.tables.append(PastedTable(block.form, table, chains, block.hint.store, block.hint.family))
        self.hint = self.hint.replace(table=None)


def _counted(text: str) -> tuple[str, Counters | None]:
    """A rule's text without the counters of -S -v, and these."""
    if "-c" not in text:
        return text, None
    rest = words(text)
    for at, word in enumerate(rest):
        match rest[at + 1 : at + 3]:
            case [packets, seen] if word == "-c" and packets.isdecimal() and seen.isdecimal():
                return " ".join([*rest[:at], *rest[at + 3 :]]), Counters(int(packets), int(seen))
    return text, None


def _table_of(block: _Block) -> Table:
    """The table whose built-in chains stand in a part; the command before it has to name the same, if it names one."""
    policies = {name for name, (policy, _) in block.policies.items() if policy is not None}
    named = block.hint.table
    found = [table for table, chains in BUILTIN_CHAINS.items() if set(chains) == policies]
    if policies == _OLD_NAT:
        found = [Table.NAT]
    if named in found:
        return named
    if not found:
        held = ", ".join(map(visible, block.chains)) or "none"
        raise PasteError(f"not a whole table, which would have its built-in chains, too: it has {held}")
    # filter and security have the same built-in chains, and without -t it is filter.
    if named is not None and named is not Table.FILTER:
        raise PasteError(f"the command says table {named.value}, and the chains are those of {found[0].value}")
    return Table.FILTER if Table.FILTER in found else found[0]
