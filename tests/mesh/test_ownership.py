"""Who holds a namespace, and what a run may take away there."""

from __future__ import annotations

import pytest

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import ALL, Config, InterceptionMode, Surroundings
from istio_init.dialects.iptables.rules import RuleSet
from istio_init.dialects.iptables.save import parse_save
from istio_init.errors import NamespaceError
from istio_init.mesh.neighbours import CONSUL, KUMA, LINKERD
from istio_init.mesh.ownership import NAMES, Holder, Permit, holders, permit
from istio_init.mesh.policy import ambient, sidecar
from istio_init.mesh.roles.recognise import BOTH_KINDS, MeshKind, kinds, recognise
from istio_init.netfilter.family import Family

V4 = Family.IPV4
SIDECAR, AMBIENT = MeshKind.SIDECAR, MeshKind.AMBIENT


def saved(*lines: str) -> RuleSet:
    """The recognised rules of a text of iptables-save, one table a line: its name, then its chains and rules."""
    text = []
    for line in lines:
        table, *rest = line.split("; ")
        text += [f"*{table}", *rest, "COMMIT"]
    return recognise(parse_save("\n".join([*text, ""]), V4).rules)


OF_SIDECAR = recognise(
    sidecar.rules(Config(mode=InterceptionMode.TPROXY, inbound_ports=ALL, redirect_dns=True), Surroundings())[V4]
)
OF_AMBIENT = recognise(ambient.rules(AmbientConfig())[V4])
OF_LINKERD = saved("nat; :PREROUTING ACCEPT [0:0]; :PROXY_INIT_REDIRECT - [0:0]; -A PREROUTING -j PROXY_INIT_REDIRECT")
RESTORE = (
    "-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(RuleSet(V4), set(), id="nothing"),
        pytest.param(OF_SIDECAR, {SIDECAR}, id="a sidecar"),
        pytest.param(OF_AMBIENT, {AMBIENT}, id="an ambient pod"),
        pytest.param(OF_LINKERD, set(), id="another mesh"),
        pytest.param(saved("nat; :ISTIO_OUTPUT - [0:0]"), {SIDECAR}, id="the shared chain alone"),
        pytest.param(saved("nat; :ISTIO_OUTPUT - [0:0]; :ISTIO_PRERT - [0:0]"), {AMBIENT}, id="one table"),
        pytest.param(
            saved("nat; :ISTIO_INBOUND - [0:0]", "mangle; :ISTIO_PRERT - [0:0]"),
            {SIDECAR, AMBIENT},
            id="table by table",
        ),
        pytest.param(
            saved("nat; :ISTIO_REDIRECT - [0:0]; :ISTIO_PRERT - [0:0]"), {SIDECAR, AMBIENT}, id="in one table"
        ),
        pytest.param(
            saved("nat; :ISTIO_PRERT - [0:0]", f"mangle; :ISTIO_OUTPUT - [0:0]; {RESTORE}"),
            {AMBIENT},
            id="the shared chain by its rules",
        ),
        pytest.param(
            saved("mangle; :ISTIO_PRERT - [0:0]", "nat; :ISTIO_OUTPUT - [0:0]; -A ISTIO_OUTPUT -d 127.0.0.1 -j RETURN"),
            {SIDECAR, AMBIENT},
            id="and by a sidecar's",
        ),
    ],
)
def test_the_kinds_of_pods_are_told_table_by_table(rules: RuleSet, expected: set[MeshKind]) -> None:
    assert kinds(rules) == expected


class TestHolders:
    def test_each_is_found_with_the_places_where_its_rules_stand(self) -> None:
        found = holders(
            [("nft", OF_AMBIENT), ("legacy", OF_LINKERD)],
            ["istio-proxy-nat", "istio-ambient-raw"],
            ["consul_tproxy", "mine", "istio-proxy-mangle"],
        )

        assert {each.who: (each.places, each.is_native) for each in found} == {
            AMBIENT: (
                ("mangle (nft, ipv4)", "nat (nft, ipv4)", "raw (nft, ipv4)", "istio-ambient-raw (nftables)"),
                True,
            ),
            LINKERD: (("nat PROXY_INIT_REDIRECT (legacy, ipv4)",), False),
            SIDECAR: (("istio-proxy-nat (nftables)",), True),
            CONSUL: (("consul_tproxy (nftables)",), True),
        }

    def test_nobody_holds_what_is_nobodys(self) -> None:
        assert holders([("nft", saved("nat; :CUSTOM - [0:0]"))], (), ["mine", "istio-proxy-nat"]) == ()

    def test_many_places_are_counted(self) -> None:
        finding = Holder(SIDECAR, ("a", "b", "c", "d", "e", "f")).finding
        assert finding == "rules of a sidecar are here: a, b, c, d and 2 more"


IS_SIDECAR, IS_AMBIENT = Holder(SIDECAR, ("nat",)), Holder(AMBIENT, ("nat",))
IS_LINKERD, IS_KUMA = Holder(LINKERD, ("nat PROXY_INIT_OUTPUT",)), Holder(KUMA, ("nat KUMA_MESH_INBOUND",))


class TestPermit:
    @pytest.mark.parametrize(
        ("found", "kind", "replace", "expected"),
        [
            ((), SIDECAR, (), Permit(frozenset([SIDECAR]))),
            ((), None, (), Permit(BOTH_KINDS)),
            ((IS_SIDECAR,), SIDECAR, (), Permit(frozenset([SIDECAR]))),
            ((IS_AMBIENT,), None, (), Permit(frozenset([AMBIENT]))),
            ((IS_AMBIENT,), SIDECAR, ("ambient",), Permit(BOTH_KINDS)),
            ((IS_SIDECAR, IS_AMBIENT), None, ("ambient",), Permit(BOTH_KINDS)),
            ((IS_SIDECAR, IS_AMBIENT), None, ("sidecar",), Permit(BOTH_KINDS)),
            ((IS_LINKERD,), AMBIENT, ("linkerd",), Permit(frozenset([AMBIENT]), ("PROXY_INIT_",))),
            ((), SIDECAR, ("linkerd", "ambient"), Permit(frozenset([SIDECAR]))),
        ],
    )
    def test_what_may_be_taken_away(
        self, found: tuple[Holder, ...], kind: MeshKind | None, replace: tuple[str, ...], expected: Permit
    ) -> None:
        assert permit(found, kind, replace) == expected

    @pytest.mark.parametrize(
        ("found", "kind", "replace", "missing"),
        [
            ((IS_AMBIENT,), SIDECAR, (), ["ambient"]),
            ((IS_SIDECAR,), AMBIENT, ("ambient", "linkerd"), ["sidecar"]),
            ((IS_SIDECAR, IS_AMBIENT), None, (), ["ambient"]),
            ((IS_LINKERD, IS_KUMA), None, ("kuma",), ["linkerd"]),
            ((IS_AMBIENT, IS_LINKERD), SIDECAR, (), ["ambient", "linkerd"]),
        ],
    )
    def test_what_is_refused_is_named_with_what_to_do(
        self, found: tuple[Holder, ...], kind: MeshKind | None, replace: tuple[str, ...], missing: list[str]
    ) -> None:
        with pytest.raises(NamespaceError) as caught:
            permit(found, kind, replace)

        assert caught.value.exit_code == 4
        words = str(caught.value.fix).split()
        assert [words[index + 1] for index, word in enumerate(words) if word == "--replace-other"] == missing

    def test_another_mesh_can_be_left_where_a_pod_has_to_start(self) -> None:
        assert permit([IS_LINKERD], SIDECAR, beside_meshes=True).beside == (IS_LINKERD,)
        with pytest.raises(NamespaceError):
            permit([IS_LINKERD, IS_AMBIENT], SIDECAR, beside_meshes=True)

    def test_a_table_of_another_meshs_own_cannot_be_replaced(self) -> None:
        with pytest.raises(NamespaceError, match="consul_tproxy"):
            permit([Holder(CONSUL, ("consul_tproxy (nftables)",), True)], SIDECAR, ["consul"])

    def test_the_names_are_words(self) -> None:
        assert NAMES == ("sidecar", "ambient", "linkerd", "consul", "kuma", "open-service-mesh", "aws-app-mesh")
