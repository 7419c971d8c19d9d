"""Rules of others that live beside a mesh's: who made them, and what they do to the mesh's traffic.

They are told by the names that their makers give chains and tables, in any store and dialect; names are read from the
makers' sources. A rule in a built-in chain is its maker's who made the chain that it jumps to.
"""

from __future__ import annotations

import re
from enum import Enum

from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.netfilter.chains import Table
    from istio_init.netfilter.rules import Origin


class Home(Enum):
    """Where such rules are at home; elsewhere they are left over, or the namespace is not what it seems."""

    POD = "pod"
    NODE = "node"
    BOTH = "both"


class Neighbour(Value):
    """A maker of rules. ``does`` is one sentence: what the rules do to the mesh's traffic."""

    name: str
    home: Home
    does: str
    is_mesh: bool = False
    """Another mesh: of two in one pod, one takes connections that the other was to see."""


def _mesh(name: str, does: str) -> Neighbour:
    return Neighbour(name, Home.POD, does, is_mesh=True)


LINKERD = _mesh("Linkerd", "Its proxy takes the pod's TCP connections, on port 4140 outbound and 4143 inbound.")
CONSUL = _mesh("Consul", "Its proxy takes the pod's TCP connections, outbound on port 15001, as Istio's does.")
KUMA = _mesh("Kuma", "Its proxy takes the pod's TCP connections, on port 15001 outbound and 15006 inbound, as Istio's.")
OSM = _mesh("Open Service Mesh", "Its proxy takes the pod's TCP connections, on port 15001 outbound and 15003 inbound.")
APP_MESH = _mesh("AWS App Mesh", "Its proxy takes the pod's TCP connections, on port 15001 outbound and 15000 inbound.")
MESHES = (LINKERD, CONSUL, KUMA, OSM, APP_MESH)
"""The other meshes."""

AZURE_IDENTITY = Neighbour(
    "Azure workload identity",
    Home.POD,
    "Connections to the metadata service, 169.254.169.254 port 80, go to its proxy on a local port.",
)
METADATA = Neighbour(
    "a cloud's identity agent",
    Home.BOTH,
    "Connections to the metadata service, 169.254.169.254, go to the agent; others are as before.",
)
DOCKER_DNS = Neighbour(
    "Docker's DNS",
    Home.POD,
    "DNS queries to 127.0.0.11 go to Docker's resolver, on another port of that address; other traffic is as before.",
)
OWN = {
    AZURE_IDENTITY: "169.254.169.254",
    METADATA: "169.254.169.254",
    DOCKER_DNS: "127.0.0.11",
}
"""An address whose traffic is a neighbour's own: that its rules take it is what they are for."""

KUBEVIRT = Neighbour(
    "KubeVirt",
    Home.POD,
    "The pod's inbound connections are forwarded to the virtual machine in it, unless the mesh redirects them first.",
)
TAILSCALE = Neighbour(
    "Tailscale", Home.BOTH, "Traffic of the tailnet is accepted, and translated where it is forwarded."
)
KUBE_PROXY = Neighbour(
    "kube-proxy", Home.NODE, "Connections to a service's address are translated to one of its pods, on the node."
)
KUBE_ROUTER = Neighbour("kube-router", Home.NODE, "Network policies let traffic of pods pass, or drop it, on the node.")
DOCKER = Neighbour(
    "Docker", Home.NODE, "Published ports are forwarded to containers, and what containers send is translated."
)
PODMAN = Neighbour(
    "Podman", Home.NODE, "Published ports are forwarded to containers, and what containers send is translated."
)
FIREWALLD = Neighbour("firewalld", Home.NODE, "Traffic is accepted or rejected by the zone of its interface.")
UFW = Neighbour("ufw", Home.NODE, "Traffic is accepted or dropped by the firewall's rules.")
FAIL2BAN = Neighbour("fail2ban", Home.NODE, "Traffic from addresses that it banned is rejected.")
CILIUM = Neighbour(
    "Cilium", Home.NODE, "Traffic of pods is marked, tracked and translated on the node, after it has left the pod."
)
CALICO = Neighbour("Calico", Home.NODE, "Network policies let traffic of pods pass, or drop it, on the node.")
ANTREA = Neighbour("Antrea", Home.NODE, "Traffic of pods is forwarded and translated on the node.")
FLANNEL = Neighbour("Flannel", Home.NODE, "What pods send out of the cluster is translated to the node's address.")
WEAVE = Neighbour("Weave Net", Home.NODE, "Network policies let traffic of pods pass, or drop it, on the node.")
CNI_PLUGINS = Neighbour(
    "the CNI plugins", Home.NODE, "Host ports are forwarded to pods, and what pods send is translated."
)
AWS_CNI = Neighbour("the AWS VPC CNI", Home.NODE, "What pods send out of the VPC is translated to the node's address.")
AZURE_NPM = Neighbour("Azure NPM", Home.NODE, "Network policies let traffic of pods pass, or drop it, on the node.")
MASQUERADE_AGENT = Neighbour(
    "ip-masq-agent", Home.NODE, "What pods send out of the cluster is translated to the node's address."
)
LOCAL_DNS = Neighbour(
    "NodeLocal DNSCache", Home.NODE, "DNS queries to the cache on the node are not tracked, and so not translated."
)
LIBVIRT = Neighbour("libvirt", Home.NODE, "Traffic of virtual machines on the node is forwarded and translated.")

_CHAINS = (
    ("PROXY_INIT_", LINKERD),
    ("CONSUL_", CONSUL),
    ("KUMA_MESH_", KUMA),
    ("OSM_PROXY_", OSM),
    ("APPMESH_", APP_MESH),
    ("AZWI_PROXY_", AZURE_IDENTITY),
    ("aad-metadata", METADATA),
    ("DOCKER_OUTPUT", DOCKER_DNS),
    ("DOCKER_POSTROUTING", DOCKER_DNS),
    ("KUBEVIRT_", KUBEVIRT),
    ("ts-", TAILSCALE),
    ("KUBE-ROUTER-", KUBE_ROUTER),
    ("KUBE-NWPLCY-", KUBE_ROUTER),
    ("KUBE-POD-FW-", KUBE_ROUTER),
    ("KUBE-", KUBE_PROXY),
    ("DOCKER-", DOCKER),
    ("NETAVARK", PODMAN),
    ("ufw-", UFW),
    ("ufw6-", UFW),
    ("f2b-", FAIL2BAN),
    ("CILIUM_", CILIUM),
    ("OLD_CILIUM_", CILIUM),
    ("cali-", CALICO),
    ("ANTREA-", ANTREA),
    ("FLANNEL-", FLANNEL),
    ("WEAVE", WEAVE),
    ("CNI-", CNI_PLUGINS),
    ("AWS-SNAT-CHAIN-", AWS_CNI),
    ("AWS-CONNMARK-CHAIN-", AWS_CNI),
    ("AZURE-NPM", AZURE_NPM),
    ("IP-MASQ", MASQUERADE_AGENT),
    ("LIBVIRT_", LIBVIRT),
)
"""How the names of a maker's chains begin. The first that fits counts."""

_FIREWALLD = re.compile(
    r"(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)_(direct|(IN_|OUT_)?(ZONES|POLICIES)\w*)"
    r"|(IN|FWDI|FWDO|PRE|POST)_[a-z]\w*"
)

_TABLES = {
    "consul_tproxy": CONSUL,
    "kube-proxy": KUBE_PROXY,
    "docker-bridges": DOCKER,
    "netavark": PODMAN,
    "firewalld": FIREWALLD,
    "calico": CALICO,
    "flannel-ipv4": FLANNEL,
    "flannel-ipv6": FLANNEL,
    "cni_hostport": CNI_PLUGINS,
    "cni_plugins_masquerade": CNI_PLUGINS,
    "libvirt_network": LIBVIRT,
    "f2b-table": FAIL2BAN,
}
"""Tables of nftables that are one maker's."""

_CALL = re.compile(r"(?:^|\s)(?:-j|-g|jump|goto)\s+(\S+)")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_TO_METADATA = re.compile(r"169\.254\.169\.254(?!\d).*\b(DNAT|REDIRECT|dnat|redirect)\b")
_LOCAL_DNS = "NodeLocal DNS Cache"


def neighbour_of(origin: Origin) -> Neighbour | None:
    """Who made a rule, by its table, its chain, the chain that it calls, and its words; None where nobody known did."""
    found = maker(origin.table, origin.chain)
    if found is None and (call := _CALL.search(_QUOTED.sub('""', origin.text))):
        found = maker(origin.table, call[1])
    if found is None and _LOCAL_DNS in origin.text:
        return LOCAL_DNS
    return METADATA if found is None and _TO_METADATA.search(origin.text) else found


def prefixes_of(neighbour: Neighbour) -> tuple[str, ...]:
    """How the names of a maker's chains begin."""
    return tuple(prefix for prefix, each in _CHAINS if each is neighbour)


def maker(table: str, chain: str) -> Neighbour | None:
    """Who made a chain, by the names of its table and its own."""
    if table in _TABLES:
        return _TABLES[table]
    if chain == "DOCKER":
        return DOCKER
    if _FIREWALLD.fullmatch(chain):
        return FIREWALLD
    return next((neighbour for prefix, neighbour in _CHAINS if chain.startswith(prefix)), None)


def neighbours(tables: Iterable[Table]) -> dict[Neighbour, tuple[Origin, ...]]:
    """The makers of rules in these tables, in the order in which they are met, each with its rules."""
    found: dict[Neighbour, list[Origin]] = {}
    for table in tables:
        for chain in table.chains.values():
            for rule in chain.rules:
                neighbour = neighbour_of(rule.origin)
                if neighbour is not None:
                    found.setdefault(neighbour, []).append(rule.origin)
    return {neighbour: tuple(origins) for neighbour, origins in found.items()}
