"""What a pod asks for, in the words of ``istio-iptables``.

By its annotations, as Istio's injection template and its CNI plugin read them, or by its init container's arguments.

All of it is the pod's own word. Nothing here is looked up, and no value is judged: that is `istio_init.config.parse`.
"""

from __future__ import annotations

import json
from itertools import pairwise

from istio_init.options import OPTIONS
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TRAFFIC = "traffic.sidecar.istio.io/"
MODE = "sidecar.istio.io/interceptionMode"
STATUS = "sidecar.istio.io/status"
STATUS_PORT = "status.sidecar.istio.io/port"
INCLUDE_RANGES, EXCLUDE_RANGES = f"{TRAFFIC}includeOutboundIPRanges", f"{TRAFFIC}excludeOutboundIPRanges"
INCLUDE_INBOUND, EXCLUDE_INBOUND = f"{TRAFFIC}includeInboundPorts", f"{TRAFFIC}excludeInboundPorts"
INCLUDE_OUTBOUND, EXCLUDE_OUTBOUND = f"{TRAFFIC}includeOutboundPorts", f"{TRAFFIC}excludeOutboundPorts"
EXCLUDE_INTERFACES, KUBEVIRT = f"{TRAFFIC}excludeInterfaces", f"{TRAFFIC}kubevirtInterfaces"
TEMPLATES = "inject.istio.io/templates"
NOT_SIDECARS = frozenset(["router", "waypoint"])
"""What pilot-agent is told to be, and tells Envoy."""

REROUTE = "istio.io/reroute-virtual-interfaces"
DATAPLANE = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
BYPASS_INBOUND = "ambient.istio.io/bypass-inbound-capture"
DNS_CAPTURE = "ambient.istio.io/dns-capture"

ANNOTATIONS = {
    MODE: "-m",
    INCLUDE_RANGES: "-i",
    EXCLUDE_RANGES: "-x",
    INCLUDE_INBOUND: "-b",
    EXCLUDE_INBOUND: "-d",
    STATUS_PORT: "-d",
    INCLUDE_OUTBOUND: "-q",
    EXCLUDE_OUTBOUND: "-o",
    REROUTE: "-k",
    KUBEVIRT: "-k",
    EXCLUDE_INTERFACES: "-c",
}
"""Annotations that shape a sidecar's rules, and what they become."""

READ = frozenset([*ANNOTATIONS, STATUS, TEMPLATES])
"""Annotations of a pod with a sidecar of which something is taken."""

BY_MESH = {
    INCLUDE_RANGES: "outbound_ranges",
    EXCLUDE_RANGES: "outbound_exclude_ranges",
    INCLUDE_INBOUND: "inbound_ports",
    EXCLUDE_INBOUND: "inbound_exclude_ports",
    INCLUDE_OUTBOUND: "outbound_ports",
    EXCLUDE_OUTBOUND: "outbound_exclude_ports",
}
"""Annotations for which the template takes a setting of the mesh where a pod has none, with the field of `Config`."""

PROXYS = ("ISTIO_META_DNS_CAPTURE", "ISTIO_DUAL_STACK", "INVALID_DROP")
"""Variables of the proxy that shape the rules, whoever programs them."""

INIT_ALONE = tuple(option.env[0] for option in OPTIONS if option.flag is None and option.field is not None)
"""Those that an init container takes as well, as a mesh's proxyMetadata becomes variables of both."""

SHAPING = tuple(name for option in OPTIONS for name in option.env)
"""All that an init container takes."""

MODE_VARIABLE = "ISTIO_META_INTERCEPTION_MODE"
INIT, VALIDATION = "istio-init", "istio-validation"
NONE = "NONE"
TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])
FALSE = frozenset(["0", "f", "F", "FALSE", "false", "False"])
DEFAULT_ID = "1337"
STATUS_DEFAULT = "15020"


class Pod(Value):
    """What is known of a pod. ``source`` says where from, ``name`` is the one that it gives itself.

    ``variables`` and the ids are the proxy's; ``arguments`` those of its init container with ``initial`` for its
    variables, None where there is none.
    """

    source: str
    name: str | None
    annotations: Mapping[str, str]
    variables: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    uid: int | None = None
    gid: int | None = None
    has_proxy: bool = True
    command: tuple[str, ...] = ()
    """The words that the proxy was started with."""

    arguments: tuple[str, ...] | None = None
    initial: Mapping[str, str] = {}
    by_cni: bool | None = None
    """Whether Istio's CNI plugin programs it; None where that is not known."""

    notes: tuple[str, ...] = ()
    """What could not be taken from where it stands."""


class Words(Value):
    """Arguments of ``istio-iptables``, or of ``apply`` where ``--ambient`` is the first, and variables."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()


def ways(pod: Pod) -> tuple[Words, ...]:
    """What the pod asks for, the likeliest first: the plugin reads the same annotations a little otherwise.

    Empty where it asks for no redirection.
    """
    if is_ambient(pod):
        return (_ambient(pod),)
    if pod.arguments is None and (not pod.has_proxy or is_gateway(pod) or _mode(pod) == NONE):
        return ()
    by_cni = _by_cni(pod)
    found: list[Words] = []
    if pod.arguments is not None:
        found.append(Words(pod.arguments, _given(pod.initial, SHAPING)))
    elif by_cni is not True:
        found += _by_template(pod)
    if by_cni is not False and _mode(pod) != NONE:
        found += _by_plugin(pod)
    return tuple(dict.fromkeys(found))


def unsaid(pod: Pod) -> frozenset[str]:
    """The fields of `Config` for which a setting of the mesh may stand that the pod does not show."""
    if pod.arguments is not None or is_ambient(pod) or _by_cni(pod) is True:
        return frozenset()
    return frozenset(field for name, field in BY_MESH.items() if name not in pod.annotations)


def is_ambient(pod: Pod) -> bool:
    """Whether it is in an ambient mesh: told so, or programmed so, and without a sidecar."""
    if pod.arguments is not None or STATUS in pod.annotations or pod.has_proxy:
        return False
    redirection = pod.annotations.get(REDIRECTION)
    told = "ambient" in (pod.labels.get(DATAPLANE), pod.annotations.get(DATAPLANE))
    return redirection in ("enabled", "pending") or (told and redirection != "disabled")


def needed(annotations: Mapping[str, str]) -> dict[str, str]:
    """Of a pod's annotations those of which something is taken, and of the injector's status no more than that."""
    found = {name: value for name, value in annotations.items() if name in READ}
    if STATUS in found:
        known = [name for name in _init_containers(found[STATUS]) if name in (INIT, VALIDATION)]
        found[STATUS] = json.dumps({"initContainers": known})
    return found


def _init_containers(status: str) -> list[object]:
    """Those that the injector says it added."""
    try:
        told = json.loads(status)
    except (ValueError, RecursionError):
        return []
    names = told.get("initContainers") if isinstance(told, dict) else None
    return names if isinstance(names, list) else []


def telling(command: tuple[str, ...]) -> tuple[str, ...]:
    """Of the words that a proxy was started with those that say what it is, as others may be secret."""
    found: list[str] = []
    for before, word in pairwise(command):
        if before == "proxy" and word in NOT_SIDECARS:
            found += (before, word)
        elif before == "--service-node":
            found += (before, word.partition("~")[0])
    return tuple(found)


def is_gateway(pod: Pod) -> bool:
    """Whether its proxy is nobody's sidecar: a gateway, or a waypoint. Nothing is redirected to these."""
    if "gateway" in _items(pod.annotations.get(TEMPLATES, "")):
        return True
    pairs = pairwise(pod.command)
    return any(
        (before == "proxy" and word in NOT_SIDECARS)
        or (before == "--service-node" and word.partition("~")[0] in NOT_SIDECARS)
        for before, word in pairs
    )


def _by_cni(pod: Pod) -> bool | None:
    """By the init containers that the injector says it added, where nobody knows better."""
    if pod.by_cni is not None:
        return pod.by_cni
    names = _init_containers(pod.annotations.get(STATUS, ""))
    return True if VALIDATION in names else False if INIT in names else None


def _mode(pod: Pod) -> str:
    return pod.annotations.get(MODE) or pod.variables.get(MODE_VARIABLE) or "REDIRECT"


def _by_template(pod: Pod) -> Iterator[Words]:
    """As the injection template writes them for ``istio-init``."""
    env = _given(pod.variables, (*PROXYS, *INIT_ALONE))
    uid, gid = _id(pod.uid), _id(pod.gid)
    port = pod.annotations.get(STATUS_PORT, STATUS_DEFAULT).strip()
    excluded = ",".join(["15090", "15021", *_with_port(port, pod.annotations.get(EXCLUDE_INBOUND, ""))])
    argv = (*_common(pod, uid), "-d", excluded, *_optional(pod))
    if gid == uid:
        yield Words(argv, env)
        return
    yield Words((*argv, "-g", gid), env)
    yield Words(argv, env)  # The template has no such flag, and the user's number is then the group's.


def _by_plugin(pod: Pod) -> Iterator[Words]:
    """As the CNI plugin takes them, which captures all DNS, and has a port more that it leaves out."""
    env = _given(pod.variables, PROXYS)
    ports = _items(pod.annotations.get(EXCLUDE_INBOUND, STATUS_DEFAULT))
    excluded = ",".join(dict.fromkeys([*ports, "15020", "15021", "15090"]))
    argv = (*_common(pod, _id(pod.uid)), "-g", _id(pod.gid), "-d", excluded, *_optional(pod))
    yield Words(argv, env)
    dns = ("--capture-all-dns",) if pod.variables.get("ISTIO_META_DNS_CAPTURE") in TRUE else ()
    outbound = () if EXCLUDE_OUTBOUND in pod.annotations else ("-o", STATUS_DEFAULT)
    yield Words((*argv, *outbound, *dns), env)
    yield Words((*argv, *dns), env)


def _common(pod: Pod, uid: str) -> tuple[str, ...]:
    given = pod.annotations
    return (
        *("-p", "15001", "-z", "15006", "-u", uid, "-m", _mode(pod)),
        *("-i", given.get(INCLUDE_RANGES, "*"), "-x", given.get(EXCLUDE_RANGES, "")),
        *("-b", given.get(INCLUDE_INBOUND, "*")),
    )


def _optional(pod: Pod) -> tuple[str, ...]:
    """Options that are written only where there is an annotation."""
    given = pod.annotations
    virtual = REROUTE if REROUTE in given else KUBEVIRT
    names = (("-q", INCLUDE_OUTBOUND), ("-o", EXCLUDE_OUTBOUND), ("-k", virtual), ("-c", EXCLUDE_INTERFACES))
    return tuple(word for flag, name in names if name in given for word in (flag, given[name]))


def _with_port(port: str, excluded: str) -> list[str]:
    """The excluded ports with the one of the proxy's status, unless there is none or it is among them."""
    ports = _items(excluded)
    return ports if port in ("", "0") or port in ports else [*ports, port]


def _items(text: str) -> list[str]:
    return [item for each in text.split(",") if (item := each.strip())]


def _id(number: int | None) -> str:
    """A user or group of the proxy. As root, in TPROXY mode, it is exempt by Istio's own number."""
    return str(number) if number else DEFAULT_ID


def _ambient(pod: Pod) -> Words:
    """What Istio's CNI agent reads of a pod in an ambient mesh."""
    argv = ["--ambient"]
    if pod.annotations.get(BYPASS_INBOUND) in TRUE:
        argv.append("--bypass-inbound-capture")
    dns = pod.annotations.get(DNS_CAPTURE)
    if dns in TRUE | FALSE:
        argv.append(f"--redirect-dns={'true' if dns in TRUE else 'false'}")
    if REROUTE in pod.annotations:
        argv += ["--kube-virt-interfaces", pod.annotations[REROUTE]]
    return Words(tuple(argv))


def _given(variables: Mapping[str, str], names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, variables[name]) for name in names if name in variables)
