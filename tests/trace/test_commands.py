"""``trace``, ``map`` and ``diff`` as they are typed: sources, formats, exit statuses, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import PROGRAM, Result, execute, istio_init
from support.privileges import need_sight_of_all

import istio_init as package
from istio_init.dialects.iptables.save import render_save
from istio_init.netfilter.family import Family
from istio_init.testing.pods import HOSTS, Pod

from .words import sidecar_rules

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = Path(package.__file__).parent / "schemas"
INJECTED = "-b '*' -i '*' -d 15090,15021,15020"
V4 = HOSTS[Family.IPV4]


def said(name: str, done: Result) -> Any:
    """The JSON of a command, which keeps to its schema."""
    found = json.loads(done.stdout)
    jsonschema.validate(found, json.loads((SCHEMAS / f"{name}.schema.json").read_text()))
    return found


@pytest.fixture
def save(tmp_path: Path) -> Path:
    """A file of iptables-save text, as from a support bundle."""
    path = tmp_path / "save"
    path.write_text(render_save(sidecar_rules("-b * -i * -d 15090,15021,15020")))
    return path


class TestTrace:
    """One packet, or a file of them."""

    def test_the_answer_is_one_sentence_at_the_end(self) -> None:
        done = istio_init("trace", "outbound", "tcp", "10.0.0.5:443", "--expect", INJECTED).ok()

        last = done.stdout.splitlines()[-1]
        assert last.startswith("=> proxied to port 15001, Envoy's outbound listener; original destination 10.0.0.5:443")
        assert done.stderr == ""

    def test_every_rule_that_was_looked_at_is_shown_with_why_it_did_not_match(self) -> None:
        done = istio_init("trace", "inbound", "tcp", "10.0.0.5:15021", "--expect", INJECTED, "--format", "json").ok()

        found = said("trace", done)
        hops = [
            (hop["chain"], hop["rule"], hop["role"], hop["matched"], hop["action"])
            for leg in found["legs"]
            for hop in leg["hops"]
        ]
        assert hops == [
            ("PREROUTING", 1, "inbound-jump", True, "ISTIO_INBOUND"),
            ("ISTIO_INBOUND", 1, "inbound-tunnel-port", False, "no: not “port 15008”"),
            ("ISTIO_INBOUND", 2, "inbound-excluded-port", False, "no: not “port 15090”"),
            ("ISTIO_INBOUND", 3, "inbound-excluded-port", True, "returned"),
        ]
        assert found["delivered"]["kind"] == "direct"

    def test_it_says_on_which_assumed_value_the_answer_hinges(self) -> None:
        done = istio_init("trace", "outbound", "tcp", "10.0.0.5:443", "--expect", INJECTED, "--format", "json").ok()

        assert set(said("trace", done)["depends_on"]) == {"uid", "gid", "interface", "src"}

    def test_a_batch_is_answered_line_by_line_in_order(self, tmp_path: Path, save: Path) -> None:
        packets = [
            {"direction": "outbound", "proto": "tcp", "dst": "10.0.0.5", "dport": 443},
            {"direction": "outbound", "proto": "tcp", "dst": "10.0.0.5", "dport": 443, "uid": 1337},
            {"direction": "inbound", "proto": "tcp", "dst": "10.0.0.5", "dport": 8080, "uid": None},
            {"direction": "inbound", "proto": "udp", "dst": "10.0.0.5", "dport": 53},
        ]
        path = tmp_path / "packets"
        path.write_text("\n\n".join(map(json.dumps, packets)) + "\n")

        text = istio_init("trace", "--batch", str(path), "--file", str(save)).ok()
        lines = istio_init("trace", "--batch", str(path), "--file", str(save), "--format", "json").ok()

        ends = []
        for line in lines.stdout.splitlines():
            found = said("trace", Result(0, line, ""))
            ends.append((found["delivered"]["kind"], found["delivered"]["port"]))
        assert ends == [("redirect", 15001), ("direct", None), ("redirect", 15006), ("direct", None)]
        assert len(text.stdout.splitlines()) == len(packets)

    def test_a_match_that_is_not_known_is_no_reason_to_guess(self, tmp_path: Path) -> None:
        path = tmp_path / "save"
        path.write_text("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -m recent --rcheck -j ACCEPT\nCOMMIT\n")

        done = istio_init("trace", "outbound", "tcp", "10.0.0.5:443", "--file", str(path)).ok()

        assert (
            "=> direct to 10.0.0.5:443" in done.stdout
        )  # Nothing has the kernel track connections, so nat is not evaluated.

        path.write_text(path.read_text().replace("COMMIT", "-A OUTPUT -p tcp -j REDIRECT --to-ports 9\nCOMMIT"))
        done = istio_init("trace", "outbound", "tcp", "10.0.0.5:443", "--file", str(path)).ok()

        assert "=> undecidable: redirected to port 9 or direct, depending on “-m recent --rcheck" in done.stdout

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("{", "line 2: not a packet"),
            ("[]", "it is no JSON object"),
            pytest.param("[" * 100_000, "line 2: not a packet", id="deep"),
            ('{"direction": "outbound", "proto": "tcp"}', "dst is missing"),
            ('{"direction": "sideways", "proto": "tcp", "dst": "10.0.0.1"}', "'sideways'"),
            ('{"direction": "outbound", "proto": "tcp", "dst": "10.0.0.1", "dport": 70000}', "70000"),
            ('{"direction": "outbound", "proto": "tcp", "dst": "10.0.0.1", "port": 1}', "'port' is not known"),
        ],
    )
    def test_a_line_that_is_no_packet_is_named(self, tmp_path: Path, save: Path, line: str, why: str) -> None:
        path = tmp_path / "packets"
        path.write_text('{"direction": "outbound", "proto": "tcp", "dst": "10.0.0.5"}\n' + line + "\n")

        done = istio_init("trace", "--batch", str(path), "--file", str(save))

        assert done.status == 2
        assert why in " ".join(done.stderr.split())

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["outbound", "tcp"], "give a direction, a protocol and a destination, such as: outbound tcp 10.0.0.5:443"),
            (["outbound", "tcp", "example.com:80"], "not an address"),
            (["outbound", "icmp", "10.0.0.1:80"], "this protocol has no ports"),
            (["outbound", "tpc", "10.0.0.1:80"], "'tpc': no protocol"),
            (["outbound", "256", "10.0.0.1"], "'256': no protocol"),
            (["inbound", "tcp", "10.0.0.1:80", "--uid", "5"], "are of the sending socket"),
            (["outbound", "tcp", "10.0.0.1:80", "--uid", "5", "--no-socket"], "are of the sending socket"),
            (["outbound", "tcp", "10.0.0.1:99999"], "'99999'"),
            (["outbound", "tcp", "10.0.0.1:80", "--uid", "nobody-of-that-name"], "nobody-of-that-name"),
            (["outbound", "tcp", "10.0.0.1:80", "--uid", "1-5"], "a range; give one"),
            (["outbound", "tcp", "10.0.0.1:80", "--mark", "0x1ffffffff"], "not a number of 32 bits"),
            (["outbound", "tcp", "10.0.0.1:80", "--src", "::1"], "of different families"),
            (["outbound", "tcp", "10.0.0.1:80", "--file", "x", "--netns", "y"], "give one of --pid, --netns"),
        ],
    )
    def test_wrong_arguments_are_refused(self, words: list[str], why: str) -> None:
        done = istio_init("trace", *words, *([] if "--file" in words else ["--expect", INJECTED]))

        assert done.status == 2
        assert why in " ".join(done.stderr.split())


class TestMap:
    """All connections."""

    def test_what_bypasses_the_mesh(self) -> None:
        done = istio_init("map", "--only", "direct", "--expect", INJECTED).ok()

        inbound = done.stdout[done.stdout.index("inbound") :].splitlines()
        assert inbound == [
            "inbound, ipv4",
            "  direct: no rule matches",
            "    not tcp",
            "  direct: nat ISTIO_INBOUND 1-4",
            "    tcp, port 15008, 15020-15021 or 15090",
        ]

    def test_json_keeps_to_its_schema_and_tells_the_deciding_rules(self) -> None:
        done = istio_init("map", "--expect", INJECTED + " --dual-stack", "--format", "json").ok()

        found = said("map", done)["classes"]
        assert {(each["direction"], each["family"]) for each in found} == {
            (direction, family) for direction in ("inbound", "outbound") for family in ("ipv4", "ipv6")
        }
        [captured] = [each for each in found if (each["port"], each["family"]) == (15001, "ipv6")]
        where = {"store": "nft", "family": "ip6", "table": "nat", "chain": "ISTIO_REDIRECT"}
        assert captured["decided_by"] == {**where, "first": 1, "last": 1}

    def test_what_is_assumed_of_connections_is_said_where_rules_test_it(self, tmp_path: Path) -> None:
        rules = tmp_path / "rules"
        rules.write_text("*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -m dscp --dscp 0x10 -j DROP\nCOMMIT\n")
        shown = istio_init("map", "--file", str(rules)).ok().stdout
        objects = said("map", istio_init("map", "--file", str(rules), "--format", "json").ok())
        assert shown.splitlines()[-1].startswith("assumed: DSCP and ECN 0;")
        assert objects["assumed"] == {"tos": 0}
        assert said("map", istio_init("map", "--expect", INJECTED, "--format", "json").ok())["assumed"] == {}

    def test_a_file_gives_the_same_map_as_the_configuration_that_made_it(self, save: Path) -> None:
        of_file = istio_init("map", "--file", str(save)).ok().stdout.partition("\n")
        of_arguments = istio_init("map", "--expect", INJECTED).ok().stdout.partition("\n")

        assert (of_file[0], of_arguments[0]) == (str(save), f"configuration {INJECTED!r}")
        assert of_file[2] == of_arguments[2]

    def test_a_live_namespace(self, real_kernel: None) -> None:
        with Pod.create(families=(Family.IPV4,)) as pod:
            istio_init("apply", "--netns", pod.name).ok()
            done = istio_init("map", "--netns", pod.name, "--only", "redirect").ok()

        assert "proxied to port 15001: nat ISTIO_REDIRECT 1" in done.stdout


class TestDiff:
    """Two rule sets by what they do."""

    def test_equal_whatever_the_text(self) -> None:
        done = istio_init("diff", INJECTED, "-b '*' -i '*' -d 15020,15021,15090,15090")

        assert (done.status, done.stdout) == (0, "equal: every new connection has the same outcome\n")

    def test_a_difference_has_a_witness_that_trace_takes(self) -> None:
        other = INJECTED + " -x 10.0.0.0/8"
        done = istio_init("diff", INJECTED, other, "--format", "json")

        found = said("diff", done)
        [differing] = found["differences"]
        assert (done.status, found["equal"]) == (3, False)
        assert (differing["before"]["port"], differing["after"]["kind"]) == (15001, "direct")
        ends = []
        for rules in (INJECTED, other):
            script = f'{" ".join(PROGRAM)} trace {differing["witness"]} --format json --expect "$0"'
            traced = said("trace", execute("sh", "-c", script, rules).ok())
            ends.append((traced["delivered"]["kind"], traced["delivered"]["port"]))
            assert traced["packet"] == {**differing["packet"], "length": 60, "ttl": 64}
        assert ends == [("redirect", 15001), ("direct", None)]

    def test_what_ends_a_connection_otherwise_is_told_apart(self, tmp_path: Path) -> None:
        files = []
        for target in ("DROP", "REJECT --reject-with icmp-port-unreachable"):
            files.append(tmp_path / target[:4])
            files[-1].write_text(f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j {target}\nCOMMIT\n")

        found = said("diff", istio_init("diff", *map(str, files), "--format", "json"))

        assert {each["direction"] for each in found["differences"]} == {"inbound", "outbound"}
        assert {(each["before"]["kind"], each["after"]["kind"]) for each in found["differences"]} == {
            ("drop", "reject")
        }

    def test_a_live_pod_against_its_configuration_and_a_file(self, real_kernel: None, save: Path) -> None:
        with Pod.create(families=(Family.IPV4,)) as pod:
            istio_init("apply", "--netns", pod.name).ok()
            same = istio_init("diff", pod.name, INJECTED)
            by_path = istio_init("diff", str(pod.inside.path), str(save))
            pod.inside.run("iptables-nft", "-t", "nat", "-I", "OUTPUT", "-d", V4.far, "-j", "ACCEPT")
            other = istio_init("diff", pod.name, str(save))

        assert (same.status, same.stderr) == (0, "")
        assert by_path.status == 0
        assert other.status == 3
        assert f"direct in A, proxied to port 15001 in B\n  tcp, to {V4.far}" in other.stdout

    @pytest.mark.parametrize(
        ("argument", "status", "why"),
        [
            ("no-such-namespace", 4, "no-such-namespace"),
            ("999999999", 4, "999999999"),
            ("-b 99999", 2, "'99999'"),
        ],
    )
    def test_what_names_no_rules_is_refused(self, argument: str, status: int, why: str) -> None:
        if status == 4:
            need_sight_of_all()
        done = istio_init("diff", argument, INJECTED)

        assert done.status == status
        assert why in done.stderr
        assert done.stdout == ""


class TestHonesty:
    """What was not looked at is no reason for a sure answer."""

    @pytest.mark.parametrize(
        "command", ["trace outbound tcp 10.0.0.5:443", "map", "diff {pod} {pod}", "explain --check"]
    )
    def test_rules_that_may_not_be_read_are_not_taken_for_none(self, real_kernel: None, command: str) -> None:
        with Pod.create(families=(Family.IPV4,)) as pod:
            istio_init("apply", "--netns", pod.name).ok()
            words = command.format(pod="/proc/self/ns/net").split()
            nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *PROGRAM)
            done = execute("ip", "netns", "exec", pod.name, *nobody, *words)

        assert done.status in (4, 5), done.stdout
        assert "straight" not in done.stdout and "equal" not in done.stdout

    def test_the_rules_of_the_other_store_are_evaluated_as_well(self, both_backends: None) -> None:
        with Pod.create(families=(Family.IPV4,)) as pod:
            istio_init("apply", "--netns", pod.name, "--force-iptables-binary", "nft").ok()
            pod.inside.run("iptables-legacy", *"-t raw -A OUTPUT -p tcp --dport 443 -j DROP".split())
            compared = istio_init("diff", pod.name, INJECTED)
            as_json = said("diff", istio_init("diff", pod.name, INJECTED, "--format", "json"))
            traced = istio_init("trace", "--netns", pod.name, "outbound", "tcp", f"{V4.far}:443").ok()

        assert compared.status == 3
        assert (as_json["equal"], as_json["caveats"]) == (False, [])
        assert "=> dropped: rule 1 of raw (legacy) OUTPUT" in traced.stdout

    def test_the_only_store_that_holds_rules_is_the_one_that_is_asked(self, both_backends: None) -> None:
        with Pod.create(families=(Family.IPV4,)) as pod:
            pod.inside.run("iptables-legacy", *"-t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 9".split())
            traced = istio_init("trace", "--netns", pod.name, "outbound", "tcp", f"{V4.far}:80").ok()

        assert "=> redirected to port 9" in traced.stdout

    def test_a_family_without_any_rule_is_on_the_map(self, real_kernel: None) -> None:
        with Pod.create() as pod:
            istio_init("apply", "--netns", pod.name).ok()
            done = istio_init("map", "--netns", pod.name, "--only", "direct").ok()

        assert "outbound, ipv6\n  direct: no rule matches\n" in done.stdout

    def test_a_configuration_is_held_to_the_name_servers_of_the_other_side(self, real_kernel: None) -> None:
        with Pod.create(families=(Family.IPV4,)) as pod:
            pod.inside.write_resolv_conf("10.88.0.53")
            istio_init("apply", "--netns", pod.name, "--redirect-dns").ok()
            done = istio_init("diff", pod.name, f"{INJECTED} --redirect-dns")

        assert (done.status, done.stdout) == (0, "equal: every new connection has the same outcome\n")

    def test_help_is_where_everybody_looks_for_it(self) -> None:
        assert istio_init("diff", "-h").ok().stdout == istio_init("diff", "--help").ok().stdout
