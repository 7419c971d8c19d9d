"""Every kind of problem that is looked for: its code, why it matters, and what to do."""

from __future__ import annotations

from istio_init.inspector.findings.model import FindingKind, Severity

# fmt: off
_AGAIN = (
    "Have the pod programmed again: restart it. In an ambient mesh the istio-cni agent on its node does it. For a "
    "sidecar explain prints the command that does it in place where it knows the arguments: with --expect ARGS, or "
    "from rules that are whole."
)

_ERROR, _WARNING, _INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

MESH_BYPASSED = FindingKind(
    "mesh-bypassed", _ERROR, "A proxy listens, but no rule sends it traffic",
    "What gets through bypasses the proxy: no mutual TLS, no policy, no telemetry.",
    "See why nothing programmed the pod: the log of its istio-init container, or of the CNI agent on its node. "
    f"{_AGAIN}",
)
LOOPBACK_DOWN = FindingKind(
    "loopback-down", _ERROR, "The loopback interface is down, or has no address",
    "What is redirected outbound goes over lo, and so does the proxy's way to the application: neither arrives.",
    "Set it up again: ip link set lo up, or ip address add 127.0.0.1/8 dev lo.",
)
NO_ROUTE = FindingKind(
    "no-route", _ERROR, "No route leads out of the pod",
    "Connections to anywhere but its own networks fail at once, the proxy's included.",
    "See what set up the pod's network: the log of the CNI plugin on its node. Restart the pod.",
)
REFUSING_ROUTE = FindingKind(
    "refusing-route", _WARNING, "A route refuses connections to some addresses",
    "They fail at once, the proxy's own included, before any rule is evaluated.",
    "Find out who added it (the log of the CNI plugin on the node may tell). Have it removed, or restart the pod.",
)
VIRTUAL_UPLINK = FindingKind(
    "virtual-uplink", _ERROR, "The pod's own uplink is named as a virtual interface",
    "What comes in via it counts as outbound: connections to the pod go to the proxy's outbound listener, which sends "
    "them on as if the pod had made them, without mutual TLS and inbound policy.",
    "Take it off the annotation istio.io/reroute-virtual-interfaces or traffic.sidecar.istio.io/kubevirtInterfaces "
    "(-k, --kube-virt-interfaces), and restart the pod. Only bridges of virtual machines or containers belong there.",
)
PROXY_REDIRECTED = FindingKind(
    "proxy-redirected", _ERROR, "The proxy's own connections are redirected by rules of others",
    "The proxy reaches neither its control plane nor any other service: whatever it sends comes back into the pod.",
    "Find out who added the rule, and have it leave the proxy's user alone, or removed. A pod can be in only one mesh.",
)
NO_LISTENER = FindingKind(
    "no-listener", _ERROR, "Traffic is redirected to a port where nothing listens",
    "Redirected connections are refused: the pod is cut off in that direction.",
    "Start the proxy, or find out why it died: see the state and the log of its container, or of ztunnel in an ambient "
    "mesh.",
)
NOT_TRANSPARENT = FindingKind(
    "not-transparent", _ERROR, "TPROXY hands connections to a socket that is not transparent",
    "The kernel drops every inbound connection: without IP_TRANSPARENT the socket is not looked at.",
    "Have the proxy run in TPROXY mode, too, and with the capability NET_ADMIN: "
    "sidecar.istio.io/interceptionMode: TPROXY, or ISTIO_META_INTERCEPTION_MODE in its environment.",
)
STOPPED_PROXY = FindingKind(
    "stopped-proxy", _ERROR, "The proxy is stopped",
    "The kernel still establishes connections to it, but nobody answers: they hang, and so do health checks.",
    "Find out who stopped it: a debugger, or SIGSTOP. Let it go on (kill -CONT), or restart its container.",
)
ACCEPT_QUEUE_FULL = FindingKind(
    "accept-queue-full", _ERROR, "A listener does not accept its connections: its queue is full",
    "The kernel drops further connections to it until some are accepted: they hang and time out.",
    "See why the program does not accept: it hangs, is out of file descriptors or short of CPU. Restart its container.",
)
NOT_THE_PROXY = FindingKind(
    "not-the-proxy", _ERROR, "Another program listens on the proxy's port",
    "It gets the connections that are redirected to the proxy, and its own are captured as well.",
    "Let it listen elsewhere; Istio reserves 15000 to 15090. Where it is the proxy, run it as user 1337, or have the "
    "pod programmed with its user as --proxy-uid.",
)
PORTS_SWAPPED = FindingKind(
    "ports-swapped", _ERROR, "Connections go to the wrong one of the proxy's ports",
    "What comes to the outbound listener and was meant for the inbound one, or the other way round, fails.",
    "Envoy listens on 15001 for outbound and on 15006 for inbound connections: -p 15001 -z 15006.",
)
OWNER_GROUPS = FindingKind(
    "owner-groups", _ERROR, "No application runs with a group whose traffic is captured",
    "Outbound connections of all of them bypass the proxy.",
    "Correct ISTIO_OUTBOUND_OWNER_GROUPS or ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE, or the application's runAsGroup.",
)
UNCAPTURED_PORT = FindingKind(
    "uncaptured-port", _INFO, "An application's port is not captured",
    "Connections to it bypass the proxy.",
    "If that is not intended, take it off the excluded inbound ports, or add it to the included ones: annotations "
    "traffic.sidecar.istio.io/excludeInboundPorts and includeInboundPorts.",
)
HEALTH_CAPTURED = FindingKind(
    "health-captured", _WARNING, "Health checks and metrics of the proxy are captured",
    "The kubelet's checks and scrapes come without a certificate. Once strict mutual TLS is on, the proxy turns them "
    "away, and the pod is never ready.",
    "Exclude these ports from inbound capture, as Istio's injection does: -d 15090,15021,15020.",
)
NO_SUCH_INTERFACE = FindingKind(
    "no-such-interface", _WARNING, "The configuration names an interface that does not exist",
    "It has no effect. An interface with nearly that name exists, so this is probably a typo.",
    "Correct the name, and have the pod programmed again.",
)
BRIDGED_CONTAINERS = FindingKind(
    "bridged-containers", _WARNING, "Traffic of containers in the pod counts as inbound",
    "What they send enters through their bridge and goes to the proxy's inbound listener, where it usually fails.",
    "Name the bridge in the annotation istio.io/reroute-virtual-interfaces (--kube-virt-interfaces), so that what "
    "comes in via it counts as outbound, and restart the pod.",
)
HALF_APPLIED = FindingKind(
    "half-applied", _ERROR, "The redirection is incomplete",
    "Traffic that the missing rules are for takes another way: past the proxy, into a loop, or nowhere.",
    _AGAIN,
)
BOTH_BACKENDS = FindingKind(
    "both-backends", _ERROR, "More than one rule store holds the redirection",
    "The kernel evaluates all of them, so a packet meets the rules twice; a change made to one has half an effect.",
    _AGAIN,
)
BOTH_MODES = FindingKind(
    "both-modes", _ERROR, "Rules of a sidecar and of an ambient mesh are there",
    "Each takes connections meant for the other: which proxy gets a connection depends on the order of the rules.",
    "Find out which mesh the pod is in: the label istio.io/dataplane-mode=none keeps it out of the ambient mesh, "
    "sidecar.istio.io/inject=false without a sidecar.",
)
DUPLICATE_RULE = FindingKind(
    "duplicate-rule", _WARNING, "A rule appears twice in its chain",
    "The second has no effect, but when one of the two is removed, the rule still applies.",
    "Remove the duplicate from the configuration. If there is none, it is gone once the pod restarts.",
)
FOREIGN_AHEAD = FindingKind(
    "foreign-ahead", _ERROR, "A foreign rule takes traffic away from the redirection",
    "What it matches never reaches the proxy, or reaches it and should not.",
    "Find out who added it (its comment often tells) and have it narrowed, removed, or evaluated later.",
)
CAPTURED_DROPPED = FindingKind(
    "captured-dropped", _ERROR, "All connections of a kind are dropped or rejected",
    "They time out or are refused, though the redirection itself is right.",
    "Change the rule, the policy or the route so that these connections pass; the trace shows their path.",
)
SOME_DROPPED = FindingKind(
    "some-dropped", _INFO, "A rule drops or rejects some connections",
    "They time out or are refused; all others arrive.",
    "If that is not intended, find out who added the rule and have it removed or narrowed; the trace shows the path.",
)
CAPTURED_OTHERWISE = FindingKind(
    "captured-otherwise", _ERROR, "Connections do not go where the configuration behind the rules sends them",
    "They bypass the proxy, reach the wrong port, or loop.",
    f"{_AGAIN} What was changed is under Drift with --expect.",
)
UNDECIDED_RULE = FindingKind(
    "undecided-rule", _WARNING, "It is undecidable whether a rule takes captured traffic away",
    "It depends on something that only the kernel knows, and what it matches may never reach the proxy.",
    "Try it: verify sends ordinary connections, and trace --live sends this one.",
)
NOT_ALL_FOLLOWED = FindingKind(
    "not-all-followed", _INFO, "Not all connections could be followed through the rules",
    "There are too many rules: some connections may be treated differently from those that were traced.",
    "Trace the connections that matter. The map looks at all of them, and takes longer.",
)
SHADOWED_RULE = FindingKind(
    "shadowed-rule", _WARNING, "A rule can never match: an earlier one takes all its packets",
    "The exclusion or inclusion behind it has no effect.",
    "Correct the configuration: usually the earlier range or port was meant to be narrower.",
)
PORTS_NARROW_NOTHING = FindingKind(
    "ports-narrow-nothing", _WARNING, "Included outbound ports narrow nothing",
    "All outbound ranges are included, so all ports are captured; the list of ports was probably meant as a limit.",
    "Leave the ports out, or give the ranges instead of *.",
)
EXCLUDE_WITHOUT_ALL = FindingKind(
    "exclude-without-all", _WARNING, "Excluded inbound ports have no effect",
    "They count only where all inbound ports are included.",
    "Include all inbound ports with *, or leave the excluded ones out.",
)
NO_INBOUND_CAPTURE = FindingKind(
    "no-inbound-capture", _ERROR, "Outbound traffic is captured, inbound is not",
    "Connections to the pod reach the application without the proxy. An empty value that swallows the next flag does "
    "this.",
    "Include inbound ports: -b '*'. If inbound traffic is meant to be direct, say so with --expect, or --ignore "
    "no-inbound-capture.",
)
NO_OUTBOUND_CAPTURE = FindingKind(
    "no-outbound-capture", _ERROR, "Inbound traffic is captured, outbound is not",
    "Connections of the application leave without the proxy. A lost rule does this, and so does an empty value.",
    "Include outbound ranges: -i '*'. If outbound traffic is meant to be direct, say so with --expect, or --ignore "
    "no-outbound-capture.",
)
ALL_EXCLUDED = FindingKind(
    "all-excluded", _ERROR, "All connections of a direction are excluded from capture",
    "They bypass the proxy: no mutual TLS, no policy, no telemetry.",
    "Narrow the exclusion. If it is intended, say so with --expect, or --ignore all-excluded.",
)
MODE_LEFTOVERS = FindingKind(
    "mode-leftovers", _ERROR, "Rules of both interception modes are there",
    "One mode captures an inbound connection, and the other's rules then handle it.",
    _AGAIN,
)
GUARDRAILS = FindingKind(
    "guardrails", _ERROR, "DROP rules that guard a reconcile were left behind",
    "All TCP and UDP traffic is dropped: an interrupted run of istio-iptables cut the pod off.",
    "Remove them once no reconcile is running. Nothing else in these chains is touched.",
)
OPEN_BYPASS = FindingKind(
    "open-bypass", _WARNING, "Open connections bypass the proxy",
    "They were opened before the rules were there. New ones are proxied; these bypass the proxy until they close.",
    "Restart the program, or have it reconnect. An application that starts before the redirection does this each time.",
)
EXEMPT_PROCESS = FindingKind(
    "exempt-process", _WARNING, "A process that is not the proxy runs with the proxy's user or group",
    "Its traffic bypasses the mesh, whatever it is.",
    "Run it as another user and group: neither securityContext.runAsUser nor runAsGroup may be 1337.",
)
PROXY_NOT_EXEMPT = FindingKind(
    "proxy-not-exempt", _ERROR, "The proxy does not run with an exempt user or group",
    "Its own connections are redirected back to it: a loop.",
    "Run it as user 1337, whom the rules exempt, or have the pod programmed with its own user as --proxy-uid: one that "
    "no application runs as.",
)
RESERVED_PORT = FindingKind(
    "reserved-port", _WARNING, "An application listens on one of the proxy's ports",
    "Istio reserves 15000 to 15090: the proxy cannot listen there, or the port is excluded from capture.",
    "Let the application listen elsewhere.",
)
LOOPBACK_ONLY = FindingKind(
    "loopback-only", _INFO, "An application listens on loopback alone",
    "Captured inbound connections are passed on to the pod's address, where it does not listen.",
    "Have it listen on the pod's address or on all addresses, unless only this pod is to reach it.",
)
IPV6_NOT_CAPTURED = FindingKind(
    "ipv6-not-captured", _ERROR, "The pod has an IPv6 address, and IPv6 is not captured",
    "Traffic over IPv6 bypasses the proxy in both directions.",
    "Have the pod programmed with --dual-stack, once its proxy listens on IPv6, too; or remove the address.",
)
IPV6_NOT_READY = FindingKind(
    "ipv6-not-ready", _ERROR, "IPv6 is captured, but lo is not ready for it",
    "Outbound connections are redirected to ::1, and the proxy reaches the application from ::6. Without these "
    "addresses on lo they fail.",
    "Turn IPv6 on for lo if it is off there, and have the pod programmed again.",
)
TPROXY_ROUTING = FindingKind(
    "tproxy-routing", _ERROR, "The routing that marked packets need is missing or duplicated",
    "Packets with the mark must be delivered locally, in TPROXY mode and in an ambient mesh; otherwise answers do not "
    "reach the proxy.",
    _AGAIN,
)
DNS_SERVERS_DIFFER = FindingKind(
    "dns-servers-differ", _WARNING, "DNS queries to a server in resolv.conf are not captured",
    "They bypass the proxy's DNS: names that only the mesh knows do not resolve.",
    f"{_AGAIN} With --capture-all-dns the servers' addresses do not matter.",
)
NO_DNS_LISTENER = FindingKind(
    "no-dns-listener", _ERROR, "DNS is captured, but nothing listens on 15053",
    "Name lookups fail.",
    "Turn on the proxy's DNS (ISTIO_META_DNS_CAPTURE in its environment), or have the pod programmed without "
    "--redirect-dns.",
)
HOST_NAMESPACE = FindingKind(
    "host-namespace", _ERROR, "The host's own namespace holds the redirection",
    "The machine's traffic is redirected to a proxy: usually it has lost its network.",
    "Unless it is a virtual machine of the mesh, remove the rules.",
)
CONNTRACK_FULL = FindingKind(
    "conntrack-full", _WARNING, "The connection tracking table is nearly full",
    "When it is full new connections are dropped, and redirection needs tracking.",
    "Raise net.netfilter.nf_conntrack_max, or find what opens so many connections.",
)
INVALID_PACKETS = FindingKind(
    "invalid-packets", _INFO, "Invalid packets were counted, and they are not dropped",
    "The pod answers a packet that belongs to no known connection with a reset, which can end a live connection.",
    "Have the pod programmed with --drop-invalid.",
)
UNFAITHFUL_READER = FindingKind(
    "unfaithful-reader", _WARNING, "Some rules could not be read faithfully",
    "What is shown may lack a match, and what is not shown may take traffic away.",
    "Look at the rules with nft, or install a newer iptables and nft.",
)
ZERO_COUNTERS = FindingKind(
    "zero-counters", _WARNING, "The redirection has seen no packet, though the namespace has connections",
    "Either the connections are older than the rules, or traffic takes another path.",
    "Have the application reconnect, and see whether the counters move.",
)

# fmt: on

KINDS = tuple(value for value in list(globals().values()) if isinstance(value, FindingKind))
"""All kinds, in the order of the documentation."""
