"""How late the event loop is: what would hold up every client at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from samvad.meters import Histogram

if TYPE_CHECKING:
    from samvad.runtime import Samvad

EVERY_S: Final = 0.05
_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class LoopLag:
    """A timer that notes by how much it was late, from the first scrape on until the service closes."""

    def __init__(self, samvad: Samvad) -> None:
        self.seconds = Histogram(_BOUNDS_S)
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        samvad.before_close.append(self._stop)

    def start(self) -> None:
        """Begin, unless it runs already."""
        if self._timer is None:
            self._wait(asyncio.get_running_loop())

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = loop.time() + EVERY_S
        self._timer = loop.call_at(self._due_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds.add(max(0.0, loop.time() - self._due_s))
        self._wait(loop)

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
