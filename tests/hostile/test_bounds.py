"""Rules that divide, nest or fork without end cost a bounded time: what is not worked out is undecidable, and said."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.command import istio_init

from istio_init.cli import node
from istio_init.observe.namespace import observe
from istio_init.system import places, process, ruleset
from istio_init.testing.pods import Pod

from .served import living_in

LEVELS = 29
NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""


def bit(level: int) -> str:
    return f"{1 << level:#x}/{1 << level:#x}"


def nested(*between: str) -> str:
    """Chains of which each calls the next one twice, with something in between."""
    lines = ["*mangle", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
    lines += [f":C{level} - [0:0]" for level in range(LEVELS + 1)]
    lines += ["-A OUTPUT -j C0"]
    for level in range(LEVELS):
        lines += [f"-A C{level} -j C{level + 1}"]
        lines += [f"-A C{level} {each.format(bit=bit(level), only=f'{1 << level:#x}/0x0')}" for each in between]
        lines += [f"-A C{level} -j C{level + 1}"]
    return "\n".join([*lines, f"-A C{LEVELS} -p tcp -m tcp --dport 80 -j RETURN", "COMMIT", NAT])


def boxes() -> str:
    """Rules of which each tests a range of everything."""
    chance = random.Random(1)

    def between(most: int, dash: str) -> str:
        low, high = sorted(chance.randrange(most) for _ in range(2))
        return f"{low}{dash}{high}"

    rules = [
        f"-A ISTIO_OUTPUT -d 10.{chance.randrange(256)}.0.0/{chance.randrange(10, 17)} -p tcp -m tcp "
        f"--sport {between(60000, ':')} --dport {between(60000, ':')} -m owner --uid-owner {between(60000, '-')} "
        f"--gid-owner {between(60000, '-')} -m mark --mark {chance.randrange(8)}/{chance.randrange(1, 64):#x} -j RETURN"
        for _ in range(60)
    ]
    return NAT.replace("-A ISTIO_OUTPUT", "\n".join(["", *rules, "-A ISTIO_OUTPUT"]).lstrip("\n"), 1)


FORKS = "a mark that may be set"
CASES = {
    "each level twice": nested(),
    "a mark that differs on each way": nested("-j MARK --set-xmark {only}"),
    FORKS: nested("-m statistic --mode random --probability 0.5 -j MARK --set-xmark {bit}"),
    "boxes": boxes(),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "command"), [*((name, command) for name in CASES for command in ("trace", "map")), (FORKS, "explain")]
)
def test_what_has_no_end_is_ended(name: str, command: str, tmp_path: Path) -> None:
    save = tmp_path / "save"
    save.write_text(CASES[name])
    words = ("outbound", "tcp", "192.0.2.9:80") if command == "trace" else ()

    done = istio_init(command, "--file", str(save), *words)

    assert "Traceback" not in done.stderr
    if done.status == 2:
        assert "too many" in done.stderr
    else:
        assert done.status == 0


def test_tables_that_are_read_one_by_one_have_the_time_of_one_program(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        pod.inside.run("nft", "add", "table", "inet", name)
    monkeypatch.setattr(ruleset, "TIMEOUT", 0.0)

    found = pod.inside.call(lambda: [str(text) for _, text in ruleset.listed_apart()])

    assert len(found) == 3
    assert all("no time is left" in each for each in found)


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_more_rules_than_memory_is_given_for_are_not_read_and_that_is_said(
    backend: str, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", backend).ok()
    monkeypatch.setattr(process, "MOST_RULES", 3)

    left = pod.inside.call(lambda: observe(places.HERE, versions=False).unread)

    assert any("more than 3 rules" in each.reason for each in left)


def test_a_node_with_very_many_namespaces_is_given_up_in_time_and_each_is_listed(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "IN_ALL", -1)
    with living_in(Path("/"), pod.name) as pid:
        found = {row.pid: row for row in node.scan(quiet=True)}

    assert found[pid].state == "unknown"
    assert "not looked at" in (found[pid].error or "")
