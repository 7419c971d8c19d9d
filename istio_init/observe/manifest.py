"""A pod from its manifest, as ``kubectl get pod -o json`` or ``-o yaml`` prints it, or as it was injected by hand.

Whoever wrote it may be anybody: it is bounded before it is read, and only what is looked for is taken out of it.
"""

from __future__ import annotations

import json
import re
from ipaddress import ip_address

from istio_init.config.asked import INIT, VALIDATION, Pod
from istio_init.config.parse import shown
from istio_init.errors import InputError
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

LONGEST = 4 << 20
"""Characters of a manifest; Kubernetes itself keeps at most 1.5 MiB of an object."""

DEEPEST = 64
MOST_ALIASES = 10
MOST_NODES = 100_000

MOST_TEXT = 2 << 20
"""Bytes that the arguments and the variables of a container may come to; the kernel takes no more (execve(2))."""

PROXY = "istio-proxy"
DROP_IN = "istio-iptables"
WAYS_TO_PRINT = "give what kubectl get pod NAME -o yaml prints"
REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
FIELD = re.compile(r"metadata\.(annotations|labels)\['([^']+)'\]")
CONTAINER = re.compile(r"[a-z0-9]+://([0-9a-f]{64})")


class Manifest(Value):
    """A pod, and by what it is found on its node."""

    pod: Pod
    containers: tuple[str, ...] = ()
    """Ids of its containers."""

    addresses: tuple[str, ...] = ()
    """None of a pod in the host's network namespace."""


def manifest(text: str, path: str) -> Manifest:
    """The one pod of a text; also of a list, of several documents, or the template of what makes pods.

    Raises:
        InputError: there is no pod, or there are several, or the text is not what it should be.
    """
    if len(text) > LONGEST:
        raise InputError(f"{path}: more than {LONGEST >> 20} MiB; a pod's manifest is shorter", fix=WAYS_TO_PRINT)
    found = [pod for each in _documents(text, path) for pod in _pods(each)]
    if len(found) != 1:
        what = f"{len(found)} pods, and one is looked for" if found else "no pod in it"
        raise InputError(f"{path}: {what}", fix=WAYS_TO_PRINT)
    return _read(found[0], path)


def _documents(text: str, path: str) -> list[Any]:
    try:
        if text.lstrip()[:1] in ("{", "["):
            return [json.loads(text, parse_int=str, parse_float=str, parse_constant=str)]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}", fix=WAYS_TO_PRINT) from None
    return _yaml(text, path)


def _yaml(text: str, path: str) -> list[Any]:
    """YAML with every scalar as text: its types are of no use here, and some of them are traps."""
    try:
        import yaml
    except ImportError:
        raise InputError(f"{path}: PyYAML, which reads YAML, is not installed", fix="give -o json instead") from None
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        _bound(yaml.parse(text, Loader=loader), path)
        return list(yaml.load_all(text, Loader=loader))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not YAML: {first}", fix=WAYS_TO_PRINT) from None


def _bound(events: Any, path: str) -> None:
    """Refuse what could take long to put together, or whose fields would not be those that one reads there."""
    depth = aliases = 0
    for nodes, event in enumerate(events):
        kind = type(event).__name__
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            depth += 1
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            depth -= 1
        elif kind == "AliasEvent":
            aliases += 1
        elif kind == "ScalarEvent" and event.value == "<<" and not event.style:
            raise InputError(f"{path}: YAML's merge keys (<<) are not read", fix=WAYS_TO_PRINT)
        if depth > DEEPEST or aliases > MOST_ALIASES or nodes > MOST_NODES:
            raise InputError(f"{path}: too deep, too many aliases or nodes for a manifest", fix=WAYS_TO_PRINT)


def _pods(document: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict) or depth > 2:
        return
    for item in _list(document.get("items")):
        yield from _pods(item, depth + 1)
    kind, spec = document.get("kind"), _dict(document.get("spec"))
    if kind == "Pod":
        yield document
    elif isinstance(template := spec.get("template"), dict) and "containers" in _dict(template.get("spec")):
        yield template


def _read(pod: dict[str, Any], path: str) -> Manifest:
    metadata, spec, status = (_dict(pod.get(each)) for each in ("metadata", "spec", "status"))
    annotations, labels = (_texts(metadata.get(each)) for each in ("annotations", "labels"))
    containers = {str(each.get("name")): each for each in map(_dict, _list(spec.get("containers")))}
    init = {str(each.get("name")): each for each in map(_dict, _list(spec.get("initContainers")))}
    fields = {
        **{f"metadata.annotations['{name}']": value for name, value in annotations.items()},
        **{f"metadata.labels['{name}']": value for name, value in labels.items()},
        **{f"metadata.{name}": _text(metadata.get(name)) for name in ("name", "namespace")},
        "status.podIP": _text(status.get("podIP")),
    }
    proxy = containers.get(PROXY) or init.get(PROXY)  # With native sidecars it is an init container that stays.
    initial = init.get(INIT) or init.get(VALIDATION)
    notes: list[str] = []
    variables = _variables(proxy or {}, PROXY, fields, notes, path)
    arguments, given = None, {}
    if initial is not None:
        name = str(initial.get("name"))
        given = _variables(initial, name, fields, notes, path)
        arguments = _arguments(initial, name, given, path)
    own = "/".join(filter(None, [fields["metadata.namespace"], fields["metadata.name"]]))
    found = Pod(
        source=f"{_where(initial)} in {path}",
        name=own or None,
        annotations=annotations,
        labels=labels,
        variables=variables,
        uid=_id(proxy or {}, spec, "runAsUser"),
        gid=_id(proxy or {}, spec, "runAsGroup"),
        has_proxy=proxy is not None,
        command=tuple(_text(each) for part in ("command", "args") for each in _list((proxy or {}).get(part))),
        arguments=arguments,
        initial=given,
        by_cni=INIT not in init if proxy is not None or initial is not None else None,
        notes=tuple(notes),
    )
    return Manifest(found, tuple(_container_ids(status)), () if _is_true(spec, "hostNetwork") else _addresses(status))


def _where(initial: dict[str, Any] | None) -> str:
    return f"the init container {initial['name']}" if initial is not None else "labels, annotations and the proxy"


def _arguments(container: dict[str, Any], name: str, variables: Mapping[str, str], path: str) -> tuple[str, ...]:
    """What stands after the program, with variables put in as the kubelet does."""
    words = [_text(each) for part in ("command", "args") for each in _list(container.get(part))]
    at = next((number for number, word in enumerate(words) if word.rpartition("/")[2] == DROP_IN), None)
    if at is None and words and not words[0].startswith("-"):
        what = f"the container {name} does not run {DROP_IN}, but {shown(words[0])}"
        raise InputError(f"{path}: {what}", fix=WAYS_TO_PRINT)
    room = _Room(f"{path}: arguments of {name}")
    return tuple(room.expanded(word, variables) for word in words[0 if at is None else at + 1 :])


class _Room:
    """What is left for texts whose references are replaced: a few lines can refer to each other without end."""

    def __init__(self, what: str) -> None:
        self.what, self.left = what, MOST_TEXT

    def expanded(self, text: str, variables: Mapping[str, str]) -> str:
        """A text with the values of the variables that it names.

        Raises:
            InputError: with it they are more than a container can be given.
        """

        def value(reference: re.Match[str]) -> str:
            new = "$" if reference[1] == "$" else variables.get(reference[2], reference[0])
            self._take(len(new) - len(reference[0]))
            return new

        self._take(len(text))
        return REFERENCE.sub(value, text)

    def _take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise InputError(
                f"{self.what}: with the variables that they name more than {MOST_TEXT >> 20} MiB, "
                "which no container can be given",
                fix=WAYS_TO_PRINT,
            )


def _variables(
    container: dict[str, Any], name: str, fields: Mapping[str, str], notes: list[str], path: str
) -> dict[str, str]:
    """Its variables; of one whose value is kept elsewhere there is a note, where it matters."""
    from istio_init.options import OPTIONS

    known = {variable for option in OPTIONS for variable in option.env}
    room = _Room(f"{path}: variables of {name}")
    found: dict[str, str] = {}
    for each in map(_dict, _list(container.get("env"))):
        variable = _text(each.get("name"))
        if "valueFrom" not in each:
            found[variable] = room.expanded(_text(each.get("value")), found)
            continue
        field = _text(_dict(_dict(each["valueFrom"]).get("fieldRef")).get("fieldPath"))
        if field in fields or FIELD.fullmatch(field):
            found[variable] = fields.get(field, "")
        elif variable in known:
            notes.append(f"the value of {variable} of {name} is not in the manifest, and is taken to be unset")
    if container.get("envFrom"):
        notes.append(f"variables of {name} come from envFrom, and are not in the manifest")
    return found


def _id(container: dict[str, Any], spec: dict[str, Any], field: str) -> int | None:
    """A user or group: the container's own, else the pod's."""
    for each in (container, spec):
        text = _text(_dict(each.get("securityContext")).get(field))
        if text.isascii() and text.isdecimal() and len(text) <= 10:
            return int(text)
    return None


def _container_ids(status: dict[str, Any]) -> Iterator[str]:
    for part in ("containerStatuses", "initContainerStatuses"):
        for each in map(_dict, _list(status.get(part))):
            found = CONTAINER.fullmatch(_text(each.get("containerID")))
            if found is not None:
                yield found[1]


def _addresses(status: dict[str, Any]) -> tuple[str, ...]:
    texts = [_text(status.get("podIP")), *(_text(_dict(each).get("ip")) for each in _list(status.get("podIPs")))]
    found = []
    for text in dict.fromkeys(texts):
        try:
            found.append(str(ip_address(text)))
        except ValueError:
            continue
    return tuple(found)


def _is_true(value: dict[str, Any], name: str) -> bool:
    return value.get(name) in (True, "true", "True")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    """A scalar as text; a boolean as YAML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> dict[str, str]:
    return {str(name): _text(each) for name, each in _dict(value).items()}
