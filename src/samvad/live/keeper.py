"""Keeps what is said: in order, behind the conversation's back, again and again until the store takes it.

The stream of an answer never waits for it. Where the store is down for long, batches gather up to a bound; then the
conversation takes nothing new (`full`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from samvad import limits
from samvad.errors import SamvadError, ShuttingDown
from samvad.sessions.service import SessionPersistenceService
from samvad.types import Appended

_log = logging.getLogger(__name__)
_AGAIN_AFTER_S: Final = 0.25
_AGAIN_AFTER_S_MAX: Final = 4.0

Work = Callable[[], Awaitable[Any]]


class Keeper:
    """The writes of one conversation, one after another."""

    def __init__(self, service: SessionPersistenceService, user_id: str) -> None:
        self._service = service
        self._user_id = user_id
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self.failing = False
        self.on_failing: Callable[[], None] = lambda: None

    @property
    def full(self) -> bool:
        """Whether so much waits for the store that nothing more may be taken."""
        return len(self._waiting) >= limits.LIVE_BATCHES_WAITING_MAX

    @property
    def waiting(self) -> int:
        """How many writes wait for the store."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return self._task is None

    def append(self, messages: Sequence[Mapping[str, Any]]) -> asyncio.Future[list[Appended] | None]:
        """Append messages to the user's history; None where they could not be kept for good."""
        return self.later(lambda: self._service.append_said(self._user_id, messages))

    def later(self, work: Work) -> asyncio.Future[Any]:
        """Do this after all that waits; the result, or None where it could not be done."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._stopped:
            done.set_result(None)
            return done
        self._waiting.append((work, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return done

    async def settled(self, timeout_s: float) -> bool:
        """Wait until nothing waits; False where that took too long."""
        task = self._task
        if task is None:
            return True
        finished, _ = await asyncio.wait([task], timeout=timeout_s)
        return bool(finished)

    def stop(self) -> None:
        """Drop what waits, and take nothing more: the user was erased."""
        self._stopped = True
        for _, done in self._waiting:
            if not done.done():
                done.set_result(None)
        self._waiting.clear()

    async def _run(self) -> None:
        try:
            while self._waiting:
                work, done = self._waiting[0]
                result = await self._carried_out(work)
                if self._waiting and self._waiting[0][1] is done:
                    self._waiting.popleft()
                if not done.done():
                    done.set_result(result)
        finally:
            self._task = None

    async def _carried_out(self, work: Work) -> Any:
        again_s = _AGAIN_AFTER_S
        while not self._stopped:
            try:
                result = await work()
            except ShuttingDown:
                return None
            except SamvadError as error:
                if not error.retryable:
                    _log.error("something said could not be kept", extra={"code": error.code})
                    return None
                if not self.failing:
                    self.failing = True
                    self.on_failing()
                await asyncio.sleep(again_s)
                again_s = min(again_s * 2, _AGAIN_AFTER_S_MAX)
            except (
                Exception
            ):  # the top of the task: a fault of ours must not stop what follows from being kept
                _log.exception("keeping failed")
                return None
            else:
                self.failing = False
                return result
        return None
