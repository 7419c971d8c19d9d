"""What explain prints as JSON, as a listing, as a save and as a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from support.command import istio_init
from support.rules import program
from unit.strategies import configs, planted, rule_set, rules, surroundings, texts_of

from istio_init.config.model import Config
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.tables import Table
from istio_init.dialects.rule_store import IPTABLES
from istio_init.inspector.explain import Explanation, explain
from istio_init.inspector.flow import flow
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import recognise
from istio_init.netfilter.family import Family
from istio_init.observe.snapshot import Snapshot
from istio_init.report.explain_html import explanation_html
from istio_init.report.explain_json import explanation_json
from istio_init.report.flow_svg import flow_svg
from istio_init.report.listing import listing
from istio_init.testing.namespaces import Namespace

from .explained import CONFIGURATIONS, Page, explain_json, hostile, of_configuration, rendered, validate
from .sidecar import Sidecar
from .test_inference import OLDER, ambient, explained

V4, V6 = Family


@pytest.fixture
def pod(untouched: Sidecar) -> Sidecar:
    """A healthy pod that no test changes."""
    return untouched


class TestJson:
    """The JSON format is a contract."""

    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_explanations_of_configurations_fit_the_schema(self, name: str) -> None:
        explanation = of_configuration(CONFIGURATIONS[name], expect="-b 80 -i *")

        validate(json.loads(json.dumps(explanation_json(explanation))), "explain")

    @pytest.mark.parametrize(
        "make",
        [hostile, lambda: explained(ambient(V6), V6), lambda: explained({}), *(
            lambda name=name: explained(OLDER[name][0], expect="-b 80") for name in OLDER
        )],
    )  # fmt: skip
    def test_explanations_of_others_fit_the_schema(self, make: Callable[[], Explanation]) -> None:
        validate(json.loads(json.dumps(explanation_json(make()))), "explain")

    def test_live_explanations_fit_the_schema(self, pod: Sidecar) -> None:
        said = pod.explain("--expect", "-b 80 -x 192.0.2.0/24")

        validate(said, "explain")
        assert said["schema"] == 1
        assert said["target"] == f"netns {pod.inside.name}"
        assert said["mode"] == "REDIRECT"
        assert said["families"] == ["ipv4", "ipv6"]
        assert said["argv"] == "-b * -d 15090,15021,15020 -i * -u 1337 -g 1337 --dual-stack".split()
        assert said["env"] == {}
        assert {rule["index"] for rule in said["rules"] if rule["chain"] == "ISTIO_INBOUND"} == {1, 2, 3, 4, 5}

    def test_findings_fit_the_schema(self, healthy: Sidecar) -> None:
        healthy.proxy.kill()

        validate(healthy.explain(), "explain")

    def test_a_list_of_namespaces_fits_the_schema(self, pod: Sidecar) -> None:
        validate(json.loads(istio_init("ps", "--format", "json").ok().stdout), "ps")


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
    validate(json.loads(json.dumps(explanation_json(explanation))), "explain")
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
