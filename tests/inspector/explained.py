"""Explanations for tests of what is printed of them, and what every form of that has to hold to."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.command import istio_init

import istio_init as package
from istio_init.cli.expect import expected_config
from istio_init.config.model import Surroundings
from istio_init.config.parse import Names
from istio_init.dialects.iptables.save import parse_save, render_save
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.explain import Explanation, explain
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.report.explain_text import explanation_text

from .test_inference import OLDER, explained

jsonschema = pytest.importorskip("jsonschema")

V4, V6 = Family
SCHEMAS = Path(package.__file__).parent / "schemas"
COMMAND = "istio-init "
"""A line with a command is never broken."""

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")

THOUSAND = ",".join(f"10.{high}.{low}.0/24" for high in range(4) for low in range(250))
CONFIGURATIONS = {
    "nothing captured": "",
    "as injected": "-b * -d 15090,15021,15020 -i *",
    "lists": "-b 80,8000:8090 -i 10.0.0.0/8,192.0.2.0/24 -x 10.1.0.0/16 -o 53,443 -q 9000 -u 2000-3000",
    "tproxy": "-m TPROXY -b * -d 15090 -i * -t 77 -r 177",
    "dns": "-b * -i * --redirect-dns",
    "everything": "-m TPROXY -b 80,443 -i 10.0.0.0/8,fd00::/8 --redirect-dns --capture-all-dns --drop-invalid "
    "-c eth1,veth+ -k vm0,vm1 -u 1337,2000 -g 1337,4000 --dual-stack",
    "long addresses": "-b * -i " + ",".join(f"2001:db8:aaaa:bbbb:cccc:dddd:{n:x}:0/112" for n in range(0xEEE0, 0xEEE8)),
    "groups": "ISTIO_OUTBOUND_OWNER_GROUPS=" + ",".join(map(str, range(2000, 2049))) + " -b * -i *",
    "a thousand ranges left out": f"-b * -i * -x {THOUSAND}",
    "a thousand ports": "-i * -b " + ",".join(map(str, range(1000, 3000, 2))),
}


def of_configuration(line: str, expect: str | None = None) -> Explanation:
    """The explanation of the rules of a configuration, as if read from a file."""
    config, _ = expected_config(line, Names())
    around = Surroundings(ipv6="--dual-stack" in line or "2001:" in line)
    built = sidecar.rules(config, around)
    rules = {
        (RuleStore.NFT, family): recognise(parse_save(render_save(each), family).rules)
        for family, each in built.items()
    }
    expected = None if expect is None else expected_config(expect, Names())[0]
    return explain(Snapshot("a file", rules, is_live=False), expected)


def rendered(explanation: Explanation, width: int) -> list[str]:
    """The lines of the text format, without the spaces that fill them up."""
    console = Console(width=width, color_system=None, highlight=False, force_terminal=False)
    with console.capture() as captured:
        console.print(explanation_text(explanation))
    return [line.rstrip() for line in captured.get().splitlines()]


EVIL = "</pre><script>alert(1)</script>&amp; \x1b[31mred\x07 " + "x" * 300
HOSTILE = f'-p udp -m comment --comment "{EVIL}" -j ACCEPT'


def hostile() -> Explanation:
    """Rules whose comments, chains and interfaces are made to do harm where they are shown."""
    nat = OLDER["1.20 as injected"][0][Table.NAT]
    return explained(
        {
            Table.NAT: {
                **nat,
                "OUTPUT": [HOSTILE, '-p tcp -m comment --comment "\u2028\x85\udcff" -j <b>evil', *nat["OUTPUT"]],
                "<b>evil": ["-o <i>eth0 -j ACCEPT"],
            }
        }
    )


def validate(value: object, command: str) -> None:
    """Check a value against the schema that the package has for a command."""
    schema = json.loads((SCHEMAS / f"{command}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(value)


def explain_json(*argv: str) -> Any:
    """What ``explain --format json`` says."""
    return json.loads(istio_init("explain", "--format", "json", *argv).ok().stdout)


class Page(HTMLParser):
    """Checks that elements are closed as they are opened, and keeps what was in them."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
