"""``istio-init verify``."""

from __future__ import annotations

import json
import shlex

import click

from istio_init.cli.asked import asked_by, chosen_by, manifest_of, pod_option, wanted
from istio_init.cli.completing import target_argument
from istio_init.cli.expect import expectation, in_this_kernel
from istio_init.cli.leaving import leaving_in_order
from istio_init.cli.lines import say
from istio_init.cli.output import output_options
from istio_init.cli.source import NETNS_OPTION, PID_OPTION, snapshot_in
from istio_init.cli.target import choose
from istio_init.cli.targets import ALLOW_HOST, allows_host
from istio_init.config import values
from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import Config
from istio_init.errors import PrivilegeError, ValidationError
from istio_init.inspector.asked import NOT_ASKED
from istio_init.inspector.findings.model import View
from istio_init.inspector.findings.rules import half_applied
from istio_init.observe.manifest import Manifest
from istio_init.observe.snapshot import Snapshot
from istio_init.observe.unread import Why
from istio_init.prove.astray import Astray, astray
from istio_init.prove.beside import beside, stood_in
from istio_init.prove.intent import Intent, expected, inferred
from istio_init.prove.model import Report
from istio_init.prove.validation import validate
from istio_init.report.verify_json import verify_json
from istio_init.report.verify_text import verify_lines
from istio_init.system import namespaces
from istio_init.system.names import FileNames
from istio_init.system.places import Place

NO_FILE = (
    "--file: only a namespace can be proved, as connections are made in it; of rules in a file, istio-init explain "
    "--file {file} says what is wrong, and trace and map what becomes of connections"
)
NOT_PROVED = 126
UNPRIVILEGED = 5


@click.command("verify", short_help="Prove with real connections that traffic flows as it should.")
@target_argument(files=False)
@PID_OPTION
@NETNS_OPTION
@click.option(
    "--expect",
    metavar="ARGS",
    help="Hold it to these istio-iptables arguments, or to --ambient and its own, not to its live rules.",
)
@pod_option("Hold it to what this pod asks for; without a target it is looked for on this node.")
@click.option("--file", hidden=True)
@click.option("--timeout", default="5s", show_default=True, metavar="DURATION", help="How long to wait for a probe.")
@click.option(
    "--allow-host-network", is_flag=True, help=f"Allow the host's own namespace, without inbound probes. [{ALLOW_HOST}]"
)
@click.option(
    "--allow-unprobed", is_flag=True, help="Exit 0 even if one direction, inbound or outbound, could not be probed."
)
@output_options("text", "json")
def verify(
    target: str | None,
    pid: int | None,
    netns: str | None,
    expect: str | None,
    manifest: str | None,
    file: str | None,
    timeout: str,
    allow_host_network: bool,
    allow_unprobed: bool,
    form: str,
) -> int:
    """Prove with real connections that traffic flows as it should.

    Connects from inside the namespace as an application and as the proxy, and
    from a second, temporary namespace to it. Short-lived listeners on the
    proxy's ports tell where each connection came out. What cannot be probed is
    listed with the reason. Probes are few: the live rules are compared with the
    configuration as a whole, too. Exit status 126 where a probe fails, where a
    rule sends other traffic elsewhere, or where traffic of a direction has to
    come to the proxy and none could be probed.

    TARGET is a pod, a process or container id, an address, or a network
    namespace, as explain takes it.
    """
    if file is not None:
        raise click.UsageError(NO_FILE.format(file=shlex.quote(file)))
    if expect is not None and manifest is not None:
        raise click.UsageError("give one of --expect and --pod")
    found = manifest_of(manifest) if manifest is not None else None
    is_named = any(each is not None for each in (target, pid, netns))
    chosen = chosen_by(found) if found is not None and not is_named else choose(target, pid, netns)
    seconds = _seconds(timeout)
    config = None
    if expect is not None:
        config, warnings = expectation(expect, FileNames())
        for warning in warnings:
            say(f"warning: {warning}", fg="yellow", err=True)
    place = chosen.open()
    try:
        if not allows_host(allow_host_network):
            namespaces.call_in(place.replace(userns=None), lambda: namespaces.refuse_host(place.label))
        snapshot = snapshot_in(place, chosen.words)
        view = View(snapshot)
        if found is not None and (config := _asked(found, view)) is None:
            say(f"{snapshot.label}: nothing to prove: the pod asks for no redirection, and there is none")
            return 0
        intent = expected(in_this_kernel(config), snapshot) if config is not None else _inferred(view)
        others = astray(view, intent)
        with leaving_in_order():
            report = namespaces.call_in(place, lambda: _validated(intent, snapshot, others, place, seconds))
    finally:
        place.close()
    report = report.replace(notes=(*stood_in(view), *beside(view), *report.notes))
    report = report.replace(accepts_unprobed=allow_unprobed or allows_host(allow_host_network))
    _show(snapshot.label, intent, report, form)
    return _status(report)


def _seconds(text: str) -> float:
    try:
        seconds = values.duration(text)
    except values.BadValue as bad:
        raise click.BadParameter(f"{text!r}: {bad.why}; {bad.fix}", param_hint="--timeout") from None
    if not seconds:
        raise click.BadParameter(f"{text!r}: no time at all; write for example 5s", param_hint="--timeout")
    return seconds


def _asked(found: Manifest, view: View) -> Config | AmbientConfig | None:
    """What a manifest asks for; None for no redirection, where there is none.

    Raises:
        ConfigError: no rules can be made of it.
        ValidationError: there is one that was not asked for.
    """
    asked, snapshot = asked_by(found.pod), view.snapshot
    for note in asked.notes:
        say(f"warning: {note}", fg="yellow", err=True)
    config = wanted(asked, snapshot)
    if config is None and view.holdings:
        raise ValidationError(f"{snapshot.label}: {NOT_ASKED}", fix="istio-init explain --pod tells of the difference")
    return config


def _inferred(view: View) -> Intent:
    """What the live rules were made for.

    Raises:
        PrivilegeError: they cannot be read.
        ValidationError: there are none.
    """
    snapshot = view.snapshot
    if (intent := inferred(view)) is not None:
        return intent
    if incomplete := [line for finding in half_applied(view) for line in finding.evidence]:
        raise ValidationError(
            f"{snapshot.label}: the redirection is incomplete, so that nothing says what to prove: {incomplete[0]}",
            fix="apply again, or say what to prove with --expect ARGS; istio-init explain tells all that is missing",
        )
    if snapshot.partial:
        text = f"{snapshot.label}: its rules cannot be read, so that nothing says what to prove"
        if any(each.why is Why.DENIED for each in snapshot.unread):
            raise PrivilegeError(
                text, fix="run as root, or with the capability NET_ADMIN; or say what to prove with --expect"
            )
        raise ValidationError(
            f"{text}: {'; '.join(map(str, snapshot.unread))}",
            fix="say what to prove with --expect ARGS; istio-init explain tells what could be read",
        )
    raise ValidationError(
        f"{snapshot.label}: no redirection of Istio's is there, so that nothing says what to prove",
        fix="say what to prove with --expect ARGS",
    )


def _validated(intent: Intent, snapshot: Snapshot, others: Astray, place: Place, seconds: float) -> Report:
    def announce(text: str) -> None:
        say(f"{place.label}: {text}", err=True)

    report = validate(intent.subject, intent.around, snapshot, timeout=seconds, announce=announce, others=others)
    return report.replace(notes=(*intent.notes, *report.notes), problems=(*intent.problems, *report.problems))


def _show(label: str, intent: Intent, report: Report, form: str) -> None:
    if form == "json":
        say(json.dumps(verify_json(label, intent, report), indent=2))
        return
    for text, colour in verify_lines(label, intent, report):
        say(text, fg=colour)


def _status(report: Report) -> int:
    if report.is_proved:
        return 0
    return NOT_PROVED if report.failed or report.problems or not report.lacks_privileges else UNPRIVILEGED
