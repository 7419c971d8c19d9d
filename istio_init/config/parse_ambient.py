"""From the words that a user gave to an `AmbientConfig`, listing every problem at once."""

from __future__ import annotations

from istio_init.config import values
from istio_init.config.ambient import AmbientConfig
from istio_init.config.parse import parse_option, shown, suspicious
from istio_init.errors import ConfigError
from istio_init.options import AMBIENT_OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.config.parse import Given, Names

PROBES = "--host-probe-address"


def parse_ambient(given: Mapping[str, Given], names: Names) -> AmbientConfig:
    """Build the configuration of a pod in an ambient mesh, from the values of `AMBIENT_OPTIONS`.

    Raises:
        ConfigError: with every problem that was found.
    """
    problems: list[str] = []
    fields = {
        option.field: parse_option(option, given[option.name], names, problems)
        for option in AMBIENT_OPTIONS
        if option.field is not None
    }
    fields |= _probes(given[PROBES], problems)
    if problems:
        raise ConfigError(tuple(problems))
    return AmbientConfig(**fields)  # type: ignore[arg-type]


def _probes(given: Given, problems: list[str]) -> dict[str, object]:
    """The fields that ``--host-probe-address`` sets; it beats the variables of Istio's CNI agent."""
    if (complaint := suspicious(given)) is not None:
        problems.append(f"{given.origin} {shown(given.text)}: {complaint}")
        return {}
    found: dict[str, object] = {}
    for item in values.items(given.text):
        is_ipv6 = ":" in item
        field = "probe_ipv6" if is_ipv6 else "probe_ipv4"
        try:
            address = values.ipv6_address(item) if is_ipv6 else values.ipv4_address(item)
            if field in found:
                raise values.BadValue("a second address of one family", "give one of each")
            found[field] = address
        except values.BadValue as bad:
            problems.append(f"{given.origin} {shown(item)}: {bad.why}; {bad.fix}")
    return found
