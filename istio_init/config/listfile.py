"""``@FILE`` as the value of a list: one argument of a program holds at most 128 KiB (execve(2), MAX_ARG_STRLEN)."""

from __future__ import annotations

from istio_init.config.parse import is_list
from istio_init.errors import ConfigError
from istio_init.options import OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.parse import Given
    from istio_init.options import Option


def expand(given: dict[str, Given], options: tuple[Option, ...] = OPTIONS) -> dict[str, Given]:
    """Replace each list that is written as ``@FILE`` by the file's items; lines and commas separate them.

    A line that begins with ``#`` is a comment.

    Raises:
        ConfigError: a file cannot be read.
    """
    problems = []
    expanded = dict(given)
    for option in options:
        value = given[option.name]
        if is_list(option) and value.text.startswith("@"):
            path = value.text[1:]
            try:
                with open(path, encoding="utf-8") as file:
                    lines = [line.strip() for line in file if not line.startswith("#")]
            except (OSError, UnicodeError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                problems.append(f"{value.origin} {value.text!r}: the file cannot be read ({reason}); name another")
                continue
            expanded[option.name] = value.replace(text=",".join(lines))
    if problems:
        raise ConfigError(tuple(problems))
    return expanded
