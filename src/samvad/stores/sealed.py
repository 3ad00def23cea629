"""A store that keeps nothing in clear: any engine, with `sealing` around what goes in and comes out.

It is a Store by composition, behind the journal and in front of the engine, so that each engine keeps what it is given.
Commits reach the engine in the order in which they came: those of a user whose key must first be fetched or made wait
in a line of their own, all others pass at once.

An erasing destroys the user's key before the engine is told. Should the process end in between, the erasing is
finished at the next start, or by the next upkeep of any replica; meanwhile nothing of that user can be read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from samvad import limits
from samvad.clock import Clock
from samvad.errors import (
    KeyUnavailable,
    MessageExists,
    Overloaded,
    SamvadError,
    SessionTaken,
    ShuttingDown,
    StaleVersion,
    Unavailable,
    Unreadable,
)
from samvad.logs import user_hash as user_name
from samvad.records import (
    ANY_VERSION,
    Change,
    Commit,
    Committed,
    Erased,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredReceipt,
    StoredSession,
    UserKey,
    UserRecord,
    is_removed_answer,
    user_hash,
)
from samvad.stores import sealing
from samvad.stores.base import Capabilities, HealthReport, Store, awaited, not_open
from samvad.stores.data_key_store import Destroyed
from samvad.stores.data_keys import NO_LIFE, DataKey, DataKeys
from samvad.stores.encrypting import has_keys, keys_are_gone, looks_sealed
from samvad.stores.older_keys import refuse_older
from samvad.stores.sealed_opening import Opened
from samvad.stores.sealing import KeyMissing, Keys
from samvad.stores.sealing_line import SealingLine, erases, sealed_commit, sealing_failed

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
Done = Callable[[Committed | SamvadError], None]
_ABANDONED_AFTER_S: Final = 30.0  # another replica's erasing that is not over by then is finished here
_LARGE_BYTES: Final = 1 << 20
_MESSAGE_MORE_BYTES: Final = 1_024  # that the seal and what stays in clear add to a message, at the most

_replace = msgspec.structs.replace


class SealedStore:
    """`inner` with everything that callers gave sealed, by the keys of `data_keys`.

    What `inner` offers beside the Store protocol (its client, its counters, what `carrying` asks for) is there as it
    is: a backup holds what is sealed.
    """

    capabilities: Capabilities

    def __init__(self, inner: Store, data_keys: DataKeys, *, clock: Clock) -> None:
        self.inner = inner
        self.data_keys = data_keys
        self.name = inner.name
        self.capabilities = inner.capabilities
        self._clock = clock
        self._hand: Callable[[Commit, Done], None] = getattr(inner, "submit", self._commit)
        self._sealing = SealingLine(data_keys, self._hand)
        self._lines: dict[UserKey, deque[tuple[Commit, Done]]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._waiting = 0
        self._seen_erasing_s: dict[UserKey, float] = {}
        self.opened = Opened(data_keys)
        self._open: bool | None = None  # None until it was opened once

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    # --- life ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self.inner.open()
        await self.open_around()

    async def open_around(self) -> None:
        """As `open`, where `inner` is open already."""
        readonly = bool(getattr(self.inner, "readonly", False))
        try:
            if not await has_keys(self.inner) and await looks_sealed(self.inner):
                raise keys_are_gone(self.inner.path)  # type: ignore[attr-defined]
            await self.data_keys.open(new_is_strict=self._is_empty, readonly=readonly)
            await refuse_older(self.inner, self.data_keys.store)
        except BaseException:
            await self.close()
            raise
        self._open = True
        if not readonly:
            await self._finish_erasings()

    async def _is_empty(self) -> bool:
        """Whether nobody is in the store yet, so that nothing in it can be from before encryption was on."""
        keys = getattr(self.inner, "keys", None)
        return keys is not None and not (await keys(limit=1)).keys

    async def close(self) -> None:
        self._open = False
        self._sealing.finish()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.inner.close()
        await self.data_keys.close()

    # --- writing ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many commits wait for a key."""
        return self._waiting

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return awaited(self.submit, commit)

    def submit(self, commit: Commit, done: Done) -> None:
        """As `commit`; `done` is called on the event loop."""
        if not self._open:
            refusal = ShuttingDown() if self._open is False else not_open()
            asyncio.get_running_loop().call_soon(done, refusal)
            return
        line = self._lines.get(commit.user) if self._lines else None
        if line is None:
            if self._sealing.take(commit, done):
                return
            self._sealing.finish()
            line = self._lines[commit.user] = deque()
            self._follow(self._run(commit.user, line))
        if self._waiting >= limits.COMMITS_QUEUED_MAX:
            asyncio.get_running_loop().call_soon(done, Overloaded())
            return
        self._waiting += 1
        line.append((commit, done))

    def _follow(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _commit(self, commit: Commit, done: Done) -> None:
        answer = asyncio.ensure_future(self.inner.commit(commit))
        answer.add_done_callback(lambda answered: done(_result(answered)))

    async def _run(self, user: UserKey, line: deque[tuple[Commit, Done]]) -> None:
        """Hand on what waits for a user's key, in order."""
        while line:
            commit, done = line[0]
            try:
                destroyed = Destroyed()
                if erases(commit):
                    destroyed = await self.data_keys.destroy(commit.user, commit.expected.epoch)
                ready = await self._ready(commit)
            except SamvadError as error:
                self._hand_back(line, done, error)
                continue
            except Exception as error:  # the top of a task: nobody else would hear of it
                self._hand_back(line, done, sealing_failed(error))
                continue
            self._waiting -= 1
            line.popleft()
            if erases(commit):  # what follows waits until it is known which keys there are
                settled = asyncio.Event()
                self._hand(ready, self._then_forget(commit, destroyed, done, settled))
                await settled.wait()
            else:
                self._hand(ready, done)
        del self._lines[user]

    def _hand_back(self, line: deque[tuple[Commit, Done]], done: Done, error: SamvadError) -> None:
        self._waiting -= 1
        line.popleft()
        done(error)

    def _then_forget(self, commit: Commit, destroyed: Destroyed, done: Done, settled: asyncio.Event) -> Done:
        """After an erasing that destroyed the keys: forget them, or, where it was refused, restore them."""
        user, epoch = commit.user, commit.expected.epoch

        async def after(result: Committed | SamvadError) -> None:
            try:
                if isinstance(result, Committed) and result.version.epoch > epoch:
                    await self.data_keys.erased(user, epoch, there=destroyed.there)
                elif isinstance(result, Committed | StaleVersion | MessageExists | SessionTaken):
                    await self._refused(user, epoch, destroyed)
                else:  # it may be erased or not: it will be, by the next try or by upkeep
                    self.data_keys.forget(user_hash(user), epoch)
            except SamvadError as error:
                told = {"code": error.code, "user": user_name(*user)}
                _log.warning("the keys of an erased user are not tidied up yet", extra=told)
            except Exception:  # the top of a task: somebody waits for the answer
                _log.exception("the keys of an erased user are not tidied up yet")
            finally:
                settled.set()
            done(result)

        return lambda result: self._follow(after(result))

    async def _refused(self, user: UserKey, epoch: int, destroyed: Destroyed) -> None:
        record = await self.inner.load(user, window=1, open_after_ms=1 << 62, sessions_max=0)
        if record.version.epoch > epoch:  # another replica has erased them
            await self.data_keys.erased(user, epoch)
        elif destroyed.before is not None:
            await self.data_keys.restore(user, epoch, destroyed.before)

    async def _ready(self, commit: Commit) -> Commit:
        """The commit as the engine is to have it."""
        hashed, epoch = user_hash(commit.user), commit.expected.epoch
        if erases(commit):
            return await self._sealed_in_parts(commit, hashed)
        if not any(sealing.holds_content(change) for change in commit.changes):
            return commit
        key: DataKey | None
        if commit.expected == ANY_VERSION:
            keys = await self.data_keys.keys_of(hashed)
            key = keys[max(keys)] if keys else await self.data_keys.make(hashed, NO_LIFE)
        else:
            key = self.data_keys.cached(hashed, epoch) or await self.data_keys.make(hashed, epoch)
        if key is None:  # this life is being erased
            await self._finish_erasings(commit.user)
            raise StaleVersion
        return sealed_commit(key, hashed, commit)

    async def _sealed_in_parts(self, commit: Commit, hashed: bytes) -> Commit:
        """What comes before the last erasing is erased with it; what comes after it is of the next life."""
        last = max(place for place, change in enumerate(commit.changes) if isinstance(change, Erased))
        erasings = sum(isinstance(change, Erased) for change in commit.changes)
        changes: list[Change] = []
        for place, change in enumerate(commit.changes):
            if not sealing.holds_content(change):
                changes.append(change)
                continue
            key: DataKey | None = sealing.throwaway()
            if place > last:
                key = await self.data_keys.make(hashed, commit.expected.epoch + erasings)
                if key is None:
                    raise StaleVersion
            assert key is not None
            changes.append(sealing.seal(key, hashed, change))
        return _replace(commit, changes=tuple(changes))

    async def _finish_erasings(self, of: UserKey | None = None) -> None:
        """Erase what an erasing that was cut off has left: its keys are destroyed already."""
        found, now_s = await self.data_keys.erasing(), self._clock.monotonic_s()
        self._seen_erasing_s = {user: self._seen_erasing_s.get(user, now_s) for user, _ in found}
        for user, epoch in found:
            if not user.tenant or (user != of and (user in self._lines or self._goes_on(user, now_s))):
                continue  # it is of documents, which finish theirs (knowledge/store_sealed), or it is under way
            try:
                record = await self.inner.load(user, window=1, open_after_ms=1 << 62, sessions_max=0)
                if record.version.epoch <= epoch and record.version.revision:
                    erased = (Erased(self._clock.now_ms()),)
                    answer: Awaitable[Committed] = self.inner.commit(Commit(user, record.version, erased))
                    await answer
                await self.data_keys.erased(user, epoch)
            except (Unavailable, StaleVersion) as error:
                told = {"code": error.code, "user": user_name(*user)}
                _log.warning("an erasing is not finished yet", extra=told)

    def _goes_on(self, user: UserKey, now_s: float) -> bool:
        """Whether another replica may be about to erase; or to put the key back, as the user has written since."""
        return self.capabilities.shared and now_s - self._seen_erasing_s[user] < _ABANDONED_AFTER_S

    # --- reading ---------------------------------------------------------------------------------------

    async def _with_keys(
        self, hashed: bytes, messages: Sequence[StoredMessage], work: Callable[[Keys, bool], _T]
    ) -> _T:
        """Open with a user's keys: the ones in memory, else the newest. A key that is missing twice is gone.

        Where the `messages` among it are large, that is done beside the event loop: 6 MiB take 40 ms.
        """
        large = sum([len(message.body) for message in messages]) > _LARGE_BYTES

        async def opened(keys: Keys, last: bool) -> _T:
            return await asyncio.to_thread(work, dict(keys), last) if large else work(keys, last)

        try:
            return await opened(await self.data_keys.keys_of(hashed), False)
        except KeyMissing:
            return await opened(await self.data_keys.keys_of(hashed, fresh=True), True)

    async def load(self, user: UserKey, *, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        hashed = user_hash(user)
        record, _ = await asyncio.gather(
            self.inner.load(user, window=window, open_after_ms=open_after_ms, sessions_max=sessions_max),
            self.data_keys.keys_of(hashed),
        )
        self.data_keys.retire(hashed, record.version.epoch)
        return await self._with_keys(
            hashed, record.window, lambda keys, last: self._open_record(keys, user, record, last)
        )

    def _open_record(self, keys: Keys, user: UserKey, record: UserRecord, last: bool) -> UserRecord:
        epoch = record.version.epoch
        keys = (
            {epoch: keys[epoch]} if epoch in keys else {}
        )  # what another life's key opens is not of this one
        if not last and not all(sealing.fits(keys, body) for body in _bodies(record)):
            raise KeyMissing  # another replica may have begun this life
        window = self.opened.messages(keys, user, record.window, last)
        return _replace(
            record,
            early=window,
            start=0,
            late=(),
            state=self.opened.state(keys, user, record.state),
            profile=self.opened.profile(keys, user, record.profile),
            sessions={each.id: self.opened.session(keys, user, each) for each in record.sessions.values()},
        )

    async def page(
        self, user: UserKey, *, after: int | None, before: int | None, limit: int, bytes_max: int
    ) -> tuple[list[StoredMessage], bool]:
        room = 2 * bytes_max + limit * _MESSAGE_MORE_BYTES  # sealed, they are larger than they read
        sealed, more = await self.inner.page(user, after=after, before=before, limit=limit, bytes_max=room)
        hashed = user_hash(user)
        found = await self._with_keys(
            hashed, sealed, lambda keys, last: self.opened.messages(keys, user, sealed, last)
        )
        taken = size = 0
        for message in found if after is not None else reversed(found):
            size += len(message.body)
            if taken and size > bytes_max:
                break
            taken += 1
        more = more or taken < len(found)
        return list(found[:taken] if after is not None else found[len(found) - taken :]), more

    async def _opened_session(self, tenant: str, session: StoredSession) -> StoredSession:
        user = UserKey(tenant, session.user_id)
        hashed = user_hash(user)
        opened = self.opened.session(await self.data_keys.keys_of(hashed), user, session)
        if opened.body is sealing.GONE:
            keys = await self.data_keys.keys_of(hashed, fresh=True)
            opened = self.opened.session(keys, user, session)
        return opened

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        session = await self.inner.session(tenant, session_id)
        return None if session is None else await self._opened_session(tenant, session)

    async def sessions(self, user: UserKey, *, open_after_ms: int | None) -> list[StoredSession]:
        found = await self.inner.sessions(user, open_after_ms=open_after_ms)
        return [await self._opened_session(user.tenant, session) for session in found]

    async def interruptions(self, tenant: str, session_id: str, limit: int) -> list[StoredInterruption]:
        opened = []
        for kept in await self.inner.interruptions(tenant, session_id, limit):
            try:
                hashed = sealing.user_of(kept.body) or b""
                keys = await self._keys_for(hashed, kept.body)
                opened.append(sealing.open_interruption(keys, hashed, kept, self.data_keys.strict))
            except KeyMissing:
                continue  # erased: what is left of it goes as soon as it can
            except (Unreadable, TypeError):
                self.opened.note(None, "interruption")
        return opened

    async def _keys_for(self, hashed: bytes, body: bytes) -> Keys:
        if not hashed:
            return {}
        keys = await self.data_keys.keys_of(hashed)
        if not sealing.fits(keys, body):
            keys = await self.data_keys.keys_of(hashed, fresh=True)
        return keys

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        kept = await self.inner.receipt(key)
        if kept is None or not kept.answer:
            return kept
        hashed = sealing.user_of(kept.answer)
        if hashed is None:
            if self.data_keys.strict and not is_removed_answer(kept.answer):
                self.opened.note(None, "receipt")
                raise Unreadable  # somebody put it there: it is not to be answered, nor to be done again
            return kept
        return sealing.open_receipt(await self._keys_for(hashed, kept.answer), hashed, kept)

    # --- what holds no content --------------------------------------------------------------------------

    async def stats(self, tenant: str, *, active_after_ms: int, open_after_ms: int) -> Stats:
        return await self.inner.stats(tenant, active_after_ms=active_after_ms, open_after_ms=open_after_ms)

    async def users(self, tenant: str, *, after: str, limit: int) -> Sequence[str]:
        return await self.inner.users(tenant, after=after, limit=limit)

    async def expire(self, *, receipts_before_ms: int) -> int:
        await self._finish_erasings()
        return await self.inner.expire(receipts_before_ms=receipts_before_ms)

    async def check(self) -> HealthReport:
        try:
            if self.data_keys.fault is not None:
                await self.data_keys.look_again()
        except KeyUnavailable:
            return HealthReport(False, self.data_keys.fault, refused=True)
        return await self.inner.check()


def _bodies(record: UserRecord) -> Iterator[bytes]:
    """What is kept of a user beside messages, but for what is no bytes: that is damaged."""
    bodies = [each.body for each in record.sessions.values()]
    if record.state is not None:
        bodies.append(record.state.body)
    if record.profile is not None:
        bodies.append(record.profile.preferences)
    return (body for body in bodies if isinstance(body, bytes))


def _result(answered: asyncio.Future[Committed]) -> Committed | SamvadError:
    error = answered.exception()
    if error is None:
        return answered.result()
    if isinstance(error, SamvadError):
        return error
    return SamvadError(f"The store failed ({type(error).__name__}); please report this.")
