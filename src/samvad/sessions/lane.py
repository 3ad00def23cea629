"""A lane: one user's records in memory, and what is on its way to the store for them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import msgspec

from samvad.errors import MessageExists, SamvadError, StoreUnavailable
from samvad.logs import user_hash
from samvad.meters import Histogram
from samvad.records import (
    ANY_VERSION,
    Committed,
    MessagesAdded,
    ReceiptKept,
    StoredMessage,
    UserKey,
    UserRecord,
    Version,
)
from samvad.sessions.operations import AppendMessages, EraseUser, Operation, RemoveSession
from samvad.sessions.user_log import Applied
from samvad.stores.base import Store
from samvad.types import Durability

NEWER_THAN_ANY = Version(1 << 62, 0)
_removals = itertools.count()
_loads = itertools.count()


def new_load() -> int:
    """A number for one more record that was loaded: no two lanes ever have the same."""
    return next(_loads)


def new_removal() -> int:
    """A number for one more removal: no two lanes ever have the same."""
    return next(_removals)


class AskAgain(Exception):
    """The user's record was loaded anew since the store was asked for a key: it may hold what was done under it."""


Published = Callable[[UserKey, UserRecord, "tuple[StoredMessage, ...]"], None]
"""Told a user, their record as it can be read now, and the messages that are new in it.

Where another replica wrote, those are all that do not stand where they stood before: a message of this replica that
now follows one of another's is told again, with its new seq and the same id.
"""


class Written(msgspec.Struct, eq=False):
    """An operation on its way: what it came to, who waits for it, and as the how-manieth it was taken."""

    operation: Operation
    waiter: asyncio.Future[tuple[Any, Committed | None]]
    number: int
    applied: Applied | None = None
    attempts: int = 0
    acknowledged: bool = False
    taken_s: float = msgspec.field(default_factory=perf_counter)

    def learn(self, error: MessageExists) -> None:
        """A message of this is in the store already: applied anew, it is left out."""
        if isinstance(self.operation, AppendMessages):
            self.operation.known = {**self.operation.known, error.message_id: error.seq}
            self.attempts -= 1  # each refusal teaches one id: a batch is through after as many

    def fail(self, error: BaseException) -> None:
        """Tell the caller, if one still waits."""
        if not self.waiter.done():
            self.waiter.set_exception(error)

    def tell(self, committed: Committed | None) -> None:
        """It is in the store, or as safe as was promised: tell the caller, if one still waits."""
        if not self.waiter.done():
            self.waiter.set_result((None if self.applied is None else self.applied.outcome, committed))


class Acknowledged:
    """How many writes were acknowledged, as how durable, and how long their callers waited for it."""

    def __init__(self, durability: Durability) -> None:
        self._usual = durability
        self.seconds: dict[str, Histogram] = {durability: Histogram()}
        self.refused: Counter[str] = Counter()  # writes that were not, by the code of the error

    def add(self, written: Written, committed: Committed | None) -> None:
        """One more. Behind a journal, a removal is answered by the store itself where that can be reached in time."""
        durability = self._usual
        if durability == "journaled" and isinstance(written.operation, RemoveSession | EraseUser):
            durability = "journaled" if committed is None or committed.pending else "stored"
            self.seconds.setdefault(durability, Histogram())
        self.seconds[durability].add(perf_counter() - written.taken_s)


class Lane:
    """One user's records and what is under way for them."""

    __slots__ = (
        "again",
        "drained",
        "key",
        "latest",
        "load",
        "opening",
        "pending",
        "published",
        "published_number",
        "removal",
        "size_bytes",
        "told",
        "used_s",
        "waiters",
    )

    def __init__(self, key: UserKey) -> None:
        self.key = key
        self.published: UserRecord | None = None
        self.published_number = -1  # of the operation that was published last
        self.latest: UserRecord | None = None
        self.load = -1  # the number of the load that `latest` rests on
        self.told = ANY_VERSION  # the newest that the store has told of since the load under way was begun
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

    async def step(self) -> None:
        """Wait until something of what is under way is through."""
        if self.pending:
            self.drained = self.drained or asyncio.Event()
            await self.drained.wait()
        elif self.opening is not None:
            await asyncio.wait([self.opening])
        else:  # somebody has what they waited for, and is about to go on
            await asyncio.sleep(0)


async def ask_again(written: Iterable[Written], store: Store, load: int, now_ms: int) -> None:
    """Ask for the keys of operations that will be applied to a record just loaded; one that was used stays as it is."""
    for waiting in written:
        asked = waiting.operation.receipt
        if asked is None or asked.as_of < 0:
            continue
        kept = await store.receipt(asked.key)
        if kept is None or not kept.is_live(now_ms):
            receipt = msgspec.structs.replace(asked, as_of=load)
            waiting.operation = msgspec.structs.replace(waiting.operation, receipt=receipt)


def keep_only_acknowledged(lane: Lane, error: Exception) -> int:
    """Give up what was to be applied again, but for what was acknowledged; how many operations that are."""
    given_up = [written for written in lane.again if not written.acknowledged]
    lane.again = [written for written in lane.again if written.acknowledged]
    for written in given_up:
        written.fail(error)
    return len(given_up)


def refuse_partial(lane: Lane) -> None:
    """StoreUnavailable where the record was begun without asking the store."""
    if lane.latest is not None and lane.latest.partial:
        raise StoreUnavailable("The store is down, and this process does not know this user; try again soon.")


def new_messages(before: UserRecord | None, record: UserRecord) -> tuple[StoredMessage, ...]:
    """The messages that were not in the window before, or stood at another seq."""
    if before is None or before.version.epoch != record.version.epoch:
        return record.window
    known = {(message.seq, message.id) for message in before.window}
    first = before.window[0].seq if before.window else before.seq + 1
    return tuple(m for m in record.window if m.seq >= first and (m.seq, m.id) not in known)


def messages_of(applied: Applied) -> tuple[StoredMessage, ...]:
    """The messages that an operation adds."""
    return sum([change.messages for change in applied.changes if isinstance(change, MessagesAdded)], ())


def result_of(done: asyncio.Future[Committed]) -> Committed | SamvadError:
    """What became of a commit."""
    if done.cancelled():
        return StoreUnavailable("The write was cancelled; it may or may not have been done.")
    error = done.exception()
    if error is None:
        return done.result()
    return error if isinstance(error, SamvadError) else SamvadError(f"The store failed: {error!r}")


def code_of(error: BaseException) -> str:
    """What to log of an error: never what it says."""
    return error.code if isinstance(error, SamvadError) else type(error).__name__


def about(key: UserKey, error: BaseException) -> dict[str, str]:
    """What to log of an error that concerns a user."""
    return {"user": user_hash(*key), "code": code_of(error)}


def is_certain(applied: Applied) -> bool:
    """Whether the store can only say yes: it counts nothing for the answer, and need not look for an older message.

    An answer that must be given again is certain only once it is kept.
    """
    return applied.outcome is not None and not any(
        isinstance(c, ReceiptKept) or getattr(c, "unproven", ()) for c in applied.changes
    )
