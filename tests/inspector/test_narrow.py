"""A list of namespaces that is narrow leaves columns out, and breaks nothing that one needs to go on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from istio_init.cli.ps import PLAIN_WIDTH, _table
from istio_init.report.ps_row import PsRow

ROW = PsRow(
    inode=4026532999,
    pid=4194303,
    process="pilot-agent-with-a-long-name",
    container="0123456789abcdef",
    addresses=("10.244.117.203", "2001:db8:1234:5678:9abc:def0:1234:5678"),
    mode="redirect",
    backend="legacy",
    state="not captured",
    findings=12,
)


def rendered(columns: int) -> str:
    console = Console(file=io.StringIO(), width=columns)
    console.print(_table([ROW], columns))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("columns", [80, 100, 120, PLAIN_WIDTH])
def test_what_one_needs_to_go_on_is_whole(columns: int) -> None:
    shown = rendered(columns)

    for word in ("4026532999", "4194303", "10.244.117.203", "redirect", "not captured", "12", "ADDRESSES", "FINDINGS"):
        assert word in shown, shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= columns


def test_all_is_shown_where_there_is_room() -> None:
    assert "0123456789ab" in rendered(PLAIN_WIDTH)
    assert len(rendered(PLAIN_WIDTH).splitlines()) == 2
