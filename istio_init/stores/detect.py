"""Which backend a namespace uses, found out by reading alone."""

from __future__ import annotations

from istio_init.errors import NoBackendError
from istio_init.netfilter.family import Family
from istio_init.stores.legacy import SAVE as LEGACY_SAVE
from istio_init.stores.legacy import IptablesLegacy
from istio_init.stores.nft import RESTORE as NFT_RESTORE
from istio_init.stores.nft import IptablesNft
from istio_init.system import netlink, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.dialects.iptables.rules import RuleSet
    from istio_init.stores.base import Store


def backends(wait: float) -> tuple[Store, Store]:
    """Both backends, nft first."""
    return IptablesNft(wait), IptablesLegacy(wait)


def choose(nft: Store, legacy: Store, legacy_rules: list[RuleSet], forced: str | None) -> tuple[Store, Store]:
    """The backend to program, and the other one.

    Legacy when its tables hold rules, else nft where the kernel and the programs have it, else legacy.

    Raises:
        NoBackendError: neither, or not the forced one, can be used; says what is missing.
    """
    if forced == "legacy" or (forced is None and any(any(rules.entries()) for rules in legacy_rules)):
        _need(LEGACY_SAVE[Family.IPV4])
        return legacy, nft
    kernel_has_nft = netlink.nft_tables() is not None
    if kernel_has_nft and process.find_binary(NFT_RESTORE[Family.IPV4]) is not None:
        return nft, legacy
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
    return legacy, nft


def _need(program: str) -> None:
    if process.find_binary(program) is None:
        raise NoBackendError(f"{program} is not installed", fix="install the package iptables")
