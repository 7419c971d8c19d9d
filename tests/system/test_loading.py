"""A text of nft is loaded where nothing can come of it, and read back as JSON."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from istio_init.errors import InputError, IstioInitError
from istio_init.system import loading, ruleset
from istio_init.testing.namespaces import Namespace

TEXT = """
table inet istio-proxy-nat {
    comment "include no file"
    set ports { type inet_service; elements = { 80, 443 } }
    chain output {
        type nat hook output priority -100; policy accept;
        oif "lo" return # include nothing
        iif "eth0" tcp dport @ports counter packets 3 bytes 4 redirect to :15001
    }
}
"""


def chains(text: str) -> list[str]:
    return [item["chain"]["name"] for item in json.loads(text)["nftables"] if "chain" in item]


def test_a_text_is_read_back_as_json(real_kernel: None) -> None:
    before = subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True).stdout
    loaded = loading.load(TEXT, "rules.nft").text
    assert chains(loaded) == ["output"]
    assert '"eth0"' in loaded and '"packets": 3' in loaded
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True).stdout == before


def test_a_text_that_is_not_nft_is_refused_with_what_nft_says(real_kernel: None) -> None:
    with pytest.raises(InputError, match=r"rules\.nft: nft does not take it: .*syntax error"):
        loading.load("table inet x { chian y { } }", "rules.nft")


@pytest.mark.parametrize(
    "text",
    [
        'include "/etc/shadow"',
        'table ip x { }\n include   "/etc/shadow"',
        "table ip x {\n include '/etc/shadow'\n}",
        '# "\ninclude "/etc/shadow"\n# "',
        'table ip x { comment "a"; include "/etc/shadow" }',
    ],
)
def test_no_other_file_is_read(text: str) -> None:
    with pytest.raises(InputError, match="includes other files"):
        loading.load(text, "rules.nft")


def test_tables_of_iptables_that_nft_does_not_take_are_left_out_and_named(real_kernel: None) -> None:
    with Namespace.create("mixed") as namespace:
        namespace.run("nft", "-f", "-", stdin=TEXT.replace('iif "eth0"', 'iif "lo"'))
        namespace.run("iptables-nft", "-t", "mangle", "-A", "OUTPUT", *"-j CONNMARK --save-mark --nfmask 0xf".split())
        namespace.run("ip6tables-nft", *"-A OUTPUT -m u32 --u32 0=1 -m comment --comment".split(), "x } y")
        namespace.run("iptables-nft", "-t", "filter", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
        printed = namespace.run("nft", "list", "ruleset")
    loaded = loading.load(printed, "rules.nft")
    assert loaded.left_out == ("ip mangle", "ip6 filter")
    assert chains(loaded.text) == ["output", "OUTPUT"]


def test_a_short_text_that_means_a_very_long_one_is_given_up(
    real_kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MEMORY", 512 << 20)
    lines = ["define a0 = { 10.0.0.1, 10.0.0.2 }"]
    lines += [f"define a{n} = {{ {', '.join([f'$a{n - 1}'] * 10)} }}" for n in range(1, 10)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

    with pytest.raises(IstioInitError):
        loading.load("\n".join([*lines, "table ip t { chain c { ip saddr $a9 drop; }; }"]), "shop.nft")

    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before + 1, 2_000_000)


def test_it_needs_no_root(real_kernel: None) -> None:
    code = (
        "import os, sys, pickle, re, pyroute2; from istio_init.system import loading, workers\n"
        "os.setgid(65534); os.setuid(65534); print(loading.load(sys.argv[1], 'f').text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, TEXT], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0 or "cannot be made" in done.stderr, done.stderr
    assert not done.stdout or chains(done.stdout) == ["output"]


def test_tables_that_are_not_called_are_told(real_kernel: None) -> None:
    with Namespace.create("dormant") as namespace:
        namespace.run("nft", "add table ip a { flags dormant; }; add table inet b; add table inet c { flags dormant; }")
        assert namespace.call(ruleset.dormant) == {("ip", "a"): True, ("inet", "b"): False, ("inet", "c"): True}


def test_a_namespace_without_tables_is_read_without_a_program(
    real_kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ruleset, "PROGRAM", "not-there")
    with Namespace.create("empty") as namespace:
        assert namespace.call(ruleset.read) == ruleset.NO_RULES
        namespace.run("nft", "add", "table", "arp", "x")
        refused = namespace.call(ruleset.read)
    assert isinstance(refused, IstioInitError)
    assert "not-there is not installed" in str(refused)
