"""The configuration of one sidecar's redirection, fully parsed: what the policy is a function of."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from istio_init.dialects.iptables.matches import IdRange, IPNetwork, PortRange
from istio_init.netfilter.family import Family
from istio_init.value import Value


class InterceptionMode(Enum):
    """How inbound connections reach the proxy."""

    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"


class Everything(Enum):
    """The wildcard ``*`` of an include list."""

    ALL = "*"


ALL = Everything.ALL


class Config(Value):
    """What is captured, and for which proxy. The defaults are those of ``istio-iptables`` without arguments."""

    proxy_uids: tuple[IdRange, ...] = (IdRange(1337, 1337),)
    proxy_gids: tuple[IdRange, ...] = (IdRange(1337, 1337),)
    proxy_port: int = 15001
    inbound_capture_port: int = 15006
    inbound_tunnel_port: int = 15008
    mode: InterceptionMode = InterceptionMode.REDIRECT
    inbound_ports: Everything | tuple[PortRange, ...] = ()
    inbound_exclude_ports: tuple[PortRange, ...] = ()
    outbound_ranges: Everything | tuple[IPNetwork, ...] = ()
    outbound_exclude_ranges: tuple[IPNetwork, ...] = ()
    outbound_ports: tuple[PortRange, ...] = ()
    outbound_exclude_ports: tuple[PortRange, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    owner_groups: Everything | tuple[IdRange, ...] = ALL
    owner_groups_exclude: tuple[IdRange, ...] = ()
    tproxy_mark: int = 1337
    tproxy_table: int = 133
    redirect_dns: bool = False
    capture_all_dns: bool = False
    drop_invalid: bool = False
    dual_stack: bool = False
    loopback_cidr: IPv4Network = IPv4Network("127.0.0.1/32")


class Surroundings(Value):
    """The facts of a namespace that the policy depends on besides its configuration."""

    ipv6: bool = False
    """Whether IPv6 is captured too; see `istio_init.mesh.policy.sidecar.captures_ipv6`."""

    dns_servers: tuple[IPv4Address | IPv6Address, ...] = ()
    """The name servers of resolv.conf, in its order."""

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that are programmed."""
        return (Family.IPV4, Family.IPV6) if self.ipv6 else (Family.IPV4,)
