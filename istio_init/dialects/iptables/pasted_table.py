"""One table that people paste, while its lines are read: its chains, policies and rules, and which table it is."""

from __future__ import annotations

from enum import Enum

from istio_init.dialects.iptables.arguments import canonical
from istio_init.dialects.iptables.listing import Columns, read_row
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.quoting import doubt, words
from istio_init.dialects.iptables.rules import Chain, Counters, Entry
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.rule_store import RuleStore
from istio_init.netfilter.family import Family
from istio_init.value import Value
from istio_init.visible import visible

_HOOKS = BUILTIN_CHAINS[Table.MANGLE]
"""The order in which -S prints policies."""

_OLD_NAT = frozenset(["PREROUTING", "POSTROUTING", "OUTPUT"])


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


class PasteError(ValueError):
    """The text is not understood; says where the reading ended, and what was read before."""


class Hint(Value):
    """What a command before a part says of it."""

    store: RuleStore | None = None
    family: Family | None = None
    table: Table | None = None


class Block:
    """A table that is being read."""

    def __init__(self, form: Form, hint: Hint) -> None:
        self.form, self.hint = form, hint
        self.columns: Columns | None = None
        self.chains: dict[str, list[Entry]] = {}
        self.policies: dict[str, tuple[str | None, Counters | None]] = {}
        self.current = ""
        if form in (Form.RESTORE, Form.COMMANDS):
            assert hint.table is not None
            self.policies = dict.fromkeys(BUILTIN_CHAINS[hint.table], ("ACCEPT", None))
            self.chains = {name: [] for name in self.policies}

    @property
    def is_listing(self) -> bool:
        """Whether it is what ``iptables -L`` prints."""
        return self.form in (Form.LISTING, Form.VERBOSE)

    def row(self, line: str) -> str | None:
        """A rule of a listing; where the listing does not say all of it, what is unread.

        Raises:
            ListingError: the line is not understood.
        """
        assert self.columns is not None
        listed = read_row(line, self.columns)
        entries = self.chains[self.current]
        entries.append(Entry(parse_rule(listed.text), text=listed.text, counters=listed.counters))
        is_unread = not listed.is_whole and self.columns.verbose
        return f"{self.current} {len(entries)}: {visible(line)}" if is_unread else None

    def change(self, flag: str, name: str, text: str, family: Family) -> None:
        """What a line such as ``-A CHAIN …`` does; ``family`` is that of what does not say.

        Raises:
            PasteError: it cannot be followed.
        """
        text, counters = _counted(text)
        if flag == "-P":
            self.policies[name] = (text, counters)
            self.chains.setdefault(name, [])
        elif flag == "-N":
            self.chains.setdefault(name, [])
            self.policies.setdefault(name, (None, None))
        elif flag in ("-D", "-F", "-X"):
            if self.form is not Form.COMMANDS or (self.chains.get(name) or (not name and any(self.chains.values()))):
                raise PasteError("it takes away what was added before it, which is not followed")
        else:
            self._rule(flag, name, text, counters, family)

    def is_another(self, name: str) -> bool:
        """Whether a policy begins another table of -S, which prints them first."""
        before = [_HOOKS.index(each) for each, (policy, _) in self.policies.items() if policy and each in _HOOKS]
        is_earlier = name in _HOOKS and bool(before) and _HOOKS.index(name) <= before[-1]
        return self.form is Form.RULES and (is_earlier or any(self.chains.values()))

    def _rule(self, flag: str, name: str, text: str, counters: Counters | None, family: Family) -> None:
        if name not in self.chains:
            raise PasteError("a rule of a chain that was not made before it")
        at = len(self.chains[name])
        if flag == "-I":
            number, _, behind = text.partition(" ")
            at, text = (int(number) - 1, behind) if number.isdigit() else (0, text)
            if not 0 <= at <= len(self.chains[name]):
                raise PasteError("a place that the chain does not have")
        if self.form is not Form.RULES:
            text = canonical(text, self.hint.family or family)
        if (why := doubt(text)) is not None:
            raise PasteError(why)
        self.chains[name].insert(at, Entry(parse_rule(text), text=text, counters=counters))

    def table(self) -> PastedTable:
        """All that was read.

        Raises:
            PasteError: it cannot be told to be of one table.
        """
        table = self.hint.table if self.form in (Form.RESTORE, Form.COMMANDS) else self._table()
        assert table is not None
        chains = {
            name: Chain(name, tuple(entries), *self.policies.get(name, (None, None)))
            for name, entries in self.chains.items()
        }
        return PastedTable(self.form, table, chains, self.hint.store, self.hint.family)

    def _table(self) -> Table:
        """The table whose built-in chains stand in it; the command before it has to name the same, if it names one."""
        policies = {name for name, (policy, _) in self.policies.items() if policy is not None}
        named = self.hint.table
        found = [table for table, chains in BUILTIN_CHAINS.items() if set(chains) == policies]
        if policies == _OLD_NAT:
            found = [Table.NAT]
        if named in found:
            return named
        if not found:
            held = ", ".join(map(visible, self.chains)) or "none"
            raise PasteError(f"not a whole table, which would have its built-in chains, too: it has {held}")
        # filter and security have the same built-in chains, and without -t it is filter.
        if named is not None and named is not Table.FILTER:
            raise PasteError(f"the command says table {named.value}, and the chains are those of {found[0].value}")
        return Table.FILTER if Table.FILTER in found else found[0]


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
