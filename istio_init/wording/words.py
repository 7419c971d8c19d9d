"""Rules in words: what they test, and what they do."""

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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.matches import IPNetwork, Match
    from istio_init.dialects.iptables.rules import Rule

Phrase = tuple[str, str, str]
"""A test in words: its kind, what goes before the value, and the value. Equal kinds and heads can be told as a list."""


def phrases(rule: Rule) -> list[Phrase]:
    """What a rule tests, in the order in which one would say it."""
    found: list[Phrase] = []
    if rule.protocol is not None:
        found.append(("protocol", "not " if rule.protocol.negated else "", rule.protocol.name))
    for match in rule.matches:
        found += _match(match)
    if rule.source is not None:
        found.append(("from", f"{_not(rule.source.negated)}from ", _network(rule.source.network)))
    if rule.destination is not None:
        found.append(("to", f"{_not(rule.destination.negated)}to ", _network(rule.destination.network)))
    if rule.in_interface is not None:
        found.append(("in", f"{_not(rule.in_interface.negated)}in via ", rule.in_interface.name))
    if rule.out_interface is not None:
        found.append(("out", f"{_not(rule.out_interface.negated)}out via ", rule.out_interface.name))
    return found


def conditions(found: list[Phrase]) -> str:
    """The tests as one text; ``everything`` where there is none."""
    return ", ".join(head + value for _, head, value in found) or "everything"


def action(rule: Rule) -> str:
    """What a rule does with a packet, in words; for a jump the chain."""
    match rule.target:
        case None:
            return "counted"
        case Verdict("RETURN"):
            return "returned"
        case Verdict(name):
            return {"ACCEPT": "accepted", "DROP": "dropped"}.get(name, name)
        case Jump(chain) | Goto(chain):
            return chain
        case Redirect(None):
            return "redirected to this machine"
        case Redirect(ports):
            return f"redirected to port {ports}"
        case Tproxy(port):
            return f"handed to port {port}, addresses kept"
        case SetMark(value, _):
            return f"marked {value:#x}"
        case SetConnmark(value, _):
            return f"connection marked {value:#x}"
        case SaveMark():
            return "mark kept with the connection"
        case RestoreMark():
            return "mark of the connection restored"
        case CtZone(zone):
            return f"tracked in zone {zone}"
        case OpaqueTarget(name, words):
            return " ".join([name, *words])


def counted(number: int, what: str) -> str:
    """A number of things, of which there may be one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def packets(number: int) -> str:
    """A number of packets."""
    return counted(number, "packet")


def _match(match: Match) -> list[Phrase]:
    match match:
        case PortMatch(_, source, destination):
            tests = [("sport", "from port ", source), ("dport", "port ", destination)]
            return [(kind, _not(t.negated) + head, str(t.ports)) for kind, head, t in tests if t is not None]
        case Multiport(side, ports, negated):
            head = "from port " if side == "source" else "port "
            return [("ports", _not(negated) + head, " or ".join(map(str, ports)))]
        case Owner(uid, uid_negated, gid, gid_negated):
            ids = [("uid", "user ", uid, uid_negated), ("gid", "group ", gid, gid_negated)]
            return [(kind, _not(neg) + head, str(value)) for kind, head, value, neg in ids if value is not None]
        case Mark(value, mask, negated):
            return [("mark", f"{_not(negated)}mark ", _masked(value, mask))]
        case Connmark(value, mask, negated):
            return [("connmark", f"{_not(negated)}connection mark ", _masked(value, mask))]
        case Ctstate(states, negated):
            return [("state", _not(negated), " or ".join(states).lower())]
        case Comment():
            return []
        case OpaqueMatch(name, words):
            return [("opaque", "", " ".join([name or "", *words]).strip())]


def _network(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _masked(value: int, mask: int) -> str:
    return f"{value:#x}" if mask == 0xFFFFFFFF else f"{value:#x}/{mask:#x}"


def _not(negated: bool) -> str:
    return "not " if negated else ""
