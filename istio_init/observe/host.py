"""What the current network namespace knows besides rules: interfaces, routing, sockets, settings."""

from __future__ import annotations

from istio_init.errors import IstioInitError
from istio_init.netfilter.host import Host
from istio_init.observe.unread import Part, Unread, Why, unread
from istio_init.system import links, listeners, routes
from istio_init.system.ipsec import Ipsec, ipsec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from istio_init.system.sockets import Socket

    T = TypeVar("T")


def read_host(sockets: Sequence[Socket] | None, *, asks_for_sockets: bool = False) -> tuple[Host, tuple[Unread, ...]]:
    """The host, and what of it could not be read, which is None there.

    ``sockets`` are the namespace's, None where they are not known; ``asks_for_sockets`` says that rules depend on what
    the sockets were told, which is only then asked for.
    """
    left: list[Unread] = []

    def attempt(part: Part, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (IstioInitError, OSError) as error:
            left.append(unread(part, error))
            return None

    interfaces, settings = attempt(Part.INTERFACES, links.links) or ((), None)
    names = {each.index: each.name for each in interfaces}
    waiting = None
    if sockets is not None:
        waiting = listeners.listeners(sockets, listeners.options() if asks_for_sockets else {})
    found = _ipsec()
    if found is not None and found.policies:
        many = "1 policy, which is" if found.policies == 1 else f"{found.policies} policies, which are"
        left.append(Unread(Part.IPSEC, f"{many} not followed", why=Why.NOT_FOLLOWED))
    host = Host(
        links=interfaces,
        rules=attempt(Part.ROUTING_RULES, routes.rules),
        routes=attempt(Part.ROUTING, lambda: routes.routes(names)),
        listeners=waiting,
        connected=listeners.connected(sockets or ()),
        forwards=None if settings is None else links.forwards(settings),
        forwards_from=None if settings is None else settings.forwards,
        reverse_path_filter=None if settings is None else settings.reverse_path_filter,
        route_localnet=None if settings is None else settings.route_localnet,
        accept_local=None if settings is None else settings.accept_local,
        src_valid_mark=None if settings is None else settings.src_valid_mark,
        has_ipsec=None if found is None else found != Ipsec(),
    )
    return host, tuple(left)


def _ipsec() -> Ipsec | None:
    """What IPsec has to do; None where nobody may ask."""
    try:
        return ipsec()
    except OSError:
        return None
