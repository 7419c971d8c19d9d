"""What is known of a namespace's rules beside what they are: their roles, and the proxy's ports."""

from __future__ import annotations

from istio_init.mesh.policy.dns import DNS_CAPTURE_PORT
from istio_init.netfilter.family import Family
from istio_init.netfilter.rules import Store
from istio_init.observe.netfilter import STORES
from istio_init.wording.outcomes import PROXY_PORTS
from istio_init.wording.traces import Place, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Config
    from istio_init.dialects.role import Role
    from istio_init.inspector.findings.model import View
    from istio_init.observe.snapshot import Snapshot

FAMILIES = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def reader_of(view: View) -> Reader:
    """What helps to tell of the rules of a namespace."""
    return Reader(roles_by_place(view.snapshot), proxy_ports(view))


def proxy_ports(view: View) -> frozenset[int]:
    """Where the proxy listens, as the configuration behind the rules has it."""
    if view.inferred is None:
        return PROXY_PORTS
    return ports_of(view.inferred.config)


def ports_of(config: Config) -> frozenset[int]:
    """Where the proxy listens by a configuration."""
    own = {config.proxy_port, config.inbound_capture_port, config.inbound_tunnel_port}
    return frozenset(own | {DNS_CAPTURE_PORT})


def roles_by_place(snapshot: Snapshot) -> dict[Place, Role]:
    """Why each rule of the mesh exists."""
    found = {
        (STORES[backend], FAMILIES[family], table.value, chain.name, number): entry.role
        for (backend, family), rules in snapshot.rules.items()
        if backend in STORES
        for table, chain, number, entry in rules.entries()
        if entry.role is not None
    }
    for raised in snapshot.raised:
        for spot, role in raised.roles().items():
            if role is not None:
                found[Store.NFT, spot.family, spot.table, spot.chain, spot.number] = role
    return found
