"""Rules of native nftables and of ambient pods, as another implementation left them: what they are found to mean."""

from __future__ import annotations

import json
import os
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import entry_text, parse_save
from istio_init.dialects.nft.ruleset import parse
from istio_init.dialects.rule_store import RuleStore
from istio_init.inspector.arguments import Arguments
from istio_init.inspector.explain import explain
from istio_init.inspector.infer import infer_native
from istio_init.inspector.infer_ambient import infer_ambient, infer_ambient_native
from istio_init.mesh.mode import Mode
from istio_init.mesh.native import AMBIENT, SIDECAR, raised
from istio_init.mesh.policy import ambient, sidecar
from istio_init.mesh.roles.recognise import recognise
from istio_init.mesh.routing import LiveRouting
from istio_init.netfilter.family import Family
from istio_init.observe.files import File, from_files
from istio_init.observe.native import holders, raised_from
from istio_init.observe.snapshot import Snapshot

from .cases import KEYS, Case, recorded, save_text
from .conftest import VARIABLE


def _read(name: str) -> list[Case]:
    cases: list[Case] = json.loads(Path(os.environ[VARIABLE], name).read_text())
    return cases


STATES = {case["name"]: case["expect"] for case in recorded()}
NATIVE = [
    case
    for case in _read("native.json")
    if case["expect"].get("nft") and not STATES[case["name"]]["exit"] and "--dry-run" not in case["argv"]
]
AMBIENT_PODS = _read("ambient.json")


def chains(rules: RuleSet | None) -> dict[str, dict[str, list[str]]]:
    """Rules as the recorded states have them: chains of Istio's, and others that hold rules."""
    found: dict[str, dict[str, list[str]]] = {}
    for table, chain in rules.chains() if rules else ():
        if chain.entries or chain.name.startswith("ISTIO_"):
            found.setdefault(table.value, {})[chain.name] = [entry_text(entry) for entry in chain.entries]
    return found


def routing(state: dict[str, Any]) -> LiveRouting:
    rules = []
    for line in state["rules"]:
        words = line.removeprefix("v6 ").split()
        family = Family.IPV6 if line.startswith("v6 ") else Family.IPV4
        mark, table = (words[words.index(word) + 1] for word in ("fwmark", "lookup"))
        rules.append((family, int(mark.split("/")[0], 0), int(table)))
    return LiveRouting(tuple(rules))


@pytest.mark.parametrize("case", NATIVE, ids=[case["name"] for case in NATIVE])
def test_native_rules_mean_the_configuration_that_programs_the_iptables_rules_of_the_case(case: Case) -> None:
    state = case["expect"]
    live = routing(state)
    found = raised(parse(json.dumps({"nftables": state["nft"]})), SIDECAR)
    assert found is not None
    assert found.unread == ()
    assert None not in found.roles().values()

    inferred = infer_native(found, live)

    assert inferred is not None
    assert inferred.exact
    addresses = [ip_interface(each).ip for each in case["addrs"]]
    servers = [line.split()[1] for line in (case["resolv_conf"] or "").splitlines() if line.startswith("nameserver")]
    ipv6 = bool(sidecar.captures_ipv6(addresses, dual_stack=inferred.config.dual_stack))
    around = Surroundings(ipv6, tuple(map(ip_address, servers)) if inferred.config.redirect_dns else ())
    built = sidecar.rules(inferred.config, around)
    expected = STATES[case["name"]]
    assert {key: chains(built.get(family)) for family, key in KEYS.items()} == {
        key: expected[key] for key in KEYS.values()
    }
    wanted = sidecar.routing(inferred.config, around).mark_routes
    assert {(each.family, each.mark, each.table) for each in wanted} == {*live.rules}


@pytest.mark.parametrize("case", AMBIENT_PODS, ids=[case["name"] for case in AMBIENT_PODS])
def test_rules_of_an_ambient_pod_mean_its_configuration(case: Case) -> None:
    state = case["expect"]
    config = AmbientConfig(case["dns"], case["ipv6"], case["ingress"], tuple(case["virtual_interfaces"]))
    if case["backend"] == "native":
        found = raised(parse(json.dumps({"nftables": state["nft"]})), AMBIENT)
        assert found is not None
        assert None not in found.roles().values()
        inferred = infer_ambient_native(found)
    else:
        live = {family: recognise(parse_save(save_text(state[key]), family).rules) for family, key in KEYS.items()}
        assert all(entry.role is not None for rules in live.values() for *_, entry in rules.entries())
        inferred = infer_ambient(live)
        built = ambient.rules(config)
        assert {key: chains(built.get(family)) for family, key in KEYS.items()} == {
            key: state[key] for key in KEYS.values()
        }

    assert inferred is not None
    assert (inferred.config, inferred.exact) == (config, True)


@pytest.mark.parametrize("case", AMBIENT_PODS, ids=[case["name"] for case in AMBIENT_PODS])
def test_an_ambient_pod_in_a_file_is_explained_by_its_mode_store_and_arguments(case: Case, tmp_path: Path) -> None:
    state = case["expect"]
    if case["backend"] == "native":
        text = json.dumps({"nftables": state["nft"]})
    else:
        saves = [
            f"# {family.value} ({case['backend']})\n{save_text(state[key])}"
            for family, key in KEYS.items()
            if state[key]
        ]
        text = "".join(saves)
    found = from_files([File("state", text)])
    natives = raised_from(found.ruleset, found.netfilter)
    rules = holders(found.rules, natives)
    told = explain(
        Snapshot("state", rules, is_live=False, registered=found.netfilter, ruleset=found.ruleset, raised=natives)
    )

    argv = ["--ambient"]
    argv += [] if case["dns"] else ["--redirect-dns=false"]
    argv += ["--bypass-inbound-capture"] if case["ingress"] else []
    argv += [] if case["ipv6"] else ["--ipv6=false"]
    argv += ["--kube-virt-interfaces", ",".join(case["virtual_interfaces"])] if case["virtual_interfaces"] else []
    assert (told.mode, told.backend, told.exact) == (Mode.AMBIENT, RuleStore(case["backend"]), True)
    assert told.arguments == Arguments(tuple(argv))
    assert told.findings == ()
