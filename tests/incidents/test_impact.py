"""The first lines of explain say what happens to traffic, in proportion, and where the families differ."""

from __future__ import annotations

import json
import os
import re

import pytest
from inspector.sidecar import ANY, Socket
from inspector.test_stores import ztunnel
from support.command import istio_init

from istio_init import __version__
from istio_init.netfilter.family import Family
from istio_init.report.impact_text import impact_lines
from istio_init.testing.pods import APP, PROXY
from istio_init.testing.traffic import Endpoint

from .ward import INJECTED, Ward

OUT, IN, DNS = "Outbound TCP: proxied to port 15001", "Inbound TCP: proxied to port 15006", "DNS: direct"
PORTS = "port 15008, 15020-15021 or 15090: direct, past the proxy (nat ISTIO_INBOUND 1-4)"
OPEN_TO_TPROXY = "port 15020-15021 or 15090: direct, past the proxy (mangle ISTIO_INBOUND 4-6)"
HEALTHY = (OUT, f"{IN}, but {PORTS}", DNS)
REFUSED = "refused, as nothing listens on port"


def lines(ward: Ward) -> tuple[str, ...]:
    """What is said first."""
    found = ward.look()
    return tuple(line for line, _ in impact_lines(found.impacts, is_captured=bool(found.families)))


@pytest.mark.parametrize(
    ("line", "damage", "said"),
    [
        (INJECTED, "true", HEALTHY),
        (f"{INJECTED} -m TPROXY", "true", (OUT, f"{IN}, addresses kept, but {OPEN_TO_TPROXY}", DNS)),
        (f"{INJECTED} --redirect-dns", "true", (*HEALTHY[:2], "DNS: proxied to port 15053")),
        (
            f"{INJECTED} -x 10.96.0.0/12",
            "true",
            (
                f"Outbound TCP, ipv4: {OUT[14:]}, but to 10.96.0.0/12: direct, past the proxy (nat ISTIO_OUTPUT 8-9)",
                f"Outbound TCP, ipv6: {OUT[14:]}",
                *HEALTHY[1:],
            ),
        ),
        (
            f"{INJECTED} -x 10.0.0.0/8,fd00::/8",
            "for t in iptables ip6tables; do $t -t nat -I OUTPUT -p tcp --dport 443 -j ACCEPT; done",
            (
                f"Outbound TCP, ipv4: {OUT[14:]}, but port 443, or to 10.0.0.0/8: direct, past the proxy "
                "(nat ISTIO_OUTPUT 8-9 and nat OUTPUT 1)",
                f"Outbound TCP, ipv6: {OUT[14:]}, but port 443, or to fd00::/8: direct, past the proxy "
                "(nat ISTIO_OUTPUT 8-9 and nat OUTPUT 1)",
                HEALTHY[1],
                "DNS: all direct (nat ISTIO_OUTPUT 8-9)",
            ),
        ),
        (
            INJECTED,
            "iptables -t nat -I OUTPUT -j ACCEPT; ip6tables -t nat -I OUTPUT -j ACCEPT",
            (
                "Outbound TCP: all direct, past the proxy (nat OUTPUT 1)",
                HEALTHY[1],
                "DNS: all direct (nat OUTPUT 1)",
            ),
        ),
        (
            INJECTED.replace(" --dual-stack", ""),
            "true",
            (
                f"Outbound TCP, ipv4: {OUT[14:]}",
                "Outbound TCP, ipv6: direct, past the proxy",
                f"Inbound TCP, ipv4: {IN[13:]}, but {PORTS}",
                "Inbound TCP, ipv6: direct, past the proxy",
                DNS,
            ),
        ),
        (
            INJECTED,
            "iptables -I INPUT -p tcp --dport 15006 -j REJECT; ip6tables -I INPUT -p tcp --dport 15006 -j REJECT",
            (OUT, f"Inbound TCP: rejected (filter INPUT 1), but {PORTS}", DNS),
        ),
    ],
    ids=[
        "healthy",
        "tproxy",
        "dns",
        "a range is excluded",
        "two ways past",
        "accepted ahead",
        "ipv4 alone",
        "rejected behind",
    ],
)
def test_what_happens_is_said_in_a_line(ward: Ward, line: str, damage: str, said: tuple[str, ...]) -> None:
    ward.program(line)
    ward.run(damage)

    assert lines(ward) == said


def test_where_nothing_listens_connections_are_refused(ward: Ward) -> None:
    ward.program(INJECTED)
    ward.replace_proxy(PROXY, Socket(Endpoint(ANY[Family.IPV4], 15001)))

    assert lines(ward) == (
        f"Outbound TCP, ipv4: {OUT[14:]}",
        f"Outbound TCP, ipv6: all {REFUSED} 15001 (nat ISTIO_REDIRECT 1)",
        f"Inbound TCP: {REFUSED} 15006 (nat ISTIO_IN_REDIRECT 1), but {PORTS}",
        DNS,
    )


def test_ztunnel_proxies(ward: Ward) -> None:
    ward.program_ambient()
    ward.replace_proxy(PROXY)
    ward.closing.enter_context(ztunnel(ward.inside))

    assert lines(ward) == (OUT, IN, "DNS: proxied to port 15053")


def test_a_namespace_without_rules_has_nothing_said(ward: Ward) -> None:
    assert lines(ward) == ()


class TestCheck:
    """The exit status says whether anything of some severity was found."""

    @pytest.mark.parametrize(
        ("flags", "status"),
        [
            ((), 0),
            (("--check",), 0),
            (("--check=warning",), 3),
            (("--check=warning", "--ignore", "reserved-port"), 0),
            (("--check=error",), 0),
            (("--check=worst",), 2),
            (("--ignore", "reserved-prot"), 2),
        ],
    )
    def test_a_warning_counts_where_that_is_asked_for(self, ward: Ward, flags: tuple[str, ...], status: int) -> None:
        ward.program(INJECTED)
        ward.guests.append(ward.sidecar.start(APP, Endpoint("0.0.0.0", 15090), name="metrics"))

        done = istio_init("explain", *flags, "--netns", ward.inside.name)

        assert done.status == status, done.stderr
        if "reserved-prot" in flags:
            assert "did you mean reserved-port?" in done.stderr
        if status == 0 and "--ignore" in flags:
            assert "ignored: reserved-port" in done.stdout
        assert "\nRules\n" not in done.stdout


def test_the_way_to_more_is_a_command(ward: Ward) -> None:
    ward.program(INJECTED)

    done = istio_init("explain", "--netns", ward.inside.name).ok()
    [line] = [each for each in done.stdout.splitlines() if "istio-init explain" in each]
    _, _, arguments = line.partition("istio-init ")
    more = istio_init(*arguments.split()).ok()

    assert "\nRules\n" not in done.stdout
    assert "\nRules\n" in more.stdout


@pytest.mark.parametrize("columns", ["60", None])
def test_every_command_is_a_line_that_nothing_breaks(ward: Ward, columns: str | None) -> None:
    ward.program(INJECTED)
    ward.run("iptables -t nat -I OUTPUT -d 10.0.0.0/8 -j ACCEPT; iptables -t nat -F ISTIO_INBOUND")
    argv = ("explain", "--netns", ward.inside.name, "--expect", INJECTED.replace("*", "'*'"))

    shown = istio_init(*argv, env={"COLUMNS": columns} if columns else {}).ok().stdout
    told = json.loads(istio_init(*argv, "--format", "json").ok().stdout)

    commands = [each for finding in told["findings"] for each in finding["commands"]]
    traces = [line[line.index("istio-init trace") :] for finding in told["findings"] for line in finding["evidence"]
              if "istio-init trace" in line]  # fmt: skip
    assert commands
    assert traces
    assert {*commands, *traces, told["drift"]["command"]} <= {line.strip() for line in shown.splitlines()}


def test_a_page_says_when_where_by_what_and_of_what_it_was_made(ward: Ward) -> None:
    ward.program(INJECTED)

    page = istio_init("explain", "--netns", ward.inside.name, "--format", "html").ok().stdout

    assert re.search(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC, on host {os.uname().nodename}, by istio-init ", page)
    assert f"istio-init {__version__}: <code>istio-init explain --netns {ward.inside.name}</code>" in page
    assert f'<li class="ok">{OUT}</li>' in page


def test_trace_and_map_say_what_they_looked_at(ward: Ward) -> None:
    ward.program(INJECTED)
    at = ("--netns", ward.inside.name)

    traced = istio_init("trace", "outbound", "tcp", "10.88.0.1:443", *at).ok().stdout
    mapped = istio_init("map", *at).ok().stdout

    assert traced.startswith(f"netns {ward.inside.name}: outbound tcp ")
    assert mapped.startswith(f"netns {ward.inside.name}\noutbound, ipv4\n")
