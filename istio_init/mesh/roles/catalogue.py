"""The explanation of every role: why such a rule exists, and the options that cause it."""

from __future__ import annotations

from istio_init.dialects.role import Role
from istio_init.value import Value


class Reason(Value):
    """One sentence, and the flags, variables or annotations behind the rule; none where every configuration has it."""

    why: str
    options: tuple[str, ...] = ()


_OWNER_IDS = ("--proxy-uid", "--proxy-gid")
_DNS = ("--redirect-dns", "--capture-all-dns")
_AMBIENT_DNS = ("--redirect-dns", "ambient.istio.io/dns-capture")
_BYPASS = ("--bypass-inbound-capture", "ambient.istio.io/bypass-inbound-capture")
_VIRTUAL = ("--kube-virt-interfaces", "istio.io/reroute-virtual-interfaces")

CATALOGUE: dict[Role, Reason] = {
    Role.EXCLUDED_INTERFACE_IN: Reason(
        "What enters via this interface is not captured.", ("--istio-exclude-interfaces",)
    ),
    Role.EXCLUDED_INTERFACE_OUT: Reason(
        "What leaves via this interface is not captured.", ("--istio-exclude-interfaces",)
    ),
    Role.VIRTUAL_INTERFACE_RETURN: Reason(
        "What else enters from this virtual machine's interface is not inbound traffic of the pod.",
        ("--kube-virt-interfaces",),
    ),
    Role.VIRTUAL_INTERFACE_CAPTURE: Reason(
        "What enters from this virtual machine's interface is its outbound traffic and goes to the proxy.",
        ("--kube-virt-interfaces", "--istio-service-cidr"),
    ),
    Role.DROP_INVALID_JUMP: Reason(
        "Packets that belong to no known connection would otherwise be answered with a reset by the pod.",
        ("--drop-invalid",),
    ),
    Role.DROP_INVALID: Reason("The end of invalid packets.", ("--drop-invalid",)),
    Role.INBOUND_JUMP: Reason(
        "TCP connections to the pod are looked at for inbound capture.", ("--istio-inbound-ports",)
    ),
    Role.INBOUND_TUNNEL_PORT: Reason(
        "HBONE tunnels are addressed to the proxy's own listener and need no redirection.", ("--inbound-tunnel-port",)
    ),
    Role.INBOUND_EXCLUDED_PORT: Reason(
        "Connections to this port reach the pod without the proxy.", ("--istio-local-exclude-ports",)
    ),
    Role.INBOUND_CAPTURE: Reason(
        "Connections to these ports go to the proxy's inbound listener.", ("--istio-inbound-ports",)
    ),
    Role.INBOUND_REDIRECT: Reason(
        "The proxy's inbound listener takes the connection; it asks the kernel for the original destination.",
        ("--inbound-capture-port",),
    ),
    Role.TPROXY_DIVERT: Reason(
        "Packets of connections that the proxy accepted are marked, so that they are delivered locally.",
        ("--istio-inbound-interception-mode",),
    ),
    Role.TPROXY_DIVERT_MARK: Reason(
        "The mark selects the routing table that delivers locally.", ("--istio-inbound-tproxy-mark",)
    ),
    Role.TPROXY_DIVERT_ACCEPT: Reason(
        "Nothing else in this table concerns the packet.", ("--istio-inbound-interception-mode",)
    ),
    Role.TPROXY_CAPTURE: Reason(
        "The proxy's inbound listener takes the connection with both addresses unchanged.",
        ("--istio-inbound-interception-mode", "--inbound-capture-port", "--istio-inbound-tproxy-mark"),
    ),
    Role.TPROXY_MARKED: Reason(
        "Packets that carry the mark already belong to the proxy.", ("--istio-inbound-tproxy-mark",)
    ),
    Role.TPROXY_PASSTHROUGH: Reason(
        "The proxy passing an inbound connection on to the application is not captured again.",
        ("--istio-inbound-interception-mode",),
    ),
    Role.TPROXY_APP_LOOPBACK: Reason(
        "On lo only what the proxy sent to the pod itself is captured, by the mark 1338.",
        ("--istio-inbound-interception-mode",),
    ),
    Role.TPROXY_SAVE_MARK: Reason(
        "The connection remembers the mark, so that answers can be given it.", ("--istio-inbound-tproxy-mark",)
    ),
    Role.TPROXY_RESTORE_MARK: Reason(
        "Answers of captured connections get the mark, so that they are delivered to the proxy.",
        ("--istio-inbound-tproxy-mark",),
    ),
    Role.TPROXY_LOOPBACK_MARKED: Reason(
        "Marked packets on lo are the proxy's already.", ("--istio-inbound-tproxy-mark",)
    ),
    Role.TPROXY_PROXY_LOOPBACK: Reason(
        "What the proxy sends to the pod itself gets the mark 1338, which inbound capture looks for.",
        ("--istio-inbound-interception-mode", *_OWNER_IDS),
    ),
    Role.OUTBOUND_JUMP: Reason("Everything that the pod sends is looked at for outbound capture."),
    Role.OUTBOUND_EXCLUDED_PORT: Reason(
        "Traffic to this port bypasses the proxy.", ("--istio-local-outbound-ports-exclude",)
    ),
    Role.OUTBOUND_PASSTHROUGH: Reason(
        "The proxy passing an inbound connection on to the application, from 127.0.0.6 or ::6, is not captured."
    ),
    Role.PROXY_TO_SELF: Reason(
        "The proxy calling the pod's own service by its address comes back as an inbound connection, so that inbound "
        "policy applies to it.",
        (*_OWNER_IDS, "--inbound-tunnel-port", "--redirect-dns"),
    ),
    Role.APP_LOOPBACK: Reason(
        "The application talking to itself over lo bypasses the proxy.", (*_OWNER_IDS, "--redirect-dns")
    ),
    Role.PROXY_BYPASS: Reason("The proxy's own traffic leaves; captured, it would loop.", _OWNER_IDS),
    Role.OWNER_GROUP_EXCLUDED: Reason(
        "Traffic of this group bypasses the proxy.", ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",)
    ),
    Role.OWNER_GROUPS_INCLUDED: Reason(
        "Traffic of every other group bypasses the proxy.", ("ISTIO_OUTBOUND_OWNER_GROUPS",)
    ),
    Role.OUTBOUND_LOOPBACK: Reason(
        "Traffic to the loopback address bypasses the proxy.", ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",)
    ),
    Role.OUTBOUND_EXCLUDED_RANGE: Reason(
        "Traffic to this range bypasses the proxy.", ("--istio-service-exclude-cidr",)
    ),
    Role.OUTBOUND_INCLUDED_PORT: Reason(
        "Connections to this port go to the proxy, whatever their range.", ("--istio-outbound-ports",)
    ),
    Role.OUTBOUND_CAPTURE_ALL: Reason("Everything that is left goes to the proxy.", ("--istio-service-cidr",)),
    Role.OUTBOUND_INCLUDED_RANGE: Reason("Connections to this range go to the proxy.", ("--istio-service-cidr",)),
    Role.OUTBOUND_REDIRECT: Reason(
        "The proxy's outbound listener takes the connection; it asks the kernel for the original destination.",
        ("--envoy-port",),
    ),
    Role.DNS_JUMP: Reason("DNS queries are looked at before ranges decide.", _DNS),
    Role.DNS_REDIRECT: Reason("Queries go to the proxy's DNS listener on port 15053.", _DNS),
    Role.DNS_ZONES_OUT_JUMP: Reason("DNS packets get their connection tracking zone before they are tracked.", _DNS),
    Role.DNS_ZONES_IN_JUMP: Reason("Answers of DNS servers get their zone before they are tracked.", _DNS),
    Role.DNS_ZONE_PROXY_QUERY: Reason(
        "The proxy's queries to the server are tracked apart from the application's to the proxy.", (*_DNS, *_OWNER_IDS)
    ),
    Role.DNS_ZONE_PROXY_ANSWER: Reason(
        "The proxy's answers are tracked with the application's queries.", (*_DNS, *_OWNER_IDS)
    ),
    Role.DNS_ZONE_APP_QUERY: Reason("The application's queries are tracked with the proxy's answers.", _DNS),
    Role.DNS_ZONE_SERVER_ANSWER: Reason("The server's answers are tracked with the proxy's queries.", _DNS),
    Role.OLDER_DROP_INVALID: Reason("Istio 1.14 to 1.22 dropped invalid packets without a chain.", ("--drop-invalid",)),
    Role.OLDER_DNS_PROXY_BYPASS: Reason(
        "Istio 1.14 to 1.22 let the proxy's DNS queries pass in the built-in chain.", (*_DNS, *_OWNER_IDS)
    ),
    Role.OLDER_DNS_REDIRECT: Reason("Istio 1.14 to 1.22 redirected UDP queries in the built-in chain.", _DNS),
    Role.OLDER_DNS_ZONE: Reason("Istio 1.14 to 1.24 set DNS zones in other chains than today.", _DNS),
    Role.OLDER_FINAL_RETURN: Reason("Some releases ended the list of included ranges so; it changes nothing."),
    Role.AMBIENT_JUMP: Reason("Traffic of a pod in an ambient mesh is looked at; ztunnel on the node is its proxy."),
    Role.AMBIENT_MARK_SAVE: Reason("Connections that ztunnel opened are remembered by its mark."),
    Role.AMBIENT_MARK_RESTORE: Reason("Answers of such connections get the mark, so that they go back to ztunnel."),
    Role.AMBIENT_PROBE: Reason(
        "The kubelet's health probes, which the node sends from this address, bypass ztunnel.", _BYPASS
    ),
    Role.AMBIENT_PROBE_ANSWER: Reason("Traffic to the address that health probes come from bypasses ztunnel."),
    Role.AMBIENT_VIRTUAL_INTERFACE: Reason(
        "What enters from this virtual machine's interface is its outbound traffic and goes to ztunnel's port 15001.",
        _VIRTUAL,
    ),
    Role.AMBIENT_VIRTUAL_INTERFACE_RETURN: Reason(
        "What enters from this virtual machine's interface is not inbound traffic of the pod.", _VIRTUAL
    ),
    Role.AMBIENT_INBOUND: Reason(
        "Inbound connections go to ztunnel: plain text to port 15006, tunnels to 15008.", _BYPASS
    ),
    Role.AMBIENT_OUTBOUND: Reason("Outbound connections go to ztunnel's port 15001."),
    Role.AMBIENT_DNS: Reason("DNS queries go to ztunnel's port 15053.", _AMBIENT_DNS),
    Role.AMBIENT_DNS_ZONE: Reason("ztunnel's own DNS queries are tracked apart from the application's.", _AMBIENT_DNS),
    Role.AMBIENT_ANSWER: Reason("Answers to connections that ztunnel opened are not captured again."),
    Role.AMBIENT_SELF: Reason("The application talking to its own pod over lo bypasses ztunnel."),
}
