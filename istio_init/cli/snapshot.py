"""``istio-init snapshot``."""

from __future__ import annotations

import os
import secrets
import sys
import time
from datetime import UTC, datetime

import click

from istio_init import __version__
from istio_init.cli.completing import target_argument
from istio_init.cli.lines import say
from istio_init.cli.source import NETNS_OPTION, PID_OPTION, live_snapshot, refuse_unread
from istio_init.errors import IstioInitError
from istio_init.observe.archive import LONGEST, pack
from istio_init.observe.bundle import files_of
from istio_init.observe.redaction import redacted, without_comments
from istio_init.observe.snapshot import Snapshot, Taken
from istio_init.observe.unread import Why
from istio_init.system import routing


@click.command("snapshot", short_help="Keep all that is known of a namespace in a file, for a ticket.")
@target_argument(files=False)
@PID_OPTION
@NETNS_OPTION
@click.option(
    "-o", "--output", "--output-file", "output", metavar="FILE", help="Write to this file instead of standard output."
)
@click.option("--redact", is_flag=True, help="Replace names of hosts, pods and processes, comments, public addresses.")
@click.option("--keep-addresses", is_flag=True, help="With --redact, leave addresses as they are.")
def snapshot(
    target: str | None, pid: int | None, netns: str | None, output: str | None, redact: bool, keep_addresses: bool
) -> int:
    """Keep all that is known of a namespace in a file, for a ticket.

    The file is a tar of text files. explain, trace, map and diff take it with
    --file, later, elsewhere and without root, and answer as they do of the live
    namespace. For example: istio-init snapshot shop/payment-7f9c > pod.tar

    Reads everything, changes nothing.
    """
    if keep_addresses and not redact:
        raise click.UsageError("--keep-addresses says what --redact leaves: give both")
    if output is None and sys.stdout.isatty():
        raise click.UsageError("a tar is not for a terminal: add > pod.tar, or -o pod.tar")
    found = live_snapshot(target, pid, netns, asks=True)
    data = bytes_of(found, redact=redact, keep_addresses=keep_addresses)
    for each in found.not_read:
        say(f"warning: not in the snapshot: {each}", fg="yellow", err=True)
    _write(data, output)
    return 0


def bytes_of(found: Snapshot, *, redact: bool, keep_addresses: bool) -> bytes:
    """The file of a snapshot that was taken here and now.

    Raises:
        PrivilegeError: it lacks rules, as reading them is denied: the file would tell of none.
    """
    if any(each.why is Why.DENIED for each in found.missing_rules):
        refuse_unread(found)
    files = files_of(without_comments(found) if redact else found, taken_now())
    if redact:
        files = redacted(files, secrets.token_bytes(32), addresses=not keep_addresses)
    return pack(files, int(time.time()))


def taken_now() -> Taken:
    """Here and now."""
    machine = os.uname()
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Taken("", date, machine.nodename, machine.release, __version__, routing.ipv6_in_kernel())


def _write(data: bytes, output: str | None) -> None:
    if len(data) > LONGEST:
        say(f"warning: it is longer than the {LONGEST >> 20} MB that --file takes", fg="yellow", err=True)
    if output is not None:
        try:
            file = open(output, "wb")  # noqa: SIM115 - closed below
        except OSError as error:
            raise click.BadParameter(f"{output}: it cannot be written: {error.strerror}", param_hint="-o") from None
        try:
            with file:
                file.write(data)
        except OSError as error:
            raise IstioInitError(f"{output}: it cannot be written: {error.strerror}") from None
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
