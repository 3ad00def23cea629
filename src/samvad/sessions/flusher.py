"""Journal to store: one lane per user, what has gathered as one commit, again until the store has it.

A commit to the store carries the replica's name and the number of its last entry. After an answer that
leaves open whether it was done, the very same commit is sent again, and the store recognises the number.
Where the store refuses it as stale (another replica wrote first, or this process has just started), the
user's record is loaded and the operations are applied to it anew, in their order, after the other's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from samvad import limits
from samvad.clock import Clock
from samvad.errors import MessageExists, SamvadError, StaleVersion, Unavailable
from samvad.records import Commit, Committed, MessagesAdded, Origin, UserKey, UserRecord, Version
from samvad.sessions import user_log
from samvad.sessions.breaker import Breaker
from samvad.sessions.coalesce import coalesce, erases, steps_of
from samvad.sessions.journal import Journal
from samvad.sessions.operations import AppendMessages, SaveState
from samvad.sessions.user_log import Rules
from samvad.stores.base import Store

_log = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0  # Firestore: about one sustained write a second per document
ERASE_WAIT_S = 2.0  # how long an erasing waits for the store before it is answered as pending
BATCH_MESSAGES_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024
FLUSHES_AT_ONCE_MAX = 32
_RETRY_S_MAX = 0.5

Done = Callable[[Committed | SamvadError], None]


class Entry:
    """One journaled commit on its way to the store, which knows it as (`replica`, `number`)."""

    __slots__ = ("answer_without_store", "commit", "number", "replica", "waiter")

    def __init__(self, replica: str, number: int, commit: Commit) -> None:
        self.replica = replica
        self.number = number
        self.commit = commit
        self.waiter: Done | None = None
        self.answer_without_store: Committed | None = None


class FlushLane:
    """What is pending of one user.

    `base` is the version that the store has (None: not known), `head` the one after all that is pending;
    `record` is the user's record at the head. `batch` is the number of entries of a commit whose fate is open.
    """

    __slots__ = (
        "base", "batch", "entries", "flushed_s", "generation", "head", "lock", "parked", "record",
        "single", "task", "urgent", "user", "writing",
    )  # fmt: skip

    def __init__(self, user: UserKey, expected: Version | None) -> None:
        self.user = user
        self.entries: deque[Entry] = deque()
        self.base = expected
        self.head = expected
        self.record: UserRecord | None = None
        self.batch: int | None = None
        self.single = False
        self.writing = 0
        self.generation = 0
        self.flushed_s = float("-inf")
        self.urgent = asyncio.Event()
        self.lock = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        self.parked: SamvadError | None = None

    def start(self, expected: Version) -> None:
        """Nothing is pending: the next commit builds on `expected`, which is what the store has."""
        self.base = self.head = expected
        self.record = None

    def rebase(self) -> None:
        """What is pending no longer follows from what the store has: it must be applied anew."""
        self.base = None
        self.head = None
        self.generation += 1


class Flusher:
    """The lanes of all users with something pending."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        breaker: Breaker,
        *,
        clock: Clock,
        rules: Rules,
        on_rebased: Callable[[UserKey], None],
    ) -> None:
        self._store = store
        self._journal = journal
        self._breaker = breaker
        self._clock = clock
        self._rules = rules
        self._on_rebased = on_rebased
        self._lanes: dict[UserKey, FlushLane] = {}
        self._slots = asyncio.Semaphore(FLUSHES_AT_ONCE_MAX)
        self._hurry = False
        self._stopped = False
        self.commits = 0
        self.entries_flushed = 0
        self.rebases = 0
        self.overtaken = 0

    # --- the lanes -------------------------------------------------------------------------------------

    def find(self, user: UserKey) -> FlushLane | None:
        """The user's lane, if something is or was just pending."""
        return self._lanes.get(user)

    def lane(self, user: UserKey, expected: Version | None) -> FlushLane:
        """The user's lane, a new one building on `expected`."""
        lane = self._lanes.get(user)
        if lane is None:
            lane = self._lanes[user] = FlushLane(user, expected)
        return lane

    def all_lanes(self) -> Iterable[FlushLane]:
        """All lanes."""
        return self._lanes.values()

    def lanes_of(self, tenant: str) -> Iterable[FlushLane]:
        """The lanes of a tenant."""
        return [lane for lane in self._lanes.values() if lane.user.tenant == tenant]

    @property
    def entries_waiting(self) -> int:
        """How many journaled operations are not in the store yet."""
        return sum(len(lane.entries) for lane in self._lanes.values())

    def parked(self) -> list[FlushLane]:
        """The lanes whose first operation the store refuses for ever."""
        return [lane for lane in self._lanes.values() if lane.parked is not None]

    def retry_parked(self, user: UserKey) -> None:
        """Try a parked lane again."""
        lane = self._lanes[user]
        lane.parked = None
        self.wake(lane, at_once=True)

    def drop_parked(self, user: UserKey) -> None:
        """Give up the operation that a lane is parked for."""
        lane = self._lanes[user]
        if lane.parked is not None and lane.entries:
            self._forget(lane, 1)
            lane.rebase()
        self.retry_parked(user)

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Flush what a replay brought."""
        for lane in self._lanes.values():
            lane.rebase()
            self.wake(lane)

    async def drain(self, timeout_s: float) -> int:
        """Flush everything as fast as the store takes it, for at most `timeout_s`; returns what is left."""
        self._hurry = True
        tasks = []
        for lane in list(self._lanes.values()):
            self.wake(lane, at_once=True)
            if lane.task is not None:
                tasks.append(lane.task)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        return self.entries_waiting

    async def stop(self) -> None:
        """End all flushing; what is pending stays in the journal."""
        self._stopped = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, lane: FlushLane, at_once: bool = False) -> None:
        """See that a lane is flushed; `at_once` without waiting for more to gather."""
        if at_once:
            lane.urgent.set()
        if lane.task is None and not self._stopped and lane.parked is None:
            lane.task = asyncio.create_task(self._run(lane))

    # --- flushing --------------------------------------------------------------------------------------

    async def _run(self, lane: FlushLane) -> None:
        try:
            while lane.entries and lane.parked is None:
                await self._pace(lane)
                if erases(lane.entries[0].commit) and self._breaker.is_open:
                    self._answer_without_store(lane)
                await self._breaker.wait_closed()
                async with self._slots, lane.lock:
                    await self._flush(lane)
        finally:
            lane.task = None
            if not lane.entries and not lane.writing and self._lanes.get(lane.user) is lane:
                del self._lanes[lane.user]

    async def _pace(self, lane: FlushLane) -> None:
        wait_s = lane.flushed_s + WRITE_INTERVAL_S - self._clock.monotonic_s()
        if wait_s > 0 and not self._hurry:
            try:
                async with asyncio.timeout(wait_s):
                    await lane.urgent.wait()
            except TimeoutError:
                pass
        lane.urgent.clear()

    async def _flush(self, lane: FlushLane) -> None:
        """One commit to the store; the caller holds the lane's lock."""
        if lane.base is None or lane.base.epoch < 0:
            try:
                await self._rebase(lane)
            except Unavailable:
                await self._failed(lane)
                return
            if not lane.entries:
                return
        size = lane.batch if lane.batch is not None else self._batch_size(lane)
        entries = [lane.entries[i] for i in range(size)]
        assert lane.base is not None
        commit = self._merged(lane, entries)
        try:
            committed = await self._store.commit(commit)
        except StaleVersion:
            lane.batch = None
            lane.rebase()
        except MessageExists as error:
            lane.batch = None
            _remember(entries, error)
            lane.rebase()
        except Unavailable:
            lane.batch = size
            await self._failed(lane)
        except SamvadError as error:
            self._refused(lane, size, error)
        else:
            self._breaker.succeeded()
            self._flushed(lane, entries, commit, committed)

    def _merged(self, lane: FlushLane, entries: list[Entry]) -> Commit:
        assert lane.base is not None
        origin = Origin(entries[-1].replica, entries[-1].number)
        if len(entries) == 1:
            return msgspec.structs.replace(entries[0].commit, expected=lane.base, origin=origin, record=None)
        changes = coalesce(change for entry in entries for change in entry.commit.changes)
        steps = sum(steps_of(entry.commit) for entry in entries)
        return Commit(lane.user, lane.base, changes, origin, None, None, steps)

    def _batch_size(self, lane: FlushLane) -> int:
        """How many entries go into one commit: bounded in messages and bytes, an erasing by itself."""
        size, messages, length = 0, 0, 0
        for entry in lane.entries:
            if size and (erases(entry.commit) or entry.replica != lane.entries[0].replica):
                break
            for change in entry.commit.changes:
                if isinstance(change, MessagesAdded):
                    messages += len(change.messages)
                    length += sum(len(message.body) for message in change.messages)
            if size and (messages > BATCH_MESSAGES_MAX or length > BATCH_BYTES_MAX):
                break
            size += 1
            if erases(entry.commit) or lane.single:
                break
        return size

    def _flushed(self, lane: FlushLane, entries: list[Entry], commit: Commit, committed: Committed) -> None:
        self.commits += 1
        self.entries_flushed += len(entries)
        lane.batch = None
        lane.single = False
        lane.flushed_s = self._clock.monotonic_s()
        for entry in entries:
            if entry.waiter is not None:
                entry.waiter(committed)
                entry.waiter = None
        self._forget(lane, len(entries))
        expected = commit.expected
        wanted = (
            Version(expected.epoch + 1, 0)
            if erases(commit)
            else Version(expected.epoch, expected.revision + steps_of(commit))
        )
        lane.base = committed.version
        if committed.version != wanted:  # the store had seen this commit, and others wrote since
            lane.rebase()
            if not lane.entries:
                self._on_rebased(lane.user)

    def _forget(self, lane: FlushLane, count: int) -> None:
        for _ in range(count):
            self._journal.forget(lane.entries.popleft().number)

    async def _failed(self, lane: FlushLane) -> None:
        self._breaker.failed()
        self._answer_without_store(lane)
        if not self._breaker.is_open:
            await asyncio.sleep(random.uniform(0, _RETRY_S_MAX))

    def _answer_without_store(self, lane: FlushLane) -> None:
        for entry in lane.entries:
            if entry.waiter is not None and entry.answer_without_store is not None:
                entry.waiter(entry.answer_without_store)
                entry.waiter = None

    def _refused(self, lane: FlushLane, size: int, error: SamvadError) -> None:
        lane.batch = None
        if size > 1:
            lane.single = True  # find out which one it is
            lane.rebase()
            return
        lane.parked = error
        _log.error("a lane is parked: the store refuses an operation", extra={"code": error.code})

    # --- applying anew ---------------------------------------------------------------------------------

    async def rebased(self, lane: FlushLane) -> UserRecord:
        """The user's record with all that is pending, read from the store; Unavailable where it is down."""
        async with lane.lock:
            if lane.base is None or lane.base.epoch < 0 or lane.record is None:
                if self._breaker.is_open:
                    raise Unavailable("The store is down, and this process does not know this user.")
                await self._rebase(lane)
        assert lane.record is not None
        return lane.record

    async def _rebase(self, lane: FlushLane) -> None:
        loaded = await self._store.load(
            lane.user,
            window=self._rules.window,
            open_after_ms=self._clock.now_ms() - limits.SESSION_IDLE_S_MAX * 1000,
            sessions_max=limits.SESSIONS_IN_RECORD_MAX,
        )
        self._breaker.succeeded()
        self.rebases += 1
        record = user_log.loaded(loaded, self._rules)
        done = record.applied
        before = lane.head
        kept: deque[Entry] = deque()
        for entry in lane.entries:
            record = self._apply_anew(entry, record, done, kept)
        for entry in set(lane.entries) - set(kept):
            self._journal.forget(entry.number)
        lane.entries = kept
        lane.batch = None
        lane.base = loaded.version
        lane.head = record.version
        lane.record = record
        lane.generation += 1
        if before != lane.head:
            self._on_rebased(lane.user)

    def _apply_anew(
        self, entry: Entry, record: UserRecord, done: dict[str, int], kept: deque[Entry]
    ) -> UserRecord:
        commit = entry.commit
        operation = commit.operation
        if entry.number <= done.get(entry.replica, -1) or -1 < commit.expected.epoch < record.version.epoch:
            # The store has it already, or its user was erased since: nothing old comes back.
            if entry.waiter is not None:
                entry.waiter(Committed(record.version, record.seq))
            return record
        if operation is None:
            kept.append(entry)
            return record
        if isinstance(operation, SaveState):
            operation.if_match, operation.if_absent = None, False  # it was acknowledged under the condition
        try:
            applied = user_log.apply(record, operation, self._rules)
        except SamvadError as error:
            self.overtaken += 1
            _log.warning("an operation was overtaken by another replica", extra={"code": error.code})
            return record
        entry.commit = Commit(
            commit.user, record.version, applied.changes, None, operation, applied.record, commit.steps
        )
        if applied.changes:
            kept.append(entry)
        return applied.record


def _remember(entries: list[Entry], error: MessageExists) -> None:
    for entry in entries:
        operation = entry.commit.operation
        if isinstance(operation, AppendMessages):
            operation.known = {**operation.known, error.message_id: error.seq}
