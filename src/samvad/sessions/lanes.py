"""One lane per user: operations are applied in order to the newest record, written, and published once written.

A lane holds two records: `published`, which the store has and everyone reads, and `latest`, on which the
next operation is applied while earlier ones are still on their way. Where a commit is refused or fails, what
was built on it is worthless: the lane loads the user's record again and applies what still waits, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from samvad import limits
from samvad.clock import Clock
from samvad.errors import (
    MessageExists,
    SamvadError,
    ShuttingDown,
    StaleVersion,
    StoreUnavailable,
    Unavailable,
)
from samvad.records import ANY_VERSION, Commit, Committed, UserKey, UserRecord, Version
from samvad.sessions import user_log
from samvad.sessions.cache import RecordCache
from samvad.sessions.content import to_keep
from samvad.sessions.lane import (
    NEWER_THAN_ANY,
    Acknowledged,
    AskAgain,
    Lane,
    Published,
    Written,
    about,
    ask_again,
    is_certain,
    keep_only_acknowledged,
    messages_of,
    new_load,
    new_messages,
    new_removal,
    refuse_partial,
    result_of,
)
from samvad.sessions.operations import EraseUser, Operation, RemoveSession, Retain
from samvad.sessions.user_log import Rules
from samvad.sessions.window import size_bytes
from samvad.stores.base import Store

_log = logging.getLogger(__name__)
_REMOVALS = (RemoveSession, Retain, EraseUser)
_RELOADS_MAX = 5  # where others write all the time, what is read may be as old as their last write
_AGAIN_AFTER_S = 0.2  # between two tries of what was acknowledged early and the store does not take


class Lanes:
    """The lanes of all users, and the store behind them.

    With `early` an operation is acknowledged once it is applied in memory, and written behind the caller's
    back (`--durability memory`); a write that fails is then tried again until it succeeds.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        rules: Rules,
        *,
        cache: RecordCache[Lane],
        session_idle_s: float,
        early: bool = False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._rules = rules
        self._session_idle_ms = round(session_idle_s * 1000)
        self._early = early
        self._waiting = 0
        self._taken = 0
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # A store in this process may take a callback: one future and one turn of the loop less for each write.
        self._submit_to_store: Callable[[Commit, Callable[[Committed | SamvadError], None]], None] | None
        self._submit_to_store = getattr(store, "submit", None)
        self.cache = cache
        # Told what becomes of those who are followed; what other replicas write of them is looked up at once as well.
        self.on_published: list[Published] = []
        self.is_followed: Callable[[UserKey], bool] = lambda key: bool(self.on_published)
        self.loads = self.retries = 0
        self.acknowledged = Acknowledged(rules.durability)
        self.reads_fail = self.writes_fail = False
        self._store_tells = hasattr(store, "degraded")  # one with a journal does

    @property
    def degraded(self) -> bool:
        """Whether the store refused the last read or write: answers are then what this process knows."""
        return self.reads_fail or self.writes_fail or (self._store_tells and self._store.degraded)  # type: ignore[attr-defined]

    @property
    def operations_waiting(self) -> int:
        """How many operations have been taken and are not in the store yet."""
        return self._waiting

    async def read(self, key: UserKey) -> UserRecord:
        """The user's record as the store has it: from memory, or else by one load that all who wait share."""
        lane = self._lane(key)
        if lane.published is not None and lane.latest is None and not lane.pending:
            with contextlib.suppress(Unavailable):  # a write failed, and may be written: the store knows
                await self._opened(lane)
        while lane.published is None:
            await self._opened(lane)
            refuse_partial(lane)
        return lane.published

    def invalidate(self, key: UserKey) -> None:
        """The store has another record of this user than was published: load it again, at once."""
        if (lane := self.cache.get(key)) is not None:
            lane.latest, lane.told = None, NEWER_THAN_ANY
            self._reopen(lane)

    def doubt(self, key: UserKey) -> None:
        """The store can be asked again what it could not be asked before: load the record when it is next needed."""
        if (lane := self.cache.get(key)) is not None:
            lane.latest = None

    def outdated(self, key: UserKey, version: Version) -> None:
        """The store has this version of the user's record: look again when it is next needed, if this one is older."""
        lane = self.cache.find(key)
        if lane is None:
            if self.is_followed(key):
                self._reopen(self._lane(key))
            return
        before = lane.published
        lane.told = max(lane.told, version)
        if before is not None and before.version < version:
            if before.version.epoch < version.epoch:
                lane.published = None  # erased: it is not to be read even if the store cannot be asked
            lane.latest = None
            if self.is_followed(key):
                self._reopen(lane)

    async def newest(self, key: UserKey) -> UserRecord:
        """The record on which the next operation is applied, be it partial: what is still on its way is in it."""
        lane = self._lane(key)
        while lane.latest is None:
            await self._opened(lane)
        return lane.latest

    async def loaded(self, key: UserKey) -> int:
        """The number of the load that the newest record rests on: what the store tells from now on is not older."""
        await self.newest(key)
        return self._lane(key).load

    async def settled(self, key: UserKey) -> UserRecord:
        """The newest record, as soon as nothing is on its way: the store has all of it."""
        lane = self._lane(key)
        lane.waiters += 1
        try:
            while lane.pending or lane.latest is None:
                if lane.pending:
                    await lane.step()
                else:
                    await self._opened(lane)
        finally:
            lane.waiters -= 1
        refuse_partial(lane)
        return lane.latest

    async def removals_written(self, key: UserKey) -> int:
        """Wait until the store has every removal asked for so far; returns a number that the next removal changes.

        Nothing else is waited for: others may append to the user's history without end.
        """
        lane = self._lane(key)
        lane.waiters += 1
        try:
            while True:
                removal = next((w for w in lane.pending if isinstance(w.operation, _REMOVALS)), None)
                if removal is not None:
                    await asyncio.wait([removal.waiter])
                elif lane.latest is None:
                    await self._opened(lane)
                else:
                    return lane.removal
        finally:
            lane.waiters -= 1

    def removal(self, key: UserKey) -> int:
        """The number that `removals_written` returns, as it is now."""
        return self._lane(key).removal

    def peek(self, key: UserKey) -> UserRecord | None:
        """The user's record if it is in memory."""
        lane = self.cache.get(key)
        return None if lane is None else lane.published

    def write(self, key: UserKey, operation: Operation) -> Awaitable[tuple[Any, Committed | None]]:
        """Apply an operation; to be awaited until it is as durable as promised.

        Gives its outcome and what the commit said (None where nothing had to be written or was
        acknowledged early). Raises what the rules or the store have against it.
        """
        if self._closing:
            raise ShuttingDown
        lane = self._lane(key)
        return self._write_cold(lane, operation) if lane.latest is None else self._take(lane, operation)

    async def _write_cold(self, lane: Lane, operation: Operation) -> tuple[Any, Committed | None]:
        while lane.latest is None:
            await self._opened(lane)
        if self._closing:
            raise ShuttingDown
        return await self._take(lane, operation)

    def _take(self, lane: Lane, operation: Operation) -> asyncio.Future[tuple[Any, Committed | None]]:
        self._loop = self._loop or asyncio.get_running_loop()
        self._taken += 1
        written = Written(operation, asyncio.Future(loop=self._loop), self._taken)
        self._submit(lane, written)
        return written.waiter

    async def drain(self, timeout_s: float) -> int:
        """Take nothing new, and wait until everything under way is written; returns what is left."""
        self._closing = True
        try:
            async with asyncio.timeout(timeout_s):
                while busy := [lane for lane in self.cache if lane.busy]:
                    for lane in busy:
                        await lane.step()
        except TimeoutError:
            _log.warning("not everything could be written before the time was up")
        left = 0
        for lane in self.cache:
            left += len(lane.pending) + len(lane.again)
            if lane.opening is not None:
                lane.opening.cancel()
        return left

    # --- inside ----------------------------------------------------------------------------------------

    def _lane(self, key: UserKey) -> Lane:
        lane = self.cache.get(key)
        if lane is None:
            lane = Lane(key)
            self.cache.add(key, lane)
        return lane

    async def _opened(self, lane: Lane) -> None:
        self._reopen(lane)
        assert lane.opening is not None
        lane.waiters, opening = lane.waiters + 1, lane.opening
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():  # not this caller gave up: the service is closing
                raise ShuttingDown from None
            raise
        finally:
            lane.waiters -= 1

    async def _open(self, lane: Lane) -> None:
        """Load the user's record, and apply again what an earlier failure left over."""
        reloads = _RELOADS_MAX
        try:
            while True:
                if lane.pending:
                    await lane.step()
                if any(w.acknowledged and (self.writes_fail or w.attempts > 1) for w in lane.again):
                    await asyncio.sleep(_AGAIN_AFTER_S)  # the store does not take it: no reason to spin
                try:
                    number, lane.told = new_load(), ANY_VERSION
                    loaded = await self._load(lane.key)
                    if lane.told > loaded.version and (reloads := reloads - 1):
                        continue  # it was written to meanwhile, perhaps too late to be in this
                    await ask_again(lane.again, self._store, number, self._clock.now_ms())
                except Unavailable as error:
                    self._waiting -= keep_only_acknowledged(lane, error)
                    if not lane.again:
                        raise
                    await asyncio.sleep(_AGAIN_AFTER_S)  # acknowledged: tried until the store takes them
                    continue
                break
        except BaseException as error:
            if not isinstance(error, Unavailable):  # to those that was told already
                told = error if isinstance(error, Exception) else ShuttingDown()
                self._waiting -= keep_only_acknowledged(lane, told)
            lane.opening = None
            if lane.published is None and not lane.pending and not lane.again:
                self.cache.discard(lane.key)
            raise
        lane.opening = None
        record = loaded
        if record.partial and record.version.revision == 0 and lane.published is not None:
            record = lane.published  # the store cannot be asked: what this process knows still stands
        if (not self._early or not lane.again) and not record.partial:
            before, lane.published = lane.published, record
            if self.is_followed(lane.key) and (before is None or before.version != record.version):
                for listener in self.on_published:
                    listener(lane.key, record, new_messages(before, record))
        lane.latest, lane.load = record, number
        again, lane.again = lane.again, []
        for written in again:
            self._waiting -= 1
            if written.attempts > limits.COMMIT_RETRIES_MAX and not written.acknowledged:
                written.fail(Unavailable("Too many others are writing for this user; try again."))
            else:
                self._submit(lane, written)
        self.cache.resize(lane, size_bytes(record))

    async def _load(self, key: UserKey) -> UserRecord:
        self.loads += 1
        try:
            record = await self._store.load(
                key,
                window=self._rules.window,
                open_after_ms=self._clock.now_ms() - self._session_idle_ms,
                sessions_max=limits.SESSIONS_IN_RECORD_MAX,
            )
        except StoreUnavailable:
            self.reads_fail = True
            raise
        self.reads_fail = False
        return user_log.loaded(record, self._rules)

    def _submit(self, lane: Lane, written: Written) -> None:
        """Apply an operation to the newest record and hand what it changes to the store."""
        assert lane.latest is not None
        if self._early and self._waiting >= limits.COMMITS_QUEUED_MAX and not written.acknowledged:
            written.fail(Unavailable("Too much is waiting to be written; try again soon."))
            return
        operation = to_keep(written.operation, lane.latest, lane.key.tenant, self._rules.unkept)
        asked = written.operation.receipt
        if asked is not None and -1 < asked.as_of != lane.load:
            written.fail(AskAgain())
            return
        try:
            applied = user_log.apply(lane.latest, operation, self._rules)
        except SamvadError as error:
            if not lane.pending or written.acknowledged:
                written.fail(error)
            else:  # said of a record that is not written yet: true only once it is
                self._after_pending(lane, written, error)
            return
        if not applied.changes and not lane.pending:
            if not written.waiter.done():
                written.waiter.set_result((applied.outcome, None))
            return
        written.applied = applied
        written.attempts += 1
        self._waiting += 1
        commit = Commit(lane.key, lane.latest.version, applied.changes, None, operation, applied.record)
        early = self._early and is_certain(applied) and all(before.acknowledged for before in lane.pending)
        lane.pending.append(written)
        lane.latest = applied.record
        if isinstance(written.operation, _REMOVALS):
            lane.removal = new_removal()
        if early:
            self._publish(lane, written)
            if not written.waiter.done():
                written.acknowledged = True
                written.waiter.set_result((applied.outcome, None))
                self.acknowledged.add(written, None)
        if self._submit_to_store is not None:
            self._submit_to_store(commit, partial(self._settle, lane, written))
            return
        answer = asyncio.ensure_future(self._store.commit(commit))
        answer.add_done_callback(lambda done: self._settle(lane, written, result_of(done)))

    def _after_pending(self, lane: Lane, written: Written, error: SamvadError) -> None:
        """Tell an error that rests on a commit under way only once that commit is through, else ask again."""
        last = lane.pending[-1]
        lane.waiters += 1

        def tell(done: asyncio.Future[Any]) -> None:
            lane.waiters -= 1
            if not done.cancelled() and done.exception() is None:
                written.fail(error)
            elif lane.latest is not None and not done.cancelled():
                self._submit(lane, written)
            else:  # its caller has left, and what became of the commit is not known here: look at the store
                lane.latest = None
                self._waiting += 1
                lane.again.append(written)
                self._reopen(lane)

        last.waiter.add_done_callback(tell)

    def _settle(self, lane: Lane, written: Written, result: Committed | SamvadError) -> None:
        if lane.pending[0] is written:
            lane.pending.popleft()
        else:  # refused out of turn (the queue is full): what follows it will be found stale by the store
            lane.pending.remove(written)
        self._waiting -= 1
        assert written.applied is not None
        if isinstance(result, Committed):
            self.writes_fail = False
            if not written.acknowledged:
                self._publish(lane, written)
                self.acknowledged.add(written, result)
            written.tell(result)
        else:
            lane.latest, error = None, result
            self.acknowledged.refused[error.code] += 1
            if isinstance(error, MessageExists):
                written.learn(error)
            if isinstance(error, StoreUnavailable):
                self.writes_fail = True
            if isinstance(error, StaleVersion | MessageExists) or (
                written.acknowledged and isinstance(error, Unavailable)
            ):
                self.retries += 1
                self._waiting += 1
                lane.again.append(written)
                lane.again.sort(key=lambda each: each.number)  # one may have been refused out of turn
            else:
                if written.acknowledged:
                    _log.error("an acknowledged operation was refused", extra=about(lane.key, error))
                written.fail(error)
        if not lane.pending and lane.drained is not None:
            lane.drained.set()
            lane.drained = None
        if lane.latest is None and lane.again:
            self._reopen(lane)

    def _reopen(self, lane: Lane) -> None:
        if lane.opening is None:
            lane.opening = asyncio.create_task(self._open(lane))
            lane.opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _publish(self, lane: Lane, written: Written) -> None:
        applied = written.applied
        assert applied is not None
        record, before = applied.record, lane.published
        if record.partial:
            return  # what it says of the user is not all that there is: nobody may read it
        if written.number < lane.published_number:
            return  # a removal waits for the store behind a journal, and later operations were through before it
        lane.published_number = written.number
        lane.published = record
        self.cache.resize(lane, size_bytes(record))
        if record is not before and self.is_followed(lane.key):
            for listener in self.on_published:
                listener(lane.key, record, messages_of(applied))
