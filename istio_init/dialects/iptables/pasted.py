"""What people paste of iptables: ``-S``, ``-L``, the input of iptables-restore, commands; several tables in one text.

Which table and family a part is of is told by the command before it, or by its built-in chains. Nothing is skipped that
could be a rule: a line that is not understood ends the reading with an error that says how far it came.
"""

from __future__ import annotations

import re

from istio_init.dialects.iptables.listing import CHAIN, HEADER, Columns, ListingError
from istio_init.dialects.iptables.pasted_table import Block, Form, Hint, PastedTable, PasteError
from istio_init.dialects.iptables.quoting import is_word
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
LEGACY_WARNING = "Warning: iptables-legacy tables present"


class Pasted(Value):
    """All of a text. ``is_legacy_left`` says that the program warned of rules of iptables-legacy beside these."""

    tables: tuple[PastedTable, ...]
    unread: tuple[str, ...] = ()
    """Rules of which the listing does not say all, with where they stand."""

    is_legacy_left: bool = False


def _named(found: re.Match[str]) -> Hint:
    """What the name of a program says."""
    family = Family.IPV6 if found["program"] == "ip6tables" else Family.IPV4
    return Hint({"-nft": RuleStore.NFT, "-legacy": RuleStore.LEGACY}.get(found["store"] or ""), family)


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
        self.hint = Hint()
        self.block: Block | None = None

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
                unread = self.block.row(line)
                self.unread += [unread] if unread is not None else []
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

    def open(self, form: Form, hint: Hint) -> Block:
        self.close()
        self.block = Block(form, hint)
        return self.block

    def reopen(self, hint: Hint) -> None:
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
        if block is None or not block.is_listing or name in block.chains:
            block = self.open(Form.LISTING, self.hint)
        if name in BUILTIN_CHAINS[Table.MANGLE] and policy is None:
            raise PasteError("a built-in chain without a policy")
        block.chains[name], block.policies[name] = [], (policy, None)
        block.current, block.columns = name, None

    def listed_header(self, columns: Columns) -> None:
        if self.block is None or not self.block.is_listing:
            raise PasteError("the names of columns without a chain before them")
        self.block.columns = columns
        self.block.form = Form.VERBOSE if columns.verbose else Form.LISTING

    def change(self, flag: str, rest: str) -> None:
        """A line such as ``-A CHAIN …``, of -S, of the input of iptables-restore, or a command's."""
        name, _, text = rest.partition(" ")
        if not is_word(name) and flag not in ("-F", "-X"):
            raise PasteError("it names no chain")
        block = self.block
        if block is None or block.is_listing or (flag == "-P" and block.is_another(name)):
            block = self.open(Form.RULES, self.hint)
        block.change(flag, name, text.strip(), self.family)

    def close(self) -> None:
        """End the table that is being read."""
        block, self.block = self.block, None
        if block is not None:
            self.tables.append(block.table())
            self.hint = self.hint.replace(table=None)
