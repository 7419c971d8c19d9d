"""The tracer, against what a kernel did with packets that were really sent through every recorded configuration."""

from __future__ import annotations

import json
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from istio_init.dialects.iptables.lower import lower
from istio_init.dialects.iptables.save import parse_save
from istio_init.dialects.nft.lower import lower as lower_nft
from istio_init.dialects.nft.ruleset import parse
from istio_init.netfilter.chains import Table
from istio_init.netfilter.family import Family
from istio_init.netfilter.host import Host
from istio_init.netfilter.packet import Direction, Packet
from istio_init.netfilter.protocols import protocol_number
from istio_init.netfilter.rules import Nat, Rule, Store, Tproxy
from istio_init.netfilter.stages import Netfilter
from istio_init.trace.result import Kind, Outcome, Trace
from istio_init.trace.tracer import Tracer

from .conftest import VARIABLE

FOLDER = Path(os.environ.get(VARIABLE, "")).resolve().parent / "kernel-paths"
FILES = {"paths.json": 690, "paths-native.json": 678, "paths-ambient.json": 408}

Recorded = dict[str, Any]
Path3 = list[tuple[str, str, int]]


@pytest.mark.parametrize("name", FILES)
def test_the_tracer_takes_every_packet_the_way_that_the_kernel_did(name: str) -> None:
    if not (FOLDER / name).is_file():
        pytest.skip(f"no recorded packets: {FOLDER / name} is not there")
    packets, wrong = 0, []
    for configuration in json.loads((FOLDER / name).read_text()):
        tracer = Tracer(Netfilter(_tables(configuration)), Host(local_marks=_marks(configuration)))
        for each in configuration["packets"]:
            packets += 1
            found = tracer.trace(_packet(each["packet"]))
            expected = _expected(each)
            if (_matched(found), found.outcome.replace(address=None)) != (expected, _outcome(found, expected)):
                wrong.append((configuration["name"], each["packet"], _matched(found), expected))
    assert wrong == []
    assert packets == FILES[name]


def _tables(configuration: Recorded) -> tuple[Table, ...]:
    """The rules as iptables saved them, else as nft printed them."""
    if "save4" not in configuration:
        return lower_nft(parse(json.dumps(configuration["nft"])))
    families = {"save4": Family.IPV4, "save6": Family.IPV6}
    return tuple(
        table
        for key, family in families.items()
        for table in lower(parse_save(configuration[key], family).rules, Store.NFT)
    )


def _marks(configuration: Recorded) -> dict[Family, frozenset[int]]:
    families = {"4": Family.IPV4, "6": Family.IPV6}
    return {
        family: frozenset(
            int(mark, 16) for mark in re.findall(r"fwmark (0x\w+)", configuration["routing"].get(key, ""))
        )
        for key, family in families.items()
    }


def _packet(sent: Recorded) -> Packet:
    return Packet(
        Direction(sent["direction"]),
        protocol_number(sent["proto"]),
        ip_address(sent["src"]),
        ip_address(sent["dst"]),
        sent["sport"],
        sent["dport"],
        sent["uid"],
        sent["gid"],
        sent["interface"],
        sent.get("mark", 0),
    )


def _expected(recorded: Recorded) -> list[Path3]:
    """The rules that the kernel said matched: of the first leg, and of the one via lo if there was one."""
    legs = [recorded["path"], recorded["loopback_path"]]
    return [[tuple(hop[1:4] if len(hop) > 4 else hop[:3]) for hop in leg] for leg in legs if leg is not None]


def _matched(found: Trace) -> list[Path3]:
    return [
        [(hop.rule.origin.table, hop.rule.origin.chain, hop.rule.origin.number) for hop in leg.hops if hop.matched]
        for leg in found.legs
    ]


def _outcome(found: Trace, expected: list[Path3]) -> Outcome:
    """What the last rule of the kernel's first leg stands for."""
    rules = {
        (hop.rule.origin.table, hop.rule.origin.chain, hop.rule.origin.number): hop.rule for hop in found.legs[0].hops
    }
    last = rules.get(expected[0][-1]) if expected[0] else None
    return Outcome(Kind.DIRECT) if last is None else _stands_for(last)


def _stands_for(rule: Rule) -> Outcome:
    for statement in rule.body:
        if isinstance(statement, Nat) and statement.ports is not None:
            return Outcome(Kind.REDIRECT, statement.ports[0])
        if isinstance(statement, Tproxy):
            return Outcome(Kind.TPROXY, statement.port)
    return Outcome(Kind.DIRECT)
