"""Why a rule exists: every kind of rule that a sidecar's redirection consists of, by a stable name.

The policy names the role of each rule that it builds, and `istio_init.mesh.roles.recognise` gives live rules their
roles back; `istio_init.mesh.roles.catalogue` has the explanation of each. The names
stand here, in a lower room than what explains them, as an entry of a chain carries one.
"""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """A reason for a rule; the value is its name in reports."""

    EXCLUDED_INTERFACE_IN = "excluded-interface-in"
    EXCLUDED_INTERFACE_OUT = "excluded-interface-out"
    VIRTUAL_INTERFACE_RETURN = "virtual-interface-return"
    VIRTUAL_INTERFACE_CAPTURE = "virtual-interface-capture"

    DROP_INVALID_JUMP = "drop-invalid-jump"
    DROP_INVALID = "drop-invalid"

    INBOUND_JUMP = "inbound-jump"
    INBOUND_TUNNEL_PORT = "inbound-tunnel-port"
    INBOUND_EXCLUDED_PORT = "inbound-excluded-port"
    INBOUND_CAPTURE = "inbound-capture"
    INBOUND_REDIRECT = "inbound-redirect"

    TPROXY_DIVERT = "tproxy-divert"
    TPROXY_DIVERT_MARK = "tproxy-divert-mark"
    TPROXY_DIVERT_ACCEPT = "tproxy-divert-accept"
    TPROXY_CAPTURE = "tproxy-capture"
    TPROXY_MARKED = "tproxy-marked"
    TPROXY_PASSTHROUGH = "tproxy-passthrough"
    TPROXY_APP_LOOPBACK = "tproxy-app-loopback"
    TPROXY_SAVE_MARK = "tproxy-save-mark"
    TPROXY_RESTORE_MARK = "tproxy-restore-mark"
    TPROXY_LOOPBACK_MARKED = "tproxy-loopback-marked"
    TPROXY_PROXY_LOOPBACK = "tproxy-proxy-loopback"

    OUTBOUND_JUMP = "outbound-jump"
    OUTBOUND_EXCLUDED_PORT = "outbound-excluded-port"
    OUTBOUND_PASSTHROUGH = "outbound-passthrough"
    PROXY_TO_SELF = "proxy-to-self"
    APP_LOOPBACK = "app-loopback"
    PROXY_BYPASS = "proxy-bypass"
    OWNER_GROUP_EXCLUDED = "owner-group-excluded"
    OWNER_GROUPS_INCLUDED = "owner-groups-included"
    OUTBOUND_LOOPBACK = "outbound-loopback"
    OUTBOUND_EXCLUDED_RANGE = "outbound-excluded-range"
    OUTBOUND_INCLUDED_PORT = "outbound-included-port"
    OUTBOUND_CAPTURE_ALL = "outbound-capture-all"
    OUTBOUND_INCLUDED_RANGE = "outbound-included-range"
    OUTBOUND_REDIRECT = "outbound-redirect"

    DNS_JUMP = "dns-jump"
    DNS_REDIRECT = "dns-redirect"
    DNS_ZONES_OUT_JUMP = "dns-zones-out-jump"
    DNS_ZONES_IN_JUMP = "dns-zones-in-jump"
    DNS_ZONE_PROXY_QUERY = "dns-zone-proxy-query"
    DNS_ZONE_PROXY_ANSWER = "dns-zone-proxy-answer"
    DNS_ZONE_APP_QUERY = "dns-zone-app-query"
    DNS_ZONE_SERVER_ANSWER = "dns-zone-server-answer"

    OLDER_DROP_INVALID = "older-drop-invalid"
    OLDER_DNS_PROXY_BYPASS = "older-dns-proxy-bypass"
    OLDER_DNS_REDIRECT = "older-dns-redirect"
    OLDER_DNS_ZONE = "older-dns-zone"
    OLDER_FINAL_RETURN = "older-final-return"

    AMBIENT_JUMP = "ambient-jump"
    AMBIENT_MARK_SAVE = "ambient-mark-save"
    AMBIENT_MARK_RESTORE = "ambient-mark-restore"
    AMBIENT_PROBE = "ambient-probe"
    AMBIENT_PROBE_ANSWER = "ambient-probe-answer"
    AMBIENT_VIRTUAL_INTERFACE = "ambient-virtual-interface"
    AMBIENT_VIRTUAL_INTERFACE_RETURN = "ambient-virtual-interface-return"
    AMBIENT_INBOUND = "ambient-inbound"
    AMBIENT_OUTBOUND = "ambient-outbound"
    AMBIENT_DNS = "ambient-dns"
    AMBIENT_DNS_ZONE = "ambient-dns-zone"
    AMBIENT_ANSWER = "ambient-answer"
    AMBIENT_SELF = "ambient-self"

    __hash__ = object.__hash__
