"""Listening to the store: what other processes write makes this process's memory outdated, and is told onwards.

One task for the process. It outlives outages: where the store breaks off it asks again, with full-jitter backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from samvad.errors import SamvadError
from samvad.stores.base import Notice, TellsChanges, UpToDate

_log = logging.getLogger(__name__)
AGAIN_S_MIN: Final = 0.1
AGAIN_S_MAX: Final = 5.0


class Watcher:
    """Hands every notice of `store` to `heard`, in order, one at a time."""

    def __init__(self, store: TellsChanges, heard: Callable[[Notice], Awaitable[None]]) -> None:
        self._store = store
        self._heard = heard
        self._task: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.up = False  # whether changes are heard as they happen
        self.notices = 0
        self.failures = 0

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Listen no more. Stopping twice is fine."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def again(self) -> None:
        """The store is back: whatever this hangs on, begin anew."""
        self._hurry.set()
        if self._listening is not None:
            self._listening.cancel()

    async def _run(self) -> None:
        attempt = 0
        try:
            while True:
                before = self.notices
                self._hurry.clear()
                self._listening = asyncio.create_task(self._listen())
                await asyncio.wait([self._listening])
                if not self._listening.cancelled():
                    self._failed(self._listening.exception())
                attempt = attempt + 1 if self.notices == before else 0
                wait_s = random.uniform(0, min(AGAIN_S_MAX, AGAIN_S_MIN * 2 ** min(attempt, 10)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._hurry.wait()
        finally:
            if self._listening is not None:
                self._listening.cancel()
                await asyncio.gather(self._listening, return_exceptions=True)

    def _failed(self, error: BaseException | None) -> None:
        self.failures += 1
        if not isinstance(error, SamvadError | None):
            _log.error("listening for changes failed", exc_info=error)
        elif self.up:
            _log.warning(
                "changes by other processes are not heard", extra={"code": getattr(error, "code", None)}
            )
        self.up = False

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._store.changes()) as changes:  # type: ignore[type-var]
            async for notice in changes:
                self.notices += 1
                if isinstance(notice, UpToDate):
                    self.up = True
                else:
                    await self._heard(notice)
