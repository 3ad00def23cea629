"""Commits on their way through the seal: gathered, and sealed together at the end of the event loop's turn.

One after the other they take a third of the time that they take between two requests, whose code drives that of the
cipher out of the processor's caches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from samvad.errors import SamvadError
from samvad.records import Commit, Committed
from samvad.stores import sealing
from samvad.stores.data_keys import DataKey

_log = logging.getLogger(__name__)
_TURN_S: Final = 0.005
Done = Callable[[Committed | SamvadError], None]


class SealingLine:
    """`hand` is given the commits, sealed, in the order in which they came."""

    def __init__(self, hand: Callable[[Commit, Done], None]) -> None:
        self._hand = hand
        self._gathered: deque[tuple[DataKey, bytes, Commit, Done]] = deque()

    def add(self, key: DataKey, hashed: bytes, commit: Commit, done: Done) -> None:
        """Seal a commit of the user `hashed` soon, with their key; `done` hears what became of it."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._some)
        self._gathered.append((key, hashed, commit, done))

    def _some(self) -> None:
        """Seal what was gathered; others have their turn before what takes longer."""
        until_s = monotonic() + _TURN_S
        while self._gathered:
            self._next()
            if self._gathered and monotonic() > until_s:
                asyncio.get_running_loop().call_soon(self._some)
                return

    def finish(self) -> None:
        """Seal all that was gathered, now."""
        while self._gathered:
            self._next()

    def _next(self) -> None:
        key, hashed, commit, done = self._gathered.popleft()
        try:
            ready = sealed_commit(key, hashed, commit)
        except Exception as error:  # the top of a callback: nobody else would hear of it
            done(sealing_failed(error))
        else:
            self._hand(ready, done)


def sealed_commit(key: DataKey, hashed: bytes, commit: Commit) -> Commit:
    """A commit of the user `hashed` as the engine is to have it."""
    changes = tuple([sealing.seal(key, hashed, change) for change in commit.changes])
    return Commit(commit.user, commit.expected, changes, commit.origin, None, None, commit.steps)


def sealing_failed(error: Exception) -> SamvadError:
    """What is told where sealing fails, which is a fault of ours; called where it is caught."""
    _log.exception("a commit could not be sealed")
    return SamvadError(f"Sealing failed ({type(error).__name__}); please report this.")
