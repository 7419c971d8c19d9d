"""Words and lines of iptables-save text. Names in it are chosen by anybody, and only some are quoted.

The programs quote what an extension's option takes, such as ``--comment``; the names of interfaces, chains and sets
they print as they are. So a quote anywhere else begins nothing.
"""

from __future__ import annotations

from istio_init.visible import visible

_BLANKS = " \t"
HEADER = ("-s", "-d", "-i", "-o", "-p")


def words(text: str, opening: str = "--") -> list[str]:
    """Split at blanks outside quotes, which stand behind a word that begins so; a quoted word keeps its quotes."""
    if '"' not in text:
        return _split(text)
    return _words(text, opening)[0]


def ends_open(text: str) -> bool:
    """Whether the text ends within quotes, so that its line is not over."""
    return '"' in text and _words(text)[1]


def _split(text: str) -> list[str]:
    """At blanks alone: what else Python calls a space may stand in a name."""
    if text.isascii() and text.isprintable():
        return text.split()
    return [word for word in text.replace("\t", " ").split(" ") if word]


def _words(text: str, opening: str = "--") -> tuple[list[str], bool]:
    found: list[str] = []
    start = 0
    while start < len(text):
        if text[start] in _BLANKS:
            start += 1
            continue
        if text[start] == '"' and _takes_quotes(found, opening):
            end = _closing(text, start)
            if end < 0:
                return [*found, text[start:]], True
        else:
            end = next((at for at in range(start, len(text)) if text[at] in _BLANKS), len(text))
        found.append(text[start:end])
        start = end
    return found, False


def _takes_quotes(before: list[str], opening: str) -> bool:
    """Whether what follows these words may be quoted: it does after an option, and not after an interface called so."""
    return bool(before) and before[-1].startswith(opening) and before[-2:-1] not in ([flag] for flag in HEADER)


def _closing(text: str, start: int) -> int:
    """Behind the quote that closes the one at ``start``; negative where none does."""
    at = start + 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == '"':
            return at + 1
        at += 1
    return -1


def is_one_name(text: str) -> bool:
    """Whether nothing in a name is what separates words and lines, which no name of an interface holds either."""
    return not any(each in text for each in "\t\n\v\f\r ")


def is_word(name: str) -> bool:
    """Whether a name is one word for iptables-restore, and no option."""
    return bool(name) and name[0] not in "-!" and not any(each in name for each in ' \t"')


def is_plain(text: str) -> bool:
    """Whether iptables-restore takes the text for these words and no others: it knows quotes in every place."""
    if visible(text) != text:
        return False
    if '"' not in text:
        return True
    found, is_open = _words(text)
    return not is_open and not any('"' in word for word in found if word[0] != '"' or _closing(word, 0) != len(word))


def doubt(text: str) -> str | None:
    """Why a rule's text cannot be what a program printed for a single rule; None where it can."""
    seen: set[str] = set()
    rest = _split(text) if '"' not in text else _words(text)[0]
    for index, word in enumerate(rest):
        if word == "-m" or word in ("-j", "-g"):
            break
        if word in HEADER and (index == 0 or rest[index - 1] not in HEADER):
            if word in seen:
                return f"{word} stands there twice"
            seen.add(word)
    outside = " ".join(word for word in rest if word[:1] != '"') if '"' in text else text
    if any(each in outside for each in "\n\v\f\r"):
        return "a line break stands in a name"
    return None
