"""The sweeper: applies the rules to everyone, slowly, and again where it was cut off.

A sweep looks at each user, and what is due goes through the same write as everything else: the rules of a user's log
decide it on the record as it is then, so that what was written meanwhile stays. Nothing is noted of how far a sweep
came: what is gone is not due any more, and several replicas may sweep at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from samvad.clock import rfc3339
from samvad.errors import SamvadError, SetupError, Unavailable
from samvad.records import UserKey
from samvad.retention.documents import Documents
from samvad.retention.guard import ClockGuard
from samvad.retention.looking import Counts, Due, Looker, engine_of
from samvad.retention.rules import Retention
from samvad.sessions.acting import SessionCore, removed_by
from samvad.sessions.operations import EraseUser, Retain

_log = logging.getLogger(__name__)

USERS_PER_PAGE: Final = 200
USERS_AT_ONCE: Final = 8
MESSAGES_PER_STEP: Final = 1_000
FIRST_AFTER_S: Final = (300.0, 3_600.0)  # after the start, so that replicas do not begin together
REST: Final = 4.0  # in the server: for each second of work so many without
AGAIN_S: Final = 600.0  # after a sweep that was cut short

Note = Callable[[str, str, list[tuple[str, str, str]]], None]
Sleep = Callable[[float], Awaitable[None]]


class ClockAhead(SamvadError):
    """The clock is further ahead of what is stored than the rules allow for: nothing was swept."""

    code = "clock_ahead"
    status = 503


class CutShort(SamvadError):
    """A sweep ended before it had seen everyone; the next one goes on."""

    code = "cut_short"
    status = 503


class Sweep(msgspec.Struct):
    """One sweep: when it began, how many users were looked at, and how much went (or would go)."""

    at_ms: int
    dry_run: bool
    seen: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)


class Sweeper:
    """Applies `retention` to everyone in a store. One sweep at a time in this process."""

    def __init__(
        self,
        core: SessionCore,
        retention: Retention,
        documents: Documents,
        *,
        every_s: float,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._core = core
        self._retention = retention
        self._documents = documents
        self._every_s = every_s
        self._sleep = sleep
        self._looker = Looker(core.store, round(core.session_idle_s * 1000))
        self._guard: ClockGuard | None = None
        self._one = asyncio.Lock()
        self._folded = False
        self.note: Note = lambda did, tenant, whom: None  # told of each sweep, and of each user who is erased
        self.swept = Counts()
        self.sweeps = self.failures = 0
        self.last_ms: int | None = None

    # --- by itself -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sweep now and then, for as long as the service is open."""
        if not self._retention.any or not self._every_s:
            return
        try:
            await self.begin()
        except (Unavailable, SetupError) as error:
            _log.warning("retention: %s", error.message)
        wait_s = min(random.uniform(*FIRST_AFTER_S), self._every_s)
        while True:
            await self._sleep(wait_s)
            wait_s = self._every_s * random.uniform(0.9, 1.1)
            try:
                await self.sweep(rest=REST)
            except SamvadError as error:
                wait_s = min(wait_s, AGAIN_S)
                _log.warning("retention: %s", error.message, extra={"code": error.code})
            except Exception:  # the top of a task: nobody else would hear of it
                wait_s = min(wait_s, AGAIN_S)
                _log.exception("retention: a sweep failed")

    async def begin(self) -> None:
        """Hold the clock against what is stored, before anything is written with it."""
        if self._guard is None:
            store: Any = self._core.store
            known = hasattr(engine_of(store), "newest_ms")
            newest_ms = await store.newest_ms() if known else None
            clock = self._core.clock
            slack_ms = self._retention.slack_ms
            self._guard = ClockGuard(newest_ms, clock.now_ms(), clock.monotonic_s(), slack_ms)

    # --- one sweep -------------------------------------------------------------------------------------

    async def sweep(self, *, dry_run: bool = False, trust_clock: bool = False, rest: float = 0.0) -> Sweep:
        """Look at everyone, and have go what is due; with `dry_run` only count it.

        `rest`: for each second of work, so many are waited. Raises ClockAhead where the clock cannot be believed (a
        dry run never), CutShort and Unavailable where the store is or goes down: what went until then is gone.
        """
        async with self._one:
            sweep = Sweep(self._core.clock.now_ms(), dry_run)
            try:
                await self.begin()
                if not dry_run and not trust_clock:
                    self._check_clock()
                await self._sweep(sweep, rest)
            except BaseException:
                if not dry_run:
                    self.failures += 1
                    self.swept.add(sweep.counts)
                    self._tell(sweep, "retention: a sweep was cut short")
                raise
            if not dry_run:
                self.swept.add(sweep.counts)
                self.sweeps += 1
                self.last_ms = sweep.at_ms
                self._tell(sweep, "retention: swept")
                self.note("retention sweep", "-", [])
            return sweep

    def ahead_ms(self) -> int:
        """By how much the clock is ahead of what it can be; 0 where it is to be believed. After `begin`."""
        assert self._guard is not None
        clock = self._core.clock
        return self._guard.ahead_ms(clock.now_ms(), clock.monotonic_s())

    def _check_clock(self) -> None:
        ahead_ms = self.ahead_ms()
        if ahead_ms:
            now_ms = self._core.clock.now_ms()
            raise ClockAhead(
                f"Nothing was swept: the clock says {rfc3339(now_ms)}, which is {ahead_ms / 86_400_000:.1f} days after "
                "anything that was written. If the clock is right, it is believed after a while, or run "
                "'samvad retention sweep --trust-clock'."
            )

    @staticmethod
    def _tell(sweep: Sweep, what: str) -> None:
        _log.info(what, extra={"users_seen": sweep.seen, **msgspec.structs.asdict(sweep.counts)})

    async def _sweep(self, sweep: Sweep, rest: float) -> None:
        gone: set[UserKey] = set()
        tenants: set[str] = set()
        loop = asyncio.get_running_loop()
        async for keys in self._keys():
            tenants.update(key.tenant for key in keys)
            for start in range(0, len(keys), USERS_AT_ONCE):
                self._go_on()
                began_s = loop.time()
                some = [
                    key for key in keys[start : start + USERS_AT_ONCE] if self._retention.of(key.tenant).any
                ]
                found = await asyncio.gather(
                    *[self._user(key, sweep) for key in some], return_exceptions=True
                )
                sweep.seen += len(some)
                for key, erased in zip(some, found, strict=True):
                    if isinstance(erased, BaseException):
                        raise erased
                    if erased:
                        gone.add(key)
                if rest:
                    await self._sleep(rest * (loop.time() - began_s))
        tenants.update(self._retention.tenants)
        await self._documents_of(tenants, gone, sweep)
        if not sweep.dry_run:
            await self._fold(sweep)

    async def _keys(self) -> AsyncIterator[list[UserKey]]:
        engine: Any = engine_of(self._core.store)
        if not hasattr(engine, "keys"):
            raise SetupError(
                "This store cannot list its users (see samvad.stores.carrying): it cannot be swept."
            )
        after: str | None = ""
        while after is not None:
            keys, after = await engine.keys(after=after, limit=USERS_PER_PAGE)
            yield keys

    def _go_on(self) -> None:
        if self._core.lanes.degraded:
            raise CutShort("The store is down; the sweep goes on when it is back.")

    async def _fold(self, sweep: Sweep) -> None:
        """See that nothing of what went stays in a log: also what a sweep left there that was killed."""
        if not sweep.counts.any and self._folded:
            return
        fold = getattr(self._core.store, "fold", None)
        if fold is not None:
            await fold()
        self._folded = True

    # --- one user --------------------------------------------------------------------------------------

    async def _user(self, key: UserKey, sweep: Sweep) -> bool:
        """What is due of one user; whether all of it is."""
        rules = self._retention.of(key.tenant)
        written_ms = await self._documents.written_ms(key) if rules.idle_users else 0
        due = await self._looker.due(key, rules, sweep.at_ms, written_ms)
        if due is None:
            return False
        if sweep.dry_run:
            if due.erase:
                due.counts.documents = await self._documents.count(key)
            sweep.counts.add(due.counts)
            return due.erase
        if due.erase:
            return await self._erase(due, sweep)
        known = self._core.lanes.peek(key) is not None
        await self._trim(due, sweep)
        if not known:
            lane = self._core.lanes.cache.find(key)
            if lane is not None and not lane.busy and not self._core.lanes.is_followed(key):
                self._core.lanes.cache.discard(key)  # nobody asked for it
        return False

    async def _trim(self, due: Due, sweep: Sweep) -> None:
        """Have the oldest messages, interruptions and sessions go: many messages in several steps."""
        before_seq = min(due.before_seq, due.trimmed + 1)
        while True:
            before_seq = min(before_seq + MESSAGES_PER_STEP, due.before_seq)
            last = before_seq == due.before_seq
            operation = Retain(
                at_ms=self._core.clock.now_ms(),
                epoch=due.version.epoch,
                before_seq=before_seq,
                interruptions_before_ms=due.interruptions_before_ms if last else 0,
                sessions=due.sessions if last else (),
            )
            _, committed = await self._core.lanes.write(due.key, operation)
            removed = removed_by(committed)
            sweep.counts.messages += removed.messages
            sweep.counts.interruptions += removed.interruptions
            sweep.counts.sessions += removed.sessions
            if last:
                break
            self._go_on()
        for session_id, active_ms in due.sessions:
            there = await self._core.lanes.read(due.key)
            session = there.sessions.get(session_id)
            if session is None or session.active_ms == active_ms:
                self._core.owners.pop((due.key.tenant, session_id), None)
                for listener in self._core.on_session_removed:
                    listener(due.key.tenant, session_id)

    async def _erase(self, due: Due, sweep: Sweep) -> bool:
        """Erase an idle user as `refresh` does, unless something was written meanwhile.

        The documents go after the record here, which alone can tell whether the user is idle: should the process end in
        between, the next sweep finds documents of nobody.
        """
        operation = EraseUser(at_ms=self._core.clock.now_ms(), only=due.version)
        _, committed = await self._core.lanes.write(due.key, operation)
        if committed is None or committed.version.epoch == due.version.epoch:
            return False
        removed = removed_by(committed)
        sweep.counts.users += 1
        sweep.counts.messages += removed.messages
        sweep.counts.sessions += removed.sessions
        sweep.counts.interruptions += removed.interruptions
        sweep.counts.documents += await self._documents.erase(due.key)
        for listener in self._core.on_erased:
            listener(due.key)
        self.note("retention erase", due.key.tenant, [("user", *due.key)])
        return True

    # --- documents -------------------------------------------------------------------------------------

    async def _documents_of(self, tenants: set[str], gone: set[UserKey], sweep: Sweep) -> None:
        """Documents of users that are too old, and those of users of whom nothing else is there and who are idle."""
        async for key, documents in self._documents.owned(tenants):
            rules = self._retention.of(key.tenant)
            if key in gone or not (rules.documents or rules.idle_users):
                continue
            self._go_on()
            if (
                rules.idle_users
                and max(each.written_ms for each in documents) < sweep.at_ms - rules.idle_users
            ):
                record = await self._core.store.load(key, window=1, open_after_ms=1 << 62, sessions_max=0)
                if record.version.revision == 0 and not record.partial:
                    sweep.counts.documents += len(documents)
                    if not sweep.dry_run:
                        await self._documents.erase(key)
                    continue
            if not rules.documents:
                continue
            old = [each for each in documents if each.added_ms < sweep.at_ms - rules.documents]
            for document in old:
                sweep.counts.documents += sweep.dry_run or await self._documents.remove(key, document.id)
