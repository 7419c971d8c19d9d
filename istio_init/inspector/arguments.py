"""A configuration as the arguments and environment that give it: of ``istio-iptables``, or of ``istio-init apply``."""

from __future__ import annotations

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import ALL, Config, InterceptionMode
from istio_init.config.parse import Names, gather, parse
from istio_init.errors import ConfigError
from istio_init.options import AMBIENT_OPTIONS, OPTIONS
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.options import Option


class Arguments(Value):
    """Words and variables; only what differs from ``istio-iptables``' own defaults, and always the proxy's ids."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()

    def words(self, *command: str) -> list[str]:
        """The words of a shell's command, quoted: variables, the command if one is given, arguments."""
        from shlex import quote

        return [*(f"{name}={quote(value)}" for name, value in self.env), *command, *map(quote, self.argv)]

    def __str__(self) -> str:
        return " ".join(self.words())


def arguments(config: Config | AmbientConfig) -> Arguments:
    """The arguments that `command` needs for this configuration."""
    if isinstance(config, AmbientConfig):
        return ambient_arguments(config)
    return _arguments(config, Config(), OPTIONS, always=("proxy_uids", "proxy_gids"))


def apply_arguments(config: Config) -> Arguments:
    """The arguments that ``istio-init apply`` needs for this configuration: its defaults are others."""
    default, _ = parse(gather({}, {}, apply=True), Names())
    return _arguments(config, default, OPTIONS, always=("proxy_uids", "proxy_gids"))


def difference(config: Config, other: Config) -> Arguments:
    """The arguments of the first in which it is not the second."""
    return _arguments(config, other, OPTIONS)


def is_accepted(config: Config) -> bool:
    """Whether such arguments are taken: what is read out of rules made by hand may be nothing to be asked for."""
    given, environ = {}, {}
    for option in OPTIONS:
        if option.field is not None:
            text = _text(getattr(config, option.field))
            if option.flag is not None:
                given[option.flag] = text
            else:
                environ[option.env[0]] = text
    try:
        parse(gather(given, environ, apply=False), Names())
    except ConfigError:
        return False
    return True


def command(config: Config | AmbientConfig) -> tuple[str, ...]:
    """What takes the arguments of a configuration."""
    return ("istio-init", "apply") if isinstance(config, AmbientConfig) else ("istio-iptables",)


def ambient_arguments(config: AmbientConfig) -> Arguments:
    """The arguments that ``istio-init apply`` needs for this configuration of a pod in an ambient mesh."""
    found = _arguments(config, AmbientConfig(), AMBIENT_OPTIONS, is_short=False)
    return found.replace(argv=("--ambient", *found.argv))


def _arguments(
    config: Config | AmbientConfig,
    default: Config | AmbientConfig,
    options: tuple[Option, ...],
    always: tuple[str, ...] = (),
    *,
    is_short: bool = True,
) -> Arguments:
    argv: list[str] = []
    env: list[tuple[str, str]] = []
    for option in options:
        if option.field is None:
            continue
        value = getattr(config, option.field)
        if value == getattr(default, option.field) and option.field not in always:
            continue
        if option.flag is None:
            env.append((option.env[0], _text(value)))
        elif option.is_flag:
            argv.append(option.flag if value else f"{option.flag}=false")
        else:
            argv += [(option.short if is_short else None) or option.flag, _text(value)]
    return Arguments(tuple(argv), tuple(env))


def _text(value: object) -> str:
    if value is ALL:
        return "*"
    if isinstance(value, InterceptionMode):
        return value.value
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
