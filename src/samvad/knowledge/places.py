"""How many do the same costly thing at once: all together, and each person for themself."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Hashable, Iterator

from samvad.errors import Overloaded


class Places:
    """Room for `all_max` at a time, and for `each_max` of one person; who comes when there is none is to come again."""

    def __init__(self, all_max: int, each_max: int) -> None:
        self._all_max = all_max
        self._each_max = each_max
        self._taken: Counter[Hashable] = Counter()
        self._count = 0

    @contextlib.contextmanager
    def place(self, who: Hashable | None) -> Iterator[None]:
        """A place while something is done for `who` (None: a program, which asks for many); Overloaded without room."""
        if self._count >= self._all_max or (who is not None and self._taken[who] >= self._each_max):
            raise Overloaded("Other documents are being fetched or read; send this one again soon.")
        self._count += 1
        self._taken[who] += 1
        try:
            yield
        finally:
            self._count -= 1
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]


__all__ = ["Places"]
