"""The text that iptables-restore reads for the edits of a family's tables."""

from __future__ import annotations

from istio_init.dialects.iptables.quoting import is_plain, is_word
from istio_init.errors import ToolError
from istio_init.plan.model import Append, Declare, Delete, Insert, Remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from istio_init.plan.model import Plan, Step, TableEdit


FIX = "remove the chain or rule by hand, with nft or by its number"


def render_restore(edits: Iterable[TableEdit]) -> str:
    """One section a table; to be read with ``--noflush``, which leaves alone what is not named.

    Raises:
        ToolError: a name or a text would be taken for something else.
    """
    lines: list[str] = []
    for edit in edits:
        lines += [f"*{edit.table.value}", *(_line(step) for step in edit.steps), "COMMIT"]
    return "\n".join(lines) + "\n" if lines else ""


def refuse_unwritable(plan: Plan) -> None:
    """Raise for what names of others make unwritable, before anything is written.

    Raises:
        ToolError: a name or a text would be taken for something else.
    """
    for backend in (plan.rules, *plan.other_backends):
        for family in backend.families:
            for edit in family.edits:
                for step in edit.steps:
                    if not isinstance(step, Append | Insert):  # What is added has names and texts of ours.
                        _line(step)


def _line(step: Step) -> str:
    """One command. What iptables-restore would take for something else is refused: names and comments are others'."""
    line = _command(step)
    if not (is_plain(line) and is_word(step.chain)):
        raise ToolError(f"iptables-restore would misread this: {line!r}", fix=FIX)
    return line


def _command(step: Step) -> str:
    match step:
        case Declare(chain):
            return f":{chain} - [0:0]"
        case Append(chain, text):
            return f"-A {chain} {text}".rstrip(" ")
        case Insert(chain, number, text):
            return f"-I {chain} {number} {text}".rstrip(" ")
        case Delete(chain, _, int(number)):
            return f"-D {chain} {number}"
        case Delete(chain, text):
            return f"-D {chain} {text}".rstrip(" ")
        case Remove(chain):
            return f"-X {chain}"
