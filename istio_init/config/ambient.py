"""The configuration of a pod's redirection in an ambient mesh: what its policy is a function of."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from istio_init.netfilter.family import Family
from istio_init.value import Value


class AmbientConfig(Value):
    """What ztunnel captures of a pod. The defaults are those of Istio's CNI agent."""

    redirect_dns: bool = True
    """The annotation ``ambient.istio.io/dns-capture``."""

    ipv6: bool = True
    """Off where the node has IPv6 off."""

    bypass_inbound_capture: bool = False
    """The annotation ``ambient.istio.io/bypass-inbound-capture``."""

    virtual_interfaces: tuple[str, ...] = ()
    """The annotation ``istio.io/reroute-virtual-interfaces``: what enters via these is outbound traffic."""

    probe_ipv4: IPv4Address = IPv4Address("169.254.7.127")
    """The address that the kubelet's probes come from, once the node has translated it."""

    probe_ipv6: IPv6Address = IPv6Address("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that are programmed."""
        return (Family.IPV4, Family.IPV6) if self.ipv6 else (Family.IPV4,)
