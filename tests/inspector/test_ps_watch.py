"""``ps --watch``: the table again and again for a person, metrics for Prometheus with a log of what changes."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.command import PROGRAM, environment, istio_init

from istio_init.cli.interval import watch_seconds
from istio_init.cli.ps_watch import changes
from istio_init.inspector.findings.catalogue import KINDS
from istio_init.report.ps_row import PsRow

from .sidecar import Sidecar

ROW = PsRow(4026531840, 7, "envoy", None, (), "redirect", "nft", "captured", 0)


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
        return port


@contextlib.contextmanager
def watching(*words: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [*PROGRAM, "ps", "--watch", "0.5", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def metrics(address: str) -> dict[tuple[str, str], float]:
    """The samples by name and first label, once there are some."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
                text = answer.read().decode()
        except OSError:
            assert time.monotonic() < deadline, "nobody serves the metrics"
            time.sleep(0.1)
            continue
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


class TestMetrics:
    """What Prometheus gets to see of real namespaces."""

    def test_namespaces_by_state_findings_by_code_and_the_last_look(self, healthy: Sidecar) -> None:
        address = f"127.0.0.1:{free_port()}"
        inode = healthy.inside.path.stat().st_ino
        with watching("--metrics", address) as child:
            assert child.stderr is not None
            first = metrics(address)
            healthy.proxy.kill()
            lines: list[str] = []
            while not lines or "no-listener" not in lines[-1]:
                line = child.stderr.readline()
                assert line, "it ended"
                if f"netns {inode}," in line:
                    lines.append(line.rstrip())
            second = metrics(address)
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=60)

        assert lines[0].endswith("(envoy): captured")
        assert lines[1].endswith(": captured -> broken [no-listener]")
        assert first["istio_init_namespaces", "captured"] >= 1
        assert {label for name, label in first if name == "istio_init_findings"} == {kind.code for kind in KINDS}
        assert 0 < first["istio_init_scan_duration_seconds", ""] < 20
        assert second["istio_init_scan_timestamp_seconds", ""] > first["istio_init_scan_timestamp_seconds", ""]
        assert second["istio_init_namespaces", "broken"] >= 1
        assert second["istio_init_findings", "no-listener"] >= 1
        assert child.returncode == 0

    def test_a_client_that_says_nothing_is_let_go(self, real_kernel: None) -> None:
        port = free_port()
        with watching("--metrics", f":{port}"):
            metrics(f"127.0.0.1:{port}")
            with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
                assert ("istio_init_namespaces", "captured") in metrics(f"127.0.0.1:{port}")
                assert silent.recv(1) == b""

    def test_a_client_that_says_its_request_letter_by_letter_is_let_go(self, real_kernel: None) -> None:
        port = free_port()
        with watching("--metrics", f":{port}") as child:
            metrics(f"127.0.0.1:{port}")
            with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
                start = time.monotonic()
                with contextlib.suppress(ConnectionError):
                    while time.monotonic() < start + 60:
                        slow.send(b"G")
                        time.sleep(1)
                assert time.monotonic() < start + 50, "it was not let go"
            assert ("istio_init_namespaces", "captured") in metrics(f"127.0.0.1:{port}")
            child.send_signal(signal.SIGTERM)
            _, errors = child.communicate(timeout=60)

        assert "Traceback" not in errors

    def test_clients_that_dawdle_keep_nobody_waiting(self, real_kernel: None) -> None:
        port = free_port()
        with watching("--metrics", f":{port}"), contextlib.ExitStack() as stack:
            metrics(f"127.0.0.1:{port}")
            for _ in range(200):
                idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                with contextlib.suppress(OSError):
                    idle.send(b"GET /metrics HTTP/1.1\r\n")
            assert ("istio_init_namespaces", "captured") in metrics(f"127.0.0.1:{port}")

    @pytest.mark.parametrize(("where", "heard"), [("", False), ("*", True), ("0.0.0.0", True)])
    def test_only_loopback_is_listened_on_unless_told(self, real_kernel: None, where: str, heard: bool) -> None:
        port = free_port()
        with watching("--metrics", f"{where}:{port}"):
            metrics(f"127.0.0.1:{port}")
            listens = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()

        addresses = re.findall(rf"\d+: ([0-9A-F]+):{port:04X} 0+:0000 0A", listens)
        assert [set(each) == {"0"} for each in addresses] == [heard]

    def test_what_is_no_request_is_refused(self, real_kernel: None) -> None:
        port = free_port()
        with watching("--metrics", f":{port}"):
            metrics(f"127.0.0.1:{port}")
            for said, start in ((b"POST / HTTP/1.1\r\n\r\n", b"HTTP/1.0 405"), (b"x" * 20000, b"")):
                with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                    client.sendall(said)
                    with contextlib.suppress(ConnectionError):
                        assert client.recv(100).startswith(start)

    def test_a_port_that_is_taken_is_told(self, real_kernel: None) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]

            done = istio_init("ps", "--watch", "--metrics", f"127.0.0.1:{port}")

        assert done.status == 1
        assert f"nothing can listen on 127.0.0.1 port {port}: Address already in use" in done.stderr


class TestWatching:
    """For a person."""

    def test_the_table_comes_again_until_a_signal(self, real_kernel: None) -> None:
        with watching() as child:
            assert child.stdout is not None
            headings = 0
            while headings < 2:
                headings += child.stdout.readline().startswith("NETNS")
            child.send_signal(signal.SIGINT)
            child.communicate(timeout=60)

        assert child.returncode == 0

    @pytest.mark.parametrize(
        ("before", "after", "line"),
        [
            ([], [ROW], "netns 4026531840, pid 7 (envoy): captured"),
            ([ROW], [ROW], None),
            ([ROW], [], "netns 4026531840, pid 7 (envoy): captured -> gone"),
            (
                [ROW],
                [ROW.replace(state="broken", codes=("no-listener", "no-listener", "half-applied"))],
                "netns 4026531840, pid 7 (envoy): captured -> broken [no-listener, half-applied]",
            ),
            (
                [ROW],
                [ROW.replace(codes=("shadowed-rule",))],
                "netns 4026531840, pid 7 (envoy): captured -> captured [shadowed-rule]",
            ),
            ([ROW], [ROW.replace(pid=8, process="app")], None),
        ],
    )
    def test_only_what_changes_is_logged(self, before: list[PsRow], after: list[PsRow], line: str | None) -> None:
        assert changes(before, after) == ([] if line is None else [line])


def test_an_interval_beyond_all_clocks_is_a_day() -> None:
    assert {watch_seconds(text, shortest=1) for text in ("9" * 20, "99999h")} == {86400}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--metrics", ":9469"], "--metrics serves what --watch sees: add --watch"),
        (["--watch", "--metrics", ":9469", "--format", "json"], "not with --format"),
        (["--watch", "soon"], "'soon': not a duration"),
        (["--watch", "--metrics", "9469x"], "'9469x': not an address and a port"),
        (["--watch", "--metrics", ":0"], "':0': not an address and a port"),
        (["--watch", "--metrics", "localhost:80"], "'localhost:80': not an address and a port"),
    ],
)
def test_what_has_no_meaning_is_refused(words: list[str], why: str) -> None:
    done = istio_init("ps", *words)

    assert done.status == 2
    assert why in done.stderr
