"""What a pod's owner writes into rules and names is told as it is, or said to be unread; it becomes no rule of ours."""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections.abc import Callable

import pytest
from support.command import drop_in, istio_init
from support.processes import sleeping
from support.rules import everything

from istio_init.dialects.iptables.quoting import is_plain
from istio_init.inspector.explain import explain
from istio_init.netfilter.family import Family
from istio_init.observe.namespace import observe
from istio_init.observe.unread import Part as UnreadPart
from istio_init.observe.unread import Unread
from istio_init.report.impact_text import impact_lines
from istio_init.system import places
from istio_init.system.nft_table import (
    CREATE,
    NEW_CHAIN,
    NEW_RULE,
    NEW_TABLE,
    OwnedTable,
    _attribute,
    _expression,
    _nested,
    _number,
    open_channel,
)
from istio_init.testing.entering import Entrance
from istio_init.testing.namespaces import Namespace
from istio_init.testing.pods import Pod
from istio_init.visible import visible

BACKENDS = ("nft", "legacy")
INJECTION = 'x" \nCOMMIT\n*filter\n-A INPUT -j DROP\nCOMMIT\n*nat\n'
BIDI = "\N{RIGHT-TO-LEFT OVERRIDE}"


@pytest.fixture(params=BACKENDS)
def held(request: pytest.FixtureRequest, pod: Pod) -> tuple[Pod, str]:
    """A pod with redirection in one of the stores."""
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", request.param).ok()
    return pod, request.param


def nat(pod: Pod, backend: str, *words: str) -> None:
    pod.inside.run(f"iptables-{backend}", "-t", "nat", *words)


def test_quotes_in_names_of_interfaces_hide_no_rule(held: tuple[Pod, str]) -> None:
    pod, backend = held
    nat(pod, backend, "-I", "ISTIO_OUTPUT", "1", "-o", 'a"b', "-j", "RETURN")
    nat(pod, backend, "-I", "ISTIO_OUTPUT", "2", "-p", "tcp", "--dport", "80", "-j", "RETURN")
    nat(pod, backend, "-I", "ISTIO_OUTPUT", "3", "-o", '"c', "-j", "RETURN")

    found = istio_init("trace", "--netns", pod.name, "outbound", "tcp", "192.0.2.9:80").ok()
    listed = istio_init("explain", "--netns", pod.name, "--format", "list").ok()

    assert found.stdout.splitlines()[-1].startswith("=> direct")
    assert "dpt:80 " in listed.stdout


@pytest.mark.parametrize(
    "name", ["eth0\x1c-p\x1ctcp", "eth0\x1f", "lo\x1d-j\x1dRETURN"], ids=["within", "at an end", "a target"]
)
def test_a_separator_in_the_name_of_an_interface_separates_nothing(held: tuple[Pod, str], name: str) -> None:
    pod, backend = held
    nat(pod, backend, "-I", "ISTIO_OUTPUT", "1", "-j", "RETURN", "-o", name)
    nat(pod, backend, "-I", "ISTIO_OUTPUT", "1", "-o", name)

    found = istio_init("trace", "--netns", pod.name, "outbound", "tcp", "192.0.2.9:80").ok()

    assert found.stdout.splitlines()[-1].startswith("=> proxied")
    assert visible(name) in istio_init("explain", "--netns", pod.name, "--rules").stdout


ODD = {
    "no TCP packet has a connection of UDP": "ct original protocol udp meta l4proto { tcp, udp } th dport 80 drop",
    "one comparison of both ports": "tcp sport != 21000 tcp dport != 8443 drop",
    "the bounds of two ports": "tcp sport >= 100 tcp dport <= 8443 drop",
}


@pytest.mark.parametrize("name", ODD)
def test_a_rule_that_nft_prints_otherwise_than_the_kernel_has_it_is_undecidable(pod: Pod, name: str) -> None:
    """nft 1.0.6 leaves the first test out, prints two where it loaded one, and a range of the second port."""
    pod.inside.run("nft", f"table inet t {{ chain c {{ type filter hook output priority 0; {ODD[name]}; }}; }}")

    found = istio_init("trace", "--netns", pod.name, "outbound", "tcp", "192.0.2.9:80")

    assert found.stdout.splitlines()[-1].startswith("=> undecidable")


def test_a_chain_that_cannot_be_removed_by_its_name_leaves_everything_as_it_was(held: tuple[Pod, str]) -> None:
    pod, backend = held
    for words in (("-N", "ISTIO_\x1c"), ("-A", "ISTIO_\x1c", "-i", "x\x1b[31m"), ("-A", "OUTPUT", "-j", "ISTIO_\x1c")):
        pod.inside.run(f"iptables-{backend}", "-t", "mangle", *words)
    before = everything(pod.inside)

    for command in (("apply", "-m", "TPROXY"), ("clean",)):
        found = istio_init(*command, "--netns", pod.name, "--force-iptables-binary", backend)
        assert found.status == 1
        assert "would misread this: ':ISTIO_\\x1c - [0:0]'" in found.stderr
        assert "put back" not in found.stderr
        assert everything(pod.inside) == before


COMMENTS = [INJECTION, "x\nEND\ntouch /tmp/pwned\n", f'{BIDI}\x1b[31m"']


@pytest.mark.parametrize("comment", COMMENTS, ids=["a section", "an end", "an escape"])
def test_a_comment_becomes_no_command(held: tuple[Pod, str], comment: str) -> None:
    pod, backend = held
    nat(pod, backend, "-A", "OUTPUT", "-m", "comment", "--comment", comment, "-j", "ISTIO_OUTPUT")

    shown = istio_init("clean", "--netns", pod.name, "--dry-run").ok()
    handed = drop_in(pod.inside, "--cleanup-only", "--dry-run")
    cleaned = istio_init("clean", "--netns", pod.name).ok()

    for text in (shown.stdout, handed.stdout, cleaned.stdout):
        assert "\n-A INPUT" not in text
        assert "\x1b" not in text
        assert BIDI not in text
    assert handed.stdout.count("END") == 2 * handed.stdout.count("<<")
    assert not any(everything(pod.inside).values())


def test_a_foreign_rule_is_kept_whatever_its_comment(held: tuple[Pod, str]) -> None:
    pod, backend = held
    nat(pod, backend, "-I", "OUTPUT", "-m", "comment", "--comment", INJECTION, "-p", "icmp", "-j", "ACCEPT")

    istio_init("clean", "--netns", pod.name).ok()

    assert pod.inside.run(f"iptables-{backend}-save", "-t", "nat").count("-A ") == 2  # One of them in the comment.


def in_namespace(namespace: Namespace, act: Callable[[], None]) -> None:
    """Do something in a namespace that no program offers."""
    namespace.call(act)


def raw_interface(name: bytes) -> Callable[[], None]:
    """In nat OUTPUT, a rule with an interface of this name, as only netlink takes it."""

    def act() -> None:
        table = OwnedTable("nat")
        table._socket = open_channel()
        compared = _expression("cmp", _number(1, 1) + _number(2, 0) + _nested(3, _attribute(1, name.ljust(16, b"\0"))))
        rule = _nested(4, _expression("meta", _number(1, 1) + _number(2, 7)), compared)
        place = _attribute(1, b"nat\0") + _attribute(2, b"OUTPUT\0")
        send(table, (NEW_RULE, CREATE | 0x800, place + rule))

    return act


def raw_chain(name: bytes) -> Callable[[], None]:
    """In nat, a chain of this name."""

    def act() -> None:
        table = OwnedTable("nat")
        table._socket = open_channel()
        send(table, (NEW_CHAIN, CREATE, _attribute(1, b"nat\0") + _attribute(3, name + b"\0")))

    return act


def raw_table(name: bytes) -> Callable[[], None]:
    def act() -> None:
        table = OwnedTable("x")
        table._socket = open_channel()
        send(table, (NEW_TABLE, CREATE, _attribute(1, name + b"\0")))

    return act


def send(table: OwnedTable, message: tuple[int, int, bytes]) -> None:
    """As the family ip, not inet."""
    from istio_init.system import nft_table

    inet, nft_table.INET = nft_table.INET, 2
    try:
        table._send(message)
    finally:
        nft_table.INET = inet


NO_TEXT = "e\udcff"
HIDING = {
    "a set": f'oifname {{ "eth9", "{NO_TEXT}" }} tcp dport 80 redirect to :9999',
    "a set of several fields": f'oifname . tcp dport {{ "eth9" . 80, "{NO_TEXT}" . 80 }} redirect to :9999',
    "a map": f'oifname vmap {{ "eth9" : accept, "{NO_TEXT}" : goto x }}',
    "a match": f'oifname "{NO_TEXT}" tcp dport 80 redirect to :9999',
}


@pytest.mark.parametrize("rule", HIDING.values(), ids=HIDING)
def test_a_name_that_nft_leaves_out_is_said_to_be_unread_and_hides_no_other_table(pod: Pod, rule: str) -> None:
    istio_init("apply", "--netns", pod.name, "--native-nftables").ok()
    chain = f"chain o {{ type nat hook output priority -150; {rule}; }}"
    text = f"table inet evil {{ chain x {{ tcp dport 80 redirect to :9999; }}; {chain}; }}"
    pod.inside.run("sh", "-c", f"nft '{text}'")

    found = istio_init("trace", "--netns", pod.name, "outbound", "tcp", "192.0.2.9:80").ok()

    last = found.stdout.splitlines()[-1]
    assert last.startswith(("=> proxied", "=> undecidable"))
    assert "not certain: not read: native nftables: " in last


def test_sets_of_names_that_are_text_are_read(pod: Pod) -> None:
    istio_init("apply", "--netns", pod.name).ok()
    rules = 'oifname { "et*", "é" } counter; oifname . ip6 daddr { "eth9" . ::ff } drop; ip6 daddr { fe80::ff } drop'
    pod.inside.run("nft", f"table inet fine {{ chain o {{ type filter hook output priority 0; {rules}; }}; }}")

    found = istio_init("trace", "--netns", pod.name, "outbound", "tcp", "192.0.2.9:80").ok()

    assert "not certain" not in found.stdout


FORGED = {
    "an interface that reads as a match": raw_interface(b"a -p udp"),
    "an interface with a line": raw_interface(b"a\n-A OUTPUT -"),
    "an interface with a flag": raw_interface(b'a --x "'),
    "a chain with a space": raw_chain(b"a b"),
    "a chain that reads as another section": raw_chain(
        b"x - [0:0]\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n*nat\n:y"
    ),
    "a chain that reads as a rule": raw_chain(b"x - [0:0]\n-A OUTPUT -p tcp -j RETURN\n:y"),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_name_that_reads_as_something_else_is_said(pod: Pod, forge: Callable[[], None]) -> None:
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", "nft").ok()
    in_namespace(pod.inside, forge)

    told = istio_init("explain", "--netns", pod.name)
    cleaned = istio_init("clean", "--netns", pod.name)

    assert "not read: nft rules of ipv4" in " ".join(told.stdout.split())
    assert istio_init("explain", "--netns", pod.name, "--check").status != 0
    assert cleaned.status == 1
    for done in (told, cleaned):
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "forge",
    [raw_table(b"\xff"), raw_table(b"a b\n"), raw_chain(b"e\x1b[31mf")],
    ids=["no text", "a line", "an escape"],
)
@pytest.mark.parametrize("command", ["map", "ps"])
def test_a_strange_name_stops_no_command_and_reaches_no_terminal(
    pod: Pod, forge: Callable[[], None], command: str
) -> None:
    istio_init("apply", "--netns", pod.name, "--force-iptables-binary", "nft").ok()
    in_namespace(pod.inside, forge)
    where = () if command == "ps" else ("--netns", pod.name)

    done = istio_init(command, *where)

    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert done.status in (0, 6)


def process_named(name: bytes, namespace: Namespace) -> contextlib.AbstractContextManager[int]:
    """A process there of this name."""

    def prepare() -> None:
        Entrance(namespace.path, None, namespace.path).enter()
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)

    return sleeping(prepare)


NAMES = [b"[/a]", b"\x1b[31m", "a\u202eb".encode() + b"\xff"]


@pytest.mark.parametrize("name", NAMES, ids=["markup", "an escape", "no text"])
def test_the_name_of_a_process_is_but_text(pod: Pod, name: bytes) -> None:
    with process_named(name, pod.peer) as pid:
        text = istio_init("ps").ok()
        found = json.loads(istio_init("ps", "--format", "json").ok().stdout)

    [row] = [each for each in found["namespaces"] if each["pid"] == pid] or [None]
    if row is not None:  # Otherwise an older process lives there.
        assert row["process"].encode(errors="surrogateescape") == name
    assert "\x1b" not in text.stdout
    assert "\u202e" not in text.stdout


def test_an_empty_rule_is_a_rule(held: tuple[Pod, str]) -> None:
    pod, backend = held
    pod.inside.run(f"iptables-{backend}", "-A", "OUTPUT")
    nat(pod, backend, "-I", "ISTIO_OUTPUT")

    for command in (("explain",), ("map",), ("trace", "outbound", "tcp", "192.0.2.9:80")):
        istio_init(*command, "--netns", pod.name).ok()
    istio_init("apply", "--netns", pod.name).ok()
    istio_init("clean", "--netns", pod.name).ok()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-o a -j X", True),
        ('-m comment --comment "a b" -j X', True),
        ('-m comment --comment "a \\" b" -j X', True),
        ('-m comment --comment "a\nb" -j X', False),
        ('-o a"b -j X', False),
        ('-o "a -j X', False),
        ('-m comment --comment "a', False),
        ("-o a\x85b -j X", False),
        ("-o a\N{NO-BREAK SPACE}b -j X", False),
    ],
    ids=ascii,
)
def test_what_iptables_restore_could_misread_is_known(text: str, expected: bool) -> None:
    assert is_plain(text) is expected


def test_a_rule_that_one_program_cannot_print_hides_no_redirection(pod: Pod) -> None:
    istio_init("apply", "--netns", pod.name).ok()
    pod.inside.run("nft", *"insert rule ip nat OUTPUT meta priority 5 counter accept".split())

    said = istio_init("explain", "--netns", pod.name).ok().stdout

    assert "Outbound TCP, ipv4: all refused, as nothing listens on port 15001" in said
    assert "unfaithful-reader" in said


def test_of_a_family_whose_rules_could_not_be_read_nothing_is_said_to_be_direct(pod: Pod) -> None:
    istio_init("apply", "--netns", pod.name).ok()
    snapshot = pod.inside.call(lambda: observe(places.HERE, versions=False))
    lost = Unread(UnreadPart.RULES_LEGACY, "it is a secret", Family.IPV4)

    found = explain(snapshot.replace(unread=(lost,), partial=frozenset([Family.IPV4])))
    lines = [line for line, _ in impact_lines(found.impacts, is_captured=False)]

    assert "Outbound TCP, ipv4: undecidable: not all rules could be read" in lines
    assert [line for line in lines if "direct" in line and "ipv6" not in line] == []
