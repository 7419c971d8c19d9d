"""Rules, packets and traces in the few words in which the tests state them."""

from __future__ import annotations

from ipaddress import ip_address

from istio_init.cli.pflag import parse_flags
from istio_init.config.model import Surroundings
from istio_init.config.parse import gather, parse
from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet, as_in_kernel
from istio_init.dialects.iptables.save import with_texts
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState
from istio_init.netfilter.host import Host
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import WITH_PORTS, protocol_number
from istio_init.netfilter.rules import Store
from istio_init.netfilter.stages import Netfilter
from istio_init.options import DROPIN_OPTIONS, OPTIONS
from istio_init.system.names import FileNames
from istio_init.trace.result import Hop, Outcome, Trace
from istio_init.trace.tracer import Tracer


def rules_of(text: str, family: Family = Family.IPV4) -> RuleSet:
    """The rules of lines such as ``nat OUTPUT -p tcp -j ONE``; ``filter INPUT policy DROP`` sets a policy."""
    tables: dict[Table, dict[str, Chain]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        table_name, name, rule = (*line.split(" ", 2), "")[:3]
        table = Table(table_name)
        chains = tables.setdefault(table, {each: Chain(each, policy="ACCEPT") for each in BUILTIN_CHAINS[table]})
        chain = chains.get(name, Chain(name))
        if rule.startswith("policy "):
            chains[name] = chain.replace(policy=rule.removeprefix("policy "))
        else:
            chains[name] = chain.replace(entries=(*chain.entries, Entry(parse_rule(rule), text=rule)))
    return RuleSet(family, tables)


def sidecar_rules(arguments: str, family: Family = Family.IPV4, servers: tuple[str, ...] = ()) -> RuleSet:
    """The rules that arguments of istio-iptables mean; ``*`` needs no quotes."""
    given, _ = parse_flags(arguments.split(), OPTIONS + DROPIN_OPTIONS)
    config, _ = parse(gather(given, {}, apply=False), FileNames(), lenient_mode=True)
    around = Surroundings(True, tuple(map(ip_address, servers)))
    return as_in_kernel(with_texts(sidecar.rules(config, around)[family]))


def netfilter_of(*rules: RuleSet) -> Netfilter:
    """The rule sets as a kernel would hold them, in nf_tables."""
    return Netfilter([table for each in rules for table in lower(as_in_kernel(each), Store.NFT)])


def tracer_of(rules: RuleSet, local_marks: frozenset[int] = frozenset()) -> Tracer:
    """A tracer of rules from a file: of the routing only the marks are known that lead to this machine."""
    return Tracer(netfilter_of(rules), Host(local_marks={rules.family: local_marks}))


def packet_of(text: str, **more: object) -> Packet:
    """The packet of words such as ``outbound tcp 10.0.0.5:443``, sent by user 1000 from eth0 if nothing else is said.

    ``more`` are fields of `Packet`.
    """
    direction, protocol, goal = text.split()
    host, port = goal, "0"
    if protocol_number(protocol) in WITH_PORTS:
        host, _, port = goal.rpartition(":")
    destination = ip_address(host.strip("[]"))
    outbound = direction == "outbound"
    fields: dict[str, object] = {
        "source": ip_address(("10.1.2.3" if outbound else "198.51.100.9") if destination.version == 4 else "fd00:1::3"),
        "uid": 1000 if outbound else None,
        "gid": 1000 if outbound else None,
        "interface": "lo" if outbound and destination.is_loopback else "eth0",
        "source_port": 40000 if protocol_number(protocol) in WITH_PORTS else 0,
        "destination_port": int(port),
    }
    fields |= {name: ip_address(value) if name == "source" else value for name, value in more.items()}  # type: ignore[arg-type]
    if "ctstate" in fields:
        fields["state"] = CtState[str(fields.pop("ctstate"))]
    return Packet(Direction(direction), protocol_number(protocol), destination=destination, **fields)  # type: ignore[arg-type]


def outcome_of(outcome: Outcome) -> str:
    """For example ``redirect 15001``."""
    return outcome.kind.value if outcome.port is None else f"{outcome.kind.value} {outcome.port}"


def way_of(trace: Trace) -> list[str]:
    """The rules that matched, such as ``nat OUTPUT 1``, a line for each leg."""
    return [", ".join(place_of(hop) for hop in leg.hops if hop.matched) for leg in trace.legs]


def place_of(hop: Hop) -> str:
    """For example ``nat OUTPUT 1``."""
    origin = hop.rule.origin
    return f"{origin.table} {origin.chain} {origin.number}"
