"""A store with the journal in front of it: acknowledged when fsynced here, in the store a moment later.

`JournaledStore` is a Store by composition, so that nothing above it changes. A commit is written to the
journal and acknowledged; a lane per user then brings what has gathered to the store behind, as one commit,
numbered so that a retry is recognised (see `flusher`). Reads put what is pending over what the store has;
where the store is down, users of whom something is pending are answered from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from samvad import limits, tracing
from samvad.clock import Clock
from samvad.errors import Overloaded, SamvadError, StaleVersion, StoreUnavailable, Unavailable
from samvad.records import (
    Commit,
    Committed,
    MessagesAdded,
    Removed,
    SessionRemoved,
    UserKey,
    UserRecord,
    Version,
    only_receipts,
)
from samvad.sessions import user_log
from samvad.sessions.breaker import Breaker, Patience, is_up
from samvad.sessions.coalesce import removes
from samvad.sessions.content import to_keep
from samvad.sessions.flush_lane import Done, Entry, FlushLane
from samvad.sessions.flusher import BLIND, Flusher
from samvad.sessions.journal import Journal
from samvad.sessions.journal_entry import decode_entry, encode_entry
from samvad.sessions.journal_place import keep_to_store
from samvad.sessions.operations import AppendMessages, awaits_store
from samvad.sessions.overlay import OverlaidReads
from samvad.sessions.user_log import Rules
from samvad.stores.base import Capabilities, HealthReport, Store, awaited, engine_of

_log = logging.getLogger(__name__)

_LOOK_AGAIN_S: Final = 0.05
_ASKED_IN_VAIN_MAX: Final = 10_000


class JournaledStore(OverlaidReads):
    """`inner` behind a journal.

    `on_rebased` is called where a user's record is no longer what was answered, `on_doubt` where a record had to be
    begun without asking the store, which can be asked now, `on_back` when the store is back, and
    `on_outdated` where the store has this version of a record. `known` gives the user's
    record that is in memory. Where the store says which one it is (`place`), a journal with operations for another
    is refused.
    """

    def __init__(
        self,
        inner: Store,
        journal: Journal,
        *,
        clock: Clock,
        rules: Rules,
        patience: Patience | None = None,
        memory_bytes_max: int = limits.PENDING_MEMORY_BYTES_MAX,
    ) -> None:
        self.inner = inner
        self.journal = journal
        self.rules = msgspec.structs.replace(rules, shared=inner.capabilities.shared)
        self.name = inner.name
        shared, tells = inner.capabilities.shared, inner.capabilities.tells
        self.capabilities = Capabilities(durable=True, shared=shared, goes_on=True, tells=tells)
        self.on_rebased: Callable[[UserKey], None] = lambda user: None
        self.known: Callable[[UserKey], UserRecord | None] = lambda user: None
        self.on_doubt: Callable[[UserKey], None] = lambda user: None
        self.on_outdated: Callable[[UserKey, Version], None] = lambda user, version: None
        self.on_back: Callable[[], None] = lambda: None
        patience = patience or Patience()
        self.breaker = Breaker(clock, self._probe, patience, on_down=self._down, on_up=self._up)
        self.flusher = Flusher(
            inner,
            journal,
            self.breaker,
            clock=clock,
            rules=self.rules,
            patience=patience,
            on_rebased=self._rebased,
        )
        self._heard: dict[UserKey, Version] = {}
        self._hearing: set[asyncio.Task[None]] = set()
        self._memory_bytes_max = memory_bytes_max
        self._asked_in_vain: dict[UserKey, None] = {}
        self._opened = False
        self._inner_opened = False

    # --- life ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        replay = await self.journal.open()
        for damage in replay.damages:
            if not damage.torn:  # what a crash tore was never acknowledged
                where = {"file": damage.file, "set_aside": damage.kept is not None}
                most = {"entries_lost_max": damage.entries_lost_max}
                _log.error(
                    "the journal is damaged; what could not be believed is left out", extra=where | most
                )
        try:
            place: str | None = getattr(engine_of(self.inner), "place", None)
            if place is not None:
                waiting = sum(1 for entry in replay.entries if entry.payload)
                keep_to_store(self.journal.directory, place, waiting)
            for number, payload, replica in replay.entries:
                self._take_up(replica, number, payload)
            try:
                await self.inner.open()
            except Unavailable:
                self.breaker.open()  # it is opened when it can be
            else:
                self._inner_opened = True
                self.breaker.look()
        except BaseException:
            await self.journal.close()
            raise
        self._opened = True
        self.flusher.start()

    def _take_up(self, replica: str, number: int, payload: bytes) -> None:
        if not payload:
            self.journal.forget(number)
            return
        kept = decode_entry(payload)
        user = UserKey(kept.tenant, kept.user_id)
        expected = Version(kept.epoch, kept.revision if kept.operation is None else 0)
        commit = Commit(user, expected, kept.changes, kept.origin, kept.operation, None, kept.steps)
        self.flusher.lane(user).entries.append(Entry(replica, number, commit, kept.epoch))

    async def drain(self, timeout_s: float) -> int:
        """Bring what is pending to the store, for at most `timeout_s`; returns how many entries are left."""
        return await self.flusher.drain(timeout_s)

    async def written(self, user: UserKey, timeout_s: float) -> bool:
        """Wait until the store has all that is pending of a user now; False where that takes longer."""
        lane = self.flusher.find(user)
        last = lane.entries[-1].number if lane is not None and lane.entries else -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while lane is not None and lane.entries and lane.entries[0].number <= last:
                    self.flusher.wake(lane, at_once=True)
                    if lane.task is None:  # it is parked, or the service is closing
                        return False
                    await asyncio.wait([lane.task], timeout=_LOOK_AGAIN_S)
                return True
        return False

    def is_parked(self, user: UserKey) -> bool:
        """Whether the store refuses an operation of this user for ever, so that what follows it waits."""
        lane = self.flusher.find(user)
        return lane is not None and lane.parked is not None

    async def close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        await self.flusher.stop()
        for task in self._hearing:
            task.cancel()
        await asyncio.gather(*self._hearing, return_exceptions=True)
        await self.breaker.stop()
        await self.journal.close()
        await self.inner.close()

    async def _probe(self) -> bool:
        if not self._inner_opened:
            await self.inner.open()
            self._inner_opened = True
        return is_up(await self.inner.check())

    def _rebased(self, user: UserKey) -> None:
        self.on_rebased(user)

    def _down(self) -> None:
        self.flusher.store_is_down()

    def _up(self) -> None:
        self.on_back()
        users, self._asked_in_vain = self._asked_in_vain, {}
        for user in users:
            self.on_doubt(user)

    @property
    def degraded(self) -> bool:
        """Whether the store behind is taken to be down."""
        return self.breaker.is_open

    # --- what others write ------------------------------------------------------------------------------

    def heard(self, user: UserKey, version: Version) -> bool:
        """The store has this version of the user's record now; whether something is pending that must be put upon it.

        That is done as soon as it can be, and `on_rebased` told.
        """
        lane = self.flusher.find(user)
        if lane is None or not lane.pending:
            return False
        if version.epoch > lane.epoch >= 0:
            lane.record = None  # erased: what is pending upon it is not to be read any more
        waiting = user in self._heard
        self._heard[user] = max(version, self._heard.get(user, version))
        if not waiting:
            task = asyncio.create_task(self._catch_up(lane))
            self._hearing.add(task)
            task.add_done_callback(self._hearing.discard)
        return True

    def doubt_all(self) -> None:
        """What is pending may build on what is not there any more."""
        for lane in self.flusher.all_lanes():
            lane.rebase()

    async def _catch_up(self, lane: FlushLane) -> None:
        """Put what is pending upon what another replica wrote, unless it was this one: a flush may be under way."""
        async with lane.lock:
            version = self._heard.pop(lane.user)
            if not lane.pending:  # flushed meanwhile
                self.on_outdated(lane.user, version)
            if lane.pending and lane.base is not None and version > lane.base:
                with contextlib.suppress(Unavailable):
                    await self.flusher.rebase(lane)
                    return
                lane.rebase()

    # --- writing ---------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return awaited(self.submit, commit)

    def submit(self, commit: Commit, done: Done) -> None:
        """As `commit`; `done` is called on the event loop.

        A commit that says what was asked for (`operation`, `record`) is acknowledged by the journal, and so is one
        that keeps receipts alone. Any other is answered by the store (see `verbatim`).
        """
        lane = self.flusher.lane(commit.user)
        bound = not only_receipts(commit)
        if bound and commit.record is None:
            self._submit_verbatim(lane, commit, done)
            return
        if bound and commit.record is not None:
            if lane.head is None or not lane.pending:
                lane.start(commit.expected, self.known(commit.user))
            elif commit.expected != lane.head:
                asyncio.get_running_loop().call_soon(done, StaleVersion())
                return
            lane.head = commit.record.version
        commit = _with_told_ids(commit)
        lane.writing += 1
        generation = lane.generation
        # What follows an erasing that the store does not have yet is of no life that the store knows.
        epoch = commit.expected.epoch if commit.expected.epoch == lane.epoch else -1

        def journaled(result: int | SamvadError) -> None:
            lane.writing -= 1
            if isinstance(result, SamvadError):
                if bound:
                    lane.refused()
                self.flusher.release(lane)
                done(result)
            else:
                self._journaled(lane, commit, result, epoch, generation, done)
                self.flusher.release(lane)

        self._write(encode_entry(commit, epoch), journaled)

    @property
    def memory_bytes(self) -> int:
        """About how much memory is taken by what waits for the store."""
        return 2 * self.journal.bytes_held + limits.PENDING_ENTRY_BYTES * self.journal.entries_held

    def _write(self, payload: bytes, done: Callable[[int | SamvadError], None]) -> None:
        if self.memory_bytes > self._memory_bytes_max:
            full = Overloaded("Too much waits for the store; nothing was acknowledged, try again soon.")
            asyncio.get_running_loop().call_soon(done, full)
        else:
            self.journal.submit(payload, tracing.timed("journal append", done))

    def _submit_verbatim(self, lane: FlushLane, commit: Commit, done: Done) -> None:
        lane.head = None  # what follows is not known to build on what is pending
        if self.breaker.is_open or lane.parked is not None:
            asyncio.get_running_loop().call_soon(done, StoreUnavailable())
            self.flusher.release(lane)
            return

        def journaled(result: int | SamvadError) -> None:
            if isinstance(result, SamvadError):
                done(result)
                return
            entry = Entry(self.journal.replica, result, commit, epoch)
            entry.waiter, entry.early = done, StoreUnavailable()
            self.flusher.add(self.flusher.lane(commit.user), entry)

        epoch = commit.expected.epoch
        self._write(encode_entry(commit, epoch), journaled)

    def _journaled(
        self, lane: FlushLane, commit: Commit, number: int, epoch: int, generation: int, done: Done
    ) -> None:
        if generation != lane.generation and not only_receipts(commit):
            again = self._again(lane, commit)
            if isinstance(again, SamvadError):
                self.journal.forget(number)
                done(again)
                return
            commit = again
        record, seq = commit.record, 0
        version = commit.expected
        if record is not None:
            version, seq = record.version, record.seq
            lane.record = record
        if not commit.changes:
            self.journal.forget(number)
            done(Committed(version, seq))
            return
        entry = Entry(self.journal.replica, number, msgspec.structs.replace(commit, record=None), epoch)
        if (
            generation != lane.generation
            and commit.operation is not None
            and commit.operation.receipt is not None
        ):
            entry.unproven = True  # what it is put upon now may hold what was done under its key
        if not removes(commit):
            done(Committed(version, seq))
        else:
            entry.waiter = done
            entry.early = Committed(version, seq, self._removed(lane, commit), pending=True)
            if awaits_store(commit.operation):
                entry.early = StoreUnavailable()
        self.flusher.add(lane, entry)

    def _again(self, lane: FlushLane, commit: Commit) -> Commit | SamvadError:
        """A commit applied anew, as the record it was made against is not what it follows; or what to answer."""
        record = lane.record
        if record is None:
            lane.rebase()
            return msgspec.structs.replace(commit, record=None)
        if -1 < commit.expected.epoch < record.version.epoch:
            return StaleVersion()
        operation = to_keep(commit.operation, record, commit.user.tenant, self.rules.unkept)
        try:
            applied = user_log.apply(record, operation, self.rules)
        except SamvadError as error:
            lane.refused()
            return error
        lane.head = applied.record.version
        return msgspec.structs.replace(
            commit,
            expected=record.version,
            changes=applied.changes,
            operation=operation,
            record=applied.record,
        )

    def _removed(self, lane: FlushLane, commit: Commit) -> Removed:
        """What a removal removes as far as it is known here."""
        for change in commit.changes:
            if isinstance(change, SessionRemoved):
                return Removed(sessions=1)
        return Removed()

    # --- reading ---------------------------------------------------------------------------------------

    async def load(self, user: UserKey, *, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        lane = self.flusher.find(user)
        if lane is not None and lane.answered and (lane.record is None or lane.record.partial):
            with contextlib.suppress(Unavailable):
                return await self.flusher.rebased(lane)
        if lane is not None and lane.answered and lane.record is not None:
            if lane.record.partial:
                self._remember_doubt(user)
            return lane.record
        try:
            record = await self.breaker.through(
                lambda: self.inner.load(
                    user, window=window, open_after_ms=open_after_ms, sessions_max=sessions_max
                )
            )
        except Unavailable:
            self._remember_doubt(user)
            return UserRecord(version=BLIND, partial=True)
        lane = self.flusher.find(user)
        if (
            lane is not None and lane.answered and lane.record is not None
        ):  # meanwhile something was journaled
            return lane.record
        return record

    def _remember_doubt(self, user: UserKey) -> None:
        if len(self._asked_in_vain) >= _ASKED_IN_VAIN_MAX:
            del self._asked_in_vain[next(iter(self._asked_in_vain))]
        self._asked_in_vain[user] = None

    async def check(self) -> HealthReport:
        """Up where the journal takes writes; the fault tells of the store behind it."""
        if self.degraded or self.journal.fault is not None:  # in doubt: try whether it writes
            try:
                self.journal.forget(await self.journal.append(b""))
            except SamvadError as error:
                return HealthReport(False, error.message, self.breaker.opened_ms, not self.degraded)
        if self.degraded:
            fault = self.breaker.reason or "the store is down; writes go on in the journal"
            return HealthReport(True, fault, self.breaker.opened_ms, store_up=False)
        return HealthReport(True)


def _with_told_ids(commit: Commit) -> Commit:
    """The operation with the ids that the caller is told now: they stay, wherever the messages end up."""
    operation = commit.operation
    if not isinstance(operation, AppendMessages) or all(m.id or m.made for m in operation.messages):
        return commit
    told = {}
    for change in commit.changes:
        if isinstance(change, MessagesAdded):
            told = {m.id.rpartition("-")[2]: m.id for m in change.messages if not m.given}
    messages = tuple(
        m if m.id or m.made or m.random not in told else msgspec.structs.replace(m, made=told[m.random])
        for m in operation.messages
    )
    return msgspec.structs.replace(commit, operation=msgspec.structs.replace(operation, messages=messages))
