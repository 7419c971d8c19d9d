"""The model of netfilter and of its host from what `judge.record` wrote down, made as the product makes it."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from istio_init.dialects.iptables.ipset import parse_ipset_save
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import SaveError, parse_save
from istio_init.dialects.nft.ruleset import parse
from istio_init.dialects.rule_store import RuleStore
from istio_init.netfilter.family import Family
from istio_init.netfilter.fields import AddressType
from istio_init.netfilter.host import Host, Link, Listener, Network, Route, RoutingRule
from istio_init.netfilter.protocols import protocol_number
from istio_init.netfilter.stages import Netfilter
from istio_init.observe.netfilter import Known, model, not_printed
from istio_init.system import extensions, nft_kernel

Recorded = Mapping[str, Any]

FAMILIES = {"4": Family.IPV4, "6": Family.IPV6}
STORES = {"nft": RuleStore.NFT, "legacy": RuleStore.LEGACY}
TABLES = {"local": 255, "main": 254, "default": 253}
NOWHERE = ("unreachable", "blackhole", "prohibit", "throw")
DORMANT = re.compile(r"table (\w+) (\S+) \{[^{}]*?flags dormant")


def netfilter_of(found: Recorded) -> Netfilter:
    """All that is registered, from the texts of the programs that print it."""
    rules: dict[tuple[RuleStore, Family], RuleSet] = {}
    for store, name in STORES.items():
        for number, family in FAMILIES.items():
            if text := found[f"{store}{number}"]:
                rules[name, family] = _parsed(text, family)
    sets = parse_ipset_save(found["ipset_save"]) if found["ipset_save"] else {}
    links = {each["ifindex"]: each["ifname"] for each in found["addresses"]}
    dormant = dict.fromkeys(DORMANT.findall(found["nft_text"]), True)
    ruleset = parse(json.dumps(found["nft_json"])) if found["nft_json"] else None
    kernel = {name: [b64decode(each) for each in bodies] for name, bodies in found.get("nft_netlink", {}).items()}
    devices = nft_kernel.devices_in(kernel.get("chains", ()))
    told = nft_kernel.told_in(kernel["rules"]) if kernel else None
    hidden = not_printed(rules, ruleset) if ruleset and kernel else frozenset()
    beside = extensions.shown(extensions.extended(kernel["rules"], hidden)) if hidden else {}
    return model(rules, ruleset, Known(sets, links, dormant, devices, beside, told))


def _parsed(text: str, family: Family) -> RuleSet:
    """The rules of a text; none of one that its program left unfinished."""
    try:
        return parse_save(text, family).rules
    except SaveError:
        return RuleSet(family)


def host_of(found: Recorded) -> Host:
    """Interfaces, routing, sockets and settings."""
    names = [each["ifname"] for each in found["addresses"]]
    settings: Mapping[str, int] = found["sysctls"]

    def strictest(name: str) -> dict[str, int]:
        of_all = settings.get(f"net.ipv4.conf.all.{name}", 0)
        return {link: max(of_all, settings.get(f"net.ipv4.conf.{link}.{name}", 0)) for link in names}

    def either(name: str) -> dict[str, bool]:
        return {link: value > 0 for link, value in strictest(name).items()}

    forwards = {link: settings.get(f"net.ipv4.conf.{link}.forwarding") for link in names}
    return Host(
        links=tuple(map(_link, found["addresses"])),
        rules={FAMILIES[number]: tuple(map(_rule, rules)) for number, rules in found["rules"].items()},
        routes={
            FAMILIES[number]: tuple(_route(each, FAMILIES[number]) for each in routes)
            for number, routes in found["routes"].items()
        },
        listeners=tuple(_listener(each) for each in found["listeners"] if not each.get("remote")),
        connected=tuple(each["port"] for each in found["listeners"] if each.get("remote")),
        forwards={
            Family.IPV4: bool(settings["net.ipv4.ip_forward"]),
            Family.IPV6: bool(settings["net.ipv6.conf.all.forwarding"]),
        },
        forwards_from={link: bool(value) for link, value in forwards.items() if value is not None} or None,
        reverse_path_filter=strictest("rp_filter"),
        route_localnet=either("route_localnet"),
        accept_local=either("accept_local"),
        src_valid_mark=either("src_valid_mark"),
    )


def _link(each: Recorded) -> Link:
    addresses = tuple(ip_address(one["local"]) for one in each["addr_info"])
    return Link(each["ifname"], each["ifindex"], "UP" in each["flags"], addresses)


def _listener(each: Recorded) -> Listener:
    number = {"tcp": 6, "udp": 17}[each["protocol"]]
    return Listener(number, ip_address(each["address"]), each["port"], each["transparent"])


def _route(each: Recorded, family: Family) -> Route:
    everything = "0.0.0.0/0" if family is Family.IPV4 else "::/0"
    kind = each.get("type", "unicast")
    return Route(
        table=_table(each.get("table", "main")),
        destination=ip_network(everything if each["dst"] == "default" else each["dst"]),
        type=AddressType[kind.upper()],
        device=None if kind in NOWHERE else each.get("dev"),
        gateway=ip_address(each["gateway"]) if "gateway" in each else None,
        source=ip_address(each["prefsrc"]) if "prefsrc" in each else None,
        metric=each.get("metric", 0),
    )


def _rule(each: Recorded) -> RoutingRule:
    action = each.get("action", "to_tbl")
    leads = action == "to_tbl" and "goto" not in each
    return RoutingRule(
        priority=each["priority"],
        table=_table(each["table"]) if leads and "table" in each else None,
        action=AddressType.THROW if "goto" in each else None if leads else AddressType[action.upper()],
        goes_to=each.get("goto"),
        source=_network(each, "src"),
        destination=_network(each, "dst"),
        in_interface=each.get("iif"),
        out_interface=each.get("oif"),
        mark=_number(each["fwmark"]) if "fwmark" in each else None,
        mask=_number(each.get("fwmask", 0xFFFFFFFF)),
        uids=(each["uid_start"], each["uid_end"]) if "uid_start" in each else None,
        protocol=protocol_number(each["ipproto"]) if "ipproto" in each else None,
        sports=_ports(each, "sport"),
        dports=_ports(each, "dport"),
        tos=_number(each["tos"]) if "tos" in each else None,
        negated="not" in each,
    )


def _ports(each: Recorded, name: str) -> tuple[int, int] | None:
    if f"{name}_start" in each:
        return each[f"{name}_start"], each[f"{name}_end"]
    return (each[name], each[name]) if name in each else None


def _network(each: Recorded, name: str) -> Network | None:
    address = each.get(name, "all")
    return (
        None if address == "all" else ip_network(f"{address}/{each[f'{name}len']}" if f"{name}len" in each else address)
    )


def _table(name: str) -> int:
    return TABLES[name] if name in TABLES else int(name)


def _number(text: str | int) -> int:
    return text if isinstance(text, int) else int(text, 0)
