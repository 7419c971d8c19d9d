"""The columns of ``iptables -L -n --line-numbers``, with protocol names, and why each rule exists."""

from __future__ import annotations

from istio_init.dialects.iptables.matches import (
    Comment,
    Connmark,
    Ctstate,
    Mark,
    Multiport,
    OpaqueMatch,
    Owner,
    PortMatch,
)
from istio_init.dialects.iptables.render import match_words
from istio_init.dialects.iptables.targets import (
    CtZone,
    Goto,
    Jump,
    OpaqueTarget,
    Redirect,
    RestoreMark,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
    Verdict,
)
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.rows import by_chain
from istio_init.mesh.roles.recognise import is_istio_chain, is_ours
from istio_init.netfilter.family import Family
from istio_init.visible import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.matches import Address, Match
    from istio_init.dialects.iptables.rules import Chain, Rule, RuleSet
    from istio_init.inspector.explain import Explanation

ANYWHERE = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
HEADING = "num  target     prot opt source               destination         "


def listing(explanation: Explanation) -> str:
    """Every table that holds rules of Istio's, of every store and family."""
    whys = {(row.backend, row.family, row.table, row.chain, row.number): row for row in explanation.rows}
    lines: list[str] = []
    for (backend, family), rules in explanation.snapshot.rules.items():
        if backend is RuleStore.NATIVE:
            continue
        for table, chains in rules.tables.items():
            ours = any(is_istio_chain(chain.name) for chain in chains.values())
            if not ours and not any(is_ours(c.name, entry) for c in chains.values() for entry in c.entries):
                continue
            lines.append(f"# {family.value} {table.value} ({backend.value})")
            for chain in chains.values():
                if chain.policy is not None and not chain.entries:
                    continue
                lines += [visible(_title(chain, rules, chains)), HEADING]
                for number, entry in enumerate(chain.entries, 1):
                    row = whys[backend, family.value, table.value, chain.name, number]
                    lines.append(f"{visible(_columns(number, entry.rule, family))}  # {row.why}")
                lines.append("")
    lines += _native(explanation)
    return "\n".join(lines).rstrip() + "\n" if lines else ""


def _native(explanation: Explanation) -> list[str]:
    """Istio's native tables, as ``nft list ruleset`` names things: it has no columns."""
    lines: list[str] = []
    ours = [row for row in explanation.rows if row.backend is RuleStore.NATIVE and not row.foreign]
    for where, rows in by_chain(ours).items():
        lines += [
            f"# {visible(where)} (native)",
            *(f"{each.number:<4} {visible(each.text)}  # {each.why}" for each in rows),
            "",
        ]
    return lines


def _title(chain: Chain, rules: RuleSet, chains: object) -> str:
    if chain.policy is not None:
        return f"Chain {chain.name} (policy {chain.policy})"
    assert isinstance(chains, dict)
    calls = sum(entry.rule.called_chain == chain.name for each in chains.values() for entry in each.entries)
    return f"Chain {chain.name} ({calls} references)"


def _columns(number: int, rule: Rule, family: Family) -> str:
    target = _target_name(rule)
    protocol = "all" if rule.protocol is None else ("!" if rule.protocol.negated else "") + rule.protocol.name
    source, destination = _address(rule.source, family), _address(rule.destination, family)
    extra = " ".join(part for part in (*map(_match, rule.matches), *_interfaces(rule), _target(rule)) if part)
    return f"{number:<4} {target:<9}  {protocol:<4} -- {source:<20} {destination:<20}  {extra}".rstrip()


def _target_name(rule: Rule) -> str:
    match rule.target:
        case None:
            return ""
        case Verdict(name) | Jump(name) | Goto(name) | OpaqueTarget(name, _):
            return name
        case Redirect():
            return "REDIRECT"
        case Tproxy():
            return "TPROXY"
        case SetMark():
            return "MARK"
        case SetConnmark() | SaveMark() | RestoreMark():
            return "CONNMARK"
        case CtZone():
            return "CT"


def _address(address: Address | None, family: Family) -> str:
    """An address with the place for its negation before it."""
    if address is None:
        return f" {ANYWHERE[family]}"
    network = address.network
    single = network.prefixlen == network.max_prefixlen
    return ("!" if address.negated else " ") + str(network.network_address if single else network)


def _interfaces(rule: Rule) -> list[str]:
    """``iptables -L`` leaves interfaces out without -v; without them a rule cannot be understood."""
    found = []
    for word, interface in (("in", rule.in_interface), ("out", rule.out_interface)):
        if interface is not None:
            found.append(f"{word} {'!' if interface.negated else ''}{interface.name}")
    return found


def _match(match: Match) -> str:
    match match:
        case PortMatch(protocol, source, destination):
            words = [protocol]
            for name, test in (("spt", source), ("dpt", destination)):
                if test is not None:
                    plural = "" if test.ports.first == test.ports.last else "s"
                    words.append(f"{name}{plural}:{'!' if test.negated else ''}{test.ports}")
            return " ".join(words)
        case Multiport(side, ports, negated):
            name = {"source": "sports", "destination": "dports", "either": "ports"}[side]
            return f"multiport {name}  {'!' if negated else ''}{','.join(map(str, ports))}"
        case Owner(uid, uid_negated, gid, gid_negated):
            ids = [("UID", uid, uid_negated), ("GID", gid, gid_negated)]
            return " ".join(
                f"{'! ' if neg else ''}owner {name} match {ids}" for name, ids, neg in ids if ids is not None
            )
        case Mark(value, mask, negated):
            return f"mark match {'! ' if negated else ''}{_masked(value, mask)}"
        case Connmark(value, mask, negated):
            return f"connmark match {'!' if negated else ''} {_masked(value, mask)}"
        case Ctstate(states, negated):
            return f"{'! ' if negated else ''}ctstate {','.join(states)}"
        case Comment(quoted):
            return f"/* {quoted.strip(chr(34))} */"
        case OpaqueMatch():
            return " ".join(match_words(match))


def _target(rule: Rule) -> str:
    match rule.target:
        case Redirect(ports) if ports is not None:
            return f"redir ports {str(ports).replace(':', '-')}"
        case Tproxy(port, address, mark, mask):
            return f"TPROXY redirect {address}:{port} mark {mark:#x}/{mask:#x}"
        case SetMark(value, mask):
            return f"MARK set {value:#x}" if mask == 0xFFFFFFFF else f"MARK xset {value:#x}/{mask:#x}"
        case SetConnmark(value, mask):
            return f"CONNMARK xset {value:#x}/{mask:#x}"
        case SaveMark():
            return "CONNMARK save"
        case RestoreMark():
            return "CONNMARK restore"
        case CtZone(zone):
            return f"CT zone {zone}"
        case Goto():
            return "[goto]"
        case OpaqueTarget(_, words):
            return " ".join(words)
        case _:
            return ""


def _masked(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == 0xFFFFFFFF else f"{value:#x}/{mask:#x}"
