"""Who is refused again and again waits for the refusals, so that saying no to one takes nothing from the others.

A refusal costs nearly as much as an answer: whoever asks anew as soon as they are refused, on hundreds of connections,
would have a core for themselves. So the first refusals of a second are told at once, and those after them later: a
connection that waits for its answer brings no further request. What waits is bounded; beyond, a refusal is told at once
and the connection closed.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from typing import Final

from samvad import limits
from samvad.http.waiting import Waiting

_GOLDEN: Final = 0.618033988749895  # its multiples, modulo 1, are spread evenly however many there are


class Holding:
    """Refusals that wait, by whom they are told."""

    def __init__(self) -> None:
        # When the next refusal of each would be due if they came at the pace at which none has to wait.
        self._due_s: OrderedDict[str, float] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._waiting = Waiting()
        self._turn = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    async def hold(self, whose: str) -> bool:
        """Until a refusal may be told to these; whether the connection is to be closed with it."""
        wait_s = self._wait_s(whose, asyncio.get_running_loop().time())
        if wait_s <= 0 or self._waiting.stopped:
            return False
        if (
            self._held[whose] >= limits.REFUSALS_HELD_EACH_MAX
            or len(self._waiting) >= limits.REFUSALS_HELD_MAX
        ):
            return True
        self._held[whose] += 1
        try:
            await self._waiting.wait(wait_s)
        finally:
            self._held[whose] -= 1
            if not self._held[whose]:
                del self._held[whose]
        return False

    def _wait_s(self, whose: str, now_s: float) -> float:
        due_s = max(self._due_s.get(whose, 0.0), now_s) + 1 / limits.REFUSALS_PER_S
        wait_s = due_s - now_s - 1.0
        if wait_s > limits.REFUSAL_HELD_S_MAX:
            # Those that came together do not go together, or all else would wait behind them.
            self._turn = (self._turn + _GOLDEN) % 1.0
            wait_s = limits.REFUSAL_HELD_S_MAX * (0.5 + 0.5 * self._turn)
            due_s = now_s + 1.0 + limits.REFUSAL_HELD_S_MAX
        self._due_s[whose] = due_s
        self._due_s.move_to_end(whose)
        if len(self._due_s) > limits.LIMITED_KEYS_MAX:
            self._due_s.popitem(last=False)
        return wait_s

    def let_go(self) -> None:
        """The server stops: all that waits is told now, and nothing waits any more."""
        self._waiting.let_go()
