"""Record what the kernel does with random packets under random rules, for a predictor to be compared with. Root.

usage: PYTHONPATH=scripts python -m judge.record --seed S --rulesets N --packets M --out FILE.jsonl

One JSON object a line for each rule set: `seed`, `ruleset`, `packets`. A rule set has all that is live: `setup`
(commands beside rules), `loaded` (what was loaded, in this order, which is that of registration), `refused`, the
texts of the four iptables-save programs (`save_errors` where one fails), `nft_text`, `nft_json`, `nft_netlink` (the
kernel's own messages, in base64), `ipset_save`, `rules`, `routes`, `addresses`, `sysctls`, `listeners`, and `hooks`
where the kernel tells them. The laboratory's own table is in none of them. A packet is described as it begins, before
any rule. `observed` has how it `end`ed: input, left, forwarded, drop, or unsent (no packet came to be: `error`); with
what then was its address, port, mark and interface; `matched`: store, family, table, chain, number and times of each
rule whose counter rose; `arrived`: the listener that got it; `trail`: the packet at the first and last moment of each
hook that it came by.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from judge.wild_detect import lacking
from judge.wild_lab import OWN, Lab
from judge.wild_load import LabError
from judge.wild_netlink import Logged
from judge.wild_packets import Packet, draw_packet, parse, send
from judge.wild_pools import Draw
from judge.wild_rules import plan
from judge.wild_snapshot import ruleset

T = TypeVar("T")


def record(seed: str, count: int, lacking: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One rule set and its packets."""
    return recording(seed, count, lacking, lambda: None)[0]


def recording(
    seed: str, count: int, lacking: Mapping[str, Sequence[str]], look: Callable[[], T]
) -> tuple[dict[str, Any], T]:
    """The same, and what somebody saw who looked at the namespace when the rules were live and no packet was sent."""
    draw = Draw(seed)
    wanted = plan(draw)
    with Lab.create(lacking) as lab:
        setup = lab.loader.set_up(wanted.setup)
        for listener in wanted.listeners:
            with contextlib.suppress(OSError):
                lab.listen(listener)
        for batch in wanted.batches:
            lab.loader.load(batch)
        found: dict[str, Any] = {"seed": seed, "ruleset": ruleset(lab, setup), "packets": []}
        seen = look()
        lab.loader.keep_sets()
        lab.settle()
        lab.netlink.logged()
        before = lab.counters(), lab.drops()
        for _ in range(count):
            packet = draw_packet(draw)
            error = send(lab, packet)
            lab.settle()
            logged, after = lab.netlink.logged(), (lab.counters(), lab.drops())
            observed = _observed(lab, packet, logged, bool(error))
            observed["matched"] = [
                [*place, times - before[0].get(place, 0)]
                for place, times in after[0].items()
                if times != before[0].get(place, 0) and place[2] != OWN
            ]
            arrived = [index for index, drops in enumerate(after[1]) if drops != before[1][index]]
            observed["arrived"] = lab.listeners()[arrived[0]]._asdict() if arrived else None
            observed["error"] = error or None
            if sum(each.hook == "output" for each in logged) < 2:
                found["packets"].append({"packet": packet.as_json(), "observed": observed})
            before = after
            lab.forget()
    return found, seen


def _observed(lab: Lab, packet: Packet, logged: list[Logged], failed: bool) -> dict[str, Any]:
    """How it ended; the packet learns what only the kernel knew."""
    packet.leaves_source = packet.direction == "outbound" and packet.src is None and not packet.raw
    if logged and packet.direction == "outbound":
        first = parse(logged[0].payload)
        for name in ("src", "length", "ttl", "tos", "flags"):
            setattr(packet, name, first.get(name))
        packet.interface = lab.names.get(logged[0].leaves)
    elif packet.direction == "inbound":
        packet.length = packet.length or _length(packet)
    trail = [_station(lab, each) for each in logged]
    observed: dict[str, Any] = {"end": "drop", "address": None, "port": None, "mark": None, "interface": None}
    if not logged and (failed or packet.direction == "outbound"):
        observed["end"] = "unsent"
    last = trail[-1] if trail else None
    if last and (last["hook"] == "input end" or (last["hook"] == "postrouting end" and last["interface"] != "lo")):
        forwarded = any(each["hook"] == "forward end" for each in trail)
        observed["end"] = "input" if last["hook"] == "input end" else ("forwarded" if forwarded else "left")
        observed |= {
            "address": last["dst"],
            "port": last["dport"],
            "mark": last["mark"],
            "interface": last["interface"],
        }
        observed |= {"source": last["src"], "sport": last["sport"], "tos": last["tos"], "ttl": last["ttl"]}
    observed["trail"] = trail
    return observed


def _station(lab: Lab, logged: Logged) -> dict[str, Any]:
    where = lab.names.get(logged.leaves or logged.came)
    return {"hook": logged.hook, "interface": where, "mark": logged.mark, **parse(logged.payload)}


def _length(packet: Packet) -> int:
    return {4: 20, 6: 40}[packet.family] + {"tcp": 20, "udp": 8, "icmp": 8}[packet.proto] + packet.payload


def _work(job: tuple[str, int, Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    try:
        return record(*job)
    except (LabError, OSError) as error:
        return {"seed": job[0], "error": f"{type(error).__name__}: {error}"}


def pin(numbers: Any) -> None:
    """Keep one worker on one core, whose queue of packets then has an order."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[numbers.get() % len(cores)]})


def _counted(found: dict[str, Any], ends: Counter[str]) -> None:
    for each in found["packets"]:
        ends[f"{each['packet']['direction']} {each['observed']['end']}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--rulesets", type=int, default=60)
    parser.add_argument("--packets", type=int, default=25, help="of each rule set")
    parser.add_argument("--only", type=int, help="one rule set of the many, by its number")
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--verbose", action="store_true", help="say what was refused, too")
    args = parser.parse_args()
    numbers: Any = multiprocessing.Queue()
    for number in range(args.workers):
        numbers.put(number)
    lack = lacking()
    print(
        "".join(f"{program} lacks: {', '.join(found)}\n" for program, found in lack.items() if found),
        end="",
        file=sys.stderr,
    )
    jobs = [
        (f"{args.seed}/{each}", args.packets, lack) for each in range(1, args.rulesets + 1) if args.only in (None, each)
    ]
    start, ends, failed = time.monotonic(), Counter[str](), 0
    with multiprocessing.Pool(args.workers, pin, (numbers,)) as pool, open(args.out, "w") as out:
        for done in pool.imap(_work, jobs):
            if "error" in done:
                failed += 1
                print(f"{done['seed']}: {done['error']}", file=sys.stderr)
                continue
            out.write(json.dumps(done) + "\n")
            _counted(done, ends)
            if args.verbose:
                for what, why in done["ruleset"]["refused"]:
                    print(f"refused: {what}: {why}", file=sys.stderr)
    spent = time.monotonic() - start
    print("".join(f"{times:6} {end}\n" for end, times in sorted(ends.items())), end="", file=sys.stderr)
    print(f"record: {ends.total()} packets, {len(jobs) - failed} rule sets, {failed} failed, {spent:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
