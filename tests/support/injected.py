"""Manifests of pods as Istio's injector leaves them, and what each annotation becomes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

TRAFFIC = "traffic.sidecar.istio.io/"
STATUS = "sidecar.istio.io/status"

DEFAULT = {
    "-p": "15001",
    "-z": "15006",
    "-u": "1337",
    "-m": "REDIRECT",
    "-i": "*",
    "-x": "",
    "-b": "*",
    "-d": "15090,15021,15020",
}
"""The arguments without any annotation."""

ANNOTATED: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, {}),
    ({"sidecar.istio.io/interceptionMode": "TPROXY"}, {"-m": "TPROXY"}),
    ({f"{TRAFFIC}includeOutboundIPRanges": "10.96.0.0/12,172.20.0.0/16"}, {"-i": "10.96.0.0/12,172.20.0.0/16"}),
    ({f"{TRAFFIC}includeOutboundIPRanges": ""}, {"-i": ""}),
    ({f"{TRAFFIC}excludeOutboundIPRanges": "169.254.169.254/32"}, {"-x": "169.254.169.254/32"}),
    ({f"{TRAFFIC}includeInboundPorts": "8080,8443"}, {"-b": "8080,8443"}),
    ({f"{TRAFFIC}includeInboundPorts": ""}, {"-b": ""}),
    ({f"{TRAFFIC}excludeInboundPorts": "9090"}, {"-d": "15090,15021,9090,15020"}),
    ({f"{TRAFFIC}excludeInboundPorts": "9090,15020"}, {"-d": "15090,15021,9090,15020"}),
    ({"status.sidecar.istio.io/port": "15030"}, {"-d": "15090,15021,15030"}),
    ({"status.sidecar.istio.io/port": "0"}, {"-d": "15090,15021"}),
    (
        {"status.sidecar.istio.io/port": "15030", f"{TRAFFIC}excludeInboundPorts": "15030,22"},
        {"-d": "15090,15021,15030,22"},
    ),
    ({f"{TRAFFIC}includeOutboundPorts": "443", f"{TRAFFIC}includeOutboundIPRanges": ""}, {"-i": "", "-q": "443"}),
    ({f"{TRAFFIC}excludeOutboundPorts": "3306,6379"}, {"-o": "3306,6379"}),
    ({f"{TRAFFIC}excludeInterfaces": "net1,net2"}, {"-c": "net1,net2"}),
    ({f"{TRAFFIC}kubevirtInterfaces": "k6t-net0"}, {"-k": "k6t-net0"}),
    ({"istio.io/reroute-virtual-interfaces": "docker0"}, {"-k": "docker0"}),
    ({"istio.io/reroute-virtual-interfaces": "docker0", f"{TRAFFIC}kubevirtInterfaces": "net0"}, {"-k": "docker0"}),
]  # fmt: skip
"""Annotations, and in which arguments these then differ from the default."""

AMBIENT: list[tuple[dict[str, str], str]] = [
    ({}, "--ambient"),
    ({"ambient.istio.io/bypass-inbound-capture": "true"}, "--ambient --bypass-inbound-capture"),
    ({"ambient.istio.io/dns-capture": "false"}, "--ambient --redirect-dns=false"),
    ({"ambient.istio.io/dns-capture": "maybe"}, "--ambient"),
    ({"istio.io/reroute-virtual-interfaces": "k6t-net0,docker0"}, "--ambient --kube-virt-interfaces k6t-net0,docker0"),
]
"""Annotations of pods in an ambient mesh, and the arguments of ``apply``."""


def arguments(changed: Mapping[str, str]) -> list[str]:
    """The words that the template writes."""
    return [word for flag, value in {**DEFAULT, **changed}.items() for word in (flag, value)]


def pod(
    annotations: Mapping[str, str], *containers: dict[str, Any], init: tuple[dict[str, Any], ...] = ()
) -> dict[str, Any]:
    """A running pod with an application beside these containers."""
    app = {"name": "payment", "image": "registry.example.com/shop/payment:1"}
    ids = ["a1" * 32, "b2" * 32]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "payment-7f9c", "namespace": "shop", "annotations": dict(annotations), "labels": {}},
        "spec": {"containers": [app, *containers], **({"initContainers": list(init)} if init else {})},
        "status": {
            "podIP": "10.244.1.7",
            "podIPs": [{"ip": "10.244.1.7"}],
            "containerStatuses": [
                {"name": "payment", "containerID": f"containerd://{ids[0]}", **_STATUS},
                {"name": "istio-proxy", "containerID": f"containerd://{ids[1]}", **_STATUS},
            ],
        },
    }  # fmt: skip


_STATUS = {"image": "one", "imageID": "one", "ready": True, "restartCount": 0}


def proxy(variables: Mapping[str, str] = {}, user: int = 1337, group: int = 1337) -> dict[str, Any]:
    """The sidecar's container."""
    named = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return {
        "name": "istio-proxy",
        "image": "docker.io/istio/proxyv2:1.27.0",
        "args": ["proxy", "sidecar"],
        "env": [named, *({"name": name, "value": value} for name, value in variables.items())],
        "securityContext": {"runAsUser": user, "runAsGroup": group},
    }


def initial(words: list[str], variables: Mapping[str, str] = {}, name: str = "istio-init") -> dict[str, Any]:
    """The init container with these arguments."""
    checking = ["--run-validation", "--skip-rule-apply"] if name == "istio-validation" else []
    return {
        "name": name,
        "image": "docker.io/istio/proxyv2:1.27.0",
        "args": ["istio-iptables", *words, "--log_output_level=default:info", *checking],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
    }


def by_init_container(annotations: Mapping[str, str], changed: Mapping[str, str], **variables: str) -> dict[str, Any]:
    """A pod that ``istio-init`` programs."""
    return pod(annotations, proxy(variables), init=(initial(arguments(changed), variables),))


def by_cni(annotations: Mapping[str, str], **variables: str) -> dict[str, Any]:
    """A pod that Istio's CNI plugin programs, without a container that validates it."""
    return pod(annotations, proxy(variables))


def ambient(annotations: Mapping[str, str]) -> dict[str, Any]:
    """A pod in an ambient mesh that its node's agent has programmed."""
    return pod({"ambient.istio.io/redirection": "enabled", **annotations})


def as_native_sidecar(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same pod with its proxy as an init container that stays."""
    made = copy.deepcopy(manifest)
    spec = made["spec"]
    found = next(each for each in spec["containers"] if each["name"] == "istio-proxy")
    spec["containers"].remove(found)
    spec.setdefault("initContainers", []).append({**found, "restartPolicy": "Always"})
    return made
