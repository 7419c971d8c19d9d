"""The command group ``istio-init``: its commands are imported when they are called."""

from __future__ import annotations

import io
import json
import signal
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from istio_init import __version__
from istio_init.cli import DROPIN
from istio_init.cli.examples import with_examples
from istio_init.cli.layout import Laid
from istio_init.cli.lines import say, write_any_text
from istio_init.cli.output import asks_for_json
from istio_init.cli.streams import output_lost
from istio_init.errors import IstioInitError, error_json

COMMANDS = {
    "apply": "istio_init.cli.apply:apply",
    "clean": "istio_init.cli.clean:clean",
    "explain": "istio_init.cli.explain:explain_command",
    "ps": "istio_init.cli.ps:ps",
    "trace": "istio_init.cli.trace:trace",
    "verify": "istio_init.cli.verify:verify",
    "render": "istio_init.cli.render:render",
    "map": "istio_init.cli.map:map_command",
    "diff": "istio_init.cli.diff:diff",
    "findings": "istio_init.cli.findings:findings_command",
    "snapshot": "istio_init.cli.snapshot:snapshot",
    "completion": "istio_init.cli.completion:completion",
    "man": "istio_init.cli.manual:man",
    "help": "istio_init.cli.help:help_command",
    "version": "istio_init.cli.help:version",
    DROPIN: "istio_init.cli.dropin_command:istio_iptables",
}


EXIT_STATUSES = (
    (0, "done"),
    (1, "refused by the kernel or a tool"),
    (2, "bad usage or configuration"),
    (3, "problems or differences found"),
    (4, "no such namespace or a refused one"),
    (5, "missing privilege"),
    (6, "no usable rule store"),
    (126, "traffic does not flow as it should"),
    (130, "interrupted"),
)


UNCUT = 200
"""Characters of what is said of a command in the list of all, which click cuts to what a line holds."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is wanted."""

    context_class = Laid

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        command.context_class = Laid
        return with_examples(cmd_name, command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(UNCUT)) for name, each in found if each])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, 1)
            hint = f"Did you mean {near[0]!r}?" if near else "istio-init --help lists all."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 80},
    epilog=f"Exit status: {', '.join(f'{number} {meaning}' for number, meaning in EXIT_STATUSES)}.",
)
@click.version_option(__version__, prog_name="istio-init", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Program, inspect and prove the traffic redirection of a mesh sidecar.

    Works in the network namespace that it runs in, or enters others by process
    or by name, as nsenter does.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


INTERRUPTED = 130

OF_THE_DROP_IN = {
    "--cleanup-only": "use istio-init clean",
    "--network-namespace": "use --netns",
    "--run-validation": "use istio-init verify",
    "--skip-rule-apply": "use --dry-run",
    "--cni-mode": "leave it out",
    "--log_output_level": "leave it out, or use --verbose",
}
"""What whoever brings arguments of istio-iptables to another command should do instead."""


def run(argv: list[str]) -> int:
    """Run the group; the exit status."""
    write_any_text()
    try:
        result: Any = cli.main(argv, prog_name="istio-init", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # It is heeded, however often it comes.
        say("interrupted", err=True)
        return INTERRUPTED
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name in OF_THE_DROP_IN:
            hint = f"It is one of istio-iptables alone: {OF_THE_DROP_IN[error.option_name]}."
            error = click.NoSuchOption(error.option_name, f"{error.message} {hint}", ctx=error.ctx)
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().replace("\t", "  "), err=True, nl=False)
        return _failed(argv, IstioInitError(error.format_message()), error.exit_code)
    except IstioInitError as error:
        say(f"istio-init: {error}", err=True)
        return _failed(argv, error, error.exit_code)
    except OSError as error:
        return output_lost(error)
    return result if isinstance(result, int) else 0


def _failed(argv: list[str], error: IstioInitError, status: int) -> int:
    """Tell a program that asked for JSON what failed, on one line as batches have it; the exit status."""
    if asks_for_json(argv):
        say(json.dumps({"schema": 1, "error": error_json(error, status)}))
    return status
