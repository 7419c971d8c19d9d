"""Running verify on a pod, and what it says of each probe."""

from __future__ import annotations

import json
import os
from importlib import resources
from typing import Any
from unittest.mock import patch

import pytest
from support.command import Result, istio_init

import istio_init as package
from istio_init.cli.app import run
from istio_init.testing.pods import Pod

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((resources.files(package) / "schemas" / "verify.schema.json").read_text(encoding="utf-8"))

PROVED, NOT_PROVED = 0, 126


class Proof:
    """What ``verify --format json`` printed, which fits its schema."""

    def __init__(self, done: Result) -> None:
        self.status = done.status
        self.stderr = done.stderr
        assert done.stdout, done.stderr
        self.said: dict[str, Any] = json.loads(done.stdout)
        jsonschema.Draft202012Validator(SCHEMA).validate(self.said)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The probes that failed."""
        return [each for each in self.said["probes"] if not each["passed"]]

    @property
    def notes(self) -> list[str]:
        """What else is said, but for what these pods, which have no proxy, are always told."""
        return [each for each in self.said["notes"] if "verify listened there itself" not in each]

    def probes(self, group: str, family: str = "ipv4") -> list[str]:
        """Who connects where and what comes of it, of a group."""
        return [
            f"{each['who']} to {each['packet']['dst']}:{each['packet']['dport']}/{each['packet']['proto']}: "
            f"{each['expected']['port'] or each['expected']['kind']}"
            for each in self.said["probes"]
            if each["group"] == group and each["packet"]["family"] == family
        ]

    def ok(self) -> Proof:
        """The same, asserting that everything passed."""
        assert self.failed == []
        assert (self.status, self.said["proved"], self.said["problems"]) == (PROVED, True, [])
        assert all(each["latency_ms"] is not None for each in self.said["probes"])
        return self


def verify(pod: Pod, *argv: str) -> Proof:
    """Verify a pod's namespace."""
    return Proof(istio_init("verify", "--netns", pod.name, "--timeout", "1s", "--format", "json", *argv))


def apply(pod: Pod, *argv: str, env: dict[str, str] | None = None) -> None:
    """Program a pod, without starting the program anew for that."""
    with patch.dict(os.environ, env or {}):
        assert run(["apply", "--netns", pod.name, *argv]) == PROVED
