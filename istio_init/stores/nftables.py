"""Native nftables: Istio's own tables in nf_tables, through ``nft``."""

from __future__ import annotations

from istio_init.dialects.nft.ruleset import Table
from istio_init.errors import BusyError, IstioInitError, LackError, NoBackendError, PrivilegeError, ToolError
from istio_init.mesh.native_names import FAMILY, TABLES
from istio_init.plan.model import NATIVE
from istio_init.system import netlink, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.system.netlink import NftTable
    from istio_init.system.process import Completed

PROGRAM = "nft"
TIMEOUT = 60.0
READINGS = 3
"""Attempts to read tables that another process may change meanwhile."""
INET = 1
"""The number of the family ``inet`` (linux/netfilter.h, NFPROTO_INET)."""

INSTALL = "install the package nftables"


class Nftables:
    """Istio's own tables. A concurrent change makes the kernel refuse the transaction, and nft tries again."""

    name = NATIVE
    means = PROGRAM

    def __init__(self, wait: float) -> None:
        self.wait = wait

    def read(self) -> tuple[Table, ...]:
        """The tables and all that they hold. No program is started where the kernel says that there are none.

        Raises:
            NoBackendError: there are some, and nft is not installed.
            ToolError: they cannot be read, or not whole.
        """
        for _ in range(READINGS):
            of_inet = _tables()
            ours = [each for each in of_inet if each.name in TABLES]
            if not ours:
                return ()
            found = tuple(_read(ours, alone=len(ours) == len(of_inet)))
            if _is_whole(found, [each.name for each in ours if not each.has_flags]):
                return found
        raise ToolError(
            f"{PROGRAM} prints other tables of Istio's than the kernel holds: it could not read all of them",
            fix="try again; if it stays, look for what the node lacks, such as memory",
        )

    def outline(self) -> tuple[Table, ...]:
        """As much of the tables as tells which they are, from the kernel, without a program.

        Raises:
            ToolError: it does not tell, and nft cannot read them either.
        """
        from istio_init.system.nft_outline import outlines

        try:
            ours = {each.name: each.is_dormant for each in _tables() if each.name in TABLES}
            return tuple([each.replace(is_dormant=ours[each.name]) for each in outlines(ours)])
        except OSError:
            return self.read()

    def commit(self, script: str) -> None:
        """Carry out a script: all of it, or nothing.

        Raises:
            LackError: the kernel or this nft lacks something that the script needs.
            ToolError: the kernel refused.
        """
        completed = process.run([PROGRAM, "-f", "-"], stdin=script, timeout=TIMEOUT + self.wait, writing=True)
        if completed.status != 0:
            _refuse_owned()
            raise failure(completed)


def _tables() -> list[NftTable]:
    """All tables of the family."""
    return [each for each in netlink.all_nft_tables() or () if each.family == INET]


def _read(ours: list[NftTable], *, alone: bool) -> Iterator[Table]:
    """Istio's tables; ``alone`` where there are no others of the family, so that they can be listed at once."""
    if process.find_binary(PROGRAM) is None:
        raise NoBackendError(f"there are rules of native nftables, and {PROGRAM} is not installed", fix=INSTALL)
    if alone and not any(each.has_flags for each in ours):
        names = {each.name for each in ours}
        # Others may have made some by now, which are not ours to replace.
        yield from [each for each in _listed(f"ruleset {FAMILY}") if each.name in names]
        return
    for each in ours:  # Of several tables in one command line, nft 1.0.6 finds only the last.
        try:
            found = _listed(f"table {FAMILY} {each.name}")
        except ToolError:
            if not each.has_flags:
                raise
            # At flags nft up to 1.0.6 prints other memory, or stops. Such a table is not kept, whatever it holds.
            found = (Table(FAMILY, each.name),)
        yield from [table.replace(is_dormant=each.is_dormant, flags=_flags(each)) for table in found]


def _flags(table: NftTable) -> frozenset[str]:
    told = {"dormant": table.is_dormant, "owner": table.is_owned}
    return frozenset([name for name, is_set in told.items() if is_set])


def _is_whole(found: tuple[Table, ...], names: list[str]) -> bool:
    """Whether nft printed each chain and each rule: what it cannot read it leaves out, and says nothing.

    ``names`` are the tables that it prints rightly.
    """
    from istio_init.system.nft_outline import rule_counts

    try:
        told = rule_counts(names)
    except OSError as error:
        raise ToolError(f"nf_tables cannot be read: {error.strerror}") from error
    printed = [table for table in found if table.name in names]
    return told == {(table.name, chain.name): len(chain.rules) for table in printed for chain in table.chains}


def _refuse_owned() -> None:
    for each in _tables():
        if each.name in TABLES and each.is_owned:
            raise ToolError(
                f"table {FAMILY} {each.name} belongs to another program, which alone may change it (flag owner)",
                fix="stop that program: the kernel removes the table with it",
            )


def _listed(what: str) -> tuple[Table, ...]:
    from istio_init.dialects.nft.ruleset import RulesetError, parse

    completed = process.run([PROGRAM, "-j", "list", *what.split()], timeout=TIMEOUT)
    if completed.status != 0:
        error = failure(completed)
        raise ToolError(error.message) if isinstance(error, LackError) else error
    try:
        return parse(completed.stdout).tables
    except RulesetError as error:
        raise ToolError(f"{PROGRAM} printed what is not understood: {error}") from None


def failure(completed: Completed) -> IstioInitError:
    """The error for a failed run of nft, in words that name the cause.

    nft shows each refused line below its complaint: ``/dev/stdin:7:3-40: Error: …``, the line, a row of carets.
    """
    lines = [line.strip() for line in completed.stderr.splitlines() if line.strip(" ^~\t")]
    said = "\n  ".join(lines[:2])
    lowered = said.lower()
    message = f"{PROGRAM} failed with status {completed.status}: {said.partition('Error: ')[2] or said}"
    if "not permitted" in lowered or "permission denied" in lowered:
        return PrivilegeError(message, fix="run as root, or with the capability NET_ADMIN")
    if "resource temporarily unavailable" in lowered or "device or resource busy" in lowered:
        return BusyError(message, fix="try again, or give a longer --wait")
    if "could not open file" in lowered:
        return ToolError(message, fix="nft before 1.0 reads its input by that name: it has to lead to /proc/self/fd/0")
    if "syntax error" in lowered or "unknown" in lowered:
        return LackError(message, fix=f"this {PROGRAM} is too old: version 0.9.8 or later is needed")
    if "no such file" in lowered or "not supported" in lowered or "protocol wrong type" in lowered:
        return LackError(message, fix=_missing(lines[1] if len(lines) > 1 else ""))
    return ToolError(message)


_MODULES = {
    "tproxy": "nft_tproxy",
    "redirect": "nft_redir",
    "ct ": "nft_ct, with zones",
    "type nat": "nft_chain_nat, for the family inet (Linux 5.2 or later)",
    "type route": "nf_tables, with chains of the type route for the family inet (Linux 5.2 or later)",
    "set ": "nf_tables, with counters at elements of sets (Linux 5.7 or later)",
}


def _missing(line: str) -> str:
    module = next((module for word, module in _MODULES.items() if word in line), "nf_tables and nft_ct")
    return f"this kernel lacks a part of nf_tables: on the node, load {module}"
