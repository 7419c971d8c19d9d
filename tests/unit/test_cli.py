"""The command group where it needs no kernel: help, version, completion, and refusals."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from importlib import resources
from pathlib import Path

import pytest
from referencing import Registry, Resource
from support.command import PROGRAM, environment, execute
from support.processes import wait_until_reading

import istio_init
from istio_init.cli import DROPIN
from istio_init.cli.app import COMMANDS, run
from istio_init.options import OPTIONS

jsonschema = pytest.importorskip("jsonschema")

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide terminal, and nothing in the environment that could be meant for a command."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("ISTIO_INIT_ALLOW_HOST_NETWORK", raising=False)
    for option in OPTIONS:
        for name in option.env:
            monkeypatch.delenv(name, raising=False)


def validate(name: str, value: object) -> None:
    """Check a value against a schema of the package, which may refer to the others."""
    found = resources.files(istio_init) / "schemas"
    schemas = {each.name: json.loads(each.read_text(encoding="utf-8")) for each in found.iterdir()}
    registry: Registry[object] = Registry().with_resources(
        [(each, Resource.from_contents(schema)) for each, schema in schemas.items()]
    )
    jsonschema.Draft202012Validator(schemas[name], registry=registry).validate(value)


def test_the_version_is_the_packages(capsys: Output) -> None:
    assert run(["--version"]) == 0

    assert capsys.readouterr().out == f"istio-init {istio_init.__version__}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_fits_80_columns_and_lists_every_command(flag: str, capsys: Output) -> None:
    assert run([flag]) == 0

    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_fits_80_columns(command: str, capsys: Output) -> None:
    assert run([command, "--help"]) == 0

    out = capsys.readouterr().out
    assert out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["", *sorted({*COMMANDS} - {DROPIN})])
def test_on_a_narrow_terminal_each_description_has_lines_of_its_own(
    command: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert run([*command.split(), "--help"]) == 0

    shown, _, _ = capsys.readouterr().out.partition("Examples:")
    lines = shown.splitlines()
    to_copy = re.compile(r"  -\S.*|    +(istio-init|kubectl) .*")
    assert [line for line in lines if len(line) > 40 and not to_copy.fullmatch(line)] == []
    assert command or "..." not in shown.partition("\n\n")[2]
    described = [line for line in lines if re.match(r" {6}\S", line)]
    assert max(map(len, described)) > 30


def test_the_help_of_apply_lists_every_option_that_shapes_rules_under_its_group(capsys: Output) -> None:
    run(["apply", "--help"])

    out = capsys.readouterr().out
    words = set(re.findall(r"[\w-]+", out))
    for option in OPTIONS:
        assert {name for name in (option.flag, option.short, *option.env) if name} <= words
        if option.flag:
            assert f"{option.group}:" in out
    assert "15090,15021,15020" in " ".join(out.split())


def test_the_help_of_apply_does_not_offer_what_is_the_drop_ins_alone(capsys: Output) -> None:
    run(["apply", "--help"])

    out = capsys.readouterr().out
    for flag in ("--cleanup-only", "--skip-rule-apply", "--network-namespace", "--force-apply"):
        assert flag not in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell: str, capsys: Output) -> None:
    assert run(["completion", shell]) == 0

    shown = capsys.readouterr().out
    assert "_ISTIO_INIT_COMPLETE" in shown
    assert "istio-inbound-interception-mode" in shown
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=shown, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_drop_in_s_flags_are_completed() -> None:
    asked = {"COMP_WORDS": "istio-init istio-iptables --istio-inbound-t", "COMP_CWORD": "2"}
    script = "import sys; sys.argv = ['istio-init']; from istio_init.cli.main import main; main()"

    done = execute(sys.executable, "-c", script, env={**asked, "_ISTIO_INIT_COMPLETE": "bash_complete"})

    assert done.stdout.split() == ["plain,--istio-inbound-tproxy-mark", "plain,--istio-inbound-tproxy-route-table"]


USAGE = {
    "an unknown command": ["nonsense"],
    "an unknown flag": ["--nonsense"],
    "an unknown flag of apply": ["apply", "--nonsense"],
    "a flag of the drop-in alone": ["apply", "--cleanup-only"],
    "an unknown flag of clean": ["clean", "-b", "*"],
    "a word too many": ["ps", "now"],
    "a pid that is no number": ["apply", "--pid", "x"],
    "a missing value": ["apply", "--netns"],
    "another backend": ["apply", "--force-iptables-binary", "ipset"],
    "another format": ["clean", "--format", "xml"],
    "a wait that is no duration": ["apply", "--wait", "soon"],
    "another shell": ["completion", "tcsh"],
}


@pytest.mark.parametrize("argv", USAGE.values(), ids=USAGE)
def test_bad_usage_exits_with_2_and_says_why(argv: list[str], capsys: Output) -> None:
    assert run(argv) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert "Error: " in err


def test_a_bad_configuration_exits_with_2_and_lists_every_problem(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTIO_OUTBOUND_OWNER_GROUPS", ",".join(map(str, range(50))))

    assert run(["apply", "-b", "99999", "-m", "BOTH"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert "3 problems in the configuration" in err
    for said in ("'99999'", "'BOTH'", "50 groups", "write REDIRECT or TPROXY"):
        assert said in err


def test_a_bad_configuration_is_a_failed_result_in_json(capsys: Output) -> None:
    assert run(["apply", "-b", "99999", "--format", "json"]) == 2

    value = json.loads(capsys.readouterr().out)
    validate("apply.schema.json", value)
    [result] = value["results"]
    assert result["status"] == "failed"
    assert result["error"]["exit_code"] == 2
    assert "'99999'" in result["error"]["message"]


@pytest.mark.parametrize("command", ["apply", "clean"])
def test_targets_that_do_not_exist_exit_with_4_and_each_has_a_result(
    command: str, tmp_path: Path, capsys: Output
) -> None:
    missing = str(tmp_path / "nowhere")

    assert run([command, "--pid", "4194304", "--netns", missing, "--format", "json"]) == 4

    value = json.loads(capsys.readouterr().out)
    validate(f"{command}.schema.json", value)
    assert [result["target"] for result in value["results"]] == ["pid 4194304", f"netns {missing}"]
    assert {result["error"]["exit_code"] for result in value["results"]} == {4}


def test_targets_with_different_failures_exit_with_1(tmp_path: Path, capsys: Output) -> None:
    plain = tmp_path / "file"
    plain.touch()

    assert run(["apply", "-b", "99999", "--netns", "/proc/self/ns/net", "--netns", str(plain)]) == 1

    err = capsys.readouterr().err
    assert "'99999'" in err
    assert "is not a network namespace" in err


@pytest.mark.parametrize("value", ["-b=x", "--istio-inbound-ports=x", "-bx"])
def test_flags_can_be_written_as_usual(value: str, capsys: Output) -> None:
    assert run(["apply", value]) == 2

    assert "-b/--istio-inbound-ports" in capsys.readouterr().err


def test_a_file_of_values_that_cannot_be_read_exits_with_2(tmp_path: Path, capsys: Output) -> None:
    assert run(["apply", "-x", f"@{tmp_path}/nowhere"]) == 2

    assert "the file cannot be read (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-x", "-b", "*"], ["-b", "*", "-i", "*", "-x", "-d", "15090"]])
def test_a_flag_taken_for_the_value_before_it_is_named(words: list[str], capsys: Output) -> None:
    assert run(["apply", *words]) == 2

    assert "looks like a flag" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["apply", "--nothing"], 2, "No such option"),
        (["clean", "--wait", "soon"], 2, "'soon'"),
        (["explain", "--netns", "nowhere-at-all"], 4, "does not exist"),
        (["explain", "--file", "/nowhere"], 2, "cannot be read"),
        (["ps", "--watch", "x"], 2, "'x'"),
        (["trace", "outbound", "tcp", "nowhere", "--expect", ""], 2, "not an address"),
        (["map", "--expect", "-b 99999"], 2, "99999"),
        (["diff", "--", "-b 99999", "-b 1"], 2, "99999"),
        (["verify", "--netns", "nowhere-at-all"], 4, "does not exist"),
    ],
)
def test_a_program_is_told_what_failed(argv: list[str], status: int, words: str, capsys: Output) -> None:
    command, *rest = argv
    assert run([command, "--format", "json", *rest]) == status

    said = json.loads(capsys.readouterr().out)
    validate("error.schema.json", said)
    assert words in said["error"]["message"]
    assert said["error"]["exit_code"] == status


@pytest.mark.parametrize("pid", ["0", "-1"])
def test_a_number_that_is_no_pid_is_not_called_a_thread(pid: str, capsys: Output) -> None:
    assert run(["apply", f"--pid={pid}"]) == 4

    assert "not the id of a process" in capsys.readouterr().err


def test_a_threads_id_is_not_a_process(capsys: Output) -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        code = run(["apply", "--pid", str(thread.native_id)])
    finally:
        release.set()
        thread.join()

    assert code == 4
    assert "not a process, but a thread of one" in capsys.readouterr().err


def test_every_schema_is_a_schema() -> None:
    for each in (resources.files(istio_init) / "schemas").iterdir():
        jsonschema.Draft202012Validator.check_schema(json.loads(each.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--ambient", "--proxy-uid", "1"], "--proxy-uid: does nothing for an ambient pod"),
        (["--ambient", "-b", "*", "-i", "*"], "--istio-inbound-ports: does nothing for an ambient pod"),
        (["--ipv6=false"], "--ipv6: is for ambient pods"),
        (["--host-probe-address", "192.0.2.1"], "--host-probe-address: is for ambient pods"),
        (["--replace-other", "istio"], "'istio' is not one of 'sidecar', 'ambient', 'linkerd'"),
    ],
)
def test_options_of_the_other_kind_of_pod_are_refused_by_name(argv: list[str], problem: str, capsys: Output) -> None:
    assert run(["apply", *argv]) == 2

    assert problem in capsys.readouterr().err


def test_version_and_help_are_commands_too(capsys: Output) -> None:
    assert run(["version"]) == 0
    assert capsys.readouterr().out == f"istio-init {istio_init.__version__}\n"
    assert run(["trace", "--help"]) == 0
    shown = capsys.readouterr().out
    assert run(["help", "trace"]) == 0
    assert capsys.readouterr().out == shown
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert run(["help"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["explian"], "Did you mean 'explain'?"),
        (["varify", "--pid", "1"], "Did you mean 'verify'?"),
        (["help", "aply"], "Did you mean 'apply'?"),
        (["nonsense"], "istio-init --help lists all."),
    ],
)
def test_a_slip_in_a_command_s_name_is_answered_with_the_name(words: list[str], hint: str, capsys: Output) -> None:
    assert run(words) == 2
    assert hint in capsys.readouterr().err


STRAY = "-x 10.0.0.0/8 10.1.0.0/16"


@pytest.mark.parametrize(
    "words",
    [
        ["diff", STRAY, "-x 10.0.0.0/8"],
        ["diff", "-x 10.0.0.0/8", STRAY],
        ["trace", "--expect", STRAY, "outbound", "tcp", "10.1.0.1:80"],
        ["map", "--expect", STRAY],
        ["map", "--expect", "-x 10.0.0.0/8 -- 10.1.0.0/16"],
        ["explain", "--file", "/dev/null", "--expect", STRAY],
        ["apply", "--dry-run", *STRAY.split()],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_word_that_belongs_to_no_flag_is_refused(words: list[str], capsys: Output) -> None:
    assert run(words) == 2
    assert "10.1.0.0/16" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_text_is_printed_in_any_encoding(encoding: str) -> None:
    words = ("trace", "--expect", "", "outbound", "tcp", "1.2.3.4:80")
    done = subprocess.run(
        [*PROGRAM, *words], capture_output=True, env={**environment(), "PYTHONIOENCODING": encoding}, check=True
    )
    quote = '"' if encoding == "latin-1" else "“"
    assert f"not {quote}to 127.0.0.1" in done.stdout.decode(encoding)


def test_an_interruption_has_an_exit_status_of_its_own() -> None:
    reading = ("map", "--file", "-")
    with subprocess.Popen([*PROGRAM, *reading], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stderr is not None
        wait_until_reading(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().strip() == "interrupted"
