"""Every match that is known, by name: the one place in which a match is added."""

from __future__ import annotations

from istio_init.dialects.iptables.lower_connection import connmark, conntrack
from istio_init.dialects.iptables.lower_extension import Extension, cannot_tell, listing
from istio_init.dialects.iptables.lower_host import addrtype, mac, owner, policy, recent, rpfilter, set_match, socket
from istio_init.dialects.iptables.lower_packet import (
    dscp,
    ecn,
    hop_limit,
    icmp,
    icmp6,
    iprange,
    length,
    mark,
    multiport,
    pkttype,
    ports,
    tcp,
    tos,
)
from istio_init.netfilter.rules import Note, Openness

_OPEN = cannot_tell(Openness.OPEN)
_OPEN_OF_CONNECTION = cannot_tell(Openness.OPEN, tracks=True)
_NOT_GIVEN = cannot_tell(Openness.NOT_GIVEN)

MATCHES: dict[str, Extension] = {
    "addrtype": Extension(addrtype),
    "ah": _NOT_GIVEN,
    "bpf": _OPEN,
    "cgroup": _OPEN,
    "cluster": _OPEN_OF_CONNECTION,
    "comment": Extension(lambda _: ()),
    "connbytes": _OPEN_OF_CONNECTION,
    "connlabel": cannot_tell(Openness.NOT_MODELLED, tracks=True),
    "connlimit": _OPEN_OF_CONNECTION,
    "connmark": Extension(connmark, tracks=True),
    "conntrack": Extension(conntrack, tracks=True),
    "cpu": _OPEN,
    "dccp": Extension(ports),
    "devgroup": _NOT_GIVEN,
    "dscp": Extension(dscp),
    "ecn": Extension(ecn),
    "esp": _NOT_GIVEN,
    "hashlimit": _OPEN,
    "helper": _OPEN_OF_CONNECTION,
    "hl": Extension(hop_limit),
    "icmp": Extension(icmp),
    "icmp6": Extension(icmp6),
    "iprange": Extension(iprange),
    "length": Extension(length),
    "limit": _OPEN,
    "listing": Extension(listing),
    "mac": Extension(mac),
    "mark": Extension(mark),
    "multiport": Extension(multiport),
    "nfacct": Extension(lambda asked: (Note(asked.text),)),
    "osf": _NOT_GIVEN,
    "owner": Extension(owner),
    "pkttype": Extension(pkttype),
    "policy": Extension(policy),
    "quota": _OPEN,
    "rateest": _OPEN,
    "realm": _NOT_GIVEN,
    "recent": Extension(recent),
    "rpfilter": Extension(rpfilter),
    "sctp": Extension(ports),
    "set": Extension(set_match),
    "socket": Extension(socket),
    "state": Extension(conntrack, tracks=True),
    "statistic": _OPEN,
    "string": _OPEN,
    "tcp": Extension(tcp),
    "tcpmss": _NOT_GIVEN,
    "time": _OPEN,
    "tos": Extension(tos),
    "ttl": Extension(hop_limit),
    "u32": _OPEN,
    "udp": Extension(ports),
    "udplite": Extension(ports),
}
"""Any other match is undecided, and its name the cause (iptables-extensions(8) describes them)."""
