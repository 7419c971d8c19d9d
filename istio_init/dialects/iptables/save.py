"""The document that iptables-save prints: tables, chains with policies and counters, rules in order."""

from __future__ import annotations

from istio_init.dialects.iptables.quoting import doubt, ends_open, is_one_name
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import Chain, Counters, Entry, RuleSet
from istio_init.dialects.iptables.tables import Table
from istio_init.netfilter.family import Family
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from istio_init.dialects.iptables.rules import Rule


LONGEST_SHOWN = 80
"""Characters of a line that a message repeats."""

LONGEST_RULE = 1 << 16
"""Characters of a rule that has line breaks; the kernel keeps 256 of a comment."""


class SaveError(ValueError):
    """The text is not what iptables-save prints; the message names the line."""


class Document(Value):
    """What a save holds: the rule set, and the comments, which carry the tool's warnings."""

    rules: RuleSet
    comments: tuple[str, ...] = ()


def parse_save(text: str, family: Family, known: Mapping[str, Rule] | None = None) -> Document:
    """Read iptables-save text, with or without counters.

    ``known`` gives the rules of texts that need no parsing.

    Raises:
        SaveError: a line is outside any table, or is of no known form.
    """
    tables: dict[Table, dict[str, Chain]] = {}
    entries: dict[str, list[Entry]] = {}
    comments: list[str] = []
    chains: dict[str, Chain] | None = None
    for number, line in _lines(text):
        kind = line[:1]
        if kind in ("-", "[") and chains is not None:
            chain, entry = _parse_entry(line, number, known or {})
            if chain not in entries:
                raise SaveError(f"line {number}: a rule of a chain that the table does not declare: {line!r}")
            entries[chain].append(entry)
        elif kind == ":" and chains is not None:
            declared = _parse_chain(line, number)
            chains[declared.name] = declared
            entries[declared.name] = []
        elif kind == "*":
            try:
                chains = tables.setdefault(Table(line[1:].strip()), {})
            except ValueError:
                raise SaveError(f"line {number}: a table that is not known: {line!r}") from None
            entries = {}
        elif line.strip() == "COMMIT" and chains is not None:
            for name, found in entries.items():
                chains[name] = chains[name].replace(entries=tuple(found))
            chains = None
        elif kind == "#":
            comments.append(line)
        elif line.strip():
            raise SaveError(f"line {number}: not a line of iptables-save: {line[:LONGEST_SHOWN]!r}")
    if chains is not None:
        raise SaveError("the text ends before its table's COMMIT")
    return Document(RuleSet(family, tables), tuple(comments))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers. A line break within quotes, as a comment may hold, ends none."""
    begun = ""
    for number, part in enumerate(text.split("\n"), 1):
        line = begun + part
        if line[:1] in ("-", "[") and ends_open(line):
            if len(line) > LONGEST_RULE:
                raise SaveError(f"line {number}: a rule of more than {LONGEST_RULE} characters")
            begun = line + "\n"
        else:
            begun = ""
            yield number, line.removesuffix("\r")
    if begun:
        raise SaveError(f"line {number}: the text ends within quotes: {begun!r}")


def _parse_chain(line: str, number: int) -> Chain:
    try:
        name, policy, *rest = line[1:].split(" ")
        if len(rest) > 1 or not name or not policy or not is_one_name(name):
            raise ValueError(line)
        counters = _counters(rest[0]) if rest else None
    except ValueError:
        raise SaveError(f"line {number}: not a chain of iptables-save: {line!r}") from None
    return Chain(name, (), None if policy == "-" else policy, counters)


def _parse_entry(line: str, number: int, known: Mapping[str, Rule]) -> tuple[str, Entry]:
    try:
        counters = None
        command = line
        if line.startswith("["):
            shown, _, command = line.partition(" ")
            counters = _counters(shown)
        flag, chain, *rest = command.split(" ", 2)
        if flag != "-A":
            raise ValueError(flag)
    except ValueError:
        raise SaveError(f"line {number}: not a rule of iptables-save: {line!r}") from None
    text = rest[0].strip(" \t") if rest else ""
    rule = known.get(text)
    if rule is None:
        from istio_init.dialects.iptables.parse import parse_rule

        if (why := doubt(text)) is not None:
            raise SaveError(f"line {number}: {why}: {line!r}")
        rule = parse_rule(text)
    return chain, Entry(rule, text=text, counters=counters)


def _counters(text: str) -> Counters:
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(text)
    packets, _, seen = text[1:-1].partition(":")
    return Counters(int(packets), int(seen))


def entry_text(entry: Entry) -> str:
    """The entry's text as it was read, or as iptables-save would print it."""
    return rule_text(entry.rule) if entry.text is None else entry.text


def render_save(rules: RuleSet) -> str:
    """The text that iptables-save prints for a rule set; counters where they are known."""
    lines: list[str] = []
    for table, chains in rules.tables.items():
        lines.append(f"*{table.value}")
        for chain in chains.values():
            counters = chain.counters or Counters(0, 0)
            lines.append(f":{chain.name} {chain.policy or '-'} [{counters.packets}:{counters.bytes}]")
        for chain in chains.values():
            for entry in chain.entries:
                shown = f"[{entry.counters.packets}:{entry.counters.bytes}] " if entry.counters else ""
                lines.append(f"{shown}-A {chain.name} {entry_text(entry)}".rstrip(" "))
        lines.append("COMMIT")
    return "\n".join(lines) + "\n" if lines else ""


def with_texts(rules: RuleSet) -> RuleSet:
    """The rule set with each entry's text filled in."""
    tables = {
        table: {
            name: chain.replace(entries=tuple([entry.replace(text=entry_text(entry)) for entry in chain.entries]))
            for name, chain in chains.items()
        }
        for table, chains in rules.tables.items()
    }
    return RuleSet(rules.family, tables)


def holds_exactly(live: RuleSet, wanted: RuleSet | None) -> bool:
    """Whether the live rules are the wanted ones to the letter, beside empty built-in chains and nothing else."""
    missing = {} if wanted is None else {(table, chain.name): chain for table, chain in wanted.chains()}
    for table, chain in live.chains():
        target = missing.pop((table, chain.name), None)
        if target is None and (chain.entries or chain.policy is None):
            return False
        if target is not None and [each.text for each in chain.entries] != [each.text for each in target.entries]:
            return False
    return not missing
