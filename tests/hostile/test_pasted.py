"""Names that a pod chose stay names in what is printed: to a shell that a command is pasted into, and to a browser."""

from __future__ import annotations

import json
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.command import istio_init

from istio_init.testing.pods import Pod

FOR_A_SHELL = ("$(id>x)", "`id>x`", ";id>x;", "x&id>x&", "'x", "\\", "*", "#x", "--help")
NAMES = (
    *FOR_A_SHELL, "a|id>x", '"x', "~", "!x", "{a,b}", "<b>x", '"><a onx=1>', "</pre>", "&lt;", "[red]x", "[/]", "{{x}}",
    "%s%n", "\x1b[31mx", "\u202ex", "é",
)  # fmt: skip
"""Of interfaces, which have at most 15 bytes, and but for two of these could be there."""

OURS = ("istio-init ", "nsenter ", "ip netns ")


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


def words_in_a_shell(command: str, folder: Path) -> list[str]:
    """What a shell takes a command for, without its program, which is not run."""
    script = f"set -- {command}; printf '%s\\0' \"$@\""
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split("\0")[:-1]


@pytest.fixture
def dropped(pod: Pod) -> Pod:
    """A captured pod."""
    istio_init("apply", "--netns", pod.name).ok()
    return pod


def test_a_command_with_any_name_in_it_is_one_command_of_these_words(dropped: Pod, tmp_path: Path) -> None:
    found = 0
    for name in FOR_A_SHELL:
        dropped.inside.run("ip", "link", "add", "name", name, "type", "veth", "peer", "name", "other")
        dropped.inside.run("ip", "link", "set", "dev", name, "up")
        dropped.inside.run("ip", "address", "add", "192.0.2.1/24", "dev", name)
        dropped.inside.run("iptables-nft", "-I", "INPUT", "-p", "tcp", "-i", name, "-j", "DROP")
        said = istio_init("explain", "--netns", dropped.name).stdout
        dropped.inside.run("iptables-nft", "-F", "INPUT")
        dropped.inside.run("ip", "link", "del", "dev", name)
        for command in [line.strip() for line in said.splitlines() if line.strip().startswith(OURS)]:
            words = words_in_a_shell(command, tmp_path)
            assert words == shlex.split(command)
            found += name in words
    assert found == len(FOR_A_SHELL)
    assert list(tmp_path.iterdir()) == []


def test_names_are_text_in_a_page_and_in_json(dropped: Pod) -> None:
    plain = Page(istio_init("explain", "--netns", dropped.name, "--format", "html").stdout)
    for name in NAMES:
        rule = ("-I", "INPUT", "-p", "tcp", "-i", name, "-m", "comment", "--comment", f"{name} <i>", "-j", "DROP")
        dropped.inside.run("iptables-nft", *rule)

    page = Page(istio_init("explain", "--netns", dropped.name, "--rules", "--format", "html").stdout)
    told = istio_init("explain", "--netns", dropped.name, "--rules", "--format", "json").stdout

    assert page.tags <= plain.tags | {"table", "tr", "td", "th", "code", "strong"}
    assert not [each for each in page.attributes if each.startswith("on") or each in ("href", "src", "srcdoc")]
    assert [name for name in NAMES if name.isprintable() and name not in page.words] == []
    assert json.loads(told)["findings"]
