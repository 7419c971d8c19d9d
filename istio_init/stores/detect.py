"""Which backend a namespace uses, found out by reading alone."""

from __future__ import annotations

from istio_init.errors import NoBackendError
from istio_init.netfilter.family import Family
from istio_init.plan.model import NATIVE
from istio_init.stores.legacy import SAVE as LEGACY_SAVE
from istio_init.stores.legacy import IptablesLegacy
from istio_init.stores.nft import RESTORE as NFT_RESTORE
from istio_init.stores.nft import IptablesNft
from istio_init.stores.nftables import INSTALL
from istio_init.stores.nftables import PROGRAM as NFT
from istio_init.system import netlink, process, xtables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.stores.base import Store


LOAD = "load nft_compat and xt_REDIRECT on the node, or take native nftables: --native-nftables"


def backends(wait: float, *, whole: bool = False) -> tuple[Store, Store]:
    """Both backends, nft first; ``whole`` is for who has to know all that a table holds."""
    return IptablesNft(wait, whole=whole), IptablesLegacy(wait)


def choose(nft: Store, legacy: Store, legacy_rules: list[RuleSet], forced: str | None) -> str:
    """The name of the backend to program.

    Legacy when its tables hold rules, else nft where the kernel and the programs have it, else legacy. A kernel that
    has nf_tables and none of x_tables holds rules of neither.

    Raises:
        NoBackendError: neither, or not the forced one, can be used; says what is missing.
    """
    if forced == NATIVE:
        need_native()
        return NATIVE
    if forced == "legacy" or (forced is None and any(any(rules.entries()) for rules in legacy_rules)):
        _need(LEGACY_SAVE[Family.IPV4])
        return legacy.name
    kernel_has_nft = netlink.nft_tables() is not None
    if kernel_has_nft and process.find_binary(NFT_RESTORE[Family.IPV4]) is not None:
        # Where there is no other choice iptables is tried all the same, and the error is what the program says.
        if forced is not None or xtables.runs_in_nft() or not has_native():
            return nft.name
        if xtables.has_legacy(Family.IPV4) and process.find_binary(LEGACY_SAVE[Family.IPV4]) is not None:
            return legacy.name
        raise NoBackendError("this kernel has no x_tables, whose matches and targets iptables needs", fix=LOAD)
    if forced == "nft":
        if not kernel_has_nft:
            raise NoBackendError("this kernel has no nf_tables", fix="leave out --force-iptables-binary")
        _need(NFT_RESTORE[Family.IPV4])
    if process.find_binary(LEGACY_SAVE[Family.IPV4]) is None:
        missing = NFT_RESTORE[Family.IPV4] if kernel_has_nft else "nf_tables in the kernel"
        raise NoBackendError(
            f"no usable iptables: {missing} and {LEGACY_SAVE[Family.IPV4]} are missing",
            fix="install the package iptables",
        )
    return legacy.name


def need_native() -> None:
    """Make sure that native nftables can be used.

    Raises:
        NoBackendError: the kernel's part of it is missing, or the program.
    """
    if netlink.nft_tables() is None:
        raise NoBackendError("this kernel has no nf_tables", fix="leave out --native-nftables")
    if process.find_binary(NFT) is None:
        raise NoBackendError(f"{NFT} is not installed", fix=INSTALL)


def has_native() -> bool:
    """Whether native nftables can be used."""
    try:
        need_native()
    except NoBackendError:
        return False
    return True


def _need(program: str) -> None:
    if process.find_binary(program) is None:
        raise NoBackendError(f"{program} is not installed", fix="install the package iptables")
