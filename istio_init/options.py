"""The option table: every flag and environment variable, defined once and used by every command and by the docs."""

from __future__ import annotations

from istio_init.value import Value


class Option(Value):
    """One option of ``istio-iptables``.

    ``kind`` names its grammar (see `istio_init.config.parse`). ``field`` is the field of `Config` (of `AmbientConfig`
    for those of an ambient mesh) that it sets, None
    where it makes the drop-in act otherwise. ``default`` is ``istio-iptables``' own; ``apply_default`` that of Istio's
    injection template where it differs. An option without ``short`` has only its long flag, one without ``flag`` only
    its environment variables, which are read in order.
    """

    flag: str | None
    short: str | None
    env: tuple[str, ...]
    kind: str
    field: str | None
    default: str
    group: str
    help: str
    apply_default: str | None = None

    @property
    def name(self) -> str:
        """How messages call it: its flag, else its first environment variable."""
        return self.flag or self.env[0]

    @property
    def is_flag(self) -> bool:
        """Whether the flag takes no value."""
        return self.kind == "boolean"

    def default_for(self, *, apply: bool) -> str:
        """The value that holds when nothing is given."""
        return self.apply_default if apply and self.apply_default is not None else self.default


def _option(
    flag: str, short: str | None, kind: str, field: str | None, default: str, group: str, help: str, **more: object
) -> Option:
    env = (flag.removeprefix("--").replace("-", "_").upper(),)
    values = {"env": env, **more}
    return Option(flag, short, kind=kind, field=field, default=default, group=group, help=help, **values)  # type: ignore[arg-type]


INBOUND = "Inbound traffic"
OUTBOUND = "Outbound traffic"
PROXY = "The proxy"
DNS = "DNS"
TPROXY = "TPROXY mode"
NETWORK = "Interfaces and families"
BEHAVIOUR = "What a run does"
LOGGING = "Logging"

# fmt: off
OPTIONS: tuple[Option, ...] = (
    _option("--istio-inbound-ports", "-b", "ports_or_all", "inbound_ports", "", INBOUND,
            "Ports whose connections go to the proxy; * for all, empty for none.", apply_default="*"),
    _option("--istio-local-exclude-ports", "-d", "ports", "inbound_exclude_ports", "", INBOUND,
            "Ports left out; counts only when all are included.", apply_default="15090,15021,15020"),
    _option("--inbound-capture-port", "-z", "port", "inbound_capture_port", "15006", INBOUND,
            "Port of the proxy's inbound listener."),
    _option("--inbound-tunnel-port", "-e", "port", "inbound_tunnel_port", "15008", INBOUND,
            "Port of HBONE tunnels, which is never redirected."),
    _option("--istio-inbound-interception-mode", "-m", "mode", "mode", "REDIRECT", INBOUND,
            "REDIRECT, or TPROXY to keep the client's address."),
    _option("--istio-service-cidr", "-i", "ranges_or_all", "outbound_ranges", "", OUTBOUND,
            "Ranges whose traffic goes to the proxy; * for all, empty for none.", apply_default="*"),
    _option("--istio-service-exclude-cidr", "-x", "ranges", "outbound_exclude_ranges", "", OUTBOUND,
            "Ranges that bypass the proxy."),
    _option("--istio-outbound-ports", "-q", "ports", "outbound_ports", "", OUTBOUND,
            "Ports that go to the proxy whatever the range."),
    _option("--istio-local-outbound-ports-exclude", "-o", "ports", "outbound_exclude_ports", "", OUTBOUND,
            "Ports that bypass the proxy, TCP and UDP."),
    Option(None, None, ("ISTIO_OUTBOUND_OWNER_GROUPS",), "owners_or_all", "owner_groups", "*", OUTBOUND,
           "Groups whose traffic is captured; * for all, at most 49."),
    Option(None, None, ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",), "owners", "owner_groups_exclude", "", OUTBOUND,
           "Groups that bypass the proxy; counts only when all are included."),
    Option(None, None, ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",), "loopback", "loopback_cidr", "127.0.0.1/32", OUTBOUND,
           "What counts as IPv4 loopback; a part of 127.0.0.0/8."),
    _option("--envoy-port", "-p", "port", "proxy_port", "15001", PROXY,
            "Port of the proxy's outbound listener.", env=()),
    _option("--proxy-uid", "-u", "users", "proxy_uids", "", PROXY,
            "Users that the proxy runs as; unset: the user of $ENVOY_USER, else 1337."),
    _option("--proxy-gid", "-g", "groups", "proxy_gids", "", PROXY,
            "Groups that the proxy runs as; unset: the same numbers as its users."),
    Option(None, None, ("ENVOY_USER",), "account", None, "istio-proxy", PROXY,
           "Account whose user id is the proxy's when none is given."),
    _option("--redirect-dns", None, "boolean", "redirect_dns", "false", DNS,
            "Send queries to resolv.conf's servers to the proxy's DNS listener.",
            env=("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE")),
    _option("--capture-all-dns", None, "boolean", "capture_all_dns", "false", DNS,
            "With --redirect-dns: queries to any server."),
    _option("--istio-inbound-tproxy-mark", "-t", "mark", "tproxy_mark", "1337", TPROXY,
            "Packet mark of captured connections."),
    _option("--istio-inbound-tproxy-route-table", "-r", "table", "tproxy_table", "133", TPROXY,
            "Routing table that delivers marked packets locally."),
    _option("--istio-exclude-interfaces", "-c", "interfaces", "exclude_interfaces", "", NETWORK,
            "Interfaces whose traffic is not captured."),
    _option("--kube-virt-interfaces", "-k", "interfaces", "virtual_interfaces", "", NETWORK,
            "Interfaces whose inbound traffic is treated as outbound (virtual machines)."),
    _option("--dual-stack", None, "boolean", "dual_stack", "false", NETWORK,
            "Capture IPv6 beside IPv4.", env=("DUAL_STACK", "ISTIO_DUAL_STACK")),
    _option("--drop-invalid", None, "boolean", "drop_invalid", "false", NETWORK,
            "Drop packets that the connection tracker calls invalid.", env=("DROP_INVALID", "INVALID_DROP")),
)
"""Options that shape the rules: `apply` and the drop-in both have them."""

AMBIENT_OPTIONS: tuple[Option, ...] = (
    _option("--redirect-dns", None, "boolean", "redirect_dns", "true", DNS,
            "Send the pod's DNS queries to ztunnel.", env=()),
    _option("--bypass-inbound-capture", None, "boolean", "bypass_inbound_capture", "false", INBOUND,
            "Leave inbound connections alone.", env=()),
    _option("--ipv6", None, "boolean", "ipv6", "true", NETWORK,
            "Capture IPv6 beside IPv4.", env=()),
    _option("--kube-virt-interfaces", "-k", "interfaces", "virtual_interfaces", "", NETWORK,
            "Interfaces whose inbound traffic is treated as outbound (virtual machines).", env=()),
    _option("--host-probe-address", None, "addresses", None, "", INBOUND,
            "Addresses that the kubelet's probes come from: IPv4, IPv6, or both.", env=()),
    Option(None, None, ("HOST_PROBE_SNAT_IP",), "ipv4", "probe_ipv4", "169.254.7.127", INBOUND,
           "Address that the kubelet's probes come from."),
    Option(None, None, ("HOST_PROBE_SNAT_IPV6",), "ipv6", "probe_ipv6", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff",
           INBOUND, "The same of IPv6."),
)
"""Options that shape the rules of a pod in an ambient mesh, with the environment of Istio's CNI agent."""

DROPIN_OPTIONS: tuple[Option, ...] = (
    _option("--dry-run", "-n", "boolean", None, "false", BEHAVIOUR,
            "Print what would be handed to the kernel, and change nothing."),
    _option("--reconcile", None, "boolean", None, "false", BEHAVIOUR,
            "Replace live rules of ours that are not wanted, instead of refusing."),
    _option("--cleanup-only", None, "boolean", None, "false", BEHAVIOUR,
            "Remove the redirection."),
    _option("--force-apply", None, "boolean", None, "false", BEHAVIOUR,
            "Write even when the state is as wanted."),
    _option("--skip-rule-apply", None, "boolean", None, "false", BEHAVIOUR,
            "Write nothing: check the configuration, or validate what is there."),
    _option("--run-validation", None, "boolean", None, "false", BEHAVIOUR,
            "Prove with real connections that traffic is redirected; exits 126 where not."),
    _option("--iptables-probe-port", None, "port", None, "15002", BEHAVIOUR,
            "Port of 127.0.0.6 and ::6 to which validation connects as the proxy."),
    _option("--probe-timeout", None, "duration", None, "5s", BEHAVIOUR,
            "How long validation waits for a probe."),
    _option("--network-namespace", None, "text", None, "", BEHAVIOUR,
            "Network namespace to enter, a path."),
    _option("--cni-mode", None, "boolean", None, "false", BEHAVIOUR,
            "Accepted; every run enters the namespace as the CNI plugin's does."),
    _option("--native-nftables", None, "boolean", None, "false", BEHAVIOUR,
            "Program native nftables, in Istio's own tables, instead of iptables."),
    _option("--force-iptables-binary", None, "backend", None, "", BEHAVIOUR,
            "legacy or nft, instead of detecting it; of no effect with --native-nftables."),
    _option("--allow-host-network", None, "boolean", None, "false", BEHAVIOUR,
            "Program the host's own namespace, as on a virtual machine.",
            env=("ISTIO_INIT_ALLOW_HOST_NETWORK",)),
    _option("--wait", None, "duration", None, "10s", BEHAVIOUR,
            "How long to wait for a held lock or a concurrent writer.", env=("ISTIO_INIT_WAIT",)),
    _option("--log_output_level", None, "log_level", None, "default:info", LOGGING,
            "none, error, warn, info or debug; scope:level is accepted.", env=()),
    _option("--log_as_json", None, "boolean", None, "false", LOGGING, "One JSON object a line.", env=()),
    _option("--log_target", None, "text", None, "stderr", LOGGING, "stderr, stdout, or a file's path.", env=()),
    _option("--log_caller", None, "text", None, "", LOGGING, "Accepted; no caller is logged.", env=()),
    _option("--log_stacktrace_level", None, "text", None, "", LOGGING, "Accepted; no stack traces are logged.", env=()),
)
"""What makes the drop-in alone act otherwise."""
# fmt: on
