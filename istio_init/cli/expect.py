"""The expected configuration, as a line of ``istio-iptables``' arguments, variables before them."""

from __future__ import annotations

import shlex

from istio_init.cli.pflag import UsageError, parse_flags
from istio_init.config.model import Config
from istio_init.config.parse import Names, gather, parse
from istio_init.errors import ConfigError
from istio_init.options import DROPIN_OPTIONS, OPTIONS


def expected_config(line: str, names: Names) -> tuple[Config, tuple[str, ...]]:
    """The configuration of a line such as ``ISTIO_META_DNS_CAPTURE=true -b '*' -i '*'``, and warnings.

    Raises:
        ConfigError: with every problem that was found.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise ConfigError((f"--expect {line!r}: {error}; close the quotes",)) from None
    if words and words[0].rpartition("/")[2] in ("istio-iptables", "istio-init"):
        words = words[2:] if words[1:2] == ["istio-iptables"] else words[1:]
    environ = {}
    while words and "=" in words[0] and not words[0].startswith("-"):
        name, _, value = words.pop(0).partition("=")
        environ[name] = value
    try:
        given = parse_flags(words, OPTIONS + DROPIN_OPTIONS)
    except UsageError as error:
        raise ConfigError((f"--expect: {error}; see istio-iptables --help",)) from None
    return parse(gather(given, environ, apply=False), names, lenient_mode=True)
