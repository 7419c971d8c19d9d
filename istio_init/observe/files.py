"""Rules from files instead of a namespace: any of the forms in which programs print them, several together."""

from __future__ import annotations

from istio_init.dialects.iptables.ipset import IpSetError, parse_ipset_save
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import SaveError, parse_save
from istio_init.dialects.iptables.sections import NATIVE_TITLE, is_refusal, sections
from istio_init.dialects.nft.ruleset import Ruleset, RulesetError, parse
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import InputError
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.observe.formats import Format, format_of
from istio_init.observe.native import is_told, unsaved_istio_tables
from istio_init.observe.netfilter import Known, local_marks, model
from istio_init.observe.tickets import log_of, ticket
from istio_init.observe.unread import RULES_OF, Part, Unread, Why
from istio_init.observe.unwrapped import is_wrapped, unwrapped
from istio_init.system import loading
from istio_init.value import Value
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from istio_init.dialects.iptables.ipset import IpSet
    from istio_init.netfilter.stages import Netfilter


class File(Value):
    """A text and its name; ``family`` is that of a save that does not say."""

    name: str
    text: str
    family: Family = Family.IPV4


class FromFiles(Value):
    """The rules of files, as a namespace's are; ``formats`` tell what was found, by file."""

    formats: tuple[tuple[str, Format], ...]
    rules: Mapping[tuple[RuleStore, Family], RuleSet]
    ruleset: Ruleset | None
    """What nft prints of all tables."""

    netfilter: Netfilter
    host: Host
    unread: tuple[Unread, ...]
    partial: frozenset[Family]
    notes: tuple[str, ...] = ()
    """What there is to say of the forms that were found: what they cannot tell."""


def _of_the_other_family(rules: RuleSet) -> str | None:
    """The first rule with an address that its family does not have."""
    version = 4 if rules.family is Family.IPV4 else 6
    for chains in rules.tables.values():
        for chain in chains.values():
            for entry in chain.entries:
                for address in (entry.rule.source, entry.rule.destination):
                    if address is not None and address.network.version != version:
                        return visible(f"-A {chain.name} {entry.text or ''}")
    return None


class _Collected:
    """What the files read so far hold."""

    def __init__(self) -> None:
        self.rules: dict[tuple[RuleStore, Family], RuleSet] = {}
        self.ruleset_file: str | None = None
        self.ruleset: Ruleset | None = None
        self.dormant: Mapping[tuple[str, str], bool] = {}
        self.sets: dict[str, IpSet] | None = None
        self.unread: list[Unread] = []
        self.notes: list[str] = []
        self.left_out: list[tuple[str, str]] = []
        """Files and the tables of iptables that nft printed there and did not take."""

    def add(self, file: File) -> Format:
        """Read a file and say what it held."""
        if is_wrapped(file.text):
            file = file.replace(text="\n".join([line for _, line in unwrapped(file.text)]))
        saves, title, native = file.text.partition(f"{NATIVE_TITLE}\n")
        form = format_of(saves if title else file.text.replace("\r\n", "\n"))
        try:
            if title:
                self._add_ruleset(file, native)
            if not title or saves.strip():
                self._add(file.replace(text=saves), form)
        except (SaveError, IpSetError) as error:
            raise InputError(f"{file.name}: {error}", fix=f"give what {form.value} printed") from None
        return form

    def _add(self, file: File, form: Format) -> None:
        match form:
            case Format.SAVE:
                self._add_save(file)
            case Format.IPSET:
                self.sets = {**(self.sets or {}), **parse_ipset_save(file.text)}
            case Format.PASTED:
                self._add_ticket(unwrapped(file.text), file)
            case Format.LOG:
                save, lines, notes = log_of(unwrapped(file.text), file.name)
                self.notes += [f"{file.name}: {note}" for note in notes]
                if save is not None:
                    self._add_save(file.replace(text=save))
                else:
                    self._add_ticket(lines, file)
            case Format.NFT_JSON:
                self._add_ruleset(file, file.text)
            case Format.NFT_TEXT:
                loaded = loading.load(file.text, file.name)
                self.left_out += [(file.name, table) for table in loaded.left_out]
                self.dormant = loaded.dormant
                self._add_ruleset(file, loaded.text)

    def _add_ruleset(self, file: File, text: str) -> None:
        if self.ruleset_file is not None:
            raise InputError(f"{file.name}: {self.ruleset_file} has the rules of nft already")
        self.ruleset_file = file.name
        try:
            self.ruleset = parse(text)
        except RulesetError as error:
            raise InputError(f"{file.name}: it is not what nft -j list ruleset prints: {error}") from None

    def _add_ticket(self, lines: list[tuple[int, str]], file: File) -> None:
        found = ticket(lines, file.name, file.family)
        self.notes += [f"{file.name}: {note}" for note in found.notes]
        self.unread += found.unread
        for place, rules in found.rules.items():
            self._add_rules(place, rules, file.name)

    def _add_rules(self, place: tuple[RuleStore, Family], rules: RuleSet, name: str) -> None:
        """Add tables that no file had before."""
        backend, family = place
        before = self.rules.get(place, RuleSet(family)).tables
        if twice := [table.value for table in rules.tables if table in before]:
            raise InputError(f"{name}: the {family.value} table {twice[0]} ({backend}) was given before")
        if (other := _of_the_other_family(rules)) is not None:
            fix = "give iptables' rules with --file and ip6tables' with --file6"
            raise InputError(f"{name}: taken for rules of {family.value}, and one is not: {other}", fix=fix)
        self.rules[place] = recognise(RuleSet(family, {**before, **rules.tables}))

    def _add_save(self, file: File) -> None:
        for place, part in sections(file.text, file.family).items():
            backend, family = place
            document = parse_save(part, family)
            refused = [
                Unread(RULES_OF[backend], line.strip("# "), family, Why.NOT_EXPRESSIBLE, file.name)
                for line in document.comments
                if is_refusal(line)
            ]
            if not document.rules.tables and not refused:
                raise InputError(f"{file.name}: it holds no table", fix="give what iptables-save printed, run as root")
            self.unread += refused
            self._add_rules(place, document.rules, file.name)


def from_files(files: Iterable[File]) -> FromFiles:
    """The rules that files hold together.

    Raises:
        InputError: one holds none, is of no known form, or two hold the same table.
    """
    collected = _Collected()
    formats = tuple([(file.name, collected.add(file)) for file in files])
    known = Known(collected.sets, dormant=collected.dormant)
    netfilter = model(collected.rules, collected.ruleset, known)
    tables = collected.ruleset or Ruleset(())
    refused = [each for each in collected.unread if not is_told(each, collected.rules, tables)]
    unread = [*refused, *_not_given(collected, netfilter)]
    partial = frozenset(each.family for each in unread if each.family is not None)
    host = Host(local_marks=local_marks(netfilter.tables))
    return FromFiles(
        formats,
        collected.rules,
        collected.ruleset,
        netfilter,
        host,
        tuple(unread),
        partial,
        tuple(dict.fromkeys(collected.notes)),
    )


def _not_given(collected: _Collected, netfilter: Netfilter) -> list[Unread]:
    """Tables of iptables' that no save holds: those that nft printed and does not take, and those that are Istio's.

    nft prints of iptables' extensions no more than the names, so that Istio's rules cannot be recognised in them. Of
    tables that it does not take nothing is known at all.
    """
    given = {f"{table.family} {table.name}" for table in netfilter.tables}
    missing = [(name, table, Part.NATIVE) for name, table in collected.left_out if table not in given]
    if collected.ruleset is not None and collected.ruleset_file is not None:
        unsaved = unsaved_istio_tables(collected.ruleset, collected.rules)
        missing += [(collected.ruleset_file, table, Part.RULES_NFT) for table in unsaved]
    return [
        Unread(
            part,
            f"the table {table} is one of iptables: give iptables-save's text as well",
            Family.IPV6 if table.startswith("ip6 ") else Family.IPV4,
            Why.NOT_EXPRESSIBLE,
            name,
        )
        for name, table, part in missing
    ]
