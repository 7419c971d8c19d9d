"""The drop-in's help, from the option table."""

from __future__ import annotations

from textwrap import wrap

from istio_init.options import DROPIN_OPTIONS, OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.options import Option

WIDTH = 80
INDENT = 6

INTRODUCTION = """\
Usage: istio-iptables [flags]

Programs the traffic redirection of an Istio sidecar in this network namespace,
as Istio's own istio-iptables does. Each flag can also be given by the
environment variable named beside it; a flag beats the environment.
"""


def dropin_help() -> str:
    """The text of ``istio-iptables --help``, at most 80 columns wide."""
    lines = [INTRODUCTION]
    options = OPTIONS + DROPIN_OPTIONS
    for group in dict.fromkeys(option.group for option in options):
        lines.append(f"{group}:")
        for option in options:
            if option.group == group:
                lines += _option_lines(option)
        lines.append("")
    return "\n".join(lines)


def _option_lines(option: Option) -> list[str]:
    flags = ", ".join(name for name in (option.short, option.flag) if name)
    head = f"  {flags}" + ("" if option.is_flag else " VALUE") if flags else f"  {option.env[0]}=VALUE"
    detail = option.help
    if option.default not in ("", "false"):
        detail += f" Default: {option.default}."
    if option.env and flags:
        detail += f" [{', '.join(option.env)}]"
    return [
        head,
        *wrap(detail, WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT, break_on_hyphens=False),
    ]
