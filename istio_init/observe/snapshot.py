"""Everything that is known of a namespace at one moment. Frozen data; whoever collected it is not known here."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.dialects.nft.text import rule_text
from istio_init.dialects.nft.xtables import is_iptables, is_written_by_iptables
from istio_init.mesh.routing import LiveRouting
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.observe.netfilter import Reading, model
from istio_init.observe.unread import Part, Unread
from istio_init.system.processes import Process
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.config.asked import Pod
    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.dialects.nft.ruleset import Ruleset
    from istio_init.dialects.rule_store import RuleStore
    from istio_init.mesh.native import Raised
    from istio_init.netfilter.stages import Netfilter


class Listener(Value):
    """A socket that waits for traffic: a listening TCP socket, or a bound UDP socket."""

    protocol: str
    address: IPv4Address | IPv6Address
    port: int
    uid: int
    process: Process | None = None
    waiting: int = 0
    """Connections that nobody has accepted yet."""

    backlog: int | None = None
    """How many may wait; None where nobody asked, as none waits, or the kernel does not say."""

    def __str__(self) -> str:
        where = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        who = f" ({self.process.name}, pid {self.process.pid})" if self.process else ""
        return f"{self.protocol} {where}:{self.port}, uid {self.uid}{who}"


class Connection(Value):
    """An established TCP connection of a process here whose other end is no socket of this namespace."""

    address: IPv4Address | IPv6Address
    port: int
    peer: IPv4Address | IPv6Address
    peer_port: int
    process: Process
    is_inbound: bool
    is_accepted: bool = True
    """False where it waits to be accepted; then it is its port that tells the process, which TPROXY makes a guess."""

    def __str__(self) -> str:
        here, there = _joined(self.address, self.port), _joined(self.peer, self.peer_port)
        ends = f"{here} from {there}" if self.is_inbound else f"to {there} from {here}"
        return f"{ends} ({self.process.name}, pid {self.process.pid})"


def _joined(address: IPv4Address | IPv6Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


class Interface(Value):
    """A network interface and its addresses."""

    name: str
    is_up: bool
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()


class NftRule(Value):
    """A rule in one of iptables-nft's tables that iptables did not write, and may not print faithfully."""

    family: Family
    table: str
    chain: str
    number: int
    text: str
    """As nft prints it."""

    def __str__(self) -> str:
        return f"{self.family.value} {self.table} (nft): {self.chain} {self.number}: {self.text}"


_FAMILIES = {"ip": Family.IPV4, "ip6": Family.IPV6}


class Taken(Value):
    """Where and when a snapshot was taken that is looked at later; ``path`` is the file that it was read from."""

    path: str
    date: str
    host: str
    kernel: str
    version: str
    """Of the program that took it."""

    ipv6_in_kernel: bool
    is_redacted: bool = False

    def __str__(self) -> str:
        redacted = ", redacted" if self.is_redacted else ""
        return f"taken on {self.host} at {self.date} by istio-init {self.version}{redacted}"


class Snapshot(Value):
    """A namespace. What could not be read is missing, and ``unread`` says so.

    ``rules`` are recognised rule sets by store and family, with counters; ``partial`` are the families of which not
    all rules could be read. ``sysctls`` are by their dotted names. ``is_live`` is false for rules from a file, of which
    nothing else is known.
    """

    label: str
    rules: Mapping[tuple[RuleStore, Family], RuleSet]
    target: tuple[str, ...] = ()
    """The words that name it to a command, such as ``--pid 4711``; none for the namespace that we are in."""

    taken: Taken | None = None
    """Where and when it was taken, if that was not here and now."""

    routing: LiveRouting = LiveRouting()
    unusual_routing: tuple[tuple[Family, int], ...] = ()
    """Routing rules, by priority, that a namespace does not have by itself and that select by more than a mark."""

    interfaces: tuple[Interface, ...] = ()
    listeners: tuple[Listener, ...] = ()
    connections: int = 0
    outside: tuple[Connection, ...] = ()
    """Connections that no socket of this namespace passes on; a bounded number of them."""

    processes: tuple[Process, ...] = ()
    unseen_owners: int = 0
    """Sockets that wait for traffic, of processes that we may not look into."""

    sysctls: Mapping[str, int] = {}
    invalid_packets: int = 0
    """Packets that the connection tracker called invalid since the namespace began."""

    dns_servers: tuple[IPv4Address | IPv6Address, ...] = ()
    knows_servers: bool = True
    """Whether ``dns_servers`` are the namespace's own; of one that is named by itself the files are not known."""

    is_host: bool = False
    is_live: bool = True
    programs: Mapping[str, str] = {}
    unread: tuple[Unread, ...] = ()
    partial: frozenset[Family] = frozenset()
    reading: Reading | None = None
    """What the model was made of, as it was read; None where nothing was read."""

    registered: Netfilter | None = None
    """The model of all that is registered, where somebody made it; ask `netfilter`."""

    ruleset: Ruleset | None = None
    """All of nf_tables, as nft prints it."""

    raised: tuple[Raised, ...] = ()
    """Istio's own tables in ``ruleset``, as iptables would write their rules: a sidecar's, then those of an ambient
    pod; ``rules`` has the first of them."""

    host: Host = Host()
    """Interfaces, routing, sockets and settings, as far as they are known."""

    said: tuple[Pod, ...] = ()
    """What the processes that look like the pod's proxy say that it asked for: their own word."""

    @property
    def look(self) -> tuple[str, ...]:
        """The words that name it to a command that only looks: the file, where it was taken elsewhere or earlier."""
        return self.target if self.taken is None else ("--file", self.taken.path)

    @property
    def netfilter(self) -> Netfilter:
        """All rules as one model; where nobody made it before, it is made of ``rules`` alone, each time."""
        return model(self.rules, None) if self.registered is None else self.registered

    @property
    def nft_rules(self) -> tuple[NftRule, ...]:
        """The rules of nft's own in tables of iptables."""
        return tuple(
            NftRule(_FAMILIES[table.family], table.name, chain.name, number, rule_text(rule.expressions))
            for table in (self.ruleset.tables if self.ruleset else ())
            if is_iptables(table)
            for chain in table.chains
            for number, rule in enumerate(chain.rules, 1)
            if not is_written_by_iptables(rule.expressions)
        )

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """All addresses of all interfaces."""
        return tuple(address for each in self.interfaces for address in each.addresses)

    @property
    def missing_rules(self) -> tuple[Unread, ...]:
        """What leaves rules out of the model. What iptables-nft cannot print is there, as nft prints all."""
        has_all = self.ruleset is not None and not any(each.part is Part.NATIVE for each in self.unread)
        parts = (Part.RULES_LEGACY,) if has_all else (Part.RULES_LEGACY, Part.RULES_NFT)
        return tuple(each for each in self.unread if each.part in parts)

    @property
    def is_listed(self) -> bool:
        """Whether nothing is missing of the rules but what a listing leaves out, which is undecidable in the model."""
        return all(each.part is Part.LISTING for each in self.unread if each.family is not None)

    @property
    def not_read(self) -> tuple[str, ...]:
        """What could not be read, in words, processes included; those matter to findings, not to what rules do."""
        said = tuple(map(str, self.unread))
        if not self.unseen_owners:
            return said
        what = f"the owners of {self.unseen_owners} listening sockets, which takes the capability SYS_PTRACE"
        return (*said, what)

    def of(self, store: RuleStore) -> dict[Family, RuleSet]:
        """The rule sets of one store."""
        return {family: rules for (name, family), rules in self.rules.items() if name == store}
