"""What to do about a finding in one pod, with commands that are safe in a pod of its kind.

A command is whole, names the namespace, and has the arguments that were asked for: those of ``--expect``, or those
behind rules that are whole. None is made up from damaged rules, and none takes away the rules of another mode or mesh.
"""

from __future__ import annotations

from enum import Enum

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Config
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.arguments import Arguments, ambient_arguments, apply_arguments
from istio_init.inspector.better import improved
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.applications import HEALTH_PORTS
from istio_init.inspector.findings.listening import silent, tcp_on
from istio_init.inspector.findings.marked import is_taken
from istio_init.inspector.findings.model import View
from istio_init.inspector.findings.namespace import PROXY_ID
from istio_init.inspector.findings.ordinary import is_excluded
from istio_init.inspector.findings.rules import half_applied, standing_guard
from istio_init.mesh.roles.recognise import MeshKind, kinds
from istio_init.netfilter.family import Family
from istio_init.wording.commands import inside, ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.inspector.findings.model import Finding

    Said = tuple[str, tuple[str, ...]]


class Pod(Enum):
    """What programs a pod, as far as its rules and sockets tell. A sidecar's pod is by initContainer or CNI plugin."""

    SIDECAR = "sidecar"
    AMBIENT = "ambient"
    BOTH = "both"
    OTHER_MESH = "other mesh"
    UNKNOWN = "unknown"


AGAIN = {
    Pod.SIDECAR: "Restart the pod: its istio-init container, or the CNI plugin, programs it again.",
    Pod.AMBIENT: "Restart the pod, or the istio-cni agent on its node: the agent programs it again. Never program it "
    "as a sidecar: ztunnel would loop.",
    Pod.BOTH: "Restart the pod: the mesh that it belongs to programs it again, and the other's rules are gone. Until "
    "then neither apply nor clean is safe here.",
    Pod.UNKNOWN: "Restart the pod: what programs it at its start does so again.",
}
"""How a pod is programmed again by whatever does that."""

ZTUNNEL_SILENT = (
    "See whether ztunnel runs on the pod's node, and what its log says of this pod. If it runs, restart the pod: the "
    "istio-cni agent then makes the pod known to it again."
)
ELSEWHERE = (
    "Have the proxy listen on all addresses of both families: outbound connections arrive at 127.0.0.1 or ::1, inbound "
    "ones at the pod's address."
)
ASK = (
    "Give explain the arguments that it was injected with, as --expect ARGS, and it prints the command that does it in "
    "place."
)
OR_HERE = "Or program it in place, with this command."
LONGEST = 8192
"""Characters of a command whose arguments are others' word."""

ITS_WORD = "Its arguments are what the pod says that it asked for: compare them with its manifest."

BY_APPLY = (
    catalogue.MESH_BYPASSED,
    catalogue.HALF_APPLIED,
    catalogue.BOTH_BACKENDS,
    catalogue.CAPTURED_OTHERWISE,
    catalogue.MODE_LEFTOVERS,
    catalogue.TPROXY_ROUTING,
    catalogue.IPV6_NOT_READY,
    catalogue.DNS_SERVERS_DIFFER,
)
"""What is cured where the pod is programmed again."""

TOOLS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class Remedies:
    """The remedies of one namespace's findings."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.target = view.snapshot.target
        self.meshes = view.meshes
        self.pod = pod_of(view)
        self._special: dict[str, Callable[[str], Said]] = {
            catalogue.LOOPBACK_DOWN.code: self._loopback,
            catalogue.NO_ROUTE.code: lambda fix: (fix, self._inside("ip", "route")),
            catalogue.REFUSING_ROUTE.code: lambda fix: (fix, self._inside("ip", "route")),
            catalogue.TPROXY_ROUTING.code: self._routing,
            catalogue.EXEMPT_PROCESS.code: lambda fix: (fix.replace(str(PROXY_ID), self._exempt), ()),
            catalogue.PROXY_NOT_EXEMPT.code: lambda fix: (fix.replace(str(PROXY_ID), self._exempt), ()),
            catalogue.NO_LISTENER.code: self._no_listener,
            catalogue.HEALTH_CAPTURED.code: self._health,
            catalogue.GUARDRAILS.code: self._guardrails,
            catalogue.IPV6_NOT_CAPTURED.code: self._dual_stack,
            catalogue.IPV6_NOT_READY.code: self._ipv6,
            catalogue.INVALID_PACKETS.code: self._drop_invalid,
            catalogue.UNDECIDED_RULE.code: lambda fix: (fix, self._of_ours("verify")),
            catalogue.NOT_ALL_FOLLOWED.code: lambda fix: (fix, self._of_ours("map")),
            catalogue.UNFAITHFUL_READER.code: lambda fix: (fix, self._inside("nft", "list", "ruleset")),
            catalogue.ZERO_COUNTERS.code: lambda fix: (fix, self._of_ours("explain", "--watch", "2")),
            catalogue.BOTH_MODES.code: lambda fix: (f"{fix} {AGAIN[Pod.BOTH]}", ()),
            catalogue.HOST_NAMESPACE.code: self._host,
        }

    def of(self, finding: Finding) -> Finding:
        """The finding, with what to do about it here."""
        fix, commands = self._said(finding)
        return finding.replace(fix=fix, commands=commands)

    def apply(self, config: Config | None = None) -> str | None:
        """The command that programs this pod as it was asked for; None where no such command is safe, or known.

        ``config`` is another sidecar's configuration to be programmed.
        """
        view = self.view
        if not view.snapshot.is_live or self.meshes or self.pod is Pod.BOTH:
            return None
        native = ("--native-nftables",) if view.main is not None and view.backend is RuleStore.NATIVE else ()
        host = ("--allow-host-network",) if view.snapshot.is_host else ()
        found: Arguments | None = None
        if self.pod is not Pod.AMBIENT:
            wanted = self._wanted
            asked = config or (wanted if isinstance(wanted, Config) else None) or improved(self.view)
            found = apply_arguments(asked) if asked is not None else None
        elif isinstance(self._wanted, AmbientConfig):
            found = ambient_arguments(self._wanted)
        elif (ambient := view.ambient) is not None and all(each.ambient == ambient for each in view.holdings):
            found = ambient_arguments(ambient.config) if ambient.exact else None
        if found is None:
            return None
        command = ours("apply", *self.target, *host, *native, *found.argv)
        made = " ".join([*(found.replace(argv=()).words()), command])
        return made if len(made) <= LONGEST or view.expected is not None else None

    def repair(self) -> str | None:
        """The command that makes the rules those that are expected, or were asked for; None as above."""
        return self.apply() if self._wanted is not None else None

    @property
    def _wanted(self) -> Config | AmbientConfig | None:
        return self.view.asked if self.view.expected is None else self.view.expected

    def _said(self, finding: Finding) -> Said:
        kind = finding.kind
        if self.meshes and kind in BY_APPLY:
            names = " and ".join(each.name for each in self.meshes)
            return f"Find out which mesh the pod is in: {names} programmed it, too. A pod can be in only one mesh.", ()
        special = self._special.get(kind.code)
        if special is not None:
            return special(kind.fix)
        return self._again() if kind in BY_APPLY else (kind.fix, ())

    def _again(self) -> Said:
        again, command = AGAIN.get(self.pod, AGAIN[Pod.UNKNOWN]), self.apply()
        if command is not None:
            here = OR_HERE if self._wanted is None or self._wanted is not self.view.asked else f"{OR_HERE} {ITS_WORD}"
            return f"{again} {here}", (command,)
        can_ask = self.pod in (Pod.SIDECAR, Pod.UNKNOWN) and self.view.snapshot.is_live and self.view.expected is None
        return f"{again} {ASK}" if can_ask else again, ()

    def _of_ours(self, *words: str) -> tuple[str, ...]:
        is_asked = self.target[:1] != ("--expect",) and (self.view.snapshot.is_live or words[0] == "map")
        target = self.view.snapshot.look if words[0] == "map" else self.target
        return (ours(*words, target=target),) if is_asked else ()

    def _inside(self, *words: str) -> tuple[str, ...]:
        return (inside(self.target, *words),) if self.view.snapshot.is_live else ()

    def _loopback(self, fix: str) -> Said:
        loopback = [each for each in self.view.snapshot.interfaces if each.name == "lo"]
        if loopback and loopback[0].is_up:
            return fix, self._inside("ip", "address", "add", "127.0.0.1/8", "dev", "lo")
        return fix, self._inside("ip", "link", "set", "lo", "up")

    def _guardrails(self, fix: str) -> Said:
        """Each of them by the program of the store that holds it: the default one may see another store."""
        tools = {f"{TOOLS[each.family]}-{each.backend.value}": None for each in standing_guard(self.view)}
        names = {each.chain.name: None for each in standing_guard(self.view)}
        script = (
            f"for tool in {' '.join(tools)}; do for chain in {' '.join(names)}; do for protocol in tcp udp; do "
            "$tool -D $chain -p $protocol -j DROP; done; done; done"
        )
        command = self._inside("sh", "-c", script)
        if self.view.main is not None and not any(half_applied(self.view)):
            return fix, command
        first = "Program the pod first: until then they are what keeps traffic from escaping."
        if self.apply() is None:
            return f"{first} Then explain prints the command that removes them.", ()
        return f"{first} {fix}", command

    def _ipv6(self, fix: str) -> Said:
        again, commands = self._again()
        if self.view.snapshot.sysctls.get("net.ipv6.conf.lo.disable_ipv6"):
            commands = (*self._inside("sysctl", "-w", "net.ipv6.conf.lo.disable_ipv6=0"), *commands)
            return f"Turn IPv6 on for lo first. {again}", commands
        return again, commands

    def _dual_stack(self, fix: str) -> Said:
        if self.pod is Pod.AMBIENT:
            return f"Turn IPv6 on where the istio-cni agent on its node has it off. {AGAIN[Pod.AMBIENT]}", ()
        return fix, self._better(lambda config: config.dual_stack)

    def _better(self, is_cured: Callable[[Config], bool]) -> tuple[str, ...]:
        """The command that programs the pod with a configuration that is better, where one is known."""
        better = self._wanted if isinstance(self._wanted, Config) else improved(self.view)
        command = self.apply() if better is not None and is_cured(better) else None
        return (command,) if command is not None else ()

    def _routing(self, _: str) -> Said:
        if not is_taken(self.view):
            return self._again()
        fix = (
            "Find out whose routing that is, and have it removed, or put behind the mesh's. A sidecar can also be "
            "programmed with a mark or a table of its own (-t, -r)."
        )
        return fix, (*self._inside("ip", "rule"), *self._inside("ip", "route", "show", "table", "all"))

    @property
    def _exempt(self) -> str:
        """The users that the rules exempt."""
        config = self.view.inferred.config if self.view.inferred is not None else None
        return " or ".join(map(str, config.proxy_uids)) if config is not None else str(PROXY_ID)

    def _no_listener(self, fix: str) -> Said:
        if self.pod is Pod.AMBIENT:
            return ZTUNNEL_SILENT, ()
        ports = tuple({port for silenced in silent(self.view).values() for port in silenced})
        return ELSEWHERE if tcp_on(self.view, ports) else fix, ()

    def _health(self, fix: str) -> Said:
        return fix, self._better(lambda config: all(is_excluded(config, port) for port in HEALTH_PORTS))

    def _drop_invalid(self, fix: str) -> Said:
        config = improved(self.view)
        if config is None or self.view.expected is not None:
            return fix, ()
        return fix, tuple(filter(None, [self.apply(config.replace(drop_invalid=True))]))

    def _host(self, fix: str) -> Said:
        listens = any(each.port in (15001, 15006) for each in self.view.snapshot.listeners)
        if listens or self.pod is not Pod.SIDECAR or not self.view.snapshot.is_live or self.meshes:
            return fix, ()
        return fix, (ours("clean", "--sidecar", "--allow-host-network", target=self.target),)


def pod_of(view: View) -> Pod:
    """What programs the pod."""
    found = {kind for each in view.holdings for rules in each.rules.values() for kind in kinds(rules)}
    if _has_ztunnel(view):
        found.add(MeshKind.AMBIENT)
    if len(found) == 2:
        return Pod.BOTH
    if found:
        return Pod.AMBIENT if MeshKind.AMBIENT in found else Pod.SIDECAR
    return Pod.OTHER_MESH if view.meshes else Pod.UNKNOWN


def _has_ztunnel(view: View) -> bool:
    """Whether the sockets are there that ztunnel, which runs elsewhere on the node, opens in a pod of its mesh."""
    outside = {
        each.port
        for each in view.snapshot.listeners
        if each.protocol == "tcp" and each.process is None and each.uid != PROXY_ID
    }
    return {15001, 15008} <= outside
