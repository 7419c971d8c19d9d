"""The drop-in where it needs no kernel: its help, its refusals, and what it says of a configuration."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from istio_init.cli import dropin
from istio_init.options import DROPIN_OPTIONS, OPTIONS

ALL = OPTIONS + DROPIN_OPTIONS

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment that could be meant for the drop-in."""
    for option in ALL:
        for name in option.env:
            monkeypatch.delenv(name, raising=False)


def check(*argv: str) -> int:
    """Run the drop-in so that it checks its configuration and writes nothing."""
    return dropin.run(["--skip-rule-apply", *argv])


def messages(capsys: Output, level: str) -> list[str]:
    lines = [line.split("\t", 2) for line in capsys.readouterr().err.splitlines()]
    return [text for _, found, text in lines if found == level]


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["-p", "1", "--help"], ["--nonsense", "-h"]], ids=" ".join)
def test_help_is_printed_and_nothing_else_is_done(argv: list[str], capsys: Output) -> None:
    assert dropin.run(argv) == 0

    out, err = capsys.readouterr()
    assert out.startswith("Usage: istio-iptables [flags]\n")
    assert err == ""


def test_help_fits_80_columns_and_names_every_option_and_variable(capsys: Output) -> None:
    dropin.run(["--help"])

    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    words = set(re.findall(r"[\w-]+", out))
    for option in ALL:
        assert {name for name in (option.flag, option.short, *option.env) if name} <= words
        assert option.group in out


@pytest.mark.parametrize(
    "default",
    [
        *("15001", "15006", "15008", "1337", "133", "15002", "5s", "127.0.0.1/32", "istio-proxy"),
    ],
)
def test_help_shows_istios_own_defaults(default: str, capsys: Output) -> None:
    dropin.run(["--help"])

    out = " ".join(capsys.readouterr().out.split())
    assert f"Default: {default}." in out
    assert "15090" not in out


def test_a_valid_configuration_is_enough_for_skip_rule_apply(capsys: Output) -> None:
    assert check("-b", "*", "-i", "*", "-d", "15090,15021,15020", "--log_output_level=default:info") == 0

    assert messages(capsys, "info") == ["the configuration is valid; no rules are written (--skip-rule-apply)"]


@pytest.mark.parametrize("argv", [["--nonsense"], ["-Y"], ["--envoy-port"]], ids=" ".join)
def test_an_unknown_flag_or_a_missing_value_exits_with_1(argv: list[str], capsys: Output) -> None:
    assert dropin.run(argv) == 1

    said = messages(capsys, "error")
    assert argv[0].lstrip("-") in said[0]
    assert "--help" in said[1]


def test_every_problem_of_a_configuration_is_in_the_log_and_the_exit_status_is_1(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTIO_SERVICE_CIDR", "10.0.0.0")

    assert check("-b", "99999", "-u", "no such user") == 1

    said = messages(capsys, "error")
    assert said[0] == "3 problems in the configuration:"
    assert [re.findall(r"'[^']*'", line) for line in said[1:]] == [["'99999'"], ["'10.0.0.0'"], ["'no such user'"]]
    assert "environment variable ISTIO_SERVICE_CIDR" in said[2]


def test_a_value_that_looks_like_a_flag_is_refused(capsys: Output) -> None:
    assert check("-x", "-b", "*") == 1

    assert any("-x/--istio-service-exclude-cidr '-b': looks like a flag" in line for line in messages(capsys, "error"))


def test_another_mode_is_redirect_with_a_warning(capsys: Output) -> None:
    assert check("-m", "NONE") == 0

    [warning] = messages(capsys, "warn")
    assert "'NONE'" in warning
    assert "REDIRECT is used" in warning


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--force-iptables-binary", "ipset"], "--force-iptables-binary 'ipset': not a backend; write nft or legacy"),
        (["--probe-timeout", "5x"], "--probe-timeout '5x': not a duration"),
        (["--run-validation", "--probe-timeout", "0s"], "--probe-timeout '0s': no time at all"),
        (["--wait", "soon"], "--wait 'soon': not a duration"),
        (["--reconcile=maybe"], "--reconcile 'maybe': not a boolean"),
        (["--iptables-probe-port", "0"], "--iptables-probe-port '0': not a port"),
        (["--log_output_level", "loud"], "--log_output_level 'loud': not a log level"),
        (["--log_as_json=maybe"], "--log_as_json 'maybe': not a boolean"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_bad_value_of_its_own_options_is_refused(argv: list[str], said: str, capsys: Output) -> None:
    assert check(*argv) == 1

    assert any(said in line for line in messages(capsys, "error"))


def test_the_logging_flags_are_accepted(capsys: Output) -> None:
    flags = ["--log_caller", "default", "--log_stacktrace_level=default:none", "--log_target", "stdout"]

    assert check(*flags) == 0

    out, err = capsys.readouterr()
    assert "\tinfo\t" in out
    assert err == ""


def test_the_log_can_be_json(capsys: Output) -> None:
    assert check("--log_as_json", "-b", "x") == 1

    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "error"
    assert "'x'" in json.loads(line)["msg"]


def test_the_log_can_be_silent(capsys: Output) -> None:
    assert check("--log_output_level", "none", "-b", "x") == 1

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([], id="nothing else is wrong"),
        pytest.param(["-b", "x"], id="the configuration is wrong, too"),
        pytest.param(["--nonsense"], id="a flag is not known: it is read before the log's target"),
    ],
)
def test_a_log_file_that_cannot_be_written_is_an_error_that_is_said(
    argv: list[str], tmp_path: Path, capsys: Output
) -> None:
    assert check("--log_target", str(tmp_path / "nowhere" / "log"), *argv) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert all(word.lstrip("-") in err for word in argv if word != "-b")


def test_cni_mode_is_accepted() -> None:
    assert check("--cni-mode") == 0


def test_positional_words_are_ignored() -> None:
    assert check("run", "now") == 0


def test_a_namespace_that_does_not_exist_is_refused_before_anything_is_done(tmp_path: Path, capsys: Output) -> None:
    assert dropin.run(["--network-namespace", str(tmp_path / "nowhere")]) == 1

    assert any("does not exist" in line for line in messages(capsys, "error"))


def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "file"
    file.touch()

    assert dropin.run(["--network-namespace", str(file)]) == 1

    assert any("is not a network namespace" in line for line in messages(capsys, "error"))


@pytest.mark.parametrize("command", [["-m", "istio_init", "istio-iptables"]], ids=["through the group"])
def test_it_runs_as_a_process_of_its_own(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--skip-rule-apply", "-b", "x"], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert "'x': not a port" in done.stderr
    assert done.stdout == ""


def test_a_variable_that_is_no_boolean_is_told(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RECONCILE", "INVALID_DROP"):
        monkeypatch.setenv(name, "maybe")
    monkeypatch.setenv("FORCE_APPLY", "")
    assert check("-b", "*") == 0

    lines = capsys.readouterr().err.splitlines()
    said = "'maybe': not a boolean, so it counts as false; write true or false"
    told = [line.partition("environment variable ")[2] for line in lines if "environment variable" in line]
    assert told == [f"RECONCILE {said}", f"INVALID_DROP {said}"]
