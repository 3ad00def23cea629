"""Journal to store: one lane per user, what has gathered as one commit, again until the store has it.

A commit to the store carries the replica's name and the number of its last entry. After an answer that
leaves open whether it was done, the very same commit is sent again, and the store recognises the number.
Where the store refuses it as stale (another replica wrote first, or this process has just started), the
user's record is loaded and the operations are applied to it anew, in their order, after the other's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from samvad import limits, tracing
from samvad.clock import Clock
from samvad.errors import MessageExists, SamvadError, SessionTaken, StaleVersion, Unavailable
from samvad.logs import user_hash
from samvad.meters import LONG_SECONDS, Histogram
from samvad.records import (
    ANY_VERSION,
    Commit,
    Committed,
    UserKey,
    UserRecord,
    Version,
)
from samvad.sessions import user_log, verbatim
from samvad.sessions.breaker import Breaker, Patience
from samvad.sessions.coalesce import erases, steps_of
from samvad.sessions.flush_lane import Entry, FlushLane, FlushLanes, flush_span, unbound
from samvad.sessions.journal import Journal
from samvad.sessions.operations import is_conditional
from samvad.sessions.pending import PendingIndex
from samvad.sessions.proving import dispute, prove, settle
from samvad.sessions.reapply import applied_anew, learn
from samvad.sessions.scrubber import Scrubber
from samvad.sessions.user_log import Rules
from samvad.stores.base import Store

_log = logging.getLogger(__name__)

FLUSHES_AT_ONCE_MAX = 32

BLIND = Version(-1, 0)
"""The version of a record that had to be begun without asking the store."""


class Flusher(FlushLanes):
    """The lanes of all users with something pending."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        breaker: Breaker,
        *,
        clock: Clock,
        rules: Rules,
        patience: Patience,
        on_rebased: Callable[[UserKey], None],
    ) -> None:
        super().__init__(clock)
        self.store = store
        self.journal = journal
        self.breaker = breaker
        self._rules = rules
        self._patience = patience
        self.on_rebased = on_rebased
        self.before_erasing: list[
            Callable[[UserKey], Awaitable[None]]
        ] = []  # awaited before the store erases
        self._slots = asyncio.Semaphore(FLUSHES_AT_ONCE_MAX)
        self._hurry = False
        self._stopped = False
        self.scrubber = Scrubber(journal, clock, patience, waits=store.capabilities.shared)
        self.index = PendingIndex()
        self.commits = 0
        self.entries_flushed = 0
        self.rebases = self.overtaken = 0
        self.lag = Histogram(LONG_SECONDS)  # from the journal to the store

    # --- parked lanes ----------------------------------------------------------------------------------

    def retry_parked(self, user: UserKey) -> bool:
        """Try a parked lane again; false if there is none."""
        lane = self._lanes.get(user)
        if lane is None or lane.parked is None:
            return False
        lane.parked = None
        lane.rebase()
        self.wake(lane, at_once=True)
        return True

    def drop_parked(self, user: UserKey) -> bool:
        """Give up the operation that a lane is parked for; false if there is none."""
        lane = self._lanes.get(user)
        if lane is None or lane.parked is None:
            return False
        if lane.entries:
            self._drop(lane, lane.entries.popleft())
        if not lane.entries:
            lane.parked = None
            self._taken_back(lane)
            return True
        return self.retry_parked(user)

    def _taken_back(self, lane: FlushLane) -> None:
        """What was acknowledged last is not so any more: whoever holds the record must look again."""
        lane.rebase()
        lane.record = None
        lane.refused()
        self.release(lane)
        self.on_rebased(lane.user)

    def add(self, lane: FlushLane, entry: Entry) -> None:
        """Take in an entry that the journal has."""
        if erases(entry.commit) and not entry.verbatim and not is_conditional(entry.commit.operation):
            if lane.parked is not None:  # nothing may hold back an erasing
                lane.parked = None
                for before in lane.entries:
                    self._drop(lane, before)
                lane.entries.clear()
                lane.rebase()
            self.index.erased(before.commit for before in lane.entries)
        entry.at_s, entry.origin = self._clock.monotonic_s(), tracing.here()
        lane.entries.append(entry)
        if not entry.verbatim:
            self.index.add(entry.commit)
        if entry.waiter is None:
            self.wake(lane)
            return
        lane.waiting += 1
        if self.breaker.is_open or lane.parked is not None or self._stopped:
            self._answer_early(lane)
        elif not isinstance(entry.early, SamvadError):
            loop = asyncio.get_running_loop()
            loop.call_later(self._patience.erase_wait_s, self._answer_early, lane)
        self.wake(lane, at_once=True)

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Flush what a replay brought, on top of what the store has; until that is known, on top of nothing."""
        for lane in self._lanes.values():
            record = UserRecord(BLIND, partial=True)
            for entry in lane.entries:
                entry.at_s = self._clock.monotonic_s()
                record, _ = applied_anew(entry, record, self._rules)
                if not entry.verbatim:
                    self.index.add(entry.commit)
            lane.record, lane.head = record, record.version
            lane.gathered = True
            self.wake(lane)
        self.scrubber.scrub()  # the last run may have died between an erasing and this

    async def drain(self, timeout_s: float) -> int:
        """Flush everything as fast as the store takes it, for at most `timeout_s`; returns what is left."""
        self._hurry = True
        try:
            for lane in list(self._lanes.values()):
                self.wake(lane, at_once=True)
            tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
            tasks += [self.scrubber.task] if self.scrubber.task is not None else []
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_s)
        finally:
            self._hurry = False
        return self.entries_waiting

    async def stop(self) -> None:
        """End all flushing; what is pending stays in the journal."""
        self._stopped = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.store_is_down()
        for lane in self._lanes.values():
            if lane.release is not None:
                lane.release.cancel()
        await self.scrubber.stop()

    def store_is_down(self) -> None:
        """Nobody waits for the store any longer."""
        for lane in self._lanes.values():
            self._answer_early(lane)

    def _answer_early(self, lane: FlushLane) -> None:
        if lane.waiting:
            lane.waiting = 0
            for entry in lane.entries:
                entry.answer()

    def wake(self, lane: FlushLane, at_once: bool = False) -> None:
        """See that a lane is flushed; `at_once` without waiting for more to gather."""
        if at_once:
            lane.urgent.set()
        if lane.task is None and not self._stopped and lane.parked is None and lane.entries:
            lane.task = asyncio.create_task(self._run(lane), context=Context())  # of no request

    def release(self, lane: FlushLane) -> None:
        """Let go of a lane with nothing pending, once the next write for its user need not wait."""
        if lane.release is not None:
            lane.release.cancel()
            lane.release = None
        if lane.pending or lane.task is not None or self._lanes.get(lane.user) is not lane:
            return
        wait_s = lane.flushed_s + self._patience.write_interval_s - self._clock.monotonic_s()
        if wait_s > 0 and not self._stopped:
            lane.release = asyncio.get_running_loop().call_later(wait_s, self.release, lane)
        else:
            del self._lanes[lane.user]

    # --- flushing --------------------------------------------------------------------------------------

    async def _run(self, lane: FlushLane) -> None:
        try:
            while lane.entries and lane.parked is None:
                await self._pace(lane)
                trying = await self.breaker.admitted()
                try:
                    async with self._slots, lane.lock:
                        done = not lane.entries or await self._flush(lane)
                finally:
                    self.breaker.leave(trying)
                if not done:
                    await asyncio.sleep(random.uniform(0, self._patience.retry_s_max))
        except Exception as error:  # the top of a task: what we do not understand is not tried for ever
            _log.exception("a lane is parked: it failed", extra={"user": user_hash(*lane.user)})
            self._park(lane, SamvadError(f"Flushing failed ({type(error).__name__})."))
        finally:
            lane.task = None
            self.release(lane)

    async def _pace(self, lane: FlushLane) -> None:
        wait_s = lane.flushed_s + self._patience.write_interval_s - self._clock.monotonic_s()
        if not lane.gathered:  # users who began together need not be written together
            lane.gathered = True
            wait_s = max(wait_s, self._patience.gather_s * random.uniform(0.8, 1.0))
        if wait_s > 0 and not self._hurry and not lane.waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await lane.urgent.wait()
        lane.urgent.clear()

    async def _flush(self, lane: FlushLane) -> bool:
        """One commit to the store, or one load; the caller holds the lane's lock. False: wait before the next."""
        if self.breaker.is_open:
            return False
        size = lane.batch_size()
        entries = [lane.entries[i] for i in range(size)]
        if entries[0].verbatim:
            return await verbatim.flush(self, lane, entries[0])
        if (lane.base is None and not unbound(entries)) or any(entry.unproven for entry in entries):
            try:
                with flush_span(lane, entries, "rebase"):
                    await self.rebase(lane)
            except Unavailable:
                return False
            return True
        commit = lane.merged(entries)
        for entry in entries:
            entry.tried = True
        try:
            if erases(commit) and not is_conditional(entries[0].commit.operation):
                for remove in self.before_erasing:
                    await self.breaker.through(functools.partial(remove, lane.user))
            with flush_span(lane, entries):
                committed = await self.breaker.through(lambda: self.store.commit(commit))
        except (StaleVersion, MessageExists) as error:
            if isinstance(error, MessageExists):
                learn(entries, error)
            lane.rebase()
            lane.stales += 1
            return lane.stales < 3
        except Unavailable:
            lane.batch = size
            return False
        except SamvadError as error:
            lane.batch = None
            if isinstance(error, SessionTaken) and dispute(entries):
                return True  # whose it is will be asked
            if size > 1:  # find out which one it is
                lane.suspects = lane.suspects or size
                lane.cap = size // 2
            else:
                self._park(lane, error)
            return True
        self._flushed(lane, entries, commit, committed)
        return True

    def _flushed(self, lane: FlushLane, entries: list[Entry], commit: Commit, committed: Committed) -> None:
        self.brought(lane, entries)
        lane.stales = 0
        lane.suspects = max(0, lane.suspects - len(entries))
        erased = erases(commit)
        for entry in entries:
            self._forget(lane.entries.popleft())
            if entry.waiter is not None:
                lane.waiting = max(0, lane.waiting - 1)
                if erased:  # told only once it has left this place as well
                    self.scrubber.then_tell(commit, functools.partial(entry.answer, committed))
                else:
                    entry.answer(committed)
        if erased:
            lane.epoch = committed.version.epoch
        if erased or any(entry.of_erased or entry.is_reduced for entry in entries):
            self.scrubber.scrub()
        if commit.expected == ANY_VERSION:
            return
        expected = commit.expected
        wanted = (
            Version(expected.epoch + 1, 0)
            if erased
            else Version(expected.epoch, expected.revision + steps_of(commit))
        )
        if committed.version == wanted:
            lane.base = wanted
        else:  # the store had seen this commit, and others wrote since
            lane.rebase()
            if not lane.entries:
                self._taken_back(lane)

    def brought(self, lane: FlushLane, entries: Sequence[Entry]) -> None:
        """A commit came through, with these entries of the lane."""
        self.commits += 1
        self.entries_flushed += len(entries)
        lane.batch = None
        lane.gathered = False
        lane.flushed_s = self._clock.monotonic_s()
        for entry in entries:
            self.lag.add(lane.flushed_s - entry.at_s)

    def _forget(self, entry: Entry) -> None:
        if not entry.verbatim:
            self.index.remove(entry.commit)
        self.journal.forget(entry.number)

    def _drop(self, lane: FlushLane, entry: Entry) -> None:
        """An entry is not for the store (any more)."""
        self._forget(entry)
        if entry.waiter is not None:
            lane.waiting = max(0, lane.waiting - 1)
            entry.answer()

    def _park(self, lane: FlushLane, error: SamvadError) -> None:
        lane.suspects = 0
        lane.parked = error
        self._answer_early(lane)
        user = user_hash(*lane.user)
        _log.error(
            "a lane is parked: the store refuses an operation", extra={"code": error.code, "user": user}
        )

    # --- applying anew ---------------------------------------------------------------------------------

    async def rebased(self, lane: FlushLane) -> UserRecord:
        """The user's record with all that is pending, read from the store; Unavailable where it is down."""
        async with lane.lock:
            if lane.record is None or lane.record.partial:
                await self.rebase(lane)
        assert lane.record is not None
        return lane.record

    async def rebase(self, lane: FlushLane) -> None:
        """Load the user's record and apply to it what is pending; the caller holds the lane's lock."""
        generation = lane.generation
        loaded = await self.breaker.through(
            lambda: self.store.load(
                lane.user,
                window=self._rules.window,
                open_after_ms=self._clock.now_ms() - limits.SESSION_IDLE_S_MAX * 1000,
                sessions_max=limits.SESSIONS_IN_RECORD_MAX,
            )
        )
        self.rebases += 1
        record = user_log.loaded(loaded, self._rules)
        proofs = await prove(list(lane.entries), self.store, self.breaker, self._clock.now_ms())
        done = dict(record.applied)
        if record.erased.number > done.get(record.erased.replica, -1):
            done[record.erased.replica] = record.erased.number
        skew_ms = round(self._patience.clock_skew_s * 1000)
        kept: deque[Entry] = deque()
        for entry in lane.entries:
            if entry.verbatim:
                kept.append(entry)
                continue
            self.index.remove(entry.commit)
            in_store = entry.number <= done.get(entry.replica, -1)
            if not in_store and entry in proofs and not settle(entry, proofs[entry]):
                self.overtaken += 1
            elif not in_store:
                proven = entry in proofs
                record, overtaken = applied_anew(entry, record, self._rules, loaded, skew_ms, proven)
                self.overtaken += overtaken
            self.index.add(entry.commit)
            if entry.commit.changes and not in_store:
                kept.append(entry)
            else:
                self._settled(lane, entry, record)
        lane.entries = kept
        lane.batch = None
        lane.base = loaded.version
        lane.epoch = loaded.version.epoch
        lane.head = record.version
        lane.record = record
        lane.generation = generation + 1
        self.on_rebased(lane.user)

    def _settled(self, lane: FlushLane, entry: Entry, record: UserRecord) -> None:
        """The store has it, or needs it no more."""
        self._forget(entry)
        unwanted = entry.of_erased or entry.is_reduced or entry.epoch != record.version.epoch
        if unwanted or erases(entry.commit):
            self.scrubber.scrub()
        if entry.waiter is not None:
            lane.waiting = max(0, lane.waiting - 1)
            # If it was sent before, what it removed is not known: that answer says so.
            told_early = entry.tried and not isinstance(entry.early, SamvadError)
            entry.answer(None if told_early else Committed(record.version, record.seq))
