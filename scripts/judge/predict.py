"""What the tracer says of a packet that `judge.record` sent."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from istio_init.netfilter.host import Host
from istio_init.netfilter.packet import Direction, Packet, first_state
from istio_init.netfilter.protocols import protocol_number
from istio_init.netfilter.stages import Netfilter
from istio_init.trace.describe import filled
from istio_init.trace.result import Trace
from istio_init.trace.tracer import Tracer

LOOSE = "net.netfilter.nf_conntrack_tcp_loose"
PKTTYPES = {None: None, "host": 0, "broadcast": 1, "multicast": 2, "otherhost": 3}


def packet_of(sent: Mapping[str, Any], *, picks_up: bool = True) -> Packet:
    """The packet, as the tracer is asked about it."""
    icmp = "icmp" if sent["family"] == 4 else "ipv6-icmp"
    packet = Packet(
        Direction(sent["direction"]),
        protocol_number(icmp if sent["proto"] == "icmp" else sent["proto"]),
        ip_address(sent["src"]),
        ip_address(sent["dst"]),
        sent["sport"] or 0,
        sent["dport"] or 0,
        sent["uid"],
        sent["gid"],
        sent["interface"],
        sent["mark"],
        tcp_flags=sent["flags"],
        icmp_type=sent["type"],
        icmp_code=sent["code"],
        length=sent["length"],
        ttl=sent["ttl"],
        tos=sent["tos"],
        pkttype=PKTTYPES[sent["pkttype"]],
        priority=sent["priority"] if sent["direction"] == "outbound" else 0,
        bound=sent["bound"],
        leaves_source=sent.get("leaves_source", False) and not (sent.get("transparent") and sent["family"] == 4),
        is_raw=sent["raw"] and sent["direction"] == "outbound",
    )
    return packet.replace(state=first_state(packet, picks_up=picks_up))


class Predictor:
    """Asks the tracer about packets of one rule set."""

    def __init__(self, netfilter: Netfilter, host: Host, sysctls: Mapping[str, int]) -> None:
        self.tracer = Tracer(netfilter, host)
        self._picks_up = bool(sysctls.get(LOOSE, 1))

    def refused(self, sent: Mapping[str, Any]) -> Trace:
        """What becomes of one that was not sent, told as somebody would who does not know that."""
        names = ("direction", "proto", "dst", "dport", "sport", "uid", "gid", "mark", "tos", "type", "code")
        fields = {name: sent[name] for name in names if sent[name] is not None}
        fields["proto"] = "ipv6-icmp" if (sent["proto"], sent["family"]) == ("icmp", 6) else sent["proto"]
        packet, _ = filled(fields, self.tracer.host, self.tracer.departures)
        return self.tracer.trace(packet)

    def trace(self, sent: Mapping[str, Any]) -> Trace:
        """What becomes of a recorded packet."""
        return self.tracer.trace(packet_of(sent, picks_up=self._picks_up))
