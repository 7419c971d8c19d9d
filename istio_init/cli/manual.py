"""The manual pages, from the commands and the option table that the help and the reference are made of."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from istio_init import __version__
from istio_init.cli import DROPIN
from istio_init.cli.app import COMMANDS, EXIT_STATUSES, cli
from istio_init.cli.examples import EXAMPLES
from istio_init.cli.lines import say
from istio_init.options import AMBIENT_OPTIONS, DROPIN_OPTIONS, OPTIONS, Option

INTRODUCTION = (
    "istio-init sets up, explains, predicts and proves the redirection of traffic by which the proxy of a service mesh "
    "gets the connections of a pod. It works in the network namespace that it runs in, or enters others."
)
DROPIN_INTRODUCTION = (
    "Programs the traffic redirection of an Istio sidecar in this network namespace, as Istio's own istio-iptables "
    "does, with the same flags and the same environment. Each flag can also be given by the variable named with it; "
    "a flag beats the environment."
)
SEE_ALSO = ("istio-init(1)", "istio-iptables(1)", "ip-netns(8)", "iptables(8)", "nft(8)", "nsenter(1)")
STATUSES = ((0, "Done."), (1, "Refused, or misused."), (126, "Traffic does not flow as it should."))


@click.command("man")
@click.argument("page", type=click.Choice(["istio-init", "istio-iptables"]), default="istio-init")
def man(page: str) -> None:
    """Print a manual page, for man(1) to show."""
    say(manual(page), nl=False)


def manual(page: str) -> str:
    """A manual page in the language of man(7)."""
    lines = _program() if page == "istio-init" else _drop_in()
    heading = f'.TH {page.upper()} 1 "" "istio-init {__version__}" "User Commands"\n.nh\n.ad l'
    return "\n".join([heading, *lines, *_see_also(page), ""])


def shown_options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """What a command's help says of its options, but for those that shape the rules and --help itself."""
    shaping = {option.flag for option in (*OPTIONS, *AMBIENT_OPTIONS)}
    for each in command.get_params(context):
        if isinstance(each, click.Option) and shaping.isdisjoint(each.opts) and "--help" not in each.opts:
            record = each.get_help_record(context)
            if record is not None:
                yield record


def documented() -> Iterator[tuple[click.Context, click.Command]]:
    """Every command but the drop-in, with the context in which its help is made."""
    for name in COMMANDS:
        if name != DROPIN:
            command = cli.get_command(click.Context(cli), name)
            assert command is not None
            yield click.Context(command, info_name=f"istio-init {name}"), command


def _program() -> Iterator[str]:
    yield from _named("istio-init", "program, inspect and prove the traffic redirection of a service mesh")
    yield from (".SH SYNOPSIS", ".B istio-init", r"\fICOMMAND\fR [\fIOPTIONS\fR]")
    yield from (".SH DESCRIPTION", _text(INTRODUCTION), ".SH COMMANDS")
    for context, command in documented():
        yield f'.SS "{_text(" ".join([context.command_path, *command.collect_usage_pieces(context)]))}"'
        yield from _paragraphs(inspect.cleandoc(command.help or ""))
        for option, meaning in shown_options(command, context):
            yield from _item(option, meaning)
        yield from _examples(str(command.name))
    yield '.SH "OPTIONS THAT SHAPE THE RULES"'
    yield _text("Options of istio-init apply and of istio-iptables, whose defaults differ where two are given.")
    yield from _grouped(OPTIONS, apply=True)
    yield from ('.SH "OPTIONS OF AMBIENT PODS"', _text("Options of istio-init apply --ambient."))
    yield from _grouped(AMBIENT_OPTIONS, apply=True)
    yield '.SH "EXIT STATUS"'
    for number, meaning in EXIT_STATUSES:
        yield from _item(str(number), f"{meaning[:1].upper()}{meaning[1:]}.")


def _drop_in() -> Iterator[str]:
    yield from _named("istio-iptables", "program the traffic redirection of an Istio sidecar")
    yield from (".SH SYNOPSIS", ".B istio-iptables", r"[\fIFLAGS\fR]", ".PP", ".B istio-init istio-iptables")
    yield from (r"[\fIFLAGS\fR]", ".SH DESCRIPTION", _text(DROPIN_INTRODUCTION), ".SH FLAGS")
    yield from _grouped((*OPTIONS, *DROPIN_OPTIONS), apply=False)
    yield '.SH "EXIT STATUS"'
    for number, meaning in STATUSES:
        yield from _item(str(number), meaning)


def _grouped(options: tuple[Option, ...] | list[Option], *, apply: bool) -> Iterator[str]:
    for group in dict.fromkeys(option.group for option in options):
        yield f'.SS "{_text(group)}"'
        for option in (option for option in options if option.group == group):
            flags = ", ".join(name for name in (option.short, option.flag) if name)
            head = flags + ("" if option.is_flag else " VALUE") if flags else f"{option.env[0]}=VALUE"
            default = option.default_for(apply=apply)
            yield from _item(head, option.help + (f" Default: {default}." if default not in ("", "false") else ""))
            if option.env and flags:
                yield from (".br", _text(f"Environment: {', '.join(option.env)}"))


def _named(name: str, what: str) -> Iterator[str]:
    yield from (".SH NAME", _text(f"{name} - {what}").replace(r" \- ", r" \- ", 1))


def _see_also(page: str) -> Iterator[str]:
    yield from ('.SH "SEE ALSO"', _text(", ".join(each for each in SEE_ALSO if each != f"{page}(1)")))


def _examples(name: str) -> Iterator[str]:
    if name in EXAMPLES:
        yield from (".PP", "Examples:", ".PP", ".nf", ".RS 4", *map(_text, EXAMPLES[name]), ".RE", ".fi")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield from (".PP", _text(" ".join(paragraph.replace("\b", "").split())))


def _item(head: str, text: str) -> Iterator[str]:
    yield from (".TP", rf"\fB{_text(head)}\fR", _text(" ".join(text.split())))


def _text(text: str) -> str:
    """As roff prints it literally: hyphens that can be copied, and no line that begins as a request does."""
    escaped = (
        text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq").replace("'", r"\(aq").replace("^", r"\(ha")
    )
    escaped = escaped.replace("`", r"\(ga").replace("~", r"\(ti")
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
