"""The sweeper: applies the rules to everyone, slowly, and again where it was cut off.

A sweep looks at each user, and what is due goes through the same write as everything else: the rules of a user's log
decide it on the record as it is then, so that what was written meanwhile stays. What is gone is not due any more: a
sweep may be killed and begun again at any moment, and two at once do no harm. As each pays for its reads, one replica
sweeps at a time where the store lets them agree on that (see `lease`).

A user who cannot be swept (damaged, or parked in the journal) is passed over, counted and told; the others are not.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from samvad.clock import rfc3339
from samvad.errors import SamvadError, SetupError, ShuttingDown, Unavailable
from samvad.logs import user_hash
from samvad.records import UserKey
from samvad.retention.documents import Documents, OwnedDocument
from samvad.retention.guard import ClockGuard
from samvad.retention.lease import CutShort, SweepLease, SweptElsewhere
from samvad.retention.looking import Counts, Due, Looker
from samvad.retention.rules import Retention
from samvad.sessions.acting import SessionCore, removed_by
from samvad.sessions.breaker import is_up
from samvad.sessions.operations import EraseUser, Retain
from samvad.stores.base import engine_of

_log = logging.getLogger(__name__)

USERS_PER_PAGE: Final = 200
USERS_AT_ONCE: Final = 8
MESSAGES_PER_STEP: Final = 1_000
FIRST_AFTER_S: Final = (300.0, 3_600.0)  # after the start, so that replicas do not begin together
REST: Final = 4.0  # in the server: for each second of work so many without
REST_S_MAX: Final = 30.0
AGAIN_S: Final = 600.0  # after a sweep that was cut short
SKIPPED_MAX: Final = 100  # and more than half: then the store is down, whatever it says
TROUBLES_MAX: Final = 20  # users who are named to whoever asked for the sweep

Note = Callable[[str, str, list[tuple[str, str, str]]], None]
Sleep = Callable[[float], Awaitable[None]]


class ClockAhead(SamvadError):
    """The clock is further ahead of what is stored than the rules allow for: nothing was swept."""

    code = "clock_ahead"
    status = 503


class Parked(SamvadError):
    """The store refuses an operation of this user for ever: nothing can follow it before somebody decides."""

    code = "parked"


class Trouble(msgspec.Struct, frozen=True):
    """A user who could not be swept, and the code of the error."""

    key: UserKey
    code: str


class Sweep(msgspec.Struct):
    """One sweep: when it began, how many users were looked at, and how much went (or would go).

    `skipped` of those could not be swept; `troubles` names the first of them. `passed` is how many of all users need
    not be looked at again, should this sweep be cut off.
    """

    at_ms: int
    dry_run: bool
    seen: int = 0
    skipped: int = 0
    passed: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    troubles: list[Trouble] = msgspec.field(default_factory=list)


class Sweeper:
    """Applies `retention` to everyone in a store. One sweep at a time in this process, and with `lease` in all."""

    def __init__(
        self,
        core: SessionCore,
        retention: Retention,
        documents: Documents,
        *,
        every_s: float,
        lease: SweepLease | None = None,
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
        self.lease = lease
        self.sweeping = False  # a dry run is none
        self.note: Note = lambda did, tenant, whom: None  # told of each sweep, and of each user who is erased
        self.swept = Counts()
        self.sweeps = self.failures = self.skipped = 0
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
                await self.sweep(rest=REST, due_s=self._every_s)
            except SweptElsewhere as error:
                wait_s = min(error.wait_s + random.uniform(0, AGAIN_S), wait_s)
                _log.info("retention: %s", error.message)
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

    async def sweep(
        self, *, dry_run: bool = False, trust_clock: bool = False, rest: float = 0.0, due_s: float = 0.0
    ) -> Sweep:
        """Look at everyone, and have go what is due; with `dry_run` only count it.

        `rest`: for each second of work, so many are waited. With `due_s` nothing is done where a replica has swept
        within that time, and a sweep of that time that was cut off is gone on with. Raises SweptElsewhere where another
        replica sweeps, ClockAhead where the clock cannot be believed (a dry run neither), CutShort and Unavailable
        where the store is or goes down: what went until then is gone.
        """
        async with self._one:
            sweep = Sweep(self._core.clock.now_ms(), dry_run)
            if dry_run:
                await self.begin()
                await self._sweep(sweep, rest, 0)
                return sweep
            try:
                await self._leased(sweep, trust_clock, rest, due_s)
            except SweptElsewhere as error:
                if error.done:
                    self.last_ms = max(self.last_ms or 0, error.began_ms)
                raise
            except BaseException:
                self.failures += 1
                self._tell(sweep, "retention: a sweep was cut short")
                raise
            finally:
                self.swept.add(sweep.counts)
                self.skipped += sweep.skipped
            self.sweeps += 1
            self.last_ms = sweep.at_ms
            self._tell(sweep, "retention: swept")
            self.note("retention sweep", "-", [])
            return sweep

    async def _leased(self, sweep: Sweep, trust_clock: bool, rest: float, due_s: float) -> None:
        await self.begin()
        if not trust_clock:
            self._check_clock()
        if self.lease is not None:
            sweep.passed = await self.lease.take(sweep.at_ms, due_s)
        self.sweeping, done = True, False
        try:
            await self._sweep(sweep, rest, sweep.passed)
            done = True
        finally:
            self.sweeping = False
            if self.lease is not None:
                await self.lease.release(sweep.passed, done=done)

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
        counts = msgspec.structs.asdict(sweep.counts)
        _log.info(what, extra={"users_seen": sweep.seen, "users_skipped": sweep.skipped, **counts})

    async def _sweep(self, sweep: Sweep, rest: float, passed: int) -> None:
        """Look at everyone behind the first `passed` users, and at documents."""
        self._looker.between = lambda: self._go_on(sweep)
        tenants: set[str] = set()
        loop = asyncio.get_running_loop()
        place = 0
        async for keys in self._keys():
            tenants.update(key.tenant for key in keys)
            left, place = keys[max(0, passed - place) :], place + len(keys)
            for start in range(0, len(left), USERS_AT_ONCE):
                began_s = loop.time()
                await self._go_on(sweep)
                some = left[start : start + USERS_AT_ONCE]
                await self._some([key for key in some if self._retention.of(key.tenant).any], sweep)
                sweep.passed += len(some)
                await self._go_on(sweep)
                if rest:
                    await self._sleep(min(rest * (loop.time() - began_s), REST_S_MAX))
            await self._go_on(sweep)
        if self._retention.of_documents:
            tenants.update(self._retention.tenants)
            await self._documents_of(tenants, sweep)
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

    async def _go_on(self, sweep: Sweep) -> None:
        """Between two steps: whether the store is there, and this is still the replica that sweeps."""
        if self._core.lanes.degraded and not await self._is_up():  # or nobody has read since it was down
            raise CutShort("The store is down; the sweep goes on when it is back.")
        if self.lease is not None and not sweep.dry_run:
            await self.lease.renew(sweep.passed)

    async def _is_up(self) -> bool:
        if getattr(self._core.store, "degraded", False):
            return False
        try:
            return is_up(await engine_of(self._core.store).check())
        except SamvadError:
            return False

    async def _fold(self, sweep: Sweep) -> None:
        """See that nothing of what went stays in a log: also what a sweep left there that was killed."""
        if not sweep.counts.any and self._folded:
            return
        fold = getattr(self._core.store, "fold", None)
        if fold is not None:
            await fold()
        self._folded = True

    # --- who cannot be swept ---------------------------------------------------------------------------

    async def _some(self, keys: list[UserKey], sweep: Sweep) -> None:
        """Sweep some users at once. An error is that user's alone, unless the store is down or the sweep is over."""
        errors = await asyncio.gather(*[self._user(key, sweep) for key in keys], return_exceptions=True)
        sweep.seen += len(keys)
        for key, error in zip(keys, errors, strict=True):
            if error is not None:
                await self._pass_over(key, error, sweep)

    async def _pass_over(self, key: UserKey, error: BaseException, sweep: Sweep) -> None:
        if isinstance(error, CutShort | ShuttingDown) or not isinstance(error, Exception):
            raise error
        if isinstance(error, Unavailable):
            often = sweep.skipped >= SKIPPED_MAX and sweep.skipped > sweep.seen // 2
            if often or not await self._is_up():
                raise error
        code = error.code if isinstance(error, SamvadError) else type(error).__name__
        sweep.skipped += 1
        if len(sweep.troubles) < TROUBLES_MAX:
            sweep.troubles.append(Trouble(key, code))
        _log.warning("retention: a user could not be swept", extra={"user": user_hash(*key), "code": code})

    # --- one user --------------------------------------------------------------------------------------

    async def _due(self, key: UserKey, sweep: Sweep) -> Due | None:
        rules = self._retention.of(key.tenant)
        written_ms = await self._documents.written_ms(key) if rules.idle_users else 0
        return await self._looker.due(key, rules, sweep.at_ms, written_ms, sweep.dry_run)

    async def _user(self, key: UserKey, sweep: Sweep) -> None:
        """Have go what is due of one user. Parked where nothing can be written of them."""
        due = await self._due(key, sweep)
        if due is None:
            return
        is_parked = getattr(self._core.store, "is_parked", None)
        if is_parked is not None and is_parked(key):  # what would follow waits, and erasing would drop it
            raise Parked
        if sweep.dry_run:
            if due.erase:
                due.counts.documents = await self._documents.count(key)
            sweep.counts.add(due.counts)
            return
        if due.erase:
            await self._erase(due, sweep)
            return
        known = self._core.lanes.peek(key) is not None
        await self._trim(due, sweep)
        if not known:
            lane = self._core.lanes.cache.find(key)
            if lane is not None and not lane.busy and not self._core.lanes.is_followed(key):
                self._core.lanes.cache.discard(key)  # nobody asked for it

    async def _trim(self, due: Due, sweep: Sweep) -> None:
        """Have interruptions, sessions and the oldest messages go: many messages in several steps.

        Sessions go in the first one, as close to the look as can be: one that was used since stays.
        """
        before_seq = min(due.before_seq, due.trimmed + 1)
        first = True
        while True:
            before_seq = min(before_seq + MESSAGES_PER_STEP, due.before_seq)
            last = before_seq == due.before_seq
            operation = Retain(
                at_ms=self._core.clock.now_ms(),
                epoch=due.version.epoch,
                before_seq=before_seq,
                keep=self._retention.of(due.key.tenant).messages,
                said_before_ms=due.said_before_ms,
                interruptions_before_ms=due.interruptions_before_ms if first else 0,
                sessions=due.sessions if first else (),
            )
            first = False
            _, committed = await self._core.lanes.write(due.key, operation)
            removed = removed_by(committed)
            sweep.counts.messages += removed.messages
            sweep.counts.interruptions += removed.interruptions
            sweep.counts.sessions += removed.sessions
            if last:
                break
            await self._go_on(sweep)
        for session_id, active_ms in due.sessions:
            there = await self._core.lanes.read(due.key)
            session = there.sessions.get(session_id)
            if session is None or session.active_ms == active_ms:
                self._core.owners.pop((due.key.tenant, session_id), None)
                for listener in self._core.on_session_removed:
                    listener(due.key.tenant, session_id)

    async def _erase(self, due: Due, sweep: Sweep) -> None:
        """Erase an idle user as `refresh` does, unless something was written meanwhile.

        A document that is added at this very moment stays, be it the only thing that does. The others go after the
        record here, which alone can tell whether the user is idle: should the process end in between, the next sweep
        finds documents of nobody.
        """
        idle_ms = sweep.at_ms - self._retention.of(due.key.tenant).idle_users
        if await self._documents.written_ms(due.key) >= idle_ms:
            return  # since the look
        operation = EraseUser(at_ms=self._core.clock.now_ms(), only=due.version)
        _, committed = await self._core.lanes.write(due.key, operation)
        if committed is None or committed.version.epoch == due.version.epoch:
            return
        removed = removed_by(committed)
        sweep.counts.users += 1
        sweep.counts.messages += removed.messages
        sweep.counts.sessions += removed.sessions
        sweep.counts.interruptions += removed.interruptions
        sweep.passed -= 1  # the others move up
        for listener in self._core.on_erased:
            listener(due.key)
        self.note("retention erase", due.key.tenant, [("user", *due.key)])
        sweep.counts.documents += await self._documents.erase_older(due.key, idle_ms)

    # --- documents -------------------------------------------------------------------------------------

    async def _documents_of(self, tenants: set[str], sweep: Sweep) -> None:
        """Documents of users that are too old, and those of users of whom nothing else is there and who are idle."""
        async for key, documents in self._documents.owned(tenants):
            await self._go_on(sweep)
            try:
                await self._documents_of_user(key, documents, sweep)
            except Exception as error:  # the top of one user's part
                await self._pass_over(key, error, sweep)

    async def _documents_of_user(self, key: UserKey, documents: list[OwnedDocument], sweep: Sweep) -> None:
        rules = self._retention.of(key.tenant)
        if rules.idle_users and max(each.written_ms for each in documents) < sweep.at_ms - rules.idle_users:
            due = await self._due(key, sweep) if sweep.dry_run else None
            if due is not None and due.erase:
                return  # they were counted with their user
            record = await self._core.store.load(key, window=1, open_after_ms=1 << 62, sessions_max=0)
            if record.version.revision == 0 and not record.partial:
                before_ms = sweep.at_ms - rules.idle_users
                erased = (
                    len(documents) if sweep.dry_run else await self._documents.erase_older(key, before_ms)
                )
                sweep.counts.documents += erased
                return
        if not rules.documents:
            return
        old = [each for each in documents if each.added_ms < sweep.at_ms - rules.documents]
        for document in old:
            sweep.counts.documents += sweep.dry_run or await self._documents.remove(key, document.id)
