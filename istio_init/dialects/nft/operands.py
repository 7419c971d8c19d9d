"""What expressions look at, as fields of the model.

Many say more than they print: ``tcp dport`` in a rule comes with a test of the protocol, which nft leaves out. Whatever
cannot be loaded ends the rule, negated or not (nft_payload_eval, nft_meta_get_eval, nft_ct_get_eval: NFT_BREAK).
"""

from __future__ import annotations

from istio_init.dialects.nft.values import Kind, OddError
from istio_init.netfilter.fields import Field
from istio_init.netfilter.intervals import contains, union
from istio_init.netfilter.rules import Openness, Test
from istio_init.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.netfilter.intervals import Intervals
    from istio_init.netfilter.rules import Condition

MOST_POINTS = 4096
"""So many numbers of a set are turned over one by one, where an XOR or OR stands on the left."""

Cases = tuple[tuple[int, "Intervals"], ...]
"""Values, and for which values of the field each stands."""


class Operand(Value):
    """What stands on the left: ``((field & mask) ^ xor) >> shift``, plus ``add``.

    ``cases`` are for what has few values of its own: each, and for which values of the field it stands. ``needs`` has
    to hold, else the rule is left. Without a field it cannot be told, for the reason ``openness``.
    """

    kind: Kind
    bits: int
    field: Field | None = None
    mask: int | None = None
    xor: int = 0
    shift: int = 0
    add: int = 0
    cases: Cases | None = None
    needs: tuple[Condition, ...] = ()
    openness: Openness = Openness.NOT_MODELLED
    tracks: bool = False
    of_any_transport: bool = False
    """``th dport``: bytes of whatever header stands there, ports only of protocols that have them."""

    def masked(self, mask: int) -> Operand:
        """It, ANDed with a number."""
        self._only_bits()
        whole = mask << self.shift
        own = self.whole if self.mask is None else self.mask
        return self.replace(mask=own & whole, xor=self.xor & whole)

    def turned(self, bits: int) -> Operand:
        """It, XORed with a number."""
        self._only_bits()
        return self.replace(xor=self.xor ^ (bits << self.shift))

    def shifted(self, places: int) -> Operand:
        """It, shifted to the right."""
        self._only_bits()
        if places >= self.bits:
            raise OddError(f"a shift by {places}")
        return self.replace(shift=self.shift + places, bits=self.bits - places)

    def _only_bits(self) -> None:
        if self.cases is not None or self.add:
            raise OddError("bits of something that is no bare number")

    @property
    def whole(self) -> int:
        """All bits of the field."""
        return (1 << (self.bits + self.shift)) - 1

    @property
    def key_mask(self) -> int | None:
        """Which bits of the field count; None: all."""
        dropped = (1 << self.shift) - 1
        if not dropped:
            return self.mask
        return (self.whole if self.mask is None else self.mask) & ~dropped

    def on_field(self, within: Intervals) -> Intervals:
        """For which values of the field, under the mask, its own value lies within.

        Raises:
            OddError: there are too many to say.
        """
        if self.cases is not None:
            return union([found for value, found in self.cases if contains(within, value)])
        if self.xor:
            return self._turned_over(within)
        if not (self.shift or self.add):
            return within
        moved = [((low - self.add) << self.shift, (high - self.add) << self.shift) for low, high in within]
        return tuple([(max(0, low), high) for low, high in moved if high >= 0])

    def _turned_over(self, within: Intervals) -> Intervals:
        if sum(high - low + 1 for low, high in within) > MOST_POINTS:
            raise OddError("too many numbers to turn over")
        mask, dropped = self.key_mask, (1 << self.shift) - 1
        outside = ~(self.whole if mask is None else mask)
        points = [(each << self.shift) ^ (self.xor & ~dropped) for low, high in within for each in range(low, high + 1)]
        return union([((each, each),) for each in points if not each & outside])


def present(field: Field, bits: int = 32) -> Test:
    """That the packet has a field at all."""
    return Test(field, ((0, (1 << bits) - 1),))
