"""A second network namespace beside the current one, joined to it by veth, for the time of a context.

It has no name: a descriptor of this process holds it, so that it, its link and every route over that link are gone with
the process, however that ends.
"""

from __future__ import annotations

# The C module, as in netlink.
import _socket
import os
import time
from ipaddress import IPv4Address

from istio_init.errors import IstioInitError, ToolError
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import is_usable
from istio_init.system import namespaces, netlink
from istio_init.system.places import Place
from istio_init.system.spots import Ground

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, TypeVar

    from pyroute2 import IPRoute

    T = TypeVar("T")

OUTER = "neighbour"
"""The link's name in the second namespace."""

PATIENCE = 1.0
"""Seconds for a link to come up."""

NO_DAD = 0x02
"""IFA_F_NODAD: an IPv6 address serves at once (linux/if_addr.h)."""

NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}
WHOLE = {4: 32, 6: 128}
DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
LAST_RESORT = 0xFFFFFFFE
"""The metric of a route that is chosen where no other one is."""

IPV6_SETTINGS = {"disable_ipv6": "0", "addr_gen_mode": "1", "accept_dad": "0", "accept_ra": "0"}
"""No address of its own making, no waiting, no listening to routers (kernel: ip-sysctl)."""


class _Gone(Exception):
    """There is no such link any more."""


class Neighbour:
    """The namespace that stands for the rest of the world. Enter it as a context.

    Raises:
        IstioInitError: it cannot be made; says why. Nothing is left of it then.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._home = self._number = -1
        self._place = Place(OUTER)

    def __enter__(self) -> Self:
        from pyroute2.netlink.exceptions import NetlinkError

        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._place = Place("the second namespace", namespaces.new_network())
            self.call(self._begin)
            self._join()
            self.call(self._finish)
            _wait_until_up(self.ground.interface)
            self.call(lambda: _wait_until_up(OUTER))
            self._check_answers()
        except NetlinkError as error:
            self._close()
            raise ToolError(f"no second namespace: {error.args[-1]}") from error
        except _Gone:
            self._close()
            raise ToolError("no second namespace: its interface was renamed, moved or deleted meanwhile") from None
        except OSError as error:
            self._close()
            raise ToolError(f"no second namespace: {error.strerror}") from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the second namespace."""
        return namespaces.call_in(self._place, function)

    def is_joined(self) -> bool:
        """Whether the link is where it was put, under its name and with its addresses, and carries packets."""
        try:
            number = _socket.if_nametoindex(self.ground.interface)
        except OSError:
            return False
        held = {each.address for each in netlink.addresses() if each.index == number}
        return number == self._number and held >= {link.ours for link in self.ground.links.values()}

    def _begin(self) -> None:
        """Make the link, whose other end appears in the namespace under test."""
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            ip.link("set", index=1, state="up")
            peer = {"ifname": self.ground.interface, "net_ns_fd": self._home}
            ip.link("add", ifname=OUTER, kind="veth", peer=peer)

    def _join(self) -> None:
        """Number the end in the namespace under test, and lead the further addresses over it."""
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            index = self._number = _index(ip, self.ground.interface)
            _settle(self.ground.interface)
            for family, link in self.ground.links.items():
                _address(ip, index, str(link.ours), link.prefix_length, family)
            ip.link("set", index=index, state="up")
            for address in self.ground.further:
                family = Family.IPV4 if isinstance(address, IPv4Address) else Family.IPV6
                destination = f"{address}/{WHOLE[address.version]}"
                gateway = str(self.ground.links[family].theirs)
                ip.route("add", dst=destination, gateway=gateway, oif=index, family=NUMBERS[family])
            if any(address.version == 6 for address in self.ground.beyond):
                # IPv4 takes what a socket is bound to for a route; IPv6 wants one, which nobody else is to choose.
                ip.route("add", dst=DEFAULT[6], oif=index, priority=LAST_RESORT, family=NUMBERS[Family.IPV6])

    def _finish(self) -> None:
        """Number this end, which has the further addresses, too, and sends everything to the other."""
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            index = _index(ip, OUTER)
            _settle(OUTER)
            for family, link in self.ground.links.items():
                _address(ip, index, str(link.theirs), link.prefix_length, family)
            for address in self.ground.further:
                family = Family.IPV4 if isinstance(address, IPv4Address) else Family.IPV6
                _address(ip, 1, str(address), WHOLE[address.version], family)
            for address in self.ground.beyond:
                family = Family.IPV4 if isinstance(address, IPv4Address) else Family.IPV6
                _address(ip, index, str(address), WHOLE[address.version], family)
            ip.link("set", index=index, state="up")
            for family, link in self.ground.links.items():
                destination = DEFAULT[link.ours.version]
                route = {"gateway": str(link.ours), "oif": index, "prefsrc": str(link.theirs)}
                ip.route("add", dst=destination, family=NUMBERS[family], **route)

    def _check_answers(self) -> None:
        """Raise where what the namespace answers from its addresses would not leave over the link."""
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        own = [each.address for each in netlink.addresses() if is_usable(each.address)]
        with IPRoute() as ip:
            index = _index(ip, self.ground.interface)
            for family, link in self.ground.links.items():
                for address in [each for each in own if each.version == link.ours.version]:
                    route = {"dst": str(link.theirs), "src": str(address), "family": NUMBERS[family]}
                    try:
                        leads_here = ip.route("get", **route)[0].get_attr("RTA_OIF") == index
                    except NetlinkError:
                        leads_here = False
                    if not leads_here:
                        raise ToolError(f"a routing rule leads what {address} answers elsewhere (ip rule)")

    def _close(self) -> None:
        """Remove the link and let the namespace go."""
        if self._home < 0:
            return
        try:
            if self._place.netns is not None:
                self.call(_unlink)
        except (IstioInitError, OSError):
            pass  # It goes with the namespace, only a little later.
        finally:
            os.close(self._home)
            self._home = -1
            self._place.close()


def _wait_until_up(interface: str) -> None:
    """Give a link the moment that it takes to carry packets; until then it drops them."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            [link] = ip.link("get", ifname=interface)
            if link.get_attr("IFLA_OPERSTATE") == "UP":
                return
            time.sleep(0.002)


def _index(ip: IPRoute, interface: str) -> int:
    found = ip.link_lookup(ifname=interface)
    if len(found) != 1:
        raise _Gone(interface)
    return int(found[0])


def _unlink() -> None:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ip:
        try:
            for index in ip.link_lookup(ifname=OUTER):
                ip.link("del", index=index)
        except NetlinkError:
            pass  # As above.


def _address(ip: IPRoute, index: int, address: str, length: int, family: Family) -> None:
    more = {"flags": NO_DAD} if family is Family.IPV6 else {}
    ip.addr("add", index=index, address=address, prefixlen=length, family=NUMBERS[family], **more)


def _settle(interface: str) -> None:
    """Have IPv6 do nothing of its own accord on an interface, as far as it can be told so."""
    for name, value in IPV6_SETTINGS.items():
        try:
            with open(f"/proc/sys/net/ipv6/conf/{interface}/{name}", "w") as file:
                file.write(value)
        except OSError:
            continue
