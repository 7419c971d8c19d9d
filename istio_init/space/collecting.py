"""Work that makes many objects, none of which holds itself."""

from __future__ import annotations

import gc


class Uncollected:
    """Keeps the garbage collector from looking at all objects again and again, which takes as long as the work."""

    __slots__ = ("_was_on",)

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_on:
            gc.enable()
