"""Rule sets as they are found on nodes, a little damaged, for wild rules to stand beside."""

from __future__ import annotations

from typing import NamedTuple

from judge.wild_load import Batch
from judge.wild_pools import PEER, STRANGERS, Draw, local_addresses


class Scene(NamedTuple):
    """Tables with their lines, as iptables-save writes them, and the routing that belongs to them."""

    tables: dict[str, list[str]]
    routing: list[str]


def _host(family: int) -> str:
    return "127.0.0.1/32" if family == 4 else "::1/128"


def _marked(family: int, mark: str) -> list[str]:
    ip = f"ip -{family}"
    return [f"{ip} rule add fwmark {mark} lookup 133", f"{ip} route add local default dev lo table 133"]


def _output(family: int) -> list[str]:
    lo, home = _host(family), "127.0.0.6/32" if family == 4 else "::6/128"
    return [
        "-A OUTPUT -p tcp -j ISTIO_OUT",
        f"-A ISTIO_OUT -s {home} -o lo -j RETURN",
        f"-A ISTIO_OUT ! -d {lo} -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-A ISTIO_OUT -o lo -m owner ! --uid-owner 1337 -j RETURN",
        "-A ISTIO_OUT -m owner --uid-owner 1337 -j RETURN",
        f"-A ISTIO_OUT ! -d {lo} -o lo -p tcp -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-A ISTIO_OUT -o lo -m owner ! --gid-owner 1337 -j RETURN",
        "-A ISTIO_OUT -m owner --gid-owner 1337 -j RETURN",
        f"-A ISTIO_OUT -d {lo} -j RETURN",
        "-A ISTIO_OUT -j ISTIO_REDIRECT",
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
    ]


def _sidecar(draw: Draw, family: int) -> Scene:
    inbound = ["-A PREROUTING -p tcp -j ISTIO_IN"]
    inbound += [f"-A ISTIO_IN -p tcp -m tcp --dport {port} -j RETURN" for port in (15008, 15090, 15021)]
    inbound += ["-A ISTIO_IN -p tcp -j ISTIO_IN_REDIRECT"]
    return Scene({"nat": inbound + _output(family), **_dns(draw, family)}, [])


def _dns(draw: Draw, family: int) -> dict[str, list[str]]:
    if draw.maybe():
        return {}
    server = f"{STRANGERS[family][0]}/{32 if family == 4 else 128}"
    return {
        "raw": [
            "-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1",
            "-A OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2",
            f"-A OUTPUT -d {server} -p udp -m udp --dport 53 -j CT --zone 2",
            f"-A PREROUTING -s {server} -p udp -m udp --sport 53 -j CT --zone 1",
        ]
    }


def _tproxy(draw: Draw, family: int) -> Scene:
    lines = [
        "-A PREROUTING -p tcp -j ISTIO_IN",
        "-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark",
        "-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark",
        f"-A OUTPUT ! -d {_host(family)} -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a",
        "-A ISTIO_IN -p tcp -m mark --mark 0x53a -j RETURN",
        f"-A ISTIO_IN -s {'127.0.0.6/32' if family == 4 else '::6/128'} -i lo -p tcp -j RETURN",
        "-A ISTIO_IN -i lo -p tcp -m mark ! --mark 0x53a -j RETURN",
        f"-A ISTIO_IN -p tcp -m {draw.choice(['conntrack --ctstate RELATED,ESTABLISHED', 'socket'])} -j ISTIO_DIVERT",
        "-A ISTIO_IN -p tcp -j ISTIO_TPROXY",
        "-A ISTIO_DIVERT -j MARK --set-xmark 0x539",
        "-A ISTIO_DIVERT -j ACCEPT",
        f"-A ISTIO_TPROXY ! -d {_host(family)} -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539",
    ]
    return Scene({"mangle": lines, "nat": _output(family), **_dns(draw, family)}, _marked(family, "0x539"))


def _ambient(draw: Draw, family: int) -> Scene:
    lo, mark = _host(family), "0x539/0xfff"
    nat = [
        "-A PREROUTING -j ISTIO_PRERT",
        "-A OUTPUT -j ISTIO_OUT",
        f"-A ISTIO_PRERT -s {PEER['eth0', family]} -p tcp -j ACCEPT" if draw.maybe(0.3) else "",
        f"-A ISTIO_PRERT ! -d {lo} -p tcp -m tcp ! --dport 15008 -m mark ! --mark {mark} -j REDIRECT --to-ports 15006",
        f"-A ISTIO_OUT ! -o lo -p udp -m mark ! --mark {mark} -m udp --dport 53 -j REDIRECT --to-ports 15053",
        f"-A ISTIO_OUT ! -d {lo} -p tcp -m tcp --dport 53 -m mark ! --mark {mark} -j REDIRECT --to-ports 15053",
        "-A ISTIO_OUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
        f"-A ISTIO_OUT ! -d {lo} -o lo -j ACCEPT",
        f"-A ISTIO_OUT ! -d {lo} -p tcp -m mark ! --mark {mark} -j REDIRECT --to-ports 15001",
    ]
    mangle = [
        f"-A PREROUTING -m mark --mark {mark} -j CONNMARK --set-xmark 0x111/0xfff",
        "-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark",
    ]
    return Scene({"nat": [each for each in nat if each], "mangle": mangle}, _marked(family, "0x111/0xfff"))


def _service(draw: Draw, family: int) -> Scene:
    service, pod = STRANGERS[family][0], local_addresses(family)[0]
    to = f"{pod}:8080" if family == 4 else f"[{pod}]:8080"
    nat = [
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER2",
        f"-A OUTPUT ! -d {_host(family)} -m addrtype --dst-type LOCAL -j DOCKER2",
        f"-A KUBE-SERVICES -d {service} -p tcp -m tcp --dport 80 -j KUBE-SVC",
        f"-A KUBE-SERVICES -d {service} -p udp -m udp --dport 53 -j KUBE-SVC",
        "-A KUBE-SVC -j MARK --or-mark 0x400",
        f"-A KUBE-SVC -p tcp -j DNAT --to-destination {to}",
        f"-A KUBE-SVC -p udp -j DNAT --to-destination {STRANGERS[family][1]}",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x400/0x400 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x400",
        "-A KUBE-POSTROUTING -j MASQUERADE",
        f"-A DOCKER2 -p tcp -m tcp --dport 8080 -j DNAT --to-destination {to}",
    ]
    filters = [
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-A FORWARD -m mark --mark 0x400/0x400 -j ACCEPT",
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A INPUT -m conntrack --ctstate NEW -j RETURN",
    ]
    return Scene({"nat": nat, "filter": filters}, [])


SCENES = (_sidecar, _tproxy, _ambient, _service)
BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}


def _damaged(draw: Draw, lines: list[str]) -> list[str]:
    """With a line less, two changed for each other, or another port."""
    lines = [line for line in lines if not draw.maybe(0.04)]
    if len(lines) > 1 and draw.maybe(0.25):
        at = draw.randrange(len(lines) - 1)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    if draw.maybe(0.2):
        lines = [line.replace("1337", str(draw.number())) for line in lines]
    return lines


def batches(draw: Draw, store: str, family: int) -> tuple[list[Batch], list[str]]:
    """One of the scenes, and its routing."""
    scene = draw.choice(SCENES)(draw, family)
    program = f"ip{'6' if family == 6 else ''}tables-{store}-restore"
    found = []
    for table, lines in scene.tables.items():
        words = [word for line in lines for word in line.split()]
        after = [words[index + 1] for index, word in enumerate(words) if word in ("-A", "-j", "-g")]
        chains = dict.fromkeys(each for each in after if f"-A {each} " in "".join(lines) and each not in BUILT_IN)
        needs = tuple(f":{chain} - [0:0]" for chain in chains)
        label = f"{store}{family} {table}"
        damaged = tuple(_damaged(draw, lines))
        found.append(Batch(label, (program, "--noflush"), f"*{table}\n", needs, damaged, "COMMIT\n"))
    return found, scene.routing if draw.maybe(0.9) else []
