"""What the kernel and the programs of this machine lack, found by trying once."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from judge.wild_lab import Lab
from judge.wild_load import attempt

PROGRAMS = {
    (store, family): f"ip{'6' if family == 6 else ''}tables-{store}" for store in ("nft", "legacy") for family in (4, 6)
}
MATCHES = """\
tcp --dport 1|udp --dport 1|multiport --dports 1|owner --uid-owner 1|mark --mark 1|connmark --mark 1|socket
conntrack --ctstate NEW|state --state NEW|addrtype --dst-type LOCAL|set --match-set %S src|iprange --src-range %A-%A
length --length 1|dscp --dscp 1|tos --tos 1|pkttype --pkt-type unicast|rpfilter|policy --dir in --pol none
mac --mac-source 02:00:00:00:00:01|comment --comment x|limit --limit 1/sec|statistic --mode nth --every 2 --packet 0
recent --name x --set|time --timestart 00:00|u32 --u32 0=0|bpf --bytecode '1,6 0 0 1'|string --algo bm --string x
quota --quota 1|cgroup --cgroup 1|hashlimit --hashlimit-upto 1/sec --hashlimit-mode srcip --hashlimit-name x
connlimit --connlimit-upto 1|cpu --cpu 0|helper --helper ftp|devgroup --src-group 0|connlabel --label 1|tcpmss --mss 1
cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 1|physdev ! --physdev-is-bridged
ecn --ecn-ip-ect 0
"""
MATCHES_OF = {
    4: "icmp --icmp-type 8|ttl --ttl-eq 1",
    6: "icmp6 --icmpv6-type 128|hl --hl-eq 1|frag|hbh|ipv6header --soft --header none",
}
TARGETS = """\
mangle PREROUTING ACCEPT|mangle PREROUTING MARK --set-mark 1|mangle PREROUTING CONNMARK --set-mark 1
mangle PREROUTING TPROXY --on-port 1|mangle PREROUTING TOS --set-tos 0|mangle PREROUTING DSCP --set-dscp 0
mangle POSTROUTING CLASSIFY --set-class 0:1|mangle PREROUTING SET --add-set %S src|mangle PREROUTING LOG
mangle PREROUTING NFLOG|mangle PREROUTING NFQUEUE|mangle PREROUTING TEE --gateway %A
mangle PREROUTING CHECKSUM --checksum-fill
mangle PREROUTING HMARK --hmark-tuple src --hmark-mod 4 --hmark-rnd 1|mangle PREROUTING TCPMSS --set-mss 1000
raw PREROUTING CT --zone 1|raw PREROUTING NOTRACK|raw PREROUTING TRACE|filter INPUT REJECT|nat PREROUTING REDIRECT
nat PREROUTING DNAT --to-destination %A|nat POSTROUTING SNAT --to-source %A|nat POSTROUTING MASQUERADE
nat PREROUTING NETMAP --to %A|security INPUT ACCEPT
"""
TARGETS_OF = {
    4: "mangle PREROUTING TTL --ttl-set 1|mangle PREROUTING ECN --ecn-tcp-remove",
    6: "mangle PREROUTING HL --hl-set 1|mangle PREROUTING DNPT --src-pfx fd00:1::/64 --dst-pfx fd00:2::/64",
}
NFT = """\
tproxy to :1|redirect|masquerade|dnat to 10.0.0.1|snat to 10.0.0.1|notrack|reject|fib daddr type local|ct count over 1
socket transparent 1|meta skuid 1|meta cgroup 1|numgen inc mod 2 0|jhash ip saddr mod 2 0|quota over 1 bytes
limit rate 1/second|ct zone set 1|meta pkttype set host|rt nexthop 10.0.0.1|rt ipsec missing|socket wildcard 1
meta random 1|meta hour "00:00"|tcp option maxseg exists|update @seen { tcp dport }|ct expiration 1s|queue num 0
"""
PLACES = ("filter prerouting", "filter output", "nat prerouting", "nat output", "nat input", "nat postrouting")


def _words(values: dict[str, str], *texts: str) -> Iterator[str]:
    """The samples of texts, with values for what stands for them."""
    for text in texts:
        for name, value in values.items():
            text = text.replace(name, value)
        yield from (each for line in text.splitlines() for each in line.split("|"))


def _iptables(store: str, family: int) -> Iterator[str]:
    """The matches and targets that a program does not take, as rules write them."""
    program, address = PROGRAMS[store, family], "10.1.2.3" if family == 4 else "fd00:1::3"
    values = {"%A": address, "%S": f"tried{family}"}
    for sample in _words(values, MATCHES, MATCHES_OF[family]):
        name, *rest = shlex.split(sample)
        proto = {"icmp": "icmp", "icmp6": "ipv6-icmp", "udp": "udp"}.get(name, "tcp")
        chain = "OUTPUT" if name in ("owner", "cgroup") else "PREROUTING"
        if attempt(program, "-t", "mangle", "-A", chain, "-p", proto, "-m", name, *rest).returncode:
            yield f"-m {name} "
    for sample in _words(values, TARGETS, TARGETS_OF[family]):
        table, chain, name, *rest = sample.split()
        flags = ["-m", "tcp", "--tcp-flags", "SYN,RST", "SYN"] if name == "TCPMSS" else []
        if attempt(program, "-t", table, "-A", chain, "-p", "tcp", *flags, "-j", name, *rest).returncode:
            yield f"-j {name} "


def _nft() -> Iterator[str]:
    table = "ip tried"
    attempt("nft", f"add table {table}")
    attempt("nft", f"add set {table} seen {{ type inet_service; flags dynamic; }}")
    for number, place in enumerate(PLACES):
        kind, hook = place.split()
        attempt("nft", f"add chain {table} c{number} {{ type {kind} hook {hook} priority 0; }}")
    for sample in _words({}, NFT):
        rules = (f"add rule {table} c{number} meta l4proto tcp {sample}" for number in range(len(PLACES)))
        if all(attempt("nft", rule).returncode for rule in rules):
            yield " ".join(sample.split()[:2])


def lacking() -> dict[str, list[str]]:
    """By the program that loads rules: what no rule of its may hold."""
    with Lab.create():
        attempt("ipset", "create", "tried4", "hash:ip")
        attempt("ipset", "create", "tried6", "hash:ip", "family", "inet6")
        found = {"nft": list(_nft())}
        attempt("nft", "delete table ip tried")
        for store, family in PROGRAMS:
            found[f"{PROGRAMS[store, family]}-restore"] = list(_iptables(store, family))
    return found
