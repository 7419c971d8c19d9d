"""What the lowering of a match or a target is given, and how the words of iptables read as numbers and intervals."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from istio_init.netfilter.family import MAX_MARK, Family
from istio_init.netfilter.rules import Cause, Openness, Test, Undecided, Unknowable
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from istio_init.dialects.iptables.lower_sets import Sets
    from istio_init.netfilter.fields import Field
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Hook, Statement

    Lowered = tuple[Statement, ...]

Option = tuple[str, bool, tuple[str, ...]]
"""A flag, whether it is negated, and its values."""


class Asked:
    """One match or target that is to be lowered.

    ``flag`` and ``name`` are how it is called (``-m limit``), ``words`` the options behind it. ``hooks`` are those
    that its chain is called from, which costs a walk to find out.
    """

    __slots__ = ("family", "flag", "hooks", "name", "sets", "words")

    def __init__(
        self,
        flag: str,
        name: str,
        words: tuple[str, ...],
        family: Family,
        sets: Sets,
        hooks: Callable[[], frozenset[Hook]] = frozenset,
    ) -> None:
        self.flag = flag
        self.name = name
        self.words = words
        self.family = family
        self.sets = sets
        self.hooks = hooks

    @property
    def text(self) -> str:
        """It as iptables-save prints it."""
        return " ".join([self.flag, self.name, *self.words])

    def options(self) -> list[Option]:
        """``! --flag value`` groups in order.

        Raises:
            ValueError: the words are no such groups.
        """
        return list(_options(self.words))

    def cause(self, openness: Openness) -> Cause:
        """Why it cannot be told."""
        return Cause(openness, self.text)

    def undecided(self, openness: Openness) -> Undecided:
        """It as a test that nobody can decide."""
        return Undecided(self.cause(openness))

    def unknowable(self) -> Unknowable:
        """It as a target that could do anything."""
        return Unknowable(self.cause(Openness.NOT_MODELLED))


def _options(words: tuple[str, ...]) -> Iterator[Option]:
    flag = ""
    values: list[str] = []
    negated = next_negated = False
    for word in words:
        if word == "!":
            next_negated = True
        elif word.startswith("--"):
            if flag:
                yield flag, negated, tuple(values)
            flag, values, negated, next_negated = word, [], next_negated, False
        elif next_negated or not flag:
            raise ValueError(word)
        else:
            values.append(word)
    if next_negated:
        raise ValueError("a negation of nothing")
    if flag:
        yield flag, negated, tuple(values)


class Extension(Value):
    """How a match or target is lowered: to statements, in order; none where every packet passes it and nothing happens.

    The function raises ValueError where it does not know the words. ``tracks``: its presence makes the kernel track
    connections (nf_ct_netns_get in its check). ``by_hook``: what it does depends on the hook that calls its chain.
    """

    lower: Callable[[Asked], Lowered]
    tracks: bool = False
    by_hook: bool = False


def listing(asked: Asked) -> tuple[Statement, ...]:
    """What a listing of iptables -L does not tell of a rule, as `istio_init.dialects.iptables.listing` writes it."""
    lacking = "the rule's interfaces, which iptables -L lists with -v alone"
    words = lacking if len(asked.words) == 1 else asked.words[1].strip('"')
    return (Undecided(Cause(Openness.NOT_GIVEN, words)),)


def cannot_tell(openness: Openness, *, tracks: bool = False) -> Extension:
    """A match that cannot be decided, whatever its words."""
    return Extension(lambda asked: (asked.undecided(openness),), tracks)


def number(text: str, highest: int = MAX_MARK) -> int:
    """A number, also a hexadecimal one.

    Raises:
        ValueError: it is none, negative, or too high.
    """
    found = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    if not 0 <= found <= highest:
        raise ValueError(text)
    return found


def number_range(text: str, separator: str, highest: int) -> Intervals:
    """``5``, ``5:9``, ``:9`` or ``5:`` with a separator of one's own, as an interval."""
    first, found, last = text.partition(separator)
    low = number(first, highest) if first else 0
    high = (number(last, highest) if last else highest) if found else low
    if low > high:
        raise ValueError(text)
    return ((low, high),)


def masked(text: str, whole: int = MAX_MARK) -> tuple[int, int]:
    """Value and mask of ``0x1/0xff``; no mask: the whole field."""
    value, slash, mask = text.partition("/")
    return number(value, whole), number(mask, whole) if slash else whole


def masked_test(field: Field, text: str, negated: bool, whole: int = MAX_MARK) -> Test:
    """The field under a mask has a value; packets without the field fail (xt_mark.c, xt_connmark.c)."""
    value, mask = masked(text, whole)
    return Test(field, ((value, value),), None if mask == whole else mask, negated, False)


def network(text: str, family: Family) -> Intervals:
    """The addresses of a network or of one host.

    Raises:
        ValueError: none, one of another family, or a mask that is no prefix.
    """
    found = ip_network(text, strict=False)
    mask = text.partition("/")[2]
    if found.max_prefixlen != family.bits or ("." in mask and str(found.netmask) != mask):
        raise ValueError(text)
    first = int(found.network_address)
    return ((first, first + found.num_addresses - 1),)


def address(text: str, family: Family) -> int:
    """An address as a number.

    Raises:
        ValueError: none, or one of another family.
    """
    found = ip_address(text)
    if found.max_prefixlen != family.bits:
        raise ValueError(text)
    return int(found)


def address_range(text: str, family: Family, *, is_ordered: bool = True) -> tuple[int, int]:
    """``A-B``, or one address.

    Raises:
        ValueError: it is none; B comes before A, which iptables takes, unless ``is_ordered`` is false.
    """
    first, dash, last = text.partition("-")
    low = address(first, family)
    high = address(last, family) if dash else low
    if is_ordered and high < low:
        raise ValueError(text)
    return low, high
