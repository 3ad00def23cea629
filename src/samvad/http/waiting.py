"""What waits for a moment, until the server stops."""

from __future__ import annotations

import asyncio


class Waiting:
    """Requests that wait, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}
        self.stopped = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, seconds: float) -> None:
        """Wait for so long, or until the server stops."""
        if self.stopped:
            return
        loop = asyncio.get_running_loop()
        moment: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _come, moment)
        self._waiting[moment] = None
        try:
            await moment
        finally:
            timer.cancel()
            del self._waiting[moment]

    def let_go(self) -> None:
        """The server stops: all that waits goes on now, in order, and nothing waits any more."""
        self.stopped = True
        for moment in self._waiting:
            _come(moment)


def _come(moment: asyncio.Future[None]) -> None:
    if not moment.done():
        moment.set_result(None)
