"""Parsers of rules: what they take they hold to, and no rule of others is touched or made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_address

from istio_init.config.model import ALL, Config, Surroundings
from istio_init.dialects.iptables.ipset import IpSetError, parse_ipset_save
from istio_init.dialects.iptables.parse import parse_rule
from istio_init.dialects.iptables.render import rule_text
from istio_init.dialects.iptables.rules import Rule, RuleSet
from istio_init.dialects.iptables.save import SaveError, entry_text, parse_save, render_save
from istio_init.dialects.iptables.sections import sections
from istio_init.dialects.nft.render import render
from istio_init.dialects.nft.ruleset import Ruleset, RulesetError, parse
from istio_init.dialects.nft.text import rule_text as nft_rule_text
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import ToolError
from istio_init.mesh.policy import sidecar
from istio_init.mesh.roles.recognise import is_ours, keep_foreign, recognise
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import CtState
from istio_init.netfilter.packet import Direction, Packet
from istio_init.observe.files import File, from_files
from istio_init.observe.formats import format_of
from istio_init.observe.native import raised_from
from istio_init.observe.netfilter import Known, model
from istio_init.plan.diff import diff
from istio_init.plan.restore import render_restore
from istio_init.stores.failure import failure
from istio_init.stores.fake import Fake
from istio_init.stores.nftables import failure as nft_failure
from istio_init.system.loading import INCLUDES, INTERFACES, NAME, QUOTED_INCLUDE, QUOTED_OR_COMMENT, _without_extensions
from istio_init.system.process import Completed
from istio_init.trace.tracer import Tracer
from istio_init.value import Value

from .fuzzing import CORPUS, Parser
from .mutating import Form

PACKETS = tuple(
    Packet(
        direction, 6, ip_address("10.1.2.3"), ip_address("10.3.2.1"), 40000, 80, uid=uid, gid=uid, interface="eth0",
        state=CtState.NEW,
    )
    for direction, uid in ((Direction.OUTBOUND, 1000), (Direction.INBOUND, None))
)  # fmt: skip

WANTED = {
    family: each
    for config in (Config(outbound_ranges=ALL, inbound_ports=ALL),)
    for family, each in sidecar.rules(config, Surroundings(ipv6=True)).items()
}


@cache
def _known() -> dict[str, Rule]:
    """The rules of the corpus, whose parsing is tried elsewhere."""
    seeds = [json.loads(line) for line in (CORPUS / "plan.jsonl").read_text().splitlines()]
    read = [parse_save(each, Family.IPV4).rules for each in seeds]
    return {entry_text(entry): entry.rule for rules in read for *_, entry in rules.entries()}


def save(text: str) -> None:
    """A save that is taken is the same when it is printed and read again, rule for rule."""
    for (_, family), part in sections(text, Family.IPV4).items():
        read = parse_save(part, family).rules
        again = parse_save(render_save(read), family).rules
        assert _flat_save(again) == _flat_save(read), "it is another one when it is read again"


def _flat_save(rules: RuleSet) -> list[object]:
    """All but the counters of chains, which are printed where there were none."""
    return [(table, chain.replace(counters=None)) for table, chain in rules.chains()]


def rule(text: str) -> None:
    """A rule's meaning is stable: printed and read it is the same."""
    once = rule_text(parse_rule(text))
    assert rule_text(parse_rule(once)) == once, f"{once!r} is not stable"


def plan(text: str) -> None:
    """What apply and clean would write leaves the rules of others to the letter, one command a line and no other."""
    live = recognise(parse_save(text, Family.IPV4, _known()).rules)
    for wanted in (RuleSet(Family.IPV4), WANTED[Family.IPV4]):
        edits = diff(live, wanted).edits
        try:
            written = render_restore(edits)
        except ToolError:
            continue  # It is refused as a whole, and said.
        lines = written.split("\n")[:-1]
        assert len(lines) == sum(len(each.steps) + 2 for each in edits), "more lines than commands"
        store = Fake([live])
        try:
            store.commit(Family.IPV4, edits)
        except ToolError:
            continue  # No kernel holds such rules: one leads to a chain that is not there.
        left = _others(keep_foreign(recognise(store.read(Family.IPV4)), live))
        assert left == _others(live), "rules of others are not what they were"


def _others(rules: RuleSet) -> dict[tuple[str, str], list[str]]:
    """The texts of the rules of a recognised rule set that are not ours."""
    found: dict[tuple[str, str], list[str]] = {}
    for table, chain, _, entry in rules.entries():
        if not is_ours(chain.name, entry):
            found.setdefault((table.value, chain.name), []).append(entry_text(entry))
    return found


def followed(text: str) -> None:
    """Whatever rules there are, packets are followed through them in a bounded time."""
    rules = {(RuleStore.NFT, Family.IPV4): parse_save(text, Family.IPV4, _known()).rules}
    _follow(rules, None)


def _follow(rules: dict[tuple[RuleStore, Family], RuleSet], ruleset: Ruleset | None) -> None:
    tracer = Tracer(model(rules, ruleset, Known({})))
    for packet in PACKETS:
        tracer.trace(packet)


def nft_json(text: str) -> None:
    """What is read is the same when it is printed and read again; each rule has a text, and is followed."""
    read = parse(text)
    for table in read.tables:
        for chain in table.chains:
            for each in chain.rules:
                nft_rule_text(each.expressions, each.comment)
    again = parse(render(read.tables))
    assert [_flat(table) for table in again.tables] == [_flat(table) for table in read.tables]


def _flat(table: Value) -> object:
    return table.replace(is_dormant=None, flags=frozenset())


def nft_followed(text: str) -> None:
    """Packets are followed through whatever nft prints, and Istio's tables are raised to what iptables would write."""
    read = parse(text)
    _follow({}, read)
    raised_from(read, model({}, read, Known({})))


def nft_text(text: str) -> None:
    """What is looked for in nft's own text before it is loaded is found in a bounded time."""
    format_of(text)
    if not QUOTED_INCLUDE.search(text) and not INCLUDES.search(QUOTED_OR_COMMENT.sub(" ", text)):
        kept, _ = _without_extensions(text)
        for part in INTERFACES.findall(kept):
            NAME.findall(part)


def any_file(text: str) -> None:
    """A file of any form is taken or refused."""
    if format_of(text).name != "NFT_TEXT":
        from_files([File("shop", text)])


def program_failure(text: str) -> None:
    """What a program says on its error stream becomes an error, whatever that is."""
    for name, of in (("iptables-nft-restore", failure), ("nft", nft_failure)):
        assert str(of(Completed((name,), 1, "", text)))


WORDS = (
    "-A ", "-m ", "--dport ", "! ", "-j RETURN", "-g ", "-i ", "-o lo", "-s ", "-d 10.0.0.0/8", "-p tcp",
    "ISTIO_OUTPUT", "ISTIO_REDIRECT", "COMMIT\n", "*nat\n", "*mangle\n", ":OUTPUT ACCEPT [0:0]\n", "-A OUTPUT ",
    "--comment ", '"', "\\\"", "-m comment --comment ", "owner --uid-owner 1337", "multiport --dports 1,2:3",
    "[1:2] ", "mark --mark 0x1/0xff", "# Table `nat' is incompatible, use 'nft' tool.\n",
    "conntrack --ctstate NEW,INVALID", "set --match-set s dst,src", "REDIRECT --to-ports 15001",
    "DNAT --to-destination 10.0.0.1:80", "--set-xmark 0x1/0x1", "TPROXY", "-m tcp",
    "statistic --mode random --probability 0.5", "addrtype --dst-type LOCAL", "iprange --src-range 1.1.1.1-2.2.2.2",
)  # fmt: skip
NFT_WORDS = (
    '"rule"', '"chain"', '"table"', '"set"', '"map"', '"expr"', '"match"', '"left"', '"right"', '"op"', '"meta"',
    '"payload"', '"ct"', '"vmap"', '"jump"', '"goto"', '"accept": null', '"range"', '"prefix"', '"concat"', '"elem"',
    '"mangle"', '"&"', '"|"', "null", "true", "[]", "{}", "[[[[", '"redirect"', '"tproxy"', '"*"', '"@s"', '"fib"',
    '"istio-proxy-nat"', '"dnat"', '"flags"', '"key"', '"xt"', '"hook"', '"prio"', '"inet"', '"ip6"', '"numgen"',
)  # fmt: skip
NFT_TEXT_WORDS = (
    "table ip nat {",
    "include",
    "iif { ",
    "xt match ",
    "}",
    "{",
    '"',
    "#",
    "device = ",
    "\\\n",
    "oif != ",
)
SET_WORDS = ("create s hash:ip", "add s ", "timeout 5", "comment ", '"', "nomatch", "hash:net,port", "bitmap:port", ",")
FAILURE_WORDS = (
    "line 12 failed",
    "at line: ",
    "Permission denied",
    "Error: ",
    "/dev/stdin:7:3-40: ",
    "can't initialize",
)


def parsers() -> Iterator[Parser]:
    """All of them."""
    yield Parser("save", save, (SaveError,), WORDS)
    yield Parser("rule", rule, (), WORDS)
    yield Parser("plan", plan, (SaveError,), WORDS)
    yield Parser("followed", followed, (SaveError,), WORDS)
    yield Parser("nft-json", nft_json, (RulesetError,), NFT_WORDS, Form.JSON)
    yield Parser("nft-followed", nft_followed, (RulesetError,), NFT_WORDS, Form.JSON)
    yield Parser("nft-text", nft_text, (), NFT_TEXT_WORDS)
    yield Parser("any-file", any_file, (), (*WORDS, *NFT_WORDS, *SET_WORDS))
    yield Parser("ipset", parse_ipset_save, (IpSetError,), SET_WORDS)
    yield Parser("program-failure", program_failure, (), FAILURE_WORDS)
