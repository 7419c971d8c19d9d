"""Whether what the rules redirect finds a listener that can take it, and whose that is."""

from __future__ import annotations

from istio_init.config.model import InterceptionMode
from istio_init.dialects.role import Role
from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.model import Finding, View
from istio_init.inspector.findings.rules import limited
from istio_init.mesh.policy.dns import DNS_CAPTURE_PORT
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import is_usable
from istio_init.netfilter.protocols import TCP, protocol_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.observe.snapshot import Listener

OUTBOUND, INBOUND, TUNNEL = 15001, 15006, 15008
"""Where ztunnel listens, and a sidecar's proxy by Istio's defaults."""


def no_listener(view: View) -> Iterator[Finding]:
    """A port that rules redirect to has no TCP listener in the family."""
    if not view.snapshot.is_live:
        return
    missing = [*_of_sidecar(view), *_of_ambient(view)]
    if missing:
        yield Finding(catalogue.NO_LISTENER, limited(missing))


def _ports(view: View) -> Iterator[tuple[int, Role]]:
    """The ports of a sidecar's proxy, each with the role of the rules that redirect to it."""
    config = view.inferred.config if view.inferred else None
    if config is not None and (config.outbound_ranges != () or config.outbound_ports):
        yield config.proxy_port, Role.OUTBOUND_REDIRECT
    if config is not None and config.inbound_ports != ():
        yield config.inbound_capture_port, Role.INBOUND_REDIRECT


def _is_used(view: View, family: Family) -> bool:
    """Whether the pod has an address of a family, or none at all yet: else it has no connections of that family."""
    versions = {each.version for each in view.snapshot.addresses if is_usable(each)}
    return not versions or family.version in versions


def _of_sidecar(view: View) -> Iterator[str]:
    for port, role in _ports(view):
        inbound = role is Role.INBOUND_REDIRECT
        for place in view.with_role(role):
            if _is_used(view, place.family) and not _is_heard(view, port, place.family, inbound=inbound):
                where = f"{place.family.value}, {place}" if place.native else str(place)
                yield f"{_missing(view, port, place.family)}; {where}"


def silent(view: View) -> dict[tuple[Family, ...], list[int]]:
    """The ports that rules redirect to and nothing of the pod's listens on, by the families of which that is true."""
    families: dict[int, list[Family]] = {}
    for port, role in _ports(view):
        for family in dict.fromkeys(place.family for place in view.with_role(role)):
            if _is_used(view, family) and not _is_heard(view, port, family, inbound=role is Role.INBOUND_REDIRECT):
                families.setdefault(port, []).append(family)
    for port, family in _ports_of_ztunnel(view):
        if not _is_heard(view, port, family, inbound=port != OUTBOUND):
            families.setdefault(port, []).append(family)
    found: dict[tuple[Family, ...], list[int]] = {}
    for port, those in families.items():
        found.setdefault(tuple(those), []).append(port)
    return found


def _of_ambient(view: View) -> Iterator[str]:
    """ztunnel's sockets, by family; in a pod without any they may be out of sight."""
    if view.ambient is None:
        return
    for port, family in _ports_of_ztunnel(view):
        if not _is_heard(view, port, family, inbound=port != OUTBOUND):
            yield f"{_missing(view, port, family)}; {family.value}: ztunnel's socket is not there"
    heard = {each.protocol for each in view.snapshot.listeners if each.port == DNS_CAPTURE_PORT}
    for protocol in ("udp", "tcp") if view.ambient.config.redirect_dns else ():
        if protocol not in heard:
            yield f"nothing listens on {protocol} {DNS_CAPTURE_PORT}: ztunnel's socket for DNS is not there"


def _ports_of_ztunnel(view: View) -> Iterator[tuple[int, Family]]:
    if view.ambient is None:
        return
    config = view.ambient.config
    ports = [OUTBOUND, *([] if config.bypass_inbound_capture else [INBOUND]), TUNNEL]
    versions = {address.version for address in view.snapshot.addresses if not address.is_link_local}
    for family in config.families:
        if family.version in versions - _loopback_alone(view):
            yield from ((port, family) for port in ports)


def _loopback_alone(view: View) -> set[int]:
    """The versions of which the pod has no address but on lo."""
    outside = {
        address.version
        for each in view.snapshot.interfaces
        for address in each.addresses
        if not address.is_link_local and not address.is_loopback
    }
    return {4, 6} - outside


def _is_heard(view: View, port: int, family: Family, *, inbound: bool) -> bool:
    return any(hears(view, each, family, inbound=inbound) for each in tcp_on(view, (port,)))


def _missing(view: View, port: int, family: Family) -> str:
    """That nothing listens, or what does and does not hear."""
    others = [str(each) for each in tcp_on(view, (port,))]
    if not others:
        return f"nothing listens on tcp {port}"
    return f"nothing listens on tcp {port} where {family.value} arrives, only {' and '.join(others)}"


def hears(view: View, listener: Listener, family: Family, *, inbound: bool = False) -> bool:
    """Whether redirected connections of a family can reach a listener.

    Outbound ones come to the loopback address, inbound ones to that of the interface (nf_nat_redirect).
    """
    if listener.address.is_unspecified:
        return listener.address.version == family.version or (family is Family.IPV4 and _takes_both(view, listener))
    if listener.address.version != family.version:
        return False
    return listener.address.is_loopback is not inbound


def _takes_both(view: View, listener: Listener) -> bool:
    """Whether a socket on :: takes IPv4, too; where that is not known it mostly does."""
    known = view.snapshot.host.listeners
    if known is None:
        return True
    return any(
        each.takes_ipv4_too
        for each in known
        if each.protocol == protocol_number(listener.protocol)
        and (each.address, each.port) == (listener.address, listener.port)
    )


def tcp_on(view: View, ports: tuple[int, ...]) -> list[Listener]:
    """TCP listeners on some ports."""
    return [each for each in view.snapshot.listeners if each.protocol == "tcp" and each.port in ports]


def not_transparent(view: View) -> Iterator[Finding]:
    """A listener that TPROXY cannot hand connections to."""
    config, known = view.inferred.config if view.inferred else None, view.snapshot.host.listeners
    if config is None or config.mode is not InterceptionMode.TPROXY or config.inbound_ports == () or known is None:
        return
    port = config.inbound_capture_port
    listening = [each for each in known if each.protocol == TCP and each.port == port]
    if not listening or any(each.is_transparent is not False for each in listening):
        return
    evidence = [f"{each}: not transparent" for each in tcp_on(view, (port,))]
    yield Finding(catalogue.NOT_TRANSPARENT, limited(evidence))
