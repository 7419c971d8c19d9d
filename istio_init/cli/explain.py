"""``istio-init explain``."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path

import click

from istio_init import __version__
from istio_init.cli.asked import asked_by, asked_in, chosen_by, manifest_of, pod_option
from istio_init.cli.completing import target_argument
from istio_init.cli.console import show
from istio_init.cli.expect import expectation, in_kernel, in_this_kernel
from istio_init.cli.explain_all import explain_all
from istio_init.cli.findings import known_codes
from istio_init.cli.interval import watch_seconds
from istio_init.cli.lines import hand_over, say
from istio_init.cli.output import output_options
from istio_init.cli.source import NAMESPACE_OPTIONS, live_snapshot, refuse_unread, snapshot_of
from istio_init.cli.target import choose
from istio_init.cli.targets import with_options
from istio_init.config.ambient import AmbientConfig
from istio_init.config.asked import Pod
from istio_init.config.model import Config
from istio_init.dialects.iptables.save import render_save
from istio_init.dialects.iptables.sections import NATIVE_TITLE
from istio_init.dialects.nft.render import render
from istio_init.dialects.rule_store import RuleStore
from istio_init.errors import InputError
from istio_init.inspector.explain import Explanation, explain
from istio_init.inspector.findings.model import Severity
from istio_init.inspector.rows import unprinted
from istio_init.observe.snapshot import Snapshot
from istio_init.space.collecting import Uncollected
from istio_init.system.names import FileNames
from istio_init.value import Value

FORMATS = ["text", "json", "list", "save", "html"]
PROBLEMS_FOUND = 3
PLAIN_WIDTH = 100


class _ExplainCommand(click.Command):
    """Takes --check=SEVERITY, while the word behind a bare --check is the target."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [re.sub(r"\A--check=", "--check-from=", each) for each in args])


def _severity(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    if given not in (None, "error", "warning"):
        raise click.BadParameter(f"{given!r}: write error or warning", param_hint="--check")
    return given


@click.command("explain", cls=_ExplainCommand, short_help="Say what live rules do, and what is wrong.")
@target_argument(files=True)
@with_options(NAMESPACE_OPTIONS)
@click.option(
    "--expect",
    metavar="ARGS",
    help="Compare with the rules of these istio-iptables arguments, or of --ambient and its own.",
)
@click.option("--expect-file", type=click.Path(dir_okay=False, path_type=Path), help="The same, from a file.")
@pod_option("Compare with what this pod asks for; without a target it is looked for on this node.")
@output_options(*FORMATS)
@click.option(
    "--rules", "-v", "rules", is_flag=True, help="Also show each rule, why it exists, and where traffic goes."
)
@click.option(
    "--check", is_flag=True, help="Exit 3 on any error finding or drift; --check=warning: on a warning as well."
)
@click.option("--check-from", callback=_severity, hidden=True)
@click.option("--ignore", metavar="CODE", multiple=True, help="Leave out findings of this code. May be repeated.")
@click.option("--all", "every", is_flag=True, help="Every network namespace of this node, in trouble first.")
@click.option("--watch", metavar="DURATION", help="Show it again and again, counters moving.")
def explain_command(
    target: str | None,
    pid: int | None,
    netns: str | None,
    file: str | None,
    file6: str | None,
    expect: str | None,
    expect_file: Path | None,
    manifest: str | None,
    form: str,
    rules: bool,
    check: bool,
    check_from: str | None,
    ignore: tuple[str, ...],
    every: bool,
    watch: str | None,
) -> int:
    """Say what live redirection rules do, where they come from, and what is wrong.

    Reads everything, changes nothing. TARGET is a pod (shop/payment-7f9c, or as
    much of its name as is its alone), a process or container id, a pod's
    address, a network namespace by name or path, a file (a snapshot, or what a
    ticket holds of its rules), or . for the namespace that this is run in,
    which is also meant where there is none.

    Rules are compared with what the pod asked for: with --pod by its manifest,
    else by its annotations, as far as its proxy's /etc/istio/pod has them.
    """
    least = Severity(check_from) if check_from is not None else Severity.ERROR if check else None
    if every:
        others = target, pid, netns, file, file6, expect, expect_file, manifest, watch
        if rules or any(each is not None for each in others):
            raise click.UsageError("--all is of the whole node: not with a target, --expect, --pod, --rules or --watch")
        return explain_all(form, known_codes(ignore, "--ignore"), least)
    find = partial(choose, target, pid, netns, file, file6, files=True)
    chosen = find()
    if watch is not None and chosen.is_file:
        raise click.UsageError("--watch looks at a namespace again and again: not with --file")
    expected, known = _expected(expect, expect_file), known_codes(ignore, "--ignore")
    shown = _Shown(form, rules, least)
    asking = None
    if manifest is not None:
        if "-" in (chosen.file, chosen.file6) and manifest == "-":
            raise click.UsageError("only one of --file, --file6 and --pod can be standard input")
        found = manifest_of(manifest)
        asking = found.pod
        if not any(each is not None for each in (target, pid, netns, file, file6)):
            find = partial(chosen_by, found)
            chosen = find()
    if watch is None:
        with Uncollected():  # All that is read is needed to the end.
            snapshot = snapshot_of(chosen, asks=asking is None)
            return _show(explained(snapshot, expected, asking, known), shown)
    seconds, status = watch_seconds(watch, shortest=0.1), 0
    try:
        while True:
            snapshot = live_snapshot(chosen, asks=asking is None)
            explanation = explained(snapshot, expected, asking, known)
            if form == "text":
                click.clear()
            status = _show(explanation, shown)
            time.sleep(seconds)
            chosen = find()  # A pod may have come back as another process.
    except KeyboardInterrupt:
        return status  # That is how one stops watching.


def explained(
    snapshot: Snapshot,
    expected: Config | AmbientConfig | None = None,
    asking: Pod | None = None,
    ignore: frozenset[str] = frozenset(),
) -> Explanation:
    """The explanation, drift from what is expected, else from what the pod asked for by its manifest or by itself."""
    asked = None
    if expected is None:
        asked = asked_in(snapshot) if asking is None else asked_by(asking)
    if asked is not None:
        asked = asked.replace(configs=tuple([_there(each, snapshot) for each in asked.configs]))
    expected = None if expected is None else _there(expected, snapshot)
    return explain(snapshot, expected, asked=asked, ignore=ignore)


def _expected(line: str | None, path: Path | None) -> Config | AmbientConfig | None:
    if line is None and path is None:
        return None
    if line is not None and path is not None:
        raise click.UsageError("give one of --expect and --expect-file")
    try:
        text = line if line is not None else Path(path or "").read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: it is not text", fix="give the arguments of istio-iptables") from None
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error.strerror}") from None
    config, warnings = expectation(text, FileNames())
    for warning in warnings:
        say(f"warning: {warning}", fg="yellow", err=True)
    return config


def _there(config: Config | AmbientConfig, snapshot: Snapshot) -> Config | AmbientConfig:
    """What is expected of the namespace, by the kernel that it is in; of files nothing is known of that."""
    if not snapshot.is_live:
        return config
    return in_this_kernel(config) if snapshot.taken is None else in_kernel(config, snapshot.taken.ipv6_in_kernel)


class _Shown(Value):
    """How to show an explanation, and from which severity on a finding makes the exit status that of problems."""

    form: str
    rules: bool
    check: Severity | None


def _show(explanation: Explanation, shown: _Shown) -> int:
    if shown.form == "text":
        from istio_init.report.explain_text import explanation_text

        show(explanation_text(explanation, rules=shown.rules), plain_width=PLAIN_WIDTH)
    else:
        hand_over(_formatted(explanation, shown.form))
    if shown.check is None:
        return 0
    is_broken = explanation.is_broken_from(shown.check)
    if not is_broken:
        refuse_unread(explanation.snapshot)
    return PROBLEMS_FOUND if is_broken else 0


def _formatted(explanation: Explanation, form: str) -> str:
    if form == "json":
        from istio_init.report.explain_json import explanation_json

        return json.dumps(explanation_json(explanation), indent=2) + "\n"
    if form == "list":
        from istio_init.report.listing import listing

        return listing(explanation)
    if form == "html":
        from istio_init.cli.snapshot import taken_now
        from istio_init.report.explain_html import Made, explanation_html

        taken = explanation.snapshot.taken or taken_now()
        return explanation_html(explanation, Made(taken.date, taken.host, f"istio-init {__version__}"))
    return _save(explanation.snapshot)


def _save(snapshot: Snapshot) -> str:
    """What iptables-save prints, and of tables that it does not print what nft does; --file reads all of it."""
    saves = [
        f"# {family.value} ({store.value})\n{render_save(rules)}"
        for (store, family), rules in snapshot.rules.items()
        if store is not RuleStore.NATIVE
    ]
    native = [table for table in unprinted(snapshot) if table.chains]
    return "".join([*saves, *([f"{NATIVE_TITLE}\n{render(native)}\n"] if native else [])])
