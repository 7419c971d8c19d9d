"""A list of namespaces that is narrow leaves columns out, and breaks nothing that one needs to go on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from istio_init.cli.ps_table import PLAIN_WIDTH, table
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
    findings=3,
    codes=("no-listener", "shadowed-rule", "shadowed-rule"),
    pod="payment-7f9c6d8b5-x2k9p",
    namespace="checkout-production",
    outbound="proxied/direct",
    inbound="undecidable",
    worst="no-listener",
)


def rendered(columns: int, row: PsRow = ROW, *, wide: bool = False) -> str:
    console = Console(file=io.StringIO(), width=columns)
    console.print(table([row], columns, wide=wide))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("columns", [80, 100, 120, 140, PLAIN_WIDTH])
def test_what_one_needs_to_go_on_is_there(columns: int) -> None:
    shown = rendered(columns)

    for word in ("redirect", "not captured", "STATE", "OUTBOUND", "INBOUND", "FINDING"):
        assert word in shown, shown
    heading, *lines = shown.splitlines()
    pod = "".join(line[: heading.index("STATE")].strip() for line in lines)
    if columns < 110:
        assert pod == "checkout-production/payment-7f9c6d8b5-x2k9p"
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= columns


def test_without_a_pods_name_the_process_stands_for_it() -> None:
    nameless = ROW.replace(pod=None, namespace=None, process="app", outbound="proxied", inbound="direct", worst=None)

    assert "app (pid 4194303)" in rendered(80, nameless)
    assert "(app)" in rendered(140, nameless)


def test_a_name_that_is_claimed_twice_is_marked() -> None:
    assert "payment-7f9c6d8b5-x2k9p (?)" in rendered(PLAIN_WIDTH, ROW.replace(is_shared=True))


def test_wide_has_all_in_a_line() -> None:
    shown = rendered(PLAIN_WIDTH, wide=True)

    for word in ("0123456789abcdef", "4026532999", "10.244.117.203", "no-listener, shadowed-rule", "4194303"):
        assert word in shown
    assert len(shown.splitlines()) == 2
