"""How many transactions it takes from one native rule set to another."""

from __future__ import annotations

import pytest

from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.nft.ruleset import Table
from istio_init.mesh.native_names import SIDECAR
from istio_init.mesh.policy import sidecar
from istio_init.mesh.policy.nftables import tables
from istio_init.netfilter.family import Family
from istio_init.plan.native import native_plan

AROUND = Surroundings()
NOTHING: tuple[Table, ...] = ()


def written(mode: InterceptionMode, *, drop_invalid: bool = False) -> tuple[Table, ...]:
    config = Config(inbound_ports=ALL, outbound_ranges=ALL, mode=mode, drop_invalid=drop_invalid)
    return tuple(tables(sidecar.clauses(config, AROUND), AROUND.families, SIDECAR))


REDIRECT, TPROXY = written(InterceptionMode.REDIRECT), written(InterceptionMode.TPROXY)
REDIRECT_AND_DROP = written(InterceptionMode.REDIRECT, drop_invalid=True)


def filled(live: tuple[Table, ...], wanted: tuple[Table, ...]) -> list[list[str]]:
    """The tables that each transaction fills."""
    scripts = native_plan(live, wanted, (Family.IPV4,)).scripts
    lines = [[line.split() for line in script.splitlines()] for script in scripts]
    return [[words[2].removeprefix(SIDECAR) for words in script if words[0] == "table"] for script in lines]


@pytest.mark.parametrize(
    ("live", "wanted", "expected"),
    [
        pytest.param(NOTHING, TPROXY, [["mangle", "nat"]], id="a first run"),
        pytest.param(REDIRECT, REDIRECT_AND_DROP, [["mangle", "nat"]], id="another configuration of the same mode"),
        pytest.param(REDIRECT, NOTHING, [[]], id="cleaning"),
        pytest.param(REDIRECT, REDIRECT, [], id="nothing to do"),
        pytest.param(REDIRECT, TPROXY, [["mangle"], ["nat"]], id="to TPROXY: mangle captures before nat lets go"),
        pytest.param(REDIRECT_AND_DROP, TPROXY, [["mangle"], ["nat"]], id="the same where there is a mangle table"),
        pytest.param(TPROXY, REDIRECT, [["nat"], []], id="to REDIRECT: nat captures before mangle goes"),
    ],
)
def test_capture_never_leaves_one_table_before_the_other_has_it(
    live: tuple[Table, ...], wanted: tuple[Table, ...], expected: list[list[str]]
) -> None:
    assert [sorted(names) for names in filled(live, wanted)] == expected
