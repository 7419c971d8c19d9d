"""What the drop-in's own options say: how to go about it, not which rules there are to be."""

from __future__ import annotations

from istio_init.config.parse import parse_option, shown
from istio_init.errors import ConfigError
from istio_init.options import DROPIN_OPTIONS
from istio_init.plan.model import NATIVE
from istio_init.stores.programmer import Manner
from istio_init.system.names import FileNames
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.config.parse import Given


class Behaviour(Value):
    """What the drop-in's own options say."""

    dry_run: bool
    reconcile: bool
    cleanup_only: bool
    force_apply: bool
    skip_rule_apply: bool
    run_validation: bool
    iptables_probe_port: int
    probe_timeout: float
    native_nftables: bool
    allow_host_network: bool
    network_namespace: str
    force_iptables_binary: str
    wait: float

    @property
    def manner(self) -> Manner:
        """How to program."""
        return Manner(
            reconcile=self.reconcile or self.cleanup_only,
            rewrite=self.force_apply and not self.cleanup_only,
            dry_run=self.dry_run,
            allow_host=self.allow_host_network,
            beside_meshes=True,
            backend=NATIVE if self.native_nftables else self.force_iptables_binary or None,
            wait=self.wait,
        )


def behaviour_of(given: Mapping[str, Given]) -> Behaviour:
    """Read the options that are not the configuration's.

    Raises:
        ConfigError: with every problem that was found.
    """
    problems: list[str] = []
    fields: dict[str, object] = {}
    names = FileNames()
    for option in DROPIN_OPTIONS:
        field = option.name.removeprefix("--").replace("-", "_")
        value = given[option.name]
        if option.kind in ("boolean", "port", "duration"):
            parsed = parse_option(option, value, names, problems)
        else:
            parsed = value.text
        if option.kind == "backend" and value.text not in ("", "nft", "legacy"):
            problems.append(f"{value.origin} {shown(value.text)}: not a backend; write nft or legacy")
        if field == "probe_timeout" and parsed == 0 and fields["run_validation"]:
            problems.append(f"{value.origin} {shown(value.text)}: no time at all; write for example 5s")
        if field in Behaviour.__match_args__:
            fields[field] = parsed
    if problems:
        raise ConfigError(tuple(problems))
    return Behaviour(**fields)  # type: ignore[arg-type]
