"""What a configuration means in the namespace that the process is in: its addresses and name servers decide too."""

from __future__ import annotations

from istio_init.errors import IstioInitError
from istio_init.mesh.meaning import Meaning, Note, resolve, words_of
from istio_init.mesh.policy import sidecar
from istio_init.stores.programmer import Wanted
from istio_init.system import netlink
from istio_init.system.resolv import MOST, name_servers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from istio_init.config.model import Config
    from istio_init.system.places import Place

NOTHING = Wanted()
"""What a clean-up wants."""


def wanted(config: Config, place: Place, warn: Callable[[str], None]) -> Wanted:
    """The rules and the routing that a configuration means here.

    Raises:
        IstioInitError: no address of the namespace can be used.
    """
    addresses = [each.address for each in netlink.addresses()]
    servers = name_servers(place.resolv_conf, place.root) if config.redirect_dns else ()
    if len(servers) == MOST:
        warn(f"{place.resolv_conf} names {MOST} servers or more: DNS capture knows the first {MOST}")
    meaning = resolve(config, addresses, servers)
    if Note.NO_ADDRESS in meaning.notes:
        found = ", ".join(map(str, addresses)) or "none"
        raise IstioInitError(
            f"{place.label}: no local address that could be captured (addresses: {found})",
            fix="run after the network is set up; loopback and link-local addresses do not count",
        )
    for note in meaning.notes:
        if (words := words_of(note, config)) is not None:
            warn(f"{place.label}: {words}")
    if Note.DNS_CAPTURE_OFF in meaning.notes:
        warn(f"DNS capture is off: {place.resolv_conf} names no server; --capture-all-dns captures without one")
    elif config.redirect_dns and place.own_files and not config.capture_all_dns:
        warn(f"{place.label}: DNS servers are taken from {place.resolv_conf}, which may not be the pod's")
    if meaning not in _LAST:
        config, around = meaning.config, meaning.around
        _LAST.clear()
        stated = sidecar.clauses(config, around)
        _LAST[meaning] = Wanted(stated, around.families, sidecar.routing(config, around), config)
    return _LAST[meaning]


_LAST: dict[Meaning, Wanted] = {}
"""The last answer: many namespaces programmed in one run mostly want the same."""
