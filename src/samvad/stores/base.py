"""The Store protocol: a few reads and one write.

`commit` is all or nothing for one user, refuses a change made against another version than the one it
finds, and knows a commit that it has seen before by its `origin`. Whoever writes a store of their own runs
the suite in `samvad.testing.conformance` over it.

Errors: StaleVersion, MessageExists and SessionTaken refuse one commit and change nothing; StoreUnavailable
means that nothing was acknowledged (it may or may not have been written: the caller looks again).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from samvad.errors import SamvadError, SetupError
from samvad.records import (
    Commit,
    Committed,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredReceipt,
    StoredSession,
    UserKey,
    UserRecord,
    Version,
)


class Capabilities(NamedTuple):
    """What an engine can promise."""

    durable: bool  # what `commit` acknowledged survives power loss
    shared: bool  # several processes may write at once
    goes_on: bool = False  # commits are taken while the rest cannot be asked
    tells: bool = False  # it tells what others wrote (`TellsChanges`)


class HealthReport(NamedTuple):
    """The state of a store as an operator wants it: is it up, and if not, why and since when (ms since 1970).

    Behind a journal, `up` says that the journal takes writes, and `store_up` whether the store itself is there.
    `refused`: the store is there and refuses who asks (the project, the credentials); waiting does not mend that.
    """

    up: bool
    fault: str | None = None
    since_ms: int | None = None
    store_up: bool = True
    refused: bool = False


class UserChanged(NamedTuple):
    """The store has this version of a user's record now, whoever wrote it."""

    user: UserKey
    version: Version


class UserGone(NamedTuple):
    """A user was erased, known by `records.user_hash`; what comes next is of this epoch."""

    user_hash: bytes
    epoch: int


class Lapse(NamedTuple):
    """What was written until now may not have been told."""


class UpToDate(NamedTuple):
    """What was written until now was told."""


Notice = UserChanged | UserGone | Lapse | UpToDate


class TellsChanges(Protocol):
    """A store that tells what is written to it, by this process and by others."""

    def changes(self) -> AsyncIterator[Notice]:
        """What changes, from now on, each change soon after it was made; StoreUnavailable where that breaks off.

        Called again, it goes on where it broke off, or says that there was a `Lapse`. Several changes of one user may
        be told as one.
        """
        ...


def not_open() -> SetupError:
    """What to tell somebody who uses a store that was never opened."""
    return SetupError("Open the service first: async with open_samvad(…) as samvad.")


def awaited(
    submit: Callable[[Commit, Callable[[Committed | SamvadError], None]], None], commit: Commit
) -> asyncio.Future[Committed]:
    """The answer to a commit as a future, for stores whose own way of answering is a callback."""
    future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

    def done(result: Committed | SamvadError) -> None:
        if future.done():
            return
        if isinstance(result, SamvadError):
            future.set_exception(result)
        else:
            future.set_result(result)

    submit(commit, done)
    return future


class Store(Protocol):
    """An engine that keeps conversations. All methods are called from one event loop."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect, migrate and lock; SetupError where that cannot be."""
        ...

    async def close(self) -> None:
        """Finish the commits under way and let everything go. Closing twice is fine."""
        ...

    def commit(self, commit: Commit) -> Awaitable[Committed]:
        """Write one user's changes in one atomic step. Called in the order in which it is to be applied."""
        ...

    async def load(self, user: UserKey, *, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        """The user's record: the last `window` messages, and the open sessions touched after `open_after_ms`.

        A user that is not there has an empty record, of the epoch that follows their last erasing.
        """
        ...

    async def page(
        self, user: UserKey, *, after: int | None, before: int | None, limit: int, bytes_max: int
    ) -> tuple[list[StoredMessage], bool]:
        """Messages with after < seq < before, in order, at most `limit` and about `bytes_max`; and if more follow.

        With `after`, the first ones behind it; without, the last ones ahead of `before` (or of the end).
        """
        ...

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        """One session, whoever it belongs to."""
        ...

    async def sessions(self, user: UserKey, *, open_after_ms: int | None) -> list[StoredSession]:
        """A user's sessions, newest activity first: the open ones touched after `open_after_ms`, or with None all."""
        ...

    async def interruptions(self, tenant: str, session_id: str, limit: int) -> list[StoredInterruption]:
        """The recorded interruptions of a session, newest first."""
        ...

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        """The answer kept under an idempotency key."""
        ...

    async def stats(self, tenant: str, *, active_after_ms: int, open_after_ms: int) -> Stats:
        """Counts over a tenant."""
        ...

    async def users(self, tenant: str, *, after: str, limit: int) -> Sequence[str]:
        """User ids in the order of their bytes, those behind `after`."""
        ...

    async def expire(self, *, receipts_before_ms: int) -> int:
        """Forget receipts older than this; returns how many."""
        ...

    async def check(self) -> HealthReport:
        """Whether a commit would be acknowledged now; tries one where that is in doubt."""
        ...


def engine_of(store: Any) -> Any:
    """The store itself, behind what stands in front of it (a journal, encryption)."""
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    return store
