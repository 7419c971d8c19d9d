"""What explain prints, in each of its formats, from each of its sources, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from support.command import PROGRAM, Result, environment, execute, istio_init
from support.rules import program
from unit.strategies import configs, planted, rule_set, rules, surroundings, texts_of

import istio_init as package
from istio_init.cli.expect import expected_config
from istio_init.config.model import Config, Surroundings
from istio_init.config.parse import Names
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.save import parse_save, render_save
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.rule_store import IPTABLES, RuleStore
from istio_init.inspector.explain import Explanation, explain
from istio_init.inspector.flow import flow
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.observe.snapshot import Snapshot
from istio_init.observe.unread import Part
from istio_init.report.explain_html import explanation_html
from istio_init.report.explain_json import explanation_json
from istio_init.report.explain_text import explanation_text
from istio_init.report.flow_svg import flow_svg
from istio_init.report.listing import listing
from istio_init.system import places
from istio_init.testing.entering import User
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import APP, HOSTS
from istio_init.testing.traffic import Endpoint, connect

from .sidecar import Sidecar
from .test_inference import OLDER, ambient, explained

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


def on_terminal(columns: int, *argv: str) -> str:
    """What a command prints on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = environment({"TERM": "xterm-256color", "LANG": "C.UTF-8"})
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


@pytest.fixture(scope="module")
def pod(real_kernel: None) -> Iterator[Sidecar]:
    """A healthy pod that no test changes."""
    with Sidecar.create("--dual-stack") as made:
        yield made


class TestStreams:
    """Where the text goes decides how it looks."""

    @pytest.mark.parametrize("columns", [80, 100, 120])
    def test_a_terminal_gets_colour_and_its_own_width(self, pod: Sidecar, columns: int) -> None:
        shown = on_terminal(columns, *PROGRAM, "explain", "--netns", pod.inside.name)

        assert "\x1b[" in shown
        plain = ESCAPES.sub("", shown).replace("\r", "").split("\n")
        assert "Findings" in plain
        assert max(cell_len(line.rstrip()) for line in plain if COMMAND not in line) <= columns

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


class TestJson:
    """The JSON format is a contract."""

    def validate(self, value: object, command: str) -> None:
        """Check a value against the schema that the package has for a command."""
        schema = json.loads((SCHEMAS / f"{command}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(value)

    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_explanations_of_configurations_fit_the_schema(self, name: str) -> None:
        explanation = of_configuration(CONFIGURATIONS[name], expect="-b 80 -i *")

        self.validate(json.loads(json.dumps(explanation_json(explanation))), "explain")

    @pytest.mark.parametrize(
        "make",
        [hostile, lambda: explained(ambient(V6), V6), lambda: explained({}), *(
            lambda name=name: explained(OLDER[name][0], expect="-b 80") for name in OLDER
        )],
    )  # fmt: skip
    def test_explanations_of_others_fit_the_schema(self, make: Callable[[], Explanation]) -> None:
        self.validate(json.loads(json.dumps(explanation_json(make()))), "explain")

    def test_live_explanations_fit_the_schema(self, pod: Sidecar) -> None:
        said = pod.explain("--expect", "-b 80 -x 192.0.2.0/24")

        self.validate(said, "explain")
        assert said["schema"] == 1
        assert said["target"] == f"netns {pod.inside.name}"
        assert said["mode"] == "REDIRECT"
        assert said["families"] == ["ipv4", "ipv6"]
        assert said["argv"] == "-b * -d 15090,15021,15020 -i * -u 1337 -g 1337 --dual-stack".split()
        assert said["env"] == {}
        assert {rule["index"] for rule in said["rules"] if rule["chain"] == "ISTIO_INBOUND"} == {1, 2, 3, 4, 5}

    def test_findings_fit_the_schema(self, healthy: Sidecar) -> None:
        healthy.proxy.kill()

        self.validate(healthy.explain(), "explain")

    def test_a_list_of_namespaces_fits_the_schema(self, pod: Sidecar) -> None:
        self.validate(json.loads(istio_init("ps", "--format", "json").ok().stdout), "ps")


@st.composite
def any_rules(draw: st.DrawFn) -> Snapshot:
    """Rules of ours, whole or damaged, of older releases, of others, and such as nobody wrote."""
    found = {}
    goal = sidecar.rules(draw(configs), draw(surroundings))
    for family in draw(st.lists(st.sampled_from(Family), min_size=1, max_size=2, unique=True)):
        texts: dict[Table, dict[str, list[str]]] = texts_of(draw(planted(family, goal.get(family))).live)
        odd = [rule_text(rule) for rule in draw(st.lists(rules(), max_size=4))]
        chain = draw(st.sampled_from(["OUTPUT", "ISTIO_OUTPUT", "OTHER"]))
        texts.setdefault(Table.NAT, {}).setdefault(chain, [])[:0] = odd
        found[draw(st.sampled_from(IPTABLES)), family] = recognise(rule_set(family, texts))
    return Snapshot("a file", found, is_live=draw(st.booleans()))


@settings(derandomize=True, deadline=None, database=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(any_rules(), st.none() | configs)
def test_any_rules_can_be_explained_in_every_format(snapshot: Snapshot, expected: Config | None) -> None:
    explanation = explain(snapshot, expected)

    assert len(explanation.rows) == sum(1 for each in snapshot.rules.values() for _ in each.entries())
    TestJson().validate(json.loads(json.dumps(explanation_json(explanation))), "explain")
    assert max(map(cell_len, rendered(explanation, 100))) <= 100
    Page(explanation_html(explanation))
    assert listing(explanation).count("\n") >= len([row for row in explanation.rows if not row.foreign])


PROTOCOLS = {"0": "all", "6": "tcp", "17": "udp"}


def columns(line: str) -> str:
    """A line of ``iptables -L -n``, with the name of its protocol where some releases print its number."""
    number, target, protocol, rest = re.fullmatch(r"(\d+ +)(\S+ +)(\S+ *)(-- .*|  +.*)", line.rstrip()).groups()  # type: ignore[union-attr]
    name = PROTOCOLS.get(protocol.strip(), protocol.strip())
    return f"{number}{target}{name:<5}{rest}"


class TestListing:
    """The list format has the columns of iptables."""

    @pytest.mark.parametrize("backend", ["nft", "legacy"])
    @pytest.mark.parametrize(
        "flags",
        [
            (),
            ("-m", "TPROXY", "-b", "80,8000:8090", "--drop-invalid", "--redirect-dns", "--capture-all-dns",
             "-o", "53", "-x", "192.0.2.0/24", "-c", "net1"),
        ],
        ids=["as injected", "everything"],
    )  # fmt: skip
    def test_the_columns_are_those_of_iptables(self, both_backends: None, backend: str, flags: tuple[str, ...]) -> None:
        with Namespace.create("list") as namespace:
            namespace.run("ip", "addr", "add", "10.1.2.3/32", "dev", "lo")
            namespace.run("ip", "addr", "add", "fd00::3/128", "dev", "lo", "nodad")
            arguments = ("--dual-stack", "--force-iptables-binary", backend, *flags)
            istio_init("apply", "--netns", namespace.name, *arguments).ok()
            listed = istio_init("explain", "--netns", namespace.name, "--format", "list").ok().stdout
            tables = re.findall(r"^# (ipv[46]) (\w+) \((\w+)\)$", listed, re.MULTILINE)
            words = ("-L", "-n", "--line-numbers")
            wanted = {
                (family, table): namespace.run(program(backend, Family(family)), "-t", table, *words)
                for family, table, _ in tables
            }

        assert {found for _, _, found in tables} == {backend}
        for section in re.split(r"^# ", listed, flags=re.MULTILINE)[1:]:
            title, *lines = section.rstrip().split("\n")
            family, table, _ = title.split()
            assert self._ours(lines) == self._theirs(wanted[family, table])
        assert "nat" in {table for _, table, _ in tables}

    def _ours(self, lines: list[str]) -> list[str]:
        """The listing without what it has more: reasons, and words for interfaces."""
        kept = []
        for line in lines:
            if line[:1].isdigit():
                assert re.search(r"  # [A-Z].*\.$", line)
                line = re.sub(r" +(in|out) !?[a-z0-9+]+(?= |$)", "", line.partition("  # ")[0])
            kept.append(line.rstrip())
        return kept

    def _theirs(self, text: str) -> list[str]:
        """What iptables prints, without built-in chains that hold no rule."""
        chains = [chain.split("\n") for chain in text.rstrip("\n").split("\n\n")]
        kept = [chain for chain in chains if len(chain) > 2 or "references" in chain[0]]
        lines = [line.rstrip() for chain in kept for line in [*chain, ""]][:-1]
        return [re.sub(r"^(\d.*?)  +(?=$)", r"\1", columns(line)) if line[:1].isdigit() else line for line in lines]

    def test_without_rules_of_ours_nothing_is_listed(self) -> None:
        assert listing(explained({Table.FILTER: {"INPUT": ["-j ACCEPT"]}})) == ""


class TestSave:
    """The save format is what iptables-restore and explain itself read."""

    def test_it_restores_rules_and_counters(self, pod: Sidecar) -> None:
        saved = istio_init("explain", "--netns", pod.inside.name, "--format", "save").ok().stdout

        with Namespace.create("restored") as namespace:
            ipv4, ipv6 = saved.split("# ipv6 (nft)\n")
            for family, text in ((V4, ipv4), (V6, ipv6)):
                namespace.run(program("nft", family, "restore"), "-c", stdin=text)
                assert self._saved(namespace, family) == self._saved(pod.inside, family)

    def _saved(self, namespace: Namespace, family: Family) -> list[str]:
        """ip6tables-nft-restore 1.8.9 forgets counters, whatever it is given."""
        flags = ["-c"] if family is V4 else []
        lines = namespace.run(program("nft", family, "save"), *flags).splitlines()
        return sorted(line for line in lines if not line.startswith("#"))

    def test_it_is_explained_as_the_namespace_is(self, pod: Sidecar, tmp_path: Path) -> None:
        file = tmp_path / "save"
        file.write_text(istio_init("explain", "--netns", pod.inside.name, "--format", "save").ok().stdout)

        again = explain_json("--file", str(file))

        live = pod.explain()
        for key in ("mode", "backend", "families", "argv", "env", "exact", "release", "rules"):
            assert again[key] == live[key]

    def test_rules_of_both_backends_are_kept_apart(self, both_backends: None, tmp_path: Path) -> None:
        with Namespace.create("both") as namespace:
            for backend in ("nft", "legacy"):
                namespace.run(program(backend, V6), "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT", "-m", "comment",
                              "--comment", backend)  # fmt: skip
            file = tmp_path / "save"
            file.write_text(istio_init("explain", "--netns", namespace.name, "--format", "save").ok().stdout)

        rules = explain_json("--file", str(file))["rules"]

        assert [(rule["backend"], rule["family"], rule["text"]) for rule in rules] == [
            (backend, "ipv6", f"-m comment --comment {backend} -j ACCEPT") for backend in ("nft", "legacy")
        ]


def explain_json(*argv: str) -> Any:
    return json.loads(istio_init("explain", "--format", "json", *argv).ok().stdout)


class TestFiles:
    """Rules of a support bundle, in which nothing else is known."""

    @pytest.fixture
    def saves(self, pod: Sidecar, tmp_path: Path) -> dict[tuple[Family, bool], str]:
        """Paths of the pod's saves, by family and whether they have counters."""
        found = {}
        for family in Family:
            for counted in (True, False):
                path = tmp_path / f"{family.value}-{counted}"
                path.write_text(pod.inside.run(program("nft", family, "save"), *(["-c"] if counted else [])))
                found[family, counted] = str(path)
        return found

    @pytest.mark.parametrize("counted", [True, False], ids=["with counters", "without counters"])
    def test_both_families_are_read(self, pod: Sidecar, saves: dict[tuple[Family, bool], str], counted: bool) -> None:
        said = explain_json("--file", saves[V4, counted], "--file6", saves[V6, counted])

        assert said["argv"] == pod.explain()["argv"]
        assert said["exact"]
        assert said["findings"] == []
        assert all((rule["packets"] is not None) is counted for rule in said["rules"])
        assert len(said["rules"]) == len(pod.explain()["rules"])

    def test_one_family_alone_is_no_half(self, saves: dict[tuple[Family, bool], str]) -> None:
        for flag, family in (("--file", V4), ("--file6", V6)):
            said = explain_json(flag, saves[family, True])
            assert said["families"] == [family.value]
            assert said["findings"] == []

    def test_standard_input_is_read(self, saves: dict[tuple[Family, bool], str]) -> None:
        text = "".join(Path(saves[family, True]).read_text() for family in Family)
        argv = [*PROGRAM, "explain", "--format", "json", "--file", "-"]

        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True, env=environment())

        said = json.loads(done.stdout)
        assert said["target"] == "standard input"
        assert said["families"] == ["ipv4", "ipv6"]

    def test_standard_input_need_not_be_of_the_locale(self) -> None:
        text = b'*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -m comment --comment "\xff\xfe" -j ACCEPT\nCOMMIT\n'
        argv = [*PROGRAM, "explain", "--file", "-"]
        env = environment({"PYTHONIOENCODING": "utf-8:strict"})

        done = subprocess.run(argv, input=text, capture_output=True, check=False, env=env)

        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize(
        ("argv", "status", "words"),
        [
            (["--file", "/nowhere/save"], 2, "/nowhere/save: it cannot be read: No such file"),
            (["--file", os.devnull, "--netns", "x"], 2, "give one of"),
            (["--file", "-", "--file6", "-"], 2, "only one of --file and --file6"),
            (["--expect-file", "/nowhere/expected", "--file", os.devnull], 2, "/nowhere/expected: it cannot be read"),
            (["--pid", "2147483646"], 4, "there is no such process"),
            (["--netns", "nowhere-at-all"], 4, "/run/netns/nowhere-at-all does not exist"),
            (["--format", "xml"], 2, "'xml' is not one of"),
            (["--file", os.devnull, "--watch", "1"], 2, "not with --file"),
        ],
    )
    def test_what_cannot_be_looked_at_is_told(self, argv: list[str], status: int, words: str) -> None:
        done = istio_init("explain", *argv)

        assert (done.status, done.stdout) == (status, "")
        assert words in done.stderr
        assert "Traceback" not in done.stderr

    def test_what_is_no_save_is_told_with_its_line(self, tmp_path: Path) -> None:
        file = tmp_path / "save"
        file.write_text("*nat\n:OUTPUT ACCEPT [0:0]\nsomething else\nCOMMIT\n")

        done = istio_init("explain", "--file", str(file))

        assert done.status == 2
        assert "line 3: not a line of iptables-save: 'something else'" in done.stderr


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


class TestHtml:
    """The page is one file that needs nothing else, whatever the rules hold."""

    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_it_is_well_formed_and_holds_the_diagram(self, name: str) -> None:
        explanation = of_configuration(CONFIGURATIONS[name], expect="-b 80 -i *")

        page = Page(explanation_html(explanation))

        assert {"html", "head", "title", "style", "body", "svg", "table"} <= page.tags
        assert any("ISTIO_OUTPUT" in text for text in page.texts["text"])

    def test_it_loads_nothing_and_runs_nothing(self) -> None:
        text = explanation_html(hostile())

        page = Page(text)

        assert not {"script", "link", "img", "iframe", "object", "b", "i"} & page.tags
        assert not {"src", "href", "onload", "onclick"} & set(page.attributes)
        assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
        assert "url(" not in text and "@import" not in text
        assert re.search(r"prefers-color-scheme: dark", text)

    def test_hostile_words_are_shown(self) -> None:
        page = Page(explanation_html(hostile()))

        shown = "".join(page.texts["td"])
        assert "</pre><script>alert(1)</script>&amp; \\x1b[31mred" in shown
        assert any("<b>evil" in text for text in page.texts["text"])
        everything = "".join(text for texts in page.texts.values() for text in texts)
        assert not any(ord(character) < 32 for character in everything.replace("\n", ""))

    def test_every_word_of_the_diagram_lies_within_it(self) -> None:
        for line in CONFIGURATIONS.values():
            for found in of_configuration(line).rules.values():
                svg = flow_svg(flow(found))
                width, height = map(float, re.findall(r'(?:width|height)="(\d+)"', svg)[:2])
                for x, y in re.findall(r'<text x="(\d+)" y="([\d.]+)"', svg):
                    assert 0 <= float(x) < width
                    assert 0 < float(y) < height
                for x, wide in re.findall(r'<rect x="(\d+)" y="[\d.]+" width="(\d+)"', svg):
                    assert float(x) + float(wide) <= width

    def test_it_comes_from_the_command(self, pod: Sidecar) -> None:
        page = Page(istio_init("explain", "--netns", pod.inside.name, "--format", "html").ok().stdout)

        assert page.texts["title"] == [f"istio-init explain: netns {pod.inside.name}"]
        assert page.texts["h3"].count("ipv6") == 1


class TestDrift:
    """How live rules differ from those of a configuration, in the order of the chains."""

    FLAGS = "-b * -d 15090,15021,15020 -i * --dual-stack"

    def changes(self, pod: Sidecar, *argv: str) -> list[tuple[str, str, str, str]]:
        drift = pod.explain(*argv)["drift"]
        return [(each["change"], each["family"], each["chain"], each["text"]) for each in drift["changes"]]

    def test_the_same_configuration_is_none(self, pod: Sidecar, tmp_path: Path) -> None:
        file = tmp_path / "expected"
        file.write_text("# as injected\nistio-iptables -b '*' -i '*' \\\n  -d 15090,15021,15020 --dual-stack\n")

        for argv in (("--expect", self.FLAGS), ("--expect-file", str(file))):
            assert pod.explain(*argv)["drift"] == {"equal": True, "note": None, "changes": [], "command": None}
            assert istio_init("explain", "--netns", pod.inside.name, "--check", *argv).status == 0

    def test_what_differs_is_told_in_order(self, healthy: Sidecar) -> None:
        for words in (
            "-D ISTIO_INBOUND -p tcp --dport 15021 -j RETURN",
            "-I ISTIO_INBOUND 2 -p tcp --dport 9090 -j RETURN",
            "-D ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN",
            "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN",
            "-A OUTPUT -p udp --dport 123 -j ACCEPT",
        ):
            healthy.iptables("-t", "nat", *words.split())

        found = self.changes(healthy, "--expect", self.FLAGS)

        assert found == [
            ("foreign", "ipv4", "OUTPUT", "-p udp -m udp --dport 123 -j ACCEPT"),
            ("missing", "ipv4", "ISTIO_INBOUND", "-p tcp -m tcp --dport 15021 -j RETURN"),
            ("extra", "ipv4", "ISTIO_INBOUND", "-p tcp -m tcp --dport 9090 -j RETURN"),
            ("moved", "ipv4", "ISTIO_OUTPUT", "-s 127.0.0.6/32 -o lo -j RETURN"),
        ]
        text = istio_init("explain", "--netns", healthy.inside.name, "--expect", self.FLAGS).ok().stdout
        assert [line.split()[0] for line in text.split("\nDrift\n")[1].split("\n\n")[0].split("\n")] == [
            "foreign:", "missing:", "extra:", "moved:", "This", "istio-init",
        ]  # fmt: skip

    def test_another_configuration_is_told_rule_by_rule(self, pod: Sidecar) -> None:
        found = self.changes(pod, "--expect", "-b 8080 -i * --dual-stack")

        assert found == [
            change
            for family in ("ipv4", "ipv6")
            for change in (
                ("missing", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 15090 -j RETURN"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 15021 -j RETURN"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -m tcp --dport 15020 -j RETURN"),
                ("extra", family, "ISTIO_INBOUND", "-p tcp -j ISTIO_IN_REDIRECT"),
            )
        ]

    def test_foreign_rules_alone_are_no_drift(self, healthy: Sidecar) -> None:
        healthy.iptables("-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")

        assert istio_init("explain", "--netns", healthy.inside.name, "--check", "--expect", self.FLAGS).status == 0

    @pytest.mark.parametrize("flag", ["--expect", "--expect-file"])
    def test_a_bad_configuration_is_refused_with_every_problem(self, tmp_path: Path, flag: str) -> None:
        line = "-b 80,http:x -p 70000 -i 10.0.0.0 -m TPROXY"
        file = tmp_path / "expected"
        file.write_text(line)

        done = istio_init("explain", "--file", os.devnull, flag, line if flag == "--expect" else str(file))

        assert (done.status, done.stdout) == (2, "")
        assert "3 problems in the configuration" in done.stderr
        for words in ("'http:x': not a range of ports", "'70000': not a port", "'10.0.0.0': a range needs a prefix"):
            assert words in done.stderr

    @pytest.mark.parametrize("line", ["-b * --unknown 1", "-b 'open", "-b"])
    def test_what_is_no_command_line_is_refused(self, line: str) -> None:
        done = istio_init("explain", "--file", os.devnull, "--expect", line)

        assert (done.status, done.stdout) == (2, "")
        assert "--expect" in done.stderr


class TestCheck:
    """With --check the exit status tells whether something is wrong now."""

    def check(self, pod: Sidecar, *argv: str) -> Result:
        return istio_init("explain", "--netns", pod.inside.name, "--check", *argv)

    def test_a_healthy_pod_passes(self, pod: Sidecar) -> None:
        assert self.check(pod).status == 0

    def test_an_error_fails(self, healthy: Sidecar) -> None:
        healthy.proxy.kill()

        done = self.check(healthy)

        assert done.status == 3
        assert "[no-listener]" in done.stdout
        assert istio_init("explain", "--netns", healthy.inside.name).status == 0

    def test_a_warning_passes(self, healthy: Sidecar) -> None:
        healthy.start(APP, Endpoint("127.0.0.1", 9000))
        healthy.iptables("-t", "nat", "-A", "OUTPUT", "-j", "ISTIO_OUTPUT")

        assert self.check(healthy).status == 0

    @pytest.mark.parametrize("form", ["text", "json", "list", "save", "html"])
    def test_drift_fails_whatever_the_format(self, pod: Sidecar, form: str) -> None:
        assert self.check(pod, "--format", form, "--expect", "-b 80 -i *").status == 3


class TestPrivilege:
    """What may not be read is said, and the rest still comes."""

    def test_without_capabilities_the_rest_is_explained(self, pod: Sidecar) -> None:
        bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        inside = ("ip", "netns", "exec", pod.inside.name)

        done = execute(*inside, *bare, *PROGRAM, "explain", "--format", "json").ok()

        said = json.loads(done.stdout)
        assert said["mode"] == "none"
        assert any(line.startswith("nft rules: ") for line in said["unread"])
        assert any(line.startswith("native nftables: ") for line in said["unread"])
        assert said["findings"] == []  # Not that the proxy is bypassed: nobody can tell.
        text = execute(*inside, *bare, *PROGRAM, "explain").ok().stdout
        assert "no redirection, as far as the rules could be read" in text
        assert "not read: nft rules: the kernel's nf_tables cannot be read: permission denied" in text

    def test_an_ordinary_user_is_told_what_was_not_read(self, pod: Sidecar) -> None:
        said = pod.inside.call(lambda: explain(observe(places.HERE)), User(65534, 65534))

        assert {each.part for each in said.snapshot.unread} >= {Part.RULES_NFT, Part.NATIVE}
        assert set(map(str, said.snapshot.addresses)) >= {HOSTS[V4].pod, HOSTS[V6].pod}
        assert {15001, 15006} <= {each.port for each in said.snapshot.listeners}
        assert said.findings == ()

    def test_another_namespace_may_not_be_entered(self, pod: Sidecar) -> None:
        bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")

        done = execute(*bare, *PROGRAM, "explain", "--netns", pod.inside.name)

        assert (done.status, done.stdout) == (5, "")
        assert "it cannot be entered: permission denied" in done.stderr


class TestTargets:
    """The same namespace by process, by name, by path and from inside."""

    def test_every_way_leads_to_the_same(self, pod: Sidecar) -> None:
        by_name = pod.explain()

        for argv in (["--pid", str(pod.proxy.pid)], ["--netns", str(pod.inside.path)]):
            found = explain_json(*argv)
            assert (found["rules"], found["argv"]) == (by_name["rules"], by_name["argv"])
        inside = execute("ip", "netns", "exec", pod.inside.name, *PROGRAM, "explain", "--format", "json").ok()
        found = json.loads(inside.stdout)
        assert (found["target"], found["rules"]) == ("this namespace", by_name["rules"])

    def test_connections_are_those_of_the_namespace(self, healthy: Sidecar) -> None:
        place = places.of_netns(healthy.inside.name)
        before = healthy.inside.call(lambda: observe(place)).connections

        connect(healthy.inside, APP, Endpoint(HOSTS[V4].far, 80))

        assert healthy.inside.call(lambda: observe(place)).connections == before + 2
        place.close()
