"""Rules of iptables as the kernel evaluates them: tables of the model, of either store.

Header tests come first, then the matches in order, then the target (ipt_do_table in ip_tables.c). Each match and each
target is lowered by the function that `MATCHES` or `TARGETS` has for its name.
"""

from __future__ import annotations

from itertools import pairwise

from istio_init.dialects.iptables.lower_extension import Asked
from istio_init.dialects.iptables.lower_header import address_test, interface_test, odd_header, protocol_test
from istio_init.dialects.iptables.lower_matches import MATCHES
from istio_init.dialects.iptables.lower_sets import Sets
from istio_init.dialects.iptables.lower_targets import TARGETS
from istio_init.dialects.iptables.matches import Comment, Match, OpaqueMatch
from istio_init.dialects.iptables.render import match_words, target_words
from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
from istio_init.dialects.iptables.save import entry_text
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.dialects.iptables.targets import Goto, Jump, OpaqueTarget, Target
from istio_init.netfilter import chains as kernel
from istio_init.netfilter import rules as model
from istio_init.netfilter.chains import ChainType
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import Field
from istio_init.netfilter.rules import End, Hook, Openness, Statement, Store, Untrack, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.dialects.iptables.ipset import IpSet

    Lowered = tuple[tuple[Statement, ...], bool]
    """Statements, and whether they make the kernel track connections."""

_PRIORITIES = {Table.RAW: -300, Table.MANGLE: -150, Table.FILTER: 0}
_SECURITY = {Store.LEGACY: 50, Store.NFT: 150}
"""iptables-nft 1.8.9 puts its security chains behind nat's of INPUT, where the kernel's own constant is 50."""

_SOURCE_HOOKS = frozenset([Hook.INPUT, Hook.POSTROUTING])


def lower(
    rules: RuleSet, store: Store, sets: Mapping[str, IpSet] | None = None, *, dormant: frozenset[str] = frozenset()
) -> tuple[kernel.Table, ...]:
    """The tables of a rule set.

    ``sets`` are the ipsets that are known, ``dormant`` the names of tables that nf_tables holds and does not call.
    """
    lookups = Sets(rules.family, sets, _changed_sets(rules))
    matches: dict[Match, Lowered] = {}
    return tuple(
        [
            _TableLowering(rules.family, store, table, chains, lookups, matches).table(
                is_dormant=table.value in dormant
            )
            for table, chains in rules.tables.items()
        ]
    )


def base_chain(store: Store, table: Table, name: str, *, drops: bool = False) -> kernel.BaseChain:
    """How the kernel calls a built-in chain (linux/netfilter_ipv4.h, NF_IP_PRI_…; observed for iptables-nft)."""
    hook = Hook[name]
    if table is Table.NAT:
        return kernel.BaseChain(hook, 100 if hook in _SOURCE_HOOKS else -100, ChainType.NAT, drops)
    kind = ChainType.ROUTE if (table, hook) == (Table.MANGLE, Hook.OUTPUT) else ChainType.FILTER
    return kernel.BaseChain(hook, _SECURITY[store] if table is Table.SECURITY else _PRIORITIES[table], kind, drops)


def _changed_sets(rules: RuleSet) -> frozenset[str]:
    """The ipsets that rules add to or delete from."""
    targets = [entry.rule.target for _, chain in rules.chains() for entry in chain.entries]
    named = [target.words for target in targets if isinstance(target, OpaqueTarget) and target.name == "SET"]
    return frozenset([name for words in named for flag, name in pairwise(words) if flag in _CHANGES])


_CHANGES = frozenset(["--add-set", "--del-set"])


class _TableLowering:
    """One table; what was lowered once is looked up, as most rules resemble others."""

    def __init__(
        self,
        family: Family,
        store: Store,
        table: Table,
        chains: Mapping[str, Chain],
        sets: Sets,
        matches: dict[Match, Lowered],
    ) -> None:
        self.family = family
        self.store = store
        self.kind = table
        self.chains = chains
        self.sets = sets
        self.matches = matches
        self.protocols: dict[tuple[str, bool], tuple[Statement, ...]] = {}
        self.jumps: dict[tuple[type, str], Lowered] = {}
        self.targets: dict[Target, Lowered] = {}
        self.name = "ip" if family is Family.IPV4 else "ip6"

    def table(self, *, is_dormant: bool) -> kernel.Table:
        """The whole table."""
        chains = {name: self.chain(chain) for name, chain in self.chains.items()}
        return kernel.Table(self.store, self.name, self.kind.value, chains, is_dormant=is_dormant)

    def chain(self, chain: Chain) -> kernel.Chain:
        """One chain; what has a policy is called by the kernel."""
        base = None
        if chain.policy is not None and chain.name in BUILTIN_CHAINS[self.kind]:
            base = base_chain(self.store, self.kind, chain.name, drops=chain.policy == "DROP")
        rules = [self.rule(chain.name, number, entry) for number, entry in enumerate(chain.entries, 1)]
        return kernel.Chain(chain.name, tuple(rules), base)

    def rule(self, chain: str, number: int, entry: Entry) -> model.Rule:
        """One rule."""
        rule, counters = entry.rule, entry.counters
        body: list[Statement] = []
        tracks = False
        if rule.source is not None:
            body.append(address_test(Field.SOURCE, rule.source))
        if rule.destination is not None:
            body.append(address_test(Field.DESTINATION, rule.destination))
        if rule.in_interface is not None:
            body.append(interface_test(Field.IN_INTERFACE, rule.in_interface))
        if rule.out_interface is not None:
            body.append(interface_test(Field.OUT_INTERFACE, rule.out_interface))
        if rule.protocol is not None:
            body += self.protocol(rule.protocol.name, rule.protocol.negated)
        for match in rule.matches:
            if type(match) is not Comment:
                statements, enables = self.match(match)
                body += statements
                tracks |= enables
        if rule.target is not None:
            statements, enables = self.target(rule.target, chain)
            body += statements
            tracks |= enables
        origin = model.Origin(self.store, self.name, self.kind.value, chain, number, entry_text(entry))
        seen = None if counters is None else (counters.packets, counters.bytes)
        return model.Rule(tuple(body), origin, seen, tracks)

    def protocol(self, name: str, negated: bool) -> tuple[Statement, ...]:
        """The test of ``-p``."""
        found = self.protocols.get((name, negated))
        if found is None:
            found = self.protocols[name, negated] = protocol_test(name, negated)
        return found

    def match(self, match: Match) -> Lowered:
        """A match's statements."""
        found = self.matches.get(match)
        if found is None:
            if isinstance(match, OpaqueMatch) and match.name is None:
                found = odd_header(match.words, self.family), False
            else:
                _, name, *words = match_words(match)
                found = self._match(Asked("-m", name, tuple(words), self.family, self.sets))
            self.matches[match] = found
        return found

    def _match(self, asked: Asked) -> Lowered:
        extension = MATCHES.get(asked.name)
        if extension is None:
            return (asked.undecided(Openness.NOT_MODELLED),), False
        try:
            return extension.lower(asked), extension.tracks
        except (ValueError, LookupError):
            return (asked.undecided(Openness.NOT_MODELLED),), extension.tracks

    def target(self, target: Target, chain: str) -> Lowered:
        """A target's statements. A chain of the table wins over a target of its name."""
        if isinstance(target, Jump | Goto):
            key = type(target), target.chain
            found = self.jumps.get(key)
            if found is None:
                found = self.jumps[key] = self._call(target)
            return found
        found = self.targets.get(target)
        if found is None:
            flag, name, *words = target_words(target)
            asked = Asked(flag, name, tuple(words), self.family, self.sets, lambda: self.hooks_of(chain))
            if not words and name in self.chains and name not in _VERDICTS:
                found = self._call(Jump(name))
            else:
                found = _target(asked)
            if name not in TARGETS or not TARGETS[name].by_hook:
                self.targets[target] = found
        return found

    def _call(self, target: Jump | Goto) -> Lowered:
        name = target.chain
        if name in self.chains:
            return (End(Verdict.JUMP if isinstance(target, Jump) else Verdict.GOTO, name),), False
        return _target(Asked("-j" if isinstance(target, Jump) else "-g", name, (), self.family, self.sets))

    def hooks_of(self, chain: str) -> frozenset[Hook]:
        """The hooks that a chain is called from, through whatever chains."""
        found = set()
        for name in BUILTIN_CHAINS[self.kind]:
            seen, left = set[str](), [name]
            while left:
                called = left.pop()
                if called not in seen and called in self.chains:
                    seen.add(called)
                    left += [each for rule in self.chains[called].rules if (each := _callee(rule.target)) is not None]
            if chain in seen:
                found.add(Hook[name])
        return frozenset(found)


_VERDICTS = frozenset(["ACCEPT", "DROP", "RETURN", "QUEUE"])


def _callee(target: Target | None) -> str | None:
    if isinstance(target, Jump | Goto):
        return target.chain
    return target.name if isinstance(target, OpaqueTarget) and not target.words else None


def _target(asked: Asked) -> Lowered:
    extension = TARGETS.get(asked.name)
    if extension is None or asked.flag == "-g":
        return (asked.unknowable(),), False
    try:
        statements = extension.lower(asked)
    except (ValueError, LookupError):
        return (asked.unknowable(),), extension.tracks
    # CT --notrack enables nothing (xt_ct_tg_check), although its other forms do.
    return statements, extension.tracks and statements != (Untrack(),)
