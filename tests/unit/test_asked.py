"""What a pod asked for: of every annotation, by a manifest and by what a proxy says, however hostile that is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.asking import downward
from support.injected import (
    AMBIENT,
    ANNOTATED,
    STATUS,
    TRAFFIC,
    ambient,
    arguments,
    as_native_sidecar,
    by_cni,
    by_init_container,
    initial,
    pod,
    proxy,
)

from istio_init.cli.asked import asked_by
from istio_init.cli.expect import expectation
from istio_init.config import downward as reading
from istio_init.config.ambient import AmbientConfig
from istio_init.config.asked import ANNOTATIONS, Pod
from istio_init.config.model import Config
from istio_init.config.parse import Names
from istio_init.errors import InputError
from istio_init.inspector.asked import Asked
from istio_init.observe.manifest import LONGEST, manifest

VERSION = "1.37"


def asked(made: dict[str, Any]) -> Asked:
    """What the pod of a manifest asked for."""
    return asked_by(manifest(json.dumps(made), "pod.json").pod)


def said(annotations: Mapping[str, str], **variables: str) -> Asked:
    """The same as its proxy says it."""
    return asked_by(Pod("its proxy", None, annotations, variables, uid=1337, gid=1337))


def config(line: str | list[str]) -> Config | AmbientConfig:
    return expectation(line if isinstance(line, str) else shlex.join(line), Names())[0]


@pytest.mark.parametrize(("annotations", "changed"), ANNOTATED)
class TestEveryAnnotation:
    def test_a_manifest_holds_the_arguments_themselves(
        self, annotations: dict[str, str], changed: dict[str, str]
    ) -> None:
        found = asked(by_init_container(annotations, changed))

        assert found.configs == (config(arguments(changed)),)
        assert found.words[0].argv[: len(arguments(changed))] == tuple(arguments(changed))
        assert (found.name, found.source) == ("shop/payment-7f9c", "the init container istio-init in pod.json")

    def test_a_proxy_that_says_it_asks_for_the_same(self, annotations: dict[str, str], changed: dict[str, str]) -> None:
        found = said(annotations)

        assert found.configs[0] == config(arguments(changed))
        assert said({**annotations, STATUS: '{"initContainers":["istio-init"]}'}).configs == found.configs[:1]

    def test_the_plugin_takes_the_same_but_for_the_ports_that_it_excludes(
        self, annotations: dict[str, str], changed: dict[str, str]
    ) -> None:
        ports = annotations.get(f"{TRAFFIC}excludeInboundPorts", "15020").split(",")
        excluded = ",".join(dict.fromkeys([*ports, "15020", "15021", "15090"]))
        found = asked(by_cni(annotations))

        assert found.configs[0] == config(arguments({**changed, "-d": excluded}))
        assert found.unsaid == frozenset(), "the injector writes all of it down for the plugin"
        assert asked(as_native_sidecar(by_cni(annotations))).configs == found.configs

    def test_kubernetes_accepts_the_manifests(self, annotations: dict[str, str], changed: dict[str, str]) -> None:
        made = by_init_container(annotations, changed)
        for each in (made, as_native_sidecar(made), by_cni(annotations)):
            kubernetes_validate.validate(each, VERSION, strict=True)


@pytest.mark.parametrize(
    ("variables", "more"),
    [
        ({"ISTIO_META_DNS_CAPTURE": "true"}, "--redirect-dns"),
        ({"ISTIO_DUAL_STACK": "true"}, "--dual-stack"),
        ({"INVALID_DROP": "1"}, "--drop-invalid"),
        ({"ISTIO_META_INTERCEPTION_MODE": "TPROXY"}, "-m TPROXY"),
    ],
)
def test_the_environment_of_the_proxy_counts_as_well(variables: dict[str, str], more: str) -> None:
    wanted = config([*arguments({}), *more.split()])

    assert said({}, **variables).configs[0] == wanted
    if "INTERCEPTION" not in str(variables):  # The template writes that into the arguments.
        assert asked(by_init_container({}, {}, **variables)).configs == (wanted,)
    plugin = [*arguments({"-d": "15020,15021,15090"}), *more.split()]
    assert asked(by_cni({}, **variables)).configs[0] == config(plugin)


@pytest.mark.parametrize(("user", "group", "words"), [(1337, 1337, []), (1000720001, 1000720001, []), (0, 1337, [])])
def test_the_users_of_the_proxy_are_exempt(user: int, group: int, words: list[str]) -> None:
    number = user or 1337
    found = asked(pod({}, proxy(user=user, group=group)))

    assert found.configs[0] == config(arguments({"-u": str(number), "-d": "15020,15021,15090"}))


def test_a_user_of_the_pod_is_the_proxys_where_that_has_none() -> None:
    made = pod({}, proxy())
    del made["spec"]["containers"][1]["securityContext"]
    made["spec"]["securityContext"] = {"runAsUser": 2000, "runAsGroup": 3000}

    assert asked(made).configs[0] == config([*arguments({"-u": "2000", "-d": "15020,15021,15090"}), "-g", "3000"])


def test_a_container_that_validates_has_the_arguments_and_the_plugin_may_have_taken_others() -> None:
    found = asked(pod({}, proxy(), init=(initial(arguments({}), name="istio-validation"),)))

    assert found.configs[0] == config(arguments({}))
    assert config(arguments({"-d": "15020,15021,15090"})) in found.configs
    assert config([*arguments({"-d": "15020,15021,15090"}), "-o", "15020"]) in found.configs


@pytest.mark.parametrize(("annotations", "line"), AMBIENT)
def test_pods_of_an_ambient_mesh(annotations: dict[str, str], line: str) -> None:
    assert asked(ambient(annotations)).configs == (config(line),)
    labelled = pod(annotations)
    labelled["metadata"]["labels"] = {"istio.io/dataplane-mode": "ambient"}
    assert asked(labelled).configs == (config(line),)


@pytest.mark.parametrize(
    "made",
    [
        pod({}),
        pod({"ambient.istio.io/redirection": "disabled"}),
        pod({"sidecar.istio.io/interceptionMode": "NONE"}, proxy()),
        pod({}, proxy({"ISTIO_META_INTERCEPTION_MODE": "NONE"})),
        pod({"inject.istio.io/templates": "gateway"}, proxy()),
        pod({}, {**proxy(), "args": ["proxy", "router", "--domain", "x"]}),
        pod({}, {**proxy(), "args": ["proxy", "waypoint"]}),
    ],
)
def test_pods_that_ask_for_no_redirection(made: dict[str, Any]) -> None:
    assert asked(made).asks_nothing


def test_a_sidecar_in_a_labelled_pod_is_a_sidecar() -> None:
    made = by_init_container({STATUS: "{}"}, {})
    made["metadata"]["labels"] = {"istio.io/dataplane-mode": "ambient"}

    assert asked(made).configs == (config(arguments({})),)


def test_what_is_not_done_is_said() -> None:
    words = [*arguments({"-x": "10.0.0.0/8"}), "10.1.0.0/16"]
    made = pod({}, proxy(), init=(initial(words, {"ISTIO_DUAL_STACK": "yes"}),))
    secret = {"valueFrom": {"secretKeyRef": {"name": "one", "key": "two"}}}
    made["spec"]["initContainers"][0]["env"].append({"name": "INVALID_DROP", **secret})
    found = asked(made)

    assert found.configs == (config(arguments({"-x": "10.0.0.0/8"})),)
    lost, stray, unread = found.notes
    assert lost == "the value of INVALID_DROP of istio-init is not in the manifest, and is taken to be unset"
    assert stray.startswith("'10.1.0.0/16' belongs to no flag and is ignored")
    assert unread.startswith("environment variable ISTIO_DUAL_STACK 'yes': not a boolean, so it counts as false")


def test_variables_are_put_into_arguments_as_the_kubelet_does() -> None:
    words = arguments({"-o": "$(PORT)", "-c": "$$(PORT)", "-k": "$(NOBODY)"})
    made = pod({"ports": "3306"}, proxy(), init=(initial(words),))
    field = {"fieldRef": {"fieldPath": "metadata.annotations['ports']"}}
    made["spec"]["initContainers"][0]["env"] = [{"name": "PORT", "valueFrom": field}]
    found = manifest(json.dumps(made), "pod.json").pod.arguments

    assert found is not None
    assert dict(zip(found[::2], found[1::2], strict=False))["-o"] == "3306"
    assert "$(PORT)" in found
    assert "$(NOBODY)" in found


def test_every_annotation_is_tried_here_and_has_its_row_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "asked.md").read_text()
    tried = {name for annotations, _ in ANNOTATED for name in annotations}

    assert tried == set(ANNOTATIONS)
    for name, flag in ANNOTATIONS.items():
        assert any(f"`{name}`" in line and flag in line for line in page.splitlines() if line.startswith("|")), name


def grown(part: str) -> dict[str, object]:
    """A pod in which few references stand for very much."""
    env = [{"name": "A", "value": "x" * 1000}, {"name": "B", "value": "$(A)" * 1000}]
    last = (
        {"env": [*env, {"name": "C", "value": "$(B)" * 1000}]}
        if part == "env"
        else {"args": ["istio-iptables", "$(B)" * 1000]}
    )
    return pod({}, init=({"name": "istio-init", "env": env, **last},))


class TestForms:
    def test_yaml_lists_and_several_documents(self) -> None:
        made = by_init_container({f"{TRAFFIC}excludeOutboundPorts": "3306"}, {"-o": "3306"})
        listed = {"apiVersion": "v1", "kind": "List", "items": [made]}
        deployment = {"kind": "Deployment", "spec": {"template": {k: made[k] for k in ("metadata", "spec")}}}
        texts = [
            yaml.safe_dump(made),
            yaml.safe_dump(listed),
            json.dumps(listed),
            yaml.safe_dump_all([{"kind": "ConfigMap", "data": {"a": "b"}}, made]),
            yaml.safe_dump(deployment),
            yaml.safe_dump(made, explicit_start=True).replace("'*'", '"*"'),
        ]
        wanted = asked(made).configs
        assert [asked_by(manifest(each, "pod").pod).configs for each in texts] == [wanted] * len(texts)

    def test_by_what_a_pod_is_found(self) -> None:
        found = manifest(json.dumps(by_cni({})), "pod.json")
        assert (found.containers, found.addresses) == (("a1" * 32, "b2" * 32), ("10.244.1.7",))

    def test_a_pod_of_the_hosts_network_is_not_found_by_the_hosts_address(self) -> None:
        made = by_cni({})
        made["spec"]["hostNetwork"] = True
        assert manifest(json.dumps(made), "pod.json").addresses == ()

    def test_the_example_of_the_documentation(self) -> None:
        path = Path(__file__).parents[2] / "docs" / "examples" / "pod.yaml"
        found = asked_by(manifest(path.read_text(), "pod.yaml").pod)
        assert found.configs == (config(arguments({})),)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "no pod in it"),
            ("{}", "no pod in it"),
            ("[1, 2]", "no pod in it"),
            ("just text", "no pod in it"),
            ("{nonsense", "not JSON"),
            ("a: b: c", "not YAML"),
            ("kind: Pod\n---\nkind: Pod", "2 pods, and one is looked for"),
            (json.dumps(pod({}, init=({"name": "istio-init", "args": ["sh", "-c"]},))), "does not run istio-iptables"),
            ("kind: Pod\nmetadata: &a\n  x: &b {y: 1}\nspec:\n  <<: *b\n", "merge keys"),
            ("a: " + "[" * 100 + "]" * 100, "too deep"),
            ("[" * 100_000, "not JSON"),
            ("a: &a [1]\nb: [" + ", ".join(["*a"] * 50) + "]", "too many aliases"),
            ("a:\n" + "- b\n" * 120_000, "too many"),
            ('{"kind": "Pod", "x": ' + "9" * 5000 + "}", None),
            ("kind: Pod\nmetadata: {creationTimestamp: 2026-99-99}\nspec: 7\nstatus: [1]", None),
            ("kind: Pod\nmetadata: [a]\nspec: {containers: {a: 1}, initContainers: [[], 7, {name: [1]}]}", None),
            ('{"kind": "Pod", "spec": {"initContainers": [{"name": "istio-init", "args": ["-b", {}, 1]}]}}', None),
            ("? [a]\n: b", "not YAML"),
            ("!!python/object/apply:os.system ['true']", "no pod in it"),
            ("x" * (LONGEST + 1), "more than 4 MiB"),
            (json.dumps(grown("env")), "variables of istio-init: with the variables that they name more than 2 MiB"),
            (json.dumps(grown("args")), "arguments of istio-init: with the variables that they name more than 2 MiB"),
        ],
    )  # fmt: skip
    def test_texts_that_are_none_or_hostile(self, text: str, said: str | None) -> None:
        if said is None:
            assert manifest(text, "pod").pod.notes == ()
            return
        with pytest.raises(InputError) as caught:
            manifest(text, "pod")
        assert said in str(caught.value)


class TestHostileWords:
    @pytest.mark.parametrize("value", ["-b", "--ambient", "--cleanup-only", "a\nb", "\x1b[2J", "10.0.0.0", "*,*", "é"])
    def test_a_value_is_never_a_flag_nor_anything_else(self, value: str) -> None:
        found = said({f"{TRAFFIC}excludeOutboundIPRanges": value})
        assert found.configs == ()
        assert found.problem is not None
        assert found.problem.isprintable()
        assert not found.asks_nothing

    def test_a_status_that_is_no_json_tells_nothing(self) -> None:
        for each in ("{", "[" * 100_000, "7", '{"initContainers": 7}'):
            assert len(said({STATUS: each}).configs) > 1

    @pytest.mark.parametrize(
        ("text", "pairs"),
        [
            (downward({"a": 'say "it"\n\\', "b/c": ""}), {"a": 'say "it"\n\\', "b/c": ""}),
            ('a="\\u00e9\\x41\\101\\U0001F600\\t"', {"a": "éAA😀\t"}),
            ('a="1"\na="2"', {"a": "1"}),
            ('a="1"b="2"\nno\n="x"\na b="c"\nc="d', {}),
            ('a="\\UFFFFFFFF"', {"a": "\ufffd"}),
            ('a="\\', {}),
            ("", {}),
        ],
    )
    def test_lines_of_the_downward_api(self, text: str, pairs: dict[str, str]) -> None:
        assert reading.parse(text) == pairs

    def test_a_long_line_takes_no_time(self) -> None:
        assert reading.parse('a="' + '\\"' * 400_000) == {}
        assert reading.parse('="' * 400_000) == {}
