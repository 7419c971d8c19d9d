"""``explain --all``: every network namespace of a node in a few lines, those in trouble first."""

from __future__ import annotations

import json
import pickle
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

import pytest
from support.command import PROGRAM, execute, istio_init

from istio_init.inspector.findings.model import Shown
from istio_init.netfilter.family import Family
from istio_init.report.explain_html import Made
from istio_init.report.node_report import Part, node_html, node_lines
from istio_init.report.ps_row import PsRow

from .sidecar import Sidecar

jsonschema = pytest.importorskip("jsonschema")

SHOP = f"shop-{secrets.token_hex(4)}"
HOSTILE = "<script>\x1b[31m"


@pytest.fixture(scope="module")
def pods(both_backends: None) -> Iterator[dict[str, Sidecar]]:
    """A pod that is well and one whose proxy is gone."""
    with ExitStack() as stack:
        found = {}
        for name in ("payment-7f9c", "cart-5d8b"):
            found[name] = stack.enter_context(Sidecar.create(families=(Family.IPV4,)))
            found[name].inside.spawn("sleep", "300", env={"POD_NAME": name, "POD_NAMESPACE": SHOP})
        found["payment-7f9c"].proxy.kill()
        yield found


def test_each_pod_has_its_impact_and_its_findings_the_worst_first(pods: dict[str, Sidecar]) -> None:
    done = istio_init("explain", "--all").ok()

    payment = f"{SHOP}/payment-7f9c (pid {pods['payment-7f9c'].app.pid}): sidecar, REDIRECT, nft, ipv4"
    cart = f"{SHOP}/cart-5d8b (pid {pods['cart-5d8b'].proxy.pid}): sidecar, REDIRECT, nft, ipv4"
    assert 0 < done.stdout.index(payment) < done.stdout.index(cart)
    said = done.stdout[done.stdout.index(payment) :].partition("\n\n")[0]
    assert "  Outbound TCP: all refused, as nothing listens on port 15001" in said
    assert "[no-listener]" in said
    assert f"  More: istio-init explain --pid {pods['payment-7f9c'].app.pid}" in said
    well = done.stdout[done.stdout.index(cart) :].partition("\n\n")[0]
    assert "ERROR" not in well
    assert "  Outbound TCP: proxied to port 15001" in well


def test_the_values_fit_their_schema(pods: dict[str, Sidecar]) -> None:
    said = json.loads(istio_init("explain", "--all", "--format", "json").ok().stdout)

    schema = json.loads(files("istio_init.schemas").joinpath("explain-all.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(said)
    [payment] = [each for each in said["namespaces"] if each["pod"] == "payment-7f9c" and each["namespace"] == SHOP]
    assert [each["code"] for each in payment["explained"]] == payment["codes"]
    assert payment["impact"][0]["parts"][0]["outcome"] == "refused"


def test_a_check_and_what_is_ignored(pods: dict[str, Sidecar]) -> None:
    checked = istio_init("explain", "--all", "--check", "--output-file", "/dev/null")
    ignored = istio_init("explain", "--all", "--ignore", "no-listener").ok()

    assert checked.status == 3
    assert "[no-listener]" not in ignored.stdout


def test_a_page_for_the_whole_node(pods: dict[str, Sidecar], tmp_path: Path) -> None:
    path = tmp_path / "node.html"
    istio_init("explain", "--all", "-o", "html", "--output-file", str(path)).ok()

    text = path.read_text()
    assert text.startswith("<!doctype html>")
    assert f"{SHOP}/payment-7f9c" in text
    assert '<span class="bad">broken</span>' in text
    assert "no-listener" in text


def test_what_may_not_be_looked_at_is_said_and_ends_with_5(real_kernel: None) -> None:
    done = execute("setpriv", "--bounding-set=-all", "--inh-caps=-all", *PROGRAM, "explain", "--all")

    assert done.status == 5
    assert "not seen: " in done.stdout
    assert "which takes SYS_PTRACE" in done.stdout


@pytest.mark.parametrize(
    "words", [("shop/payment-7f9c",), ("--pid", "1"), ("--rules",), ("--watch", "1"), ("--format", "list")]
)
def test_it_is_of_the_whole_node_alone(words: tuple[str, ...]) -> None:
    done = istio_init("explain", "--all", *words)

    assert (done.status, done.stdout) == (2, "")
    assert "--all" in done.stderr


def test_names_of_others_do_nothing_to_the_page_or_the_terminal() -> None:
    row = PsRow(1, 7, HOSTILE, None, (), "-", "-", "unknown", 0, (), HOSTILE)
    parts = [Part(row)]

    page = node_html(parts, [HOSTILE], Made("now", HOSTILE, "istio-init"))
    lines = "\n".join(text for text, _ in node_lines(parts, []))

    assert "<script>" not in page
    assert "\x1b" not in page + lines


def test_evidence_with_a_command_comes_whole_from_another_process() -> None:
    evidence = Shown("direct: past the proxy", "istio-init trace outbound tcp 10.0.0.5:443 --pid 4711")

    found = pickle.loads(pickle.dumps(evidence))

    assert (found, found.said, found.command) == (evidence, evidence.said, evidence.command)
