"""Examples that the help of each command, the reference and the manual page end with."""

from __future__ import annotations

import click

EXAMPLES: dict[str, tuple[str, ...]] = {
    "apply": (
        "istio-init apply --pid 4711",
        "istio-init apply --netns pod-a --netns pod-b --dry-run",
        "istio-init apply --pid 4711 -x 10.96.0.0/12 --redirect-dns",
    ),
    "clean": ("istio-init clean --pid 4711", "istio-init clean --netns pod-a --dry-run"),
    "explain": (
        "istio-init explain 10.1.2.3",
        "istio-init explain --pid 4711 --expect \"-b '*' -i '*'\" --check",
        "istio-init explain --file iptables-save.txt --format html > ticket.html",
    ),
    "findings": ("istio-init findings", "istio-init findings foreign-ahead"),
    "ps": ("istio-init ps", "istio-init ps --watch 30s --metrics :9469"),
    "trace": (
        "istio-init trace outbound tcp 10.0.0.5:443 --expect \"-b '*' -i '*'\"",
        "istio-init trace inbound tcp 10.1.2.3:8080 --pid 4711",
        "istio-init trace outbound udp 10.96.0.10:53 --netns pod-a --live",
    ),
    "render": (
        "istio-init render -b '*' -i '*' -x 10.96.0.0/12",
        "istio-init render --ambient --format nft",
        "kubectl get pod NAME -o yaml | istio-init render --pod - --format args",
    ),
    "verify": ("istio-init verify --pid 4711", "istio-init verify --netns pod-a --expect \"-b '*' -i '*'\""),
    "map": ("istio-init map --pid 4711 --only direct", "istio-init map --expect \"-b '*' -i '*' -d 15090\""),
    "diff": (
        "istio-init diff \"-b '*' -i '*'\" \"-b '*' -i '*' -x 10.0.0.0/8\"",
        "istio-init diff 4711 before.txt",
    ),
    "snapshot": (
        "istio-init snapshot --pid 4711 > pod.tar",
        "istio-init snapshot --netns pod-a --redact --output pod.tar",
    ),
    "completion": ('eval "$(istio-init completion bash)"', "istio-init completion fish | source"),
    "man": ("istio-init man | man -l -", "istio-init man istio-iptables > istio-iptables.1"),
}


def with_examples(name: str, command: click.Command) -> click.Command:
    """The command, whose help ends with its examples."""
    if name in EXAMPLES and command.epilog is None:
        command.epilog = "\n".join(["\b", "Examples:", *(f"  {each}" for each in EXAMPLES[name])])
    return command
