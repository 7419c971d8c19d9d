"""From the words that a user gave to a `Config`, listing every problem at once."""

from __future__ import annotations

from istio_init.config import values
from istio_init.config.model import ALL, Config, InterceptionMode
from istio_init.config.values import BadValue
from istio_init.dialects.iptables.matches import IdRange
from istio_init.errors import ConfigError
from istio_init.options import OPTIONS
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from istio_init.options import Option

OWNER_GROUPS_LIMIT = 49
"""Each included group takes five words of one line of iptables-restore, which holds 255 (MAX_ARGC, xshared.h)."""

DEFAULT_PROXY_ID = IdRange(1337, 1337)


class Given(Value):
    """The text of an option's value and where it came from, as messages say it."""

    text: str
    origin: str
    is_default: bool = False


class Names:
    """Looks names up: services, users and groups. Replaced by tests, and by the files of another root."""

    def service(self, name: str) -> int | None:
        """Port of a service, or None."""
        return None

    def user(self, name: str) -> int | None:
        """Id of a user, or None."""
        return None

    def group(self, name: str) -> int | None:
        """Id of a group, or None."""
        return None


def gather(
    given: Mapping[str, str], environ: Mapping[str, str], *, apply: bool, options: tuple[Option, ...] = OPTIONS
) -> dict[str, Given]:
    """The value of each option, by its name: a flag beats the environment, which beats the default."""
    found: dict[str, Given] = {}
    for option in options:
        if option.flag is not None and option.flag in given:
            shown = f"{option.short}/{option.flag}" if option.short else option.flag
            found[option.name] = Given(given[option.flag], shown)
            continue
        variable = next((name for name in option.env if name in environ), None)
        if variable is not None:
            found[option.name] = Given(environ[variable], f"environment variable {variable}")
        else:
            found[option.name] = Given(option.default_for(apply=apply), option.name, is_default=True)
    return found


def parse(given: Mapping[str, Given], names: Names, *, lenient_mode: bool = False) -> tuple[Config, tuple[str, ...]]:
    """Build the configuration; the second value holds warnings.

    ``lenient_mode`` treats any interception mode but TPROXY as REDIRECT, as the reference does.

    Raises:
        ConfigError: with every problem that was found.
    """
    problems: list[str] = []
    warnings: list[str] = []
    fields: dict[str, object] = {}
    for option in OPTIONS:
        if option.field is None:
            continue
        value = given[option.name]
        if lenient_mode and option.kind == "mode" and value.text not in ("REDIRECT", "TPROXY"):
            warnings.append(f"{value.origin} {shown(value.text)}: not REDIRECT or TPROXY; REDIRECT is used")
            value = Given("REDIRECT", value.origin)
        parsed = parse_option(option, value, names, problems)
        if parsed is not None:
            fields[option.field] = parsed
    if fields.get("proxy_uids") == ():
        account = given["ENVOY_USER"].text
        known = names.user(account)
        fields["proxy_uids"] = (DEFAULT_PROXY_ID if known is None else IdRange(known, known),)
    if fields.get("proxy_gids") == ():
        fields["proxy_gids"] = fields.get("proxy_uids", (DEFAULT_PROXY_ID,))
    if problems:
        raise ConfigError(tuple(problems))
    config = Config(**fields)  # type: ignore[arg-type]
    warnings.extend(_doubts(config, given))
    return config, tuple(warnings)


def parse_option(option: Option, given: Given, names: Names, problems: list[str]) -> object:
    """The value of one option, or None with what is wrong added to ``problems``."""
    if (complaint := suspicious(given)) is not None:
        problems.append(f"{given.origin} {shown(given.text)}: {complaint}")
        return None
    if option.kind == "boolean" and given.origin.startswith("environment"):
        return given.text in values._TRUE
    single, many = _SINGLE.get(option.kind), _LISTS.get(option.kind)
    if single is not None:
        parse_text, lookup = single
        try:
            return parse_text(given.text.strip(" \t"), lookup(names))
        except BadValue as bad:
            problems.append(f"{given.origin} {shown(given.text)}: {bad.why}; {bad.fix}")
            return None
    assert many is not None, option.kind
    return _parse_list(option, given, names, problems, *many)


def _parse_list(
    option: Option,
    given: Given,
    names: Names,
    problems: list[str],
    parse_item: Callable[..., object],
    lookup: Callable[[Names], object],
) -> object:
    wildcard = option.kind.endswith("_or_all")
    found = values.items(given.text)
    if wildcard and found == ["*"]:
        return ALL
    if option.kind == "owners_or_all" and not found:
        return ALL
    parsed = []
    for item in found:
        try:
            if item == "*":
                raise BadValue("* goes alone" if wildcard else "* is not possible here", "leave it out")
            parsed.append(parse_item(item, lookup(names)))
        except BadValue as bad:
            problems.append(f"{given.origin} {shown(item)}: {bad.why}; {bad.fix}")
    if option.kind == "owners_or_all" and len(parsed) > OWNER_GROUPS_LIMIT:
        problems.append(
            f"{given.origin}: {len(parsed)} groups, and one rule holds at most {OWNER_GROUPS_LIMIT}; "
            "name fewer, or a range such as 1000-2000"
        )
    return tuple(parsed)


def suspicious(given: Given) -> str | None:
    """What is wrong with a value whatever its option is; None where nothing is."""
    text = given.text
    if not text.isprintable():
        return "contains a line break or another control character; remove it"
    if text[:1] == "-" and not text[1:2].isdigit():
        name = given.origin.split("/")[-1]
        return f"looks like a flag: the value before it is missing; for an empty value write {name}="
    return None


def _mode(text: str, _: object = None) -> InterceptionMode:
    try:
        return InterceptionMode(text)
    except ValueError:
        raise BadValue("not an interception mode", "write REDIRECT or TPROXY") from None


def _doubts(config: Config, given: Mapping[str, Given]) -> list[str]:
    """What is valid, and probably not meant."""
    doubts = [*unread_booleans(given), *_cut_ranges(given)]
    exclude = given["--istio-local-exclude-ports"]
    if config.inbound_exclude_ports and config.inbound_ports is not ALL and not exclude.is_default:
        doubts.append(f"{exclude.origin} {shown(exclude.text)} has no effect: not all inbound ports are included")
    if config.outbound_ports and config.outbound_ranges is ALL:
        doubts.append("--istio-outbound-ports narrows nothing: all outbound ranges are included")
    if config.owner_groups_exclude and config.owner_groups is not ALL:
        doubts.append("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE has no effect: not all groups are included")
    inbound = given["--istio-inbound-ports"]
    if not inbound.is_default and config.inbound_ports == () and config.outbound_ranges != ():
        doubts.append(f"{inbound.origin} is empty: inbound connections bypass the proxy")
    return doubts


def unread_booleans(given: Mapping[str, Given], options: tuple[Option, ...] = OPTIONS) -> Iterator[str]:
    """Variables that were meant to turn something on or off, and do neither."""
    for option in options:
        each = given[option.name]
        is_variable = option.kind == "boolean" and not each.is_default and each.origin.startswith("environment")
        if is_variable and each.text and each.text not in values.BOOLEANS:
            yield f"{each.origin} {shown(each.text)}: not a boolean, so it counts as false; write true or false"


def _cut_ranges(given: Mapping[str, Given]) -> Iterator[str]:
    """Ranges that do not begin where they are said to."""
    for option in OPTIONS:
        if option.kind not in ("ranges", "ranges_or_all", "loopback") or given[option.name].is_default:
            continue
        for item in values.items(given[option.name].text):
            if (left := values.cut(item)) is not None:
                yield f"{given[option.name].origin} {shown(item)}: bits behind the prefix are cut, which leaves {left}"


def shown(text: str) -> str:
    """A value as messages show it: quoted, control characters escaped, cut when long."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:60]}… ({len(text)} characters)"


def _nothing(_: Names) -> None:
    return None


_SINGLE: dict[str, tuple[Callable[..., object], Callable[[Names], object]]] = {
    "port": (values.port, lambda names: names.service),
    "mode": (_mode, _nothing),
    "loopback": (values.loopback_network, _nothing),
    "ipv4": (values.ipv4_address, _nothing),
    "ipv6": (values.ipv6_address, _nothing),
    "mark": (values.mark, _nothing),
    "table": (values.routing_table, _nothing),
    "boolean": (values.boolean, _nothing),
    "duration": (values.duration, _nothing),
}

_LISTS: dict[str, tuple[Callable[..., object], Callable[[Names], object]]] = {
    "ports": (values.port_range, lambda names: names.service),
    "ports_or_all": (values.port_range, lambda names: names.service),
    "ranges": (values.network, _nothing),
    "ranges_or_all": (values.network, _nothing),
    "interfaces": (values.interface_name, _nothing),
    "users": (values.owner, lambda names: names.user),
    "groups": (values.owner, lambda names: names.group),
    "owners": (values.owner, lambda names: names.group),
    "owners_or_all": (values.owner, lambda names: names.group),
}


def is_list(option: Option) -> bool:
    """Whether the option's value is a list."""
    return option.kind in _LISTS
