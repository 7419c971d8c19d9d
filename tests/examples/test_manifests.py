"""What Kubernetes accepts, and what this program takes, of the manifests that the documentation shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.command import INJECTED, istio_init

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
VERSIONS = ("1.30", "1.37")
"""The oldest and the newest Kubernetes whose schemas they are held to."""

OBJECTS = [
    (path.relative_to(EXAMPLES).as_posix(), number)
    for path in sorted(EXAMPLES.rglob("*.yaml"))
    for number, each in enumerate(yaml.safe_load_all(path.read_text()))
    if "kind" in each
]
ENVOY = EXAMPLES / "pod.yaml"


def example(name: str, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = list(yaml.safe_load_all((EXAMPLES / name).read_text()))[number]
    return found


def pod_with(container: dict[str, Any]) -> dict[str, Any]:
    """A pod of just that container."""
    named = {"name": "one", "image": "one", **container}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": {"containers": [named]}}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "number"), OBJECTS)
def test_kubernetes_accepts_every_object(name: str, number: int, version: str) -> None:
    kubernetes_validate.validate(example(name, number), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_debug_container(version: str) -> None:
    kubernetes_validate.validate(pod_with(example("kubernetes/debug-container.yaml")), version, strict=True)


def test_a_misspelt_field_would_not_be_accepted() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            pod_with({"securityContext": {"readOnlyRootFileSystem": True}}), "1.37", strict=True
        )


def test_the_pod_has_the_arguments_and_the_security_context_of_the_injection_template() -> None:
    [container] = example("pod.yaml", 1)["spec"]["initContainers"]

    assert container["args"] == ["istio-iptables", *INJECTED]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        "readOnlyRootFilesystem": False,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "runAsUser": 0,
    }


@pytest.mark.parametrize("name", ["debug-container.yaml", "node-inspector.yaml"])
def test_what_runs_in_a_cluster_has_a_filter_of_system_calls_and_cannot_write_its_files(name: str) -> None:
    found = example(f"kubernetes/{name}", 2 if name == "node-inspector.yaml" else 0)
    [container] = found["spec"]["template"]["spec"]["containers"] if "spec" in found else [found]

    assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_node_inspector_is_run_with_arguments_that_exist() -> None:
    [container] = example("kubernetes/node-inspector.yaml", 2)["spec"]["template"]["spec"]["containers"]

    done = istio_init(*container["args"][:-1], "no-port")

    assert done.status == 2
    assert "'no-port': not an address and a port" in done.stderr


def test_the_page_names_every_manifest_and_no_other() -> None:
    page = (DOCS / "kubernetes.md").read_text()

    named = set(re.findall(r"\(examples/([\w/.-]+\.yaml)\)", page))
    assert named == {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml")}


@pytest.mark.parametrize(
    "command",
    re.findall(r"(?:-- |^    )(istio-init [^\n|]+)", (DOCS / "kubernetes.md").read_text(), re.MULTILINE),
)
def test_the_commands_of_the_page_exist(command: str) -> None:
    verb = shlex.split(command)[1]

    help_text = istio_init(verb, "--help").ok().stdout
    for option in re.findall(r"(?<= )--[\w-]+", command):
        assert option in help_text
