"""The drop-in's log lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from istio_init.cli.log import LEVELS, Log, parse_level

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def test_a_line_is_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    Log().info("programmed")

    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"{STAMP}\tinfo\tprogrammed\n", err)


def test_each_line_of_a_message_is_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    Log().error("what failed\n  what to do")

    lines = capsys.readouterr().err.splitlines()
    assert [line.split("\t", 1)[1] for line in lines] == ["error\twhat failed", "error\t  what to do"]


def test_as_json_a_message_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    Log(as_json=True).warn('two\nlines with "quotes"')

    [line] = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert record["level"] == "warn"
    assert record["msg"] == 'two\nlines with "quotes"'
    assert re.fullmatch(STAMP, record["time"])
    assert set(record) == {"level", "time", "msg"}


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("none", []),
        ("fatal", []),
        ("error", ["error"]),
        ("warn", ["error", "warn"]),
        ("info", ["error", "warn", "info"]),
        ("debug", ["error", "warn", "info", "debug"]),
    ],
)
def test_the_level_decides_what_is_shown(level: str, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(level)

    for write in (log.error, log.warn, log.info, log.debug):
        write("x")

    assert [line.split("\t")[1] for line in capsys.readouterr().err.splitlines()] == shown


def test_the_log_can_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Log(target="stdout").info("here")

    out, err = capsys.readouterr()
    assert out.endswith("\tinfo\there\n")
    assert err == ""


def test_the_log_can_go_to_a_file_which_it_adds_to(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    log = Log(target=str(file))

    log.info("one")
    log.info("two")

    assert [line.rpartition("\t")[2] for line in file.read_text().splitlines()] == ["before", "one", "two"]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        *((level, level) for level in LEVELS),
        ("default:debug", "debug"),
        ("all:none", "none"),
        ("ads:debug,default:warn", "warn"),
        ("default:warn,ads:debug", "warn"),
        (" default:warn , ads:debug", "warn"),
        ("ads:debug,info", "info"),
        ("", None),
        ("loud", None),
        ("default:", None),
        (":info", None),
        ("default:info,", None),
        ("info:default", None),
        ("INFO", None),
        ("ads:debug,xds:warn", "warn"),
    ],
)
def test_the_level_is_read_from_scopes(text: str, level: str | None) -> None:
    assert parse_level(text) == level
