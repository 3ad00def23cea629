"""A lane: one user's records in memory, and what is on its way to the store for them."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

from samvad.records import Committed, UserKey, UserRecord
from samvad.sessions.operations import Operation
from samvad.sessions.user_log import Applied

_removals = itertools.count()


def new_removal() -> int:
    """A number for one more removal: no two lanes ever have the same."""
    return next(_removals)


class Written:
    """An operation on its way: what it came to, and who waits for it."""

    __slots__ = ("acknowledged", "applied", "attempts", "number", "operation", "waiter")

    def __init__(self, operation: Operation, waiter: asyncio.Future[tuple[Any, Committed | None]]) -> None:
        self.operation = operation
        self.waiter = waiter
        self.applied: Applied | None = None
        self.attempts = 0
        self.number = 0  # in the order in which they were taken
        self.acknowledged = False

    def fail(self, error: BaseException) -> None:
        """Tell the caller, if one still waits."""
        if not self.waiter.done():
            self.waiter.set_exception(error)


class Lane:
    """One user's records and what is under way for them."""

    __slots__ = (
        "again",
        "drained",
        "key",
        "latest",
        "opening",
        "pending",
        "published",
        "published_number",
        "removal",
        "size_bytes",
        "used_s",
        "waiters",
    )

    def __init__(self, key: UserKey) -> None:
        self.key = key
        self.published: UserRecord | None = None
        self.published_number = -1  # of the operation that was published last
        self.latest: UserRecord | None = None
        self.pending: deque[Written] = deque()
        self.again: list[Written] = []
        self.opening: asyncio.Task[None] | None = None
        self.drained: asyncio.Event | None = None
        self.size_bytes = 500
        self.used_s = 0.0
        self.removal = next(_removals)  # of the last removal; that of a lane made anew is new as well
        self.waiters = 0  # who holds this lane across an await: no other may be made for the user meanwhile

    @property
    def busy(self) -> bool:
        """Whether something is under way that only memory knows."""
        return bool(self.pending or self.again or self.waiters or self.opening is not None)
