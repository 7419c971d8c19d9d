"""Random rule sets, a sidecar's with rules of others among them or wild ones, and packets at their boundaries."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from random import Random
from typing import Any

from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.matches import IdRange, IPNetwork, PortRange
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.rules import Chain, Entry, RuleSet
from istio_init.dialects.iptables.save import with_texts
from istio_init.dialects.iptables.tables import BUILTIN_CHAINS, Table
from istio_init.mesh.policy import sidecar
from istio_init.netfilter.family import Family
from istio_init.trace.depends import candidates
from istio_init.trace.packet import PORT_PROTOCOLS, Direction, Packet

PORTS = [PortRange(80, 80), PortRange(53, 53), PortRange(15008, 15008), PortRange(8000, 8090), PortRange(0, 65535)]
IDS = [IdRange(1337, 1337), IdRange(0, 0), IdRange(1000, 2000), IdRange(1500, 1500)]
INTERFACES = ["eth0", "eth+", "net1", "lo", "e+", "+"]
RANGES: dict[Family, list[IPNetwork]] = {
    Family.IPV4: [
        IPv4Network(text)
        for text in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "127.0.0.0/8", "0.0.0.0/0", "192.168.0.0/24")
    ],
    Family.IPV6: [IPv6Network(text) for text in ("fd00::/8", "fd00:1::/64", "::1/128", "::/0", "2001:db8::/32")],
}
TABLES = (Table.RAW, Table.MANGLE, Table.NAT, Table.FILTER)
HOOKS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
CHAINS = ("ONE", "TWO", "THREE")
"""Chains that wild rules call: each only those after it, as the kernel refuses loops."""

MARKS = ("0x539", "0x53a", "0x1", "0x0", "0x4000/0x4000", "0x39/0xff", "0x1/0x3")


class Draw:
    """Draws from small pools, so that values of different rules often collide."""

    def __init__(self, seed: int | str) -> None:
        self.random = Random(seed)

    def some(self, pool: list[Any], most: int = 3, least: int = 0) -> tuple[Any, ...]:
        """A few of the pool, in any order, also twice."""
        return tuple(self.random.choices(pool, k=self.random.randint(least, most)))

    def maybe(self, chance: float = 0.5) -> bool:
        """True now and then."""
        return self.random.random() < chance

    def config(self) -> Config:
        """A configuration of a sidecar."""
        pick, both = self.random.choice, [*RANGES[Family.IPV4], *RANGES[Family.IPV6]]
        return Config(
            proxy_uids=self.some(IDS if self.maybe(0.2) else IDS[:1], 2, 1),
            proxy_gids=self.some(IDS if self.maybe(0.2) else IDS[:1], 2, 1),
            proxy_port=pick([15001, 15101]),
            inbound_capture_port=pick([15006, 15106]),
            inbound_tunnel_port=pick([15008, 80]),
            mode=pick(list(InterceptionMode)),
            inbound_ports=ALL if self.maybe() else self.some(PORTS),
            inbound_exclude_ports=self.some(PORTS),
            outbound_ranges=ALL if self.maybe() else self.some(both),
            outbound_exclude_ranges=self.some(both),
            outbound_ports=self.some(PORTS, 2),
            outbound_exclude_ports=self.some(PORTS, 2),
            exclude_interfaces=self.some(INTERFACES[:4], 1),
            virtual_interfaces=self.some(INTERFACES[:3], 1),
            owner_groups=ALL if self.maybe(0.7) else self.some(IDS, 3, 1),
            owner_groups_exclude=self.some(IDS, 2),
            tproxy_mark=pick([1337, 1338, 1]),
            redirect_dns=self.maybe(),
            capture_all_dns=self.maybe(),
            drop_invalid=self.maybe(0.2),
            loopback_cidr=pick([IPv4Network("127.0.0.1/32"), IPv4Network("127.0.0.0/8")]),
        )

    def sidecar_rules(self, family: Family) -> RuleSet:
        """The rules of a random configuration, with rules of others at random places."""
        servers = (IPv4Address("10.1.2.3"), IPv6Address("fd00::a")) if self.maybe() else ()
        built = sidecar.rules(self.config(), Surroundings(True, servers))[family]
        return self.mixed(with_texts(built), self.random.choice([0, 0, 2, 6]))

    def mixed(self, rules: RuleSet, count: int) -> RuleSet:
        """A rule set with foreign rules put in."""
        tables = {table: dict(chains) for table, chains in rules.tables.items()}
        for _ in range(count):
            table = self.random.choice(TABLES)
            chains = tables.setdefault(table, {})
            for hook in BUILTIN_CHAINS[table]:
                chains.setdefault(hook, Chain(hook, policy="ACCEPT"))
            name = self.random.choice(list(chains))
            entries = list(chains[name].entries)
            text = self.rule(rules.family, table, name, [])
            entries.insert(self.random.randint(0, len(entries)), Entry(parse_rule(text), text=text))
            chains[name] = chains[name].replace(entries=tuple(entries))
        return RuleSet(rules.family, tables)

    def wild_rules(self, family: Family) -> RuleSet:
        """Rules of all kinds in every table, with chains that call each other and policies that drop."""
        tables: dict[Table, dict[str, Chain]] = {}
        for table in TABLES:
            made: dict[str, Chain] = {}
            for name in (*BUILTIN_CHAINS[table], *CHAINS):
                called = list(CHAINS[CHAINS.index(name) + 1 :] if name in CHAINS else CHAINS)
                texts = [self.rule(family, table, name, called) for _ in range(self.random.choice([0, 1, 2, 4]))]
                policy = None if name in CHAINS else "DROP" if self.maybe(0.02) and table is not Table.NAT else "ACCEPT"
                made[name] = Chain(name, tuple(Entry(parse_rule(text), text=text) for text in texts), policy)
            tables[table] = made
        return RuleSet(family, tables)

    def rule(self, family: Family, table: Table, chain: str, called: list[str]) -> str:
        """One rule, as iptables-save prints it."""
        words: list[str] = []
        protocol = self.random.choice(["tcp", "udp", "sctp", ""] if self.maybe(0.8) else ["icmp", "! tcp", ""])
        for flag in ("-s", "-d"):
            if self.maybe(0.25):
                words.append(f"{self.negation()}{flag} {self.random.choice(RANGES[family])}")
        if self.maybe(0.3):
            entering = chain in ("PREROUTING", "INPUT") or (chain not in HOOKS and self.maybe())
            words.append(f"{self.negation()}{'-i' if entering else '-o'} {self.random.choice(INTERFACES)}")
        if protocol:
            words.append(("! -p " if protocol.startswith("!") else "-p ") + protocol.removeprefix("! "))
        words += [text for text in (self.ports(protocol), self.match(chain)) if text]
        return " ".join([*words, self.target(table, chain, protocol, called)]).strip()

    def negation(self) -> str:
        """An exclamation mark, now and then."""
        return "! " if self.maybe(0.25) else ""

    def ports(self, protocol: str) -> str:
        """A test of ports, as far as the protocol has some."""
        if protocol not in ("tcp", "udp", "sctp") or self.maybe(0.3):
            return ""
        ports = self.some(PORTS, 3, 1)
        kind = self.random.choice(["--dport", "--sport"])
        if protocol == "sctp" or self.maybe(0.3):
            return f"-m multiport {self.negation()}{kind}s {','.join(str(each) for each in ports)}"
        if self.maybe(0.15):
            return f"-m multiport {self.negation()}--ports {','.join(str(each) for each in ports)}"
        return f"-m {protocol} {self.negation()}{kind} {ports[0]}"

    def match(self, chain: str) -> str:
        """One further test; some are not known."""
        kinds = ["", "", "", "", "mark", "connmark", "state", "unknown", "comment"]
        kind = self.random.choice([*kinds, "owner", "owner"] if chain in ("OUTPUT", "POSTROUTING") else kinds)
        negated, ids = self.negation(), str(self.random.choice(IDS))
        match kind:
            case "owner" if self.maybe(0.2):
                return f"-m owner {negated}--uid-owner {ids} {self.negation()}--gid-owner {self.random.choice(IDS)}"
            case "owner":
                return f"-m owner {negated}--{self.random.choice(['uid', 'gid'])}-owner {ids}"
            case "mark" | "connmark":
                return f"-m {kind} {negated}--mark {self.random.choice(MARKS)}"
            case "state":
                states = ["NEW", "DNAT", "INVALID", "RELATED,ESTABLISHED", "INVALID,NEW"]
                return f"-m conntrack {negated}--ctstate {self.random.choice(states)}"
            case "unknown" if self.maybe(0.2):
                return self.random.choice(["-m addrtype --dst-type LOCAL", "-m physdev --physdev-in x"])
            case "comment":
                return "-m comment --comment note"
        return ""

    def target(self, table: Table, chain: str, protocol: str, called: list[str]) -> str:
        """A target that the table takes; none now and then."""
        options = ["-j RETURN", "-j ACCEPT", "", '-j LOG --log-prefix "x"']
        options += [f"{self.random.choice(['-j', '-g'])} {name}" for name in called] * 2
        if table is not Table.NAT and self.maybe(0.15):
            options += ["-j DROP", "-j NFQUEUE --queue-num 0"]
        if table is Table.MANGLE:
            mark = self.random.choice(["0x539/0xffffffff", "0x53a/0xffffffff", "0x4000/0x4000", "0x1/0x3"])
            options += [f"-j MARK --set-xmark {mark}"] * 2
            options += [
                f"-j CONNMARK --set-xmark {mark}",
                "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
                "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff",
            ]
            if protocol in ("tcp", "udp") and chain == "PREROUTING":
                options += ["-j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"] * 3
        if table is Table.RAW:
            options += ["-j CT --zone 1"]
        if table is Table.NAT and protocol in ("tcp", "udp") and chain in ("PREROUTING", "OUTPUT"):
            options += [f"-j REDIRECT --to-ports {self.random.choice(['15001', '15053', '80', '8000-8010'])}"] * 3
            options += ["-j REDIRECT"]
        if table is Table.NAT and chain == "POSTROUTING":
            options += ["-j MASQUERADE"]
        if table is Table.FILTER and self.maybe(0.15):
            options += ["-j REJECT --reject-with icmp-port-unreachable"]
        return self.random.choice(options)

    def packets(self, rules: RuleSet, direction: Direction, count: int) -> list[Packet]:
        """Packets with values at which the answers of the rules' tests change."""
        pools = {name: sorted(found, key=str) for name, found in candidates(rules).items()}
        pools["destination"] += [network[-1] for network in RANGES[rules.family]]
        pools["interface"] += ["eth0", "eth7", "net1"]
        for ids in ("uid", "gid"):
            pools[ids] += [1000, 1337, 0]
        for port in ("source_port", "destination_port"):
            pools[port] += [80, 53, 40000, 15001, 15006]
        pools["protocol"] += ["tcp", "tcp", "udp", "sctp"]
        if direction is Direction.INBOUND:
            pools["interface"] = [name for name in pools["interface"] if name != "lo"]
        return [self.packet(pools, direction) for _ in range(count)]

    def packet(self, pools: dict[str, list[Any]], direction: Direction) -> Packet:
        """One packet with values of these pools."""
        pick = {name: self.random.choice(found) for name, found in pools.items() if name != "ctstate"}
        has_ports = pick["protocol"] in PORT_PROTOCOLS
        if direction is Direction.INBOUND or self.maybe(0.03):
            pick["uid"] = pick["gid"] = None
        if not has_ports:
            pick["source_port"] = pick["destination_port"] = 0
        return Packet(direction, **pick)


def foreign_texts(draw: Draw, rules: RuleSet, count: int) -> str:
    """Rules of others for a rule set that is live, as text for iptables-restore --noflush."""
    added: dict[Table, list[str]] = {}
    for _ in range(count):
        table = draw.random.choice(TABLES)
        names = list(rules.tables.get(table, {})) or list(BUILTIN_CHAINS[table])
        name = draw.random.choice([*names, *(hook for hook in BUILTIN_CHAINS[table] if hook in HOOKS)])
        text = _acceptable(draw.rule(rules.family, table, name, ["ONE"]), rules.family)
        if text is not None:
            chain = rules.chain(table, name)
            place = draw.random.randint(1, len(chain.entries) + 1) if chain is not None else 1
            added.setdefault(table, []).append(f"-I {name} {place} {text}")
    parts = []
    for table, lines in added.items():
        own = [_acceptable(draw.rule(rules.family, table, "ONE", []), rules.family) for _ in range(2)]
        parts += [f"*{table.value}", ":ONE - [0:0]", *(f"-A ONE {text}" for text in own if text is not None)]
        parts += [*lines, "COMMIT"]
    return "".join(f"{line}\n" for line in parts)


UNPRINTABLE = ("physdev", "! -s 0.0.0.0/0", "! -d 0.0.0.0/0", "! -s ::/0", "! -d ::/0", "! -i +", "! -o +",
               "! --sport 0:65535", "! --dport 0:65535")  # fmt: skip
"""What iptables does not take here, or takes and prints as something else."""


def _acceptable(text: str, family: Family) -> str | None:
    """The rule in the words of its family; None where iptables would not take it, or would print it otherwise."""
    if any(part in text for part in UNPRINTABLE):
        return None
    if "TPROXY" in text and "-p tcp" not in text:
        return None
    if family is Family.IPV6:
        text = text.replace("--on-ip 0.0.0.0", "--on-ip ::").replace("icmp-port-unreachable", "icmp6-port-unreachable")
        text = text.replace("-p icmp", "-p ipv6-icmp")
    return text
