"""Shell completion: istio-init is asked what there is, istio-iptables has a list of its flags."""

from __future__ import annotations

from shlex import quote

import click
from click.shell_completion import get_completion_class

from istio_init.options import DROPIN_OPTIONS, OPTIONS


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of bash, zsh or fish, for istio-init and istio-iptables.

    For example in ~/.bashrc: eval "$(istio-init completion bash)"
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "istio-init", "_ISTIO_INIT_COMPLETE").source())
    click.echo(_drop_in(shell))


def _drop_in(shell: str) -> str:
    """A list that needs no run of the program: that one starts on a path of its own, which knows nothing of shells."""
    options = [option for option in (*OPTIONS, *DROPIN_OPTIONS) if option.flag]
    words = [name for option in options for name in (option.flag, option.short) if name]
    if shell == "bash":
        return f"complete -o default -W {quote(' '.join(words))} istio-iptables"
    if shell == "zsh":
        listed = " ".join(words)
        return f"_istio_iptables() {{ _arguments {listed} '*:file:_files' }}\ncompdef _istio_iptables istio-iptables"
    return "\n".join(
        f"complete -c istio-iptables -l {str(option.flag).removeprefix('--')}"
        + (f" -s {option.short.removeprefix('-')}" if option.short else "")
        + ("" if option.is_flag else " -r")
        + f" -d {quote(option.help)}"
        for option in options
    )
