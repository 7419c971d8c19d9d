"""Large rule sets as iptables-save prints them, to measure with: the same ones at each run."""

from __future__ import annotations

from ipaddress import IPv4Network
from random import Random

FILTER = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"


def firewall(count: int, seed: int = 1, flag: str = "-s") -> str:
    """Rules of an address and of ports: what no dimension alone tells apart."""
    random = Random(seed)
    rules = ""
    for _ in range(count):
        ports = ",".join(map(str, sorted(random.sample(range(1, 65536), 3))))
        network = f"10.{random.randrange(256)}.{random.randrange(256)}.0/24"
        rules += f"-A OUTPUT {flag} {network} -p tcp -m multiport --dports {ports} -j DROP\n"
    return f"{FILTER}{rules}COMMIT\n"


def deny(count: int, seed: int = 2) -> str:
    """A deny list: addresses and networks."""
    random = Random(seed)
    rules = ""
    for _ in range(count):
        address, length = random.randrange(1 << 24, 223 << 24), random.choice([32, 32, 28, 24])
        rules += f"-A OUTPUT -d {IPv4Network((address, length), strict=False)} -j DROP\n"
    return f"{FILTER}{rules}COMMIT\n"


def kube_proxy(count: int) -> str:
    """About so many rules of services: a chain each, from which one of two endpoints is chosen at random."""
    chains = [":KUBE-SERVICES - [0:0]"]
    rules = ["-A PREROUTING -j KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES"]
    for number in range(count // 5):
        service, one, two = f"KUBE-SVC-{number:05}", f"KUBE-SEP-{number:05}A", f"KUBE-SEP-{number:05}B"
        chains += [f":{name} - [0:0]" for name in (service, one, two)]
        address = f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        endpoint = f"{number % 250}.{number % 199 + 1}:8080"
        rules += [
            f"-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport {80 + number % 7} -j {service}",
            f"-A {service} -m statistic --mode random --probability 0.50000000000 -j {one}",
            f"-A {service} -j {two}",
            f"-A {one} -p tcp -m tcp -j DNAT --to-destination 10.244.{endpoint}",
            f"-A {two} -p tcp -m tcp -j DNAT --to-destination 10.245.{endpoint}",
        ]
    builtin = [f":{name} ACCEPT [0:0]" for name in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")]
    return "\n".join(["*nat", *builtin, *chains, *rules, "COMMIT", ""])
