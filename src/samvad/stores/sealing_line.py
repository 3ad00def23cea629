"""Commits on their way through the seal: gathered, and sealed together at the end of the event loop's turn.

One after the other they take a third of the time that they take between two requests, whose code drives that of the
cipher out of the processor's caches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final

from samvad.errors import SamvadError
from samvad.records import Commit, Committed, Erased, UserKey, user_hash
from samvad.stores import sealing
from samvad.stores.data_keys import USERS_HELD_MAX, DataKey, DataKeys

_log = logging.getLogger(__name__)
_TURN_S: Final = 0.005
_DRAWN_MAX: Final = 256  # nonces at once
Done = Callable[[Committed | SamvadError], None]


class SealingLine:
    """`hand` is given the commits, sealed by the keys of `keys`, in the order in which they came."""

    def __init__(self, keys: DataKeys, hand: Callable[[Commit, Done], None]) -> None:
        self._keys = keys
        self._hand = hand
        self._gathered: deque[tuple[DataKey, bytes, Commit, Done]] = deque()
        self._hashes: dict[UserKey, bytes] = {}  # of users who write: not to be made anew with each append

    def take(self, commit: Commit, done: Done) -> bool:
        """Seal a commit soon, if the key of the user is in memory and stays; `done` hears what became of it."""
        user, gathered = commit.user, self._gathered
        hashed = self._hashes.get(user)
        if hashed is None:
            if len(self._hashes) >= USERS_HELD_MAX:
                self._hashes.clear()
            hashed = self._hashes[user] = user_hash(user)
        key = self._keys.cached(hashed, commit.expected.epoch)
        if key is None or erases(commit):
            del self._hashes[user]  # whoever is erased leaves nothing here either
            return False
        if not gathered:
            asyncio.get_running_loop().call_soon(self._some)
        gathered.append((key, hashed, commit, done))
        return True

    def _some(self) -> None:
        """Seal what was gathered; others have their turn before what takes longer."""
        until_s = monotonic() + _TURN_S
        if self._seal(until_s):
            asyncio.get_running_loop().call_soon(self._some)

    def finish(self) -> None:
        """Seal all that was gathered, now."""
        self._seal(inf)

    def _seal(self, until_s: float) -> bool:
        """Seal for so long, one commit at least; whether some are left."""
        gathered, hand = self._gathered, self._hand
        drawn = sealing.nonces(min(len(gathered), _DRAWN_MAX))
        while gathered:
            key, hashed, commit, done = gathered.popleft()
            try:
                ready = sealed_commit(key, hashed, commit, drawn)
            except Exception as error:  # the top of a callback: nobody else would hear of it
                done(sealing_failed(error))
            else:
                hand(ready, done)
            if monotonic() > until_s:
                break
        return bool(gathered)


def erases(commit: Commit) -> bool:
    """Whether a commit erases the user."""
    return Erased in map(type, commit.changes)


def sealed_commit(key: DataKey, hashed: bytes, commit: Commit, drawn: list[bytes] | None = None) -> Commit:
    """A commit of the user `hashed` as the engine is to have it; its messages take their nonces from `drawn`."""
    changes = commit.changes
    if len(changes) == 1:
        changes = (sealing.seal(key, hashed, changes[0], drawn),)
    else:
        changes = tuple([sealing.seal(key, hashed, change, drawn) for change in changes])
    return Commit(commit.user, commit.expected, changes, commit.origin, None, None, commit.steps)


def sealing_failed(error: Exception) -> SamvadError:
    """What is told where sealing fails, which is a fault of ours; called where it is caught."""
    _log.exception("a commit could not be sealed")
    return SamvadError(f"Sealing failed ({type(error).__name__}); please report this.")
