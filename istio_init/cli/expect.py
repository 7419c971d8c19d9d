"""The expected configuration, as a line of arguments of ``istio-iptables`` or of ``apply --ambient``."""

from __future__ import annotations

import re
import shlex

from istio_init.cli.pflag import UsageError, parse_flags
from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Config
from istio_init.config.parse import Names, gather, parse
from istio_init.config.parse_ambient import parse_ambient
from istio_init.errors import ConfigError
from istio_init.options import AMBIENT_OPTIONS, DROPIN_OPTIONS, OPTIONS, Option
from istio_init.system import routing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

AMBIENT = "--ambient"
PROGRAMS = ("istio-iptables", "istio-init")
COMMANDS = ("istio-iptables", "apply")
CONTINUED = re.compile(r"\\\r?\n")
LONGEST_SHOWN = 80
"""Characters of a line that a message repeats."""

STORE_FLAGS = ("--native-nftables", "--force-iptables-binary")
"""Where the rules are to be held, which is no matter of what they have to do."""


def expectation(line: str, names: Names) -> tuple[Config | AmbientConfig, tuple[str, ...]]:
    """The configuration of a line such as ``ISTIO_META_DNS_CAPTURE=true -b '*' -i '*'``, and warnings.

    With ``--ambient`` it is that of a pod in an ambient mesh, as ``istio-init apply --ambient`` takes it.

    Raises:
        ConfigError: with every problem that was found.
    """
    return configuration(*split(line), names)


def configuration(
    words: list[str], environ: Mapping[str, str], names: Names, origin: str = "--expect"
) -> tuple[Config | AmbientConfig, tuple[str, ...]]:
    """The same of arguments and variables by themselves; ``origin`` is where they come from, for messages.

    Raises:
        ConfigError: with every problem that was found.
    """
    if AMBIENT not in words:
        return _sidecar(words, environ, names, origin)
    words = [word for word in words if word != AMBIENT]
    stores = tuple(each for each in DROPIN_OPTIONS if each.flag in STORE_FLAGS)
    given = _flags(words, AMBIENT_OPTIONS + stores, origin)
    return parse_ambient(gather(given, environ, apply=True, options=AMBIENT_OPTIONS), names), ()


def in_this_kernel(config: Config | AmbientConfig) -> Config | AmbientConfig:
    """What ``apply`` makes of a configuration in the kernel that runs here."""
    return in_kernel(config, routing.ipv6_in_kernel())


def in_kernel(config: Config | AmbientConfig, has_ipv6: bool) -> Config | AmbientConfig:
    """What ``apply`` makes of a configuration in a kernel that has IPv6, or has it off."""
    if isinstance(config, AmbientConfig) and config.ipv6 and not has_ipv6:
        return config.replace(ipv6=False)
    return config


def expected_config(line: str, names: Names) -> tuple[Config, tuple[str, ...]]:
    """The same of a sidecar alone."""
    return _sidecar(*split(line), names, "--expect")


def split(line: str) -> tuple[list[str], dict[str, str]]:
    """The words of a line after a program's name, and the variables before that."""
    try:
        words = shlex.split(CONTINUED.sub(" ", line), comments=True)
    except ValueError as error:
        shown = line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]}..."
        raise ConfigError((f"--expect {shown!r}: {error}; close the quotes",)) from None
    return taken_apart(words)


def taken_apart(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words after a program's name, and the variables before them."""
    words = list(words)
    environ: dict[str, str] = {}
    _take_variables(words, environ)
    if words and words[0].rpartition("/")[2] in PROGRAMS:
        words = words[2:] if words[1:2] and words[1] in COMMANDS else words[1:]
        _take_variables(words, environ)
    return words, environ


def _take_variables(words: list[str], environ: dict[str, str]) -> None:
    while words and "=" in words[0] and not words[0].startswith("-"):
        name, _, value = words.pop(0).partition("=")
        environ[name] = value


def _sidecar(words: list[str], environ: Mapping[str, str], names: Names, origin: str) -> tuple[Config, tuple[str, ...]]:
    given = _flags(words, OPTIONS + DROPIN_OPTIONS, origin)
    return parse(gather(given, environ, apply=False), names, lenient_mode=True)


def _flags(words: list[str], options: tuple[Option, ...], origin: str) -> dict[str, str]:
    try:
        given, stray = parse_flags(words, options)
    except UsageError as error:
        raise ConfigError((f"{origin}: {error}; see istio-iptables --help, or istio-init apply --help",)) from None
    if stray:
        fix = "write a list with commas, and a switch as --flag=false"
        raise ConfigError(
            tuple([f"{origin}: {word!r} belongs to no flag, and would be ignored: {fix}" for word in stray])
        )
    return given
