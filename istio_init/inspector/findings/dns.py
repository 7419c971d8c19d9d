"""Whether the queries of the pod are captured, and find a listener."""

from __future__ import annotations

from istio_init.inspector.findings import catalogue
from istio_init.inspector.findings.listening import hears
from istio_init.inspector.findings.model import Finding, View
from istio_init.inspector.findings.rules import half_applied
from istio_init.mesh.policy.dns import DNS_CAPTURE_PORT
from istio_init.netfilter.family import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address


def queries(view: View) -> Iterator[Finding]:
    """Servers that are not captured, and a DNS listener that is not there."""
    inferred = view.inferred
    if inferred is None or not inferred.config.redirect_dns or not view.snapshot.is_live:
        return
    named, captured = view.snapshot.dns_servers, inferred.around.dns_servers
    if missed_servers(view) and not (not captured and any(half_applied(view))):
        yield Finding(
            catalogue.DNS_SERVERS_DIFFER,
            (
                f"resolv.conf names {', '.join(sorted(map(str, named)))}",
                f"rules name {', '.join(sorted(map(str, captured))) or 'none'}",
            ),
        )
    missing = [
        f"nothing listens on {protocol} {DNS_CAPTURE_PORT}{where}"
        for protocol in ("udp", "tcp")
        if (where := _unheard(view, protocol)) is not None
    ]
    is_asked = not view.snapshot.knows_servers or any(each in captured for each in named)
    if missing and (inferred.config.capture_all_dns or (captured and is_asked)):
        yield Finding(catalogue.NO_DNS_LISTENER, tuple(missing))


def _unheard(view: View, protocol: str) -> str | None:
    """Where queries by a protocol find no listener: an ending, empty for everywhere; None where they find one."""
    assert view.inferred is not None
    listening = [each for each in view.snapshot.listeners if (each.protocol, each.port) == (protocol, DNS_CAPTURE_PORT)]
    heard = [family for family in Family if any(hears(view, each, family) for each in listening)]
    asked = {server.version for server in view.snapshot.dns_servers if server in view.inferred.around.dns_servers}
    lost = [family for family in view.families if family.version in asked and family not in heard]
    if not heard:
        return ""
    return f" where {lost[0].value} arrives" if lost else None


def missed_servers(view: View) -> tuple[IPv4Address | IPv6Address, ...]:
    """The name servers in use whose queries the rules, which capture others', do not."""
    inferred = view.inferred
    if inferred is None or not inferred.config.redirect_dns or inferred.config.capture_all_dns:
        return ()
    if not view.snapshot.is_live or not view.snapshot.knows_servers:
        return ()
    captured = inferred.around.dns_servers
    relevant = [each for each in view.snapshot.dns_servers if each.version == 4 or inferred.around.ipv6]
    return tuple(each for each in relevant if each not in captured)
