"""What a namespace holds, in the words of the iptables programs and of ip(8)."""

from __future__ import annotations

import struct
from pathlib import Path
from socket import AF_NETLINK, SOCK_RAW, socket

from istio_init.netfilter.family import Family
from istio_init.testing.namespaces import Namespace

BACKENDS = ("nft", "legacy")
PROGRAMS = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
LEGACY_NAMES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}

Chains = dict[str, tuple[str, ...]]
Tables = dict[str, Chains]

NETLINK_NETFILTER = 12
NFT_GET_GENERATION = (10 << 8) | 16


def program(backend: str, family: Family, verb: str = "") -> str:
    """The program of a backend and family, such as ``ip6tables-legacy-save``."""
    return f"{PROGRAMS[family]}-{backend}{verb and '-'}{verb}"


def tables(namespace: Namespace, backend: str, family: Family) -> Tables:
    """The rules by table and chain, without counters, chains of Istio's and such as hold rules; creates no table."""
    found: Tables = {}
    table: Chains = {}
    for line in namespace.run(program(backend, family, "save")).splitlines():
        if line.startswith("*"):
            table = found.setdefault(line[1:], {})
        elif line.startswith(":"):
            table[line[1:].split()[0]] = ()
        elif line.startswith("-A "):
            _, chain, rule = (*line.split(" ", 2), "")[:3]
            table[chain] += (rule,)
    return {
        name: kept
        for name, chains in found.items()
        if (kept := {chain: rules for chain, rules in chains.items() if rules or chain.startswith("ISTIO_")})
    }


def everything(namespace: Namespace) -> dict[tuple[str, Family], Tables]:
    """The rules of both backends and families."""
    return {(backend, family): tables(namespace, backend, family) for backend in BACKENDS for family in Family}


def has_rules_of_ours(namespace: Namespace, backend: str) -> bool:
    """Whether a backend holds a chain of Istio's."""
    return any(
        chain.startswith("ISTIO_")
        for family in Family
        for chains in tables(namespace, backend, family).values()
        for chain in chains
    )


def routing(namespace: Namespace) -> str:
    """Routing rules, routes of all tables and addresses, as ip(8) prints them."""
    commands = (("-4", "rule"), ("-6", "rule"), ("-4", "route", "show", "table", "all"),
                ("-6", "route", "show", "table", "all"))  # fmt: skip
    told = [namespace.run("ip", *command) for command in commands]
    # Without the state, which the kernel notes up to a second after an interface came up.
    addresses = [line.split() for line in namespace.run("ip", "-br", "address").splitlines()]
    return "\n".join([*told, *(" ".join([name, *given]) for name, _, *given in addresses)])


def legacy_tables(namespace: Namespace, family: Family) -> list[str]:
    """The legacy tables that the kernel made for the namespace."""
    path = Path("/proc/self/net", LEGACY_NAMES[family])
    return namespace.call(lambda: path.read_text().split() if path.exists() else [])


def nft_generation(namespace: Namespace) -> int:
    """How often nf_tables of the namespace were changed."""
    return namespace.call(_nft_generation)


def _nft_generation() -> int:
    with socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) as channel:
        channel.send(struct.pack("=IHHII", 20, NFT_GET_GENERATION, 1, 1, 0) + bytes(4))
        return int(struct.unpack_from("!I", channel.recv(4096), 24)[0])
