"""What the configuration of an ambient pod means in the namespace that the process is in."""

from __future__ import annotations

from istio_init.mesh.policy import ambient
from istio_init.mesh.roles.recognise import MeshKind
from istio_init.mesh.routing import Routing
from istio_init.netfilter.family import Family
from istio_init.stores.programmer import Wanted
from istio_init.system import routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.config.ambient import AmbientConfig
    from istio_init.system.places import Place


def wanted_ambient(config: AmbientConfig, place: Place, warn: Callable[[str], None]) -> Wanted:
    """The rules and the routing that a configuration means here: nothing of IPv6 where the kernel has none of it."""
    if config.ipv6 and not routing.ipv6_in_kernel():
        warn(f"{place.label}: the kernel has IPv6 off; nothing of it is captured, as with --ipv6=false")
        config = config.replace(ipv6=False)
    on_lo = not config.ipv6 or routing.ipv6_on_lo()
    if not on_lo:
        warn(f"{place.label}: IPv6 is off on lo; its rules are written, and no route to deliver it")
    key = config, on_lo
    if key not in _LAST:
        _LAST.clear()
        routes = [
            route.replace(has_route=on_lo or route.family is not Family.IPV6)
            for route in ambient.routing(config).mark_routes
        ]
        stated = ambient.clauses(config)
        _LAST[key] = Wanted(stated, config.families, Routing(tuple(routes)), config, MeshKind.AMBIENT)
    return _LAST[key]


_LAST: dict[tuple[AmbientConfig, bool], Wanted] = {}
"""The last answer: many namespaces programmed in one run mostly want the same."""
