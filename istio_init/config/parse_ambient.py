"""From the words that a user gave to an `AmbientConfig`, listing every problem at once."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.config.parse import parse_option
from istio_init.errors import ConfigError
from istio_init.options import AMBIENT_OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from istio_init.config.parse import Given, Names


def parse_ambient(given: Mapping[str, Given], names: Names) -> AmbientConfig:
    """Build the configuration of a pod in an ambient mesh, from the values of `AMBIENT_OPTIONS`.

    Raises:
        ConfigError: with every problem that was found.
    """
    problems: list[str] = []
    fields = {option.field: parse_option(option, given[option.name], names, problems) for option in AMBIENT_OPTIONS}
    if problems:
        raise ConfigError(tuple(problems))
    return AmbientConfig(**fields)  # type: ignore[arg-type]
