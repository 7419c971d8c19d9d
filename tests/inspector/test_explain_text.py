"""What explain prints for terminals, pipes and logs."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from typing import Any

import pytest
from rich.cells import cell_len
from support.command import PROGRAM, environment, istio_init

from istio_init.dialects.iptables.save import parse_save
from istio_init.inspector.flow import flow
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.report.listing import listing

from .explained import COMMAND, CONFIGURATIONS, ESCAPES, hostile, of_configuration, rendered
from .sidecar import Sidecar

V4, V6 = Family


@pytest.fixture
def pod(untouched: Sidecar) -> Sidecar:
    """A healthy pod that no test changes."""
    return untouched


class TestText:
    """The text format is for terminals, pipes and logs."""

    @pytest.mark.parametrize("width", [80, 100, 120])
    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_no_line_is_wider_than_the_terminal(self, name: str, width: int) -> None:
        lines = rendered(of_configuration(CONFIGURATIONS[name], expect="-b 80 -i *"), width)

        assert max(map(cell_len, lines)) <= width

    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_no_word_of_others_is_wider_than_the_terminal(self, width: int) -> None:
        lines = rendered(hostile(), width)

        assert max(map(cell_len, lines)) <= width

    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_the_flow_fits_100_columns_without_a_break(self, name: str) -> None:
        explanation = of_configuration(CONFIGURATIONS[name])

        assert _flow(rendered(explanation, 100)) == _flow(rendered(explanation, 400))

    def test_the_flow_of_many_rules_alike_is_short(self) -> None:
        explanation = of_configuration(CONFIGURATIONS["a thousand ranges left out"])

        text = "\n".join(_flow(rendered(explanation, 100)))

        assert "to 10.0.0.0/24, 10.0.1.0/24, 10.0.2.0/24, 10.0.3.0/24 and 996 more ─► returned" in text
        assert text.count("\n") < 25

    def test_both_families_are_drawn_where_their_ways_differ(self) -> None:
        same = "\n".join(rendered(of_configuration("-b * -i * --dual-stack"), 100))
        other = "\n".join(rendered(of_configuration("-b * -i fd00::/8 --dual-stack"), 100))

        assert "ipv6: the same way, with its own addresses" in same
        assert "the same way" not in other
        assert "to fd00::/8 ─► ISTIO_REDIRECT" in other

    def test_a_shared_chain_shows_no_counter_of_its_own(self) -> None:
        """Its packets are those of all rules that lead to it."""
        text = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
[9:540] -A OUTPUT -j ISTIO_OUTPUT
[0:0] -A ISTIO_OUTPUT -m owner --uid-owner 1 -j ISTIO_IN_REDIRECT
[7:420] -A ISTIO_OUTPUT -p tcp -j ISTIO_IN_REDIRECT
[7:420] -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
COMMIT
"""
        [hook] = flow(recognise(parse_save(text, V4).rules))

        [jump] = hook.steps
        assert [step.packets for step in (jump, *jump.steps)] == [9, 0, 7]
        assert [inner.packets for step in jump.steps for inner in step.steps] == [None, None]

    def test_what_is_wrong_comes_first(self) -> None:
        text = "\n".join(rendered(hostile(), 100))

        titles = ["Findings", "Configuration behind the rules", "Where traffic goes", "Rules"]
        assert sorted(titles, key=text.index) == titles
        assert "ERROR A foreign rule takes traffic away" in text

    def test_control_characters_of_others_are_shown_not_obeyed(self) -> None:
        shown = "\n".join((*rendered(hostile(), 400), listing(hostile())))

        assert "\\x1b[31mred\\x07" in shown
        assert "\\u2028\\x85\\xff" in shown
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown.replace("\n", ""))

    def test_the_command_can_be_copied(self) -> None:
        line = "ISTIO_OUTBOUND_OWNER_GROUPS=2000 istio-iptables -b '*' -i '*' -u 1337 -g 1337"

        [shown] = [text.strip() for text in rendered(of_configuration(line), 100) if "istio-iptables" in text]

        assert shown == line


def _flow(lines: list[str]) -> list[str]:
    if "Where traffic goes" not in lines:
        return []
    return lines[lines.index("Where traffic goes") + 1 : lines.index("Rules")]


def on_terminal(columns: int, *argv: str, **more: str) -> str:
    """What a command prints on a terminal of so many columns, with more in its environment."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = environment({"TERM": "xterm-256color", "LANG": "C.UTF-8", **more})
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    found = b""
    try:
        while chunk := _read(ours):
            found += chunk
    finally:
        os.close(ours)
        child.kill()
        child.wait()
    return found.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""  # The other end is closed.


class TestStreams:
    """Where the text goes decides how it looks."""

    @pytest.mark.parametrize("columns", [80, 100, 120])
    def test_a_terminal_gets_colour_and_its_own_width(self, pod: Sidecar, columns: int) -> None:
        shown = on_terminal(columns, *PROGRAM, "explain", "--netns", pod.inside.name)

        assert "\x1b[" in shown
        plain = ESCAPES.sub("", shown).replace("\r", "").split("\n")
        assert "Findings" in plain
        assert max(cell_len(line.rstrip()) for line in plain if COMMAND not in line) <= columns

    @pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
    def test_a_terminal_that_wants_none_gets_no_escape_sequence(self, pod: Sidecar, more: dict[str, str]) -> None:
        assert "\x1b" not in on_terminal(80, *PROGRAM, "explain", "--netns", pod.inside.name, **more)

    @pytest.mark.parametrize("columns", ["80", "100", "120", None])
    def test_a_pipe_gets_plain_text_of_the_width_that_is_asked_for(self, pod: Sidecar, columns: str | None) -> None:
        env = {"TERM": "xterm-256color"} if columns is None else {"TERM": "xterm-256color", "COLUMNS": columns}

        shown = istio_init("explain", "--netns", pod.inside.name, env=env).ok().stdout

        lines = shown.split("\n")
        assert "\x1b" not in shown
        assert [line for line in lines if line != line.rstrip()] == []
        assert max(cell_len(line) for line in lines if COMMAND not in line) <= int(columns or 100)
        assert lines[-2].endswith(f"istio-init explain --rules --netns {pod.inside.name}")

    @pytest.mark.parametrize("form", ["text", "html"])
    def test_a_rule_comes_with_its_reason_and_the_option_behind_it(self, pod: Sidecar, form: str) -> None:
        argv = ("explain", "--netns", pod.inside.name, "--rules", "--format", form)

        said = istio_init(*argv, env={"COLUMNS": "200"}).ok().stdout

        [_, reason, *_] = said[said.index("--dport 15090") :].split("\n" if form == "text" else "<td>")
        assert reason.strip().startswith("Connections to this port reach the pod without the proxy.")
        assert "--istio-local-exclude-ports" in reason

    def test_watching_shows_it_again_and_counters_move(self, healthy: Sidecar) -> None:
        argv = [*PROGRAM, "explain", "--netns", healthy.inside.name, "--rules", "--watch", "0.1"]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment())
        assert child.stdout is not None
        try:
            wait_for(child.stdout, "tcp ─► ISTIO_INBOUND  [1 packet]")
            wait_for(child.stdout, "tcp ─► ISTIO_INBOUND  [1 packet]")
            healthy.connect()
            wait_for(child.stdout, "tcp ─► ISTIO_INBOUND  [2 packets]")
            child.send_signal(signal.SIGINT)
            child.communicate(timeout=60)
            assert child.returncode == 0
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def wait_for(lines: Any, text: str) -> None:
    """Read up to the line that ends with a text."""
    for line in lines:
        if line.rstrip().endswith(text):
            return
    raise AssertionError(f"the output ended without {text!r}")
