"""The interfaces of the current network namespace, their addresses, and how they are set to treat packets.

Over netlink, because it has everything in one answer and in the kernel's order (linux/if_link.h, if_addr.h).
"""

from __future__ import annotations

import struct
import sys
from ipaddress import ip_address

from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Link
from istio_init.system.netlink import NETLINK_ROUTE, RTM_GETADDR, dump, parse_attributes, text_of, understood
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.netfilter.host import Address

RTM_GETLINK = 18
IFF_UP = 0x1
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFLA_IFNAME, IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_GROUP = 3, 18, 26, 27
IFLA_INFO_KIND, IFLA_INET_CONF = 1, 1
AF_INET = 2
FORWARDING, RP_FILTER, ACCEPT_LOCAL, SRC_VALID_MARK, ROUTE_LOCALNET = 1, 8, 23, 24, 26
"""Places in the list of an interface's IPv4 settings (linux/ip.h, IPV4_DEVCONF_…), counted from 1."""


class Settings(Value):
    """How packets are received, by interface where that counts (ip-sysctl.rst). The settings for all are counted in.

    ``forwards`` is IPv4's by interface, ``forwards_ipv6`` the one that holds for IPv6.
    """

    forwards: Mapping[str, bool] = {}
    forwards_ipv6: bool = False
    reverse_path_filter: Mapping[str, int] = {}
    route_localnet: Mapping[str, bool] = {}
    accept_local: Mapping[str, bool] = {}
    src_valid_mark: Mapping[str, bool] = {}


class _Interface(Value):
    name: str
    index: int
    is_up: bool
    conf: tuple[int, ...]
    type: int
    group: int
    kind: str

    def setting(self, number: int) -> int:
        """One of the IPv4 settings; 0 where IPv4 is off or the kernel does not have it."""
        return self.conf[number - 1] if number <= len(self.conf) else 0


@understood
def links() -> tuple[tuple[Link, ...], Settings]:
    """All interfaces, and their settings.

    Raises:
        OSError: the kernel does not tell.
    """
    interfaces = [_interface(body) for body in dump(NETLINK_ROUTE, RTM_GETLINK, bytes(16))]
    addresses = _addresses()
    found = [
        Link(
            each.name,
            each.index,
            each.is_up,
            tuple(addresses.get(each.index, ())),
            each.type,
            each.group,
            each.kind,
        )
        for each in interfaces
    ]
    return tuple(found), _settings(interfaces)


def _interface(body: bytes) -> _Interface:
    kind_of_link, index, flags = struct.unpack_from("=2xHiI", body)
    attributes = parse_attributes(body, 16)
    name = text_of(attributes[IFLA_IFNAME])
    families = parse_attributes(attributes.get(IFLA_AF_SPEC, b""), 0)
    packed = parse_attributes(families.get(AF_INET, b""), 0).get(IFLA_INET_CONF, b"")
    info = parse_attributes(attributes.get(IFLA_LINKINFO, b""), 0)
    return _Interface(
        name,
        index,
        bool(flags & IFF_UP),
        struct.unpack(f"={len(packed) // 4}i", packed),
        kind_of_link,
        int.from_bytes(attributes.get(IFLA_GROUP, b""), sys.byteorder),
        text_of(info.get(IFLA_INFO_KIND, b"")),
    )


def _addresses() -> dict[int, list[Address]]:
    """The local addresses by interface; of one that has a peer, the address on this side."""
    found: dict[int, list[Address]] = {}
    for body in dump(NETLINK_ROUTE, RTM_GETADDR, bytes(8)):
        (index,) = struct.unpack_from("=4xI", body)
        attributes = parse_attributes(body, 8)
        packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
        if packed and len(packed) in (4, 16):
            found.setdefault(index, []).append(ip_address(packed))
    return found


def _settings(interfaces: list[_Interface]) -> Settings:
    """Both settings count: the greater one of rp_filter, either one of the switches (linux/inetdevice.h)."""

    def either(name: str, number: int) -> dict[str, bool]:
        of_all = _sysctl(f"ipv4/conf/all/{name}") > 0
        return {each.name: of_all or each.setting(number) > 0 for each in interfaces}

    strictest = _sysctl("ipv4/conf/all/rp_filter")
    return Settings(
        forwards={each.name: each.setting(FORWARDING) > 0 for each in interfaces},
        forwards_ipv6=_sysctl("ipv6/conf/all/forwarding") > 0,
        reverse_path_filter={each.name: max(strictest, each.setting(RP_FILTER)) for each in interfaces},
        route_localnet=either("route_localnet", ROUTE_LOCALNET),
        accept_local=either("accept_local", ACCEPT_LOCAL),
        src_valid_mark=either("src_valid_mark", SRC_VALID_MARK),
    )


def forwards(settings: Settings) -> dict[Family, bool]:
    """Whether packets are forwarded, by family; IPv4 is missing where it depends on the interface, lo aside."""
    ipv4 = {does for name, does in settings.forwards.items() if name != "lo"} or {False}
    found = {Family.IPV4: ipv4.pop()} if len(ipv4) == 1 else {}
    return {**found, Family.IPV6: settings.forwards_ipv6}


def _sysctl(path: str) -> int:
    """A setting below /proc/sys/net, which shows the namespace of whoever opens it; 0 where there is none."""
    try:
        with open(f"/proc/sys/net/{path}") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0
