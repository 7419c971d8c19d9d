"""What is public for Python programs says what the commands say, and prints nothing."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import pytest
from support.command import istio_init
from support.privileges import need_sight_of_all

from istio_init import api
from istio_init.testing.pods import Pod
from istio_init.value import Value

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
ONE, OTHER = "-b '*' -i '*' -x 10.0.0.0/8", "-b 80 -i '*'"

Output = pytest.CaptureFixture[str]


def printed(*argv: str) -> object:
    """What a command prints as JSON."""
    done = istio_init(*argv, "--format", "json")
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_page_shows_what_it_does() -> None:
    done = doctest.testfile(str(PAGE), module_relative=False)

    assert done.failed == 0
    assert done.attempted > 15


def test_all_that_is_named_is_there_and_documented_by_itself() -> None:
    for name in api.__all__:
        assert getattr(api, name).__doc__, name


def test_what_is_named_is_all_that_a_program_needs() -> None:
    """No function takes or returns a value of a class that is private."""
    ours = {getattr(api, name) for name in api.__all__}
    values = [each for each in ours if isinstance(each, type) and issubclass(each, Value)]
    named = {word for each in values for text in each.__annotations__.values() for word in _words(text)}

    known = {each.__name__ for each in ours} | {"Outcome", "Json", "Mapping", "None", "bool", "int", "str", "tuple"}
    assert named <= known


def _words(annotation: str) -> set[str]:
    return {word for word in "".join(c if c.isalnum() else " " for c in annotation).split() if word}


COMMANDS: list[tuple[Callable[[], object], list[str]]] = [
    (lambda: api.render(ONE).json, ["render", "-b", "*", "-i", "*", "-x", "10.0.0.0/8"]),
    (lambda: api.classify(api.configuration(ONE)).json, ["map", "--expect", ONE]),
    (lambda: api.diff(api.configuration(ONE), api.configuration(OTHER)).json, ["diff", ONE, OTHER]),
    (
        lambda: api.trace(api.configuration(ONE), "outbound", "tcp", "10.1.2.3:80", uid=1000, mark=1337).json,
        ["trace", "--expect", ONE, "outbound", "tcp", "10.1.2.3:80", "--uid", "1000", "--mark", "1337"],
    ),
    (
        lambda: api.trace(api.configuration(ONE), api.Direction.OUTBOUND, "icmp", "10.1.2.3", socket=False).json,
        ["trace", "--expect", ONE, "outbound", "icmp", "10.1.2.3", "--no-socket"],
    ),
    (lambda: api.render("--ambient --ipv6=false").json, ["render", "--ambient", "--ipv6=false"]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "argv"), COMMANDS, ids=[" ".join(argv) for _, argv in COMMANDS])
def test_it_gives_what_the_command_prints(call: Callable[[], object], argv: list[str], capsys: Output) -> None:
    found = call()

    assert capsys.readouterr() == ("", "")
    assert json.loads(json.dumps(found)) == printed(*argv)


def test_rules_in_files_are_explained_as_by_the_command(tmp_path: Path) -> None:
    save = tmp_path / "pod.save"
    save.write_text(istio_init("render", "-b", "*", "-i", "*", "-x", "10.0.0.0/8").ok().stdout)
    found = api.explain(api.load(save), expected=ONE)

    assert json.loads(json.dumps(found.json)) == printed("explain", str(save), "--expect", ONE)
    assert (found.mode, found.drifted, found.exact) == (api.Mode.REDIRECT, False, True)


def test_warnings_are_values_and_are_not_printed(capsys: Output) -> None:
    assert any("name server" in each for each in api.configuration("-b '*' --redirect-dns").warnings)
    assert any("name server" in each for each in api.render("-b '*' --redirect-dns").warnings)
    assert capsys.readouterr() == ("", "")


def test_the_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTIO_INBOUND_PORTS", "77")

    assert "77" not in api.render("-i '*'").iptables[api.Family.IPV4]
    assert "77" in api.render("-i '*'", environment={"ISTIO_INBOUND_PORTS": "77"}).iptables[api.Family.IPV4]


def test_ipv6_follows_the_addresses() -> None:
    both = api.render("-b '*' --dual-stack", addresses=["10.1.2.3", "2001:db8::3"])

    assert both.families == (api.Family.IPV4, api.Family.IPV6)


POD = api.configuration(ONE)
REFUSED: list[tuple[Callable[[], object], type[api.IstioInitError], int, str]] = [
    (lambda: api.configuration("-b eighty"), api.ConfigError, 2, "'eighty': not a port"),
    (lambda: api.configuration("-b 80 443"), api.ConfigError, 2, "'443' belongs to no flag"),
    (lambda: api.configuration("-b '80"), api.ConfigError, 2, "close the quotes"),
    (lambda: api.render(["-x", "10.0.0.0/33"]), api.ConfigError, 2, "not a range"),
    (lambda: api.render("", addresses=["127.0.0.1"]), api.InputError, 2, "loopback"),
    (lambda: api.render("", nameservers=["dns"]), api.InputError, 2, "10.0.0.5"),
    (lambda: api.explain(POD, expected="-m"), api.ConfigError, 2, "-m"),
    (lambda: api.explain(POD, ignore=["nothing"]), api.InputError, 2, "nothing"),
    (lambda: api.trace(POD, "sideways", "tcp", "10.0.0.1"), api.InputError, 2, "direction"),
    (lambda: api.trace(POD, "outbound", "tpc", "10.0.0.1"), api.InputError, 2, "'tpc'"),
    (lambda: api.trace(POD, "outbound", "tcp", "10.0.0.1:http:x"), api.InputError, 2, "not an address"),
    (lambda: api.trace(POD, "outbound", "tcp", "10.0.0.1", uid=-1), api.InputError, 2, "-1"),
    (lambda: api.load("/nowhere"), api.InputError, 2, "/nowhere"),
    (lambda: api.load(ROOT), api.InputError, 2, "irectory"),
    (lambda: api.load(""), api.InputError, 2, "no name of a file"),
    (lambda: api.load(PAGE), api.InputError, 2, "api.md"),
    (lambda: api.take("nothing-of-that-name"), api.NamespaceError, 4, "nothing-of-that-name"),
    (lambda: POD.save("/nowhere/pod.tar"), api.InputError, 2, "not taken here"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "code", "words"), REFUSED, ids=[row[3] for row in REFUSED])
def test_what_is_no_good_is_an_error_of_its_kind(
    call: Callable[[], object], kind: type[api.IstioInitError], code: int, words: str, capsys: Output
) -> None:
    if code == 4:
        need_sight_of_all()
    with pytest.raises(kind, match=words.replace("(", r"\(")) as raised:
        call()

    assert raised.value.exit_code == code
    assert capsys.readouterr() == ("", "")


def test_enumerations_have_the_words_of_the_json() -> None:
    enums = [getattr(api, name) for name in api.__all__]
    values = {each.value for kind in enums if isinstance(kind, type) and issubclass(kind, Enum) for each in kind}

    assert {"proxied", "undecidable", "tproxy", "outbound", "ipv6", "error", "ambient"} <= values


def test_a_pod_is_taken_kept_and_read_again(pod: Pod, tmp_path: Path) -> None:
    istio_init("apply", "--netns", pod.name, "-b", "*", "-i", "*").ok()
    live = api.take(pod.name)
    live.save(tmp_path / "pod.tar")
    kept = api.load(tmp_path / "pod.tar")

    assert api.trace(live, "outbound", "tcp", "203.0.113.7:443").fate.port == 15001
    assert api.diff(live, kept).equal is True
    assert api.explain(kept).arguments == api.explain(live).arguments
    with pytest.raises(api.InputError, match="not taken here and now"):
        kept.save(tmp_path / "again.tar")
