"""What of one user the rules name: looked up, counted, and not changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from samvad.errors import StoreUnavailable
from samvad.records import StoredSession, UserKey, Version
from samvad.retention.rules import Rules
from samvad.stores.base import Store, engine_of

_MESSAGES_FIRST: Final = 100  # mostly they tell enough
_MESSAGES_PER_PAGE: Final = 1_000
_PAGE_BYTES: Final = 1024 * 1024
_INTERRUPTIONS_MAX: Final = 1_000_000  # of one session
_EVER_MS: Final = 1 << 62


@runtime_checkable
class Retaining(Protocol):
    """What a store may offer beside the Store protocol, so that less must be read."""

    async def interruptions_before(self, user: UserKey, before_ms: int) -> int:
        """How many recorded interruptions of a user are from before a moment."""
        ...

    async def newest_ms(self) -> int | None:
        """The newest time at which somebody wrote; None where nobody has."""
        ...


class Counts(msgspec.Struct):
    """How much went, or would go."""

    users: int = 0
    messages: int = 0
    sessions: int = 0
    interruptions: int = 0
    documents: int = 0

    def add(self, other: Counts) -> None:
        """Add these."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def any(self) -> bool:
        """Whether it is anything."""
        return any(msgspec.structs.astuple(self))


class Due(msgspec.Struct, frozen=True):
    """What is due of one user, who had `version` then: all of it (`erase`), or what stands in the other fields."""

    key: UserKey
    version: Version
    trimmed: int
    counts: Counts
    erase: bool = False
    before_seq: int = 0
    said_before_ms: int = 0
    interruptions_before_ms: int = 0
    sessions: tuple[tuple[str, int], ...] = ()


class Looker:
    """Looks users up. `session_idle_ms`: after so long without activity a session counts as ended."""

    def __init__(self, store: Store, session_idle_ms: int) -> None:
        self._store = store
        self._session_idle_ms = session_idle_ms
        self._counts_itself = hasattr(engine_of(store), "interruptions_before")
        self.between: Callable[[], Awaitable[None]] | None = None  # awaited now and then in a long look

    async def due(
        self, key: UserKey, rules: Rules, now_ms: int, written_ms: int = 0, counting: bool = True
    ) -> Due | None:
        """What is due of a user; None if nothing is. `written_ms`: when a document of theirs was last changed.

        Without `counting`, nothing is read only to be counted: the counts then tell whether there is anything, and who
        does it tells how much that was. StoreUnavailable where the store cannot be asked.
        """
        store = self._store
        record = await store.load(key, window=1, open_after_ms=_EVER_MS, sessions_max=0)
        if record.partial:
            raise StoreUnavailable
        if record.version.revision == 0:
            return None
        sessions: list[StoredSession] | None = None
        if rules.idle_users:
            before_ms = now_ms - rules.idle_users
            times = [written_ms]
            times += [record.state.updated_ms] if record.state is not None else []
            times += [record.profile.updated_ms] if record.profile is not None else []
            if 0 < max(times) < before_ms:  # 0: nobody noted when that was
                sessions = await store.sessions(key, open_after_ms=None)
                idle = all(max(s.active_ms, s.ended_ms or 0) < before_ms for s in sessions)
                recorded = await self._recorded_before(key, _EVER_MS, sessions) if idle else 0
                if idle and recorded == await self._recorded_before(key, before_ms, sessions):
                    counts = Counts(1, record.seq - record.trimmed, len(sessions), recorded)
                    return Due(key, record.version, record.trimmed, counts, erase=True)
        counts = Counts()
        before_seq = max(record.trimmed + 1, record.seq - rules.messages + 1 if rules.messages else 0)
        if rules.message_age:
            before_seq = await self._first_kept(key, before_seq, record.seq, now_ms - rules.message_age)
        counts.messages = before_seq - 1 - record.trimmed
        if (rules.sessions or rules.interruptions) and sessions is None:
            sessions = await store.sessions(key, open_after_ms=None)
        ended = self._ended(sessions or [], now_ms - rules.sessions, now_ms) if rules.sessions else []
        interruptions_before_ms = now_ms - rules.interruptions if rules.interruptions else 0
        if interruptions_before_ms:
            counts.interruptions = await self._recorded_before(key, interruptions_before_ms, sessions or [])
        old_ms = interruptions_before_ms if counts.interruptions else 0
        for session in ended:
            counts.sessions += 1
            if not counting:
                continue
            kept = await store.interruptions(key.tenant, session.id, _INTERRUPTIONS_MAX)
            counts.interruptions += sum(each.at_ms >= old_ms for each in kept)
        if not counts.any:
            return None
        return Due(
            key,
            record.version,
            record.trimmed,
            counts,
            before_seq=before_seq if counts.messages else 0,
            said_before_ms=now_ms - rules.message_age if rules.message_age else 0,
            interruptions_before_ms=old_ms,
            sessions=tuple([(session.id, session.active_ms) for session in ended]),
        )

    async def _first_kept(self, key: UserKey, first: int, last: int, before_ms: int) -> int:
        """The seq of the first message from `first` on that is not from before the moment."""
        limit = _MESSAGES_FIRST
        while first <= last:
            messages, _ = await self._store.page(
                key, after=first - 1, before=last + 1, limit=limit, bytes_max=_PAGE_BYTES
            )
            for message in messages:
                if message.at_ms >= before_ms:
                    return message.seq
            if not messages:
                break  # erased or trimmed meanwhile
            first, limit = messages[-1].seq + 1, _MESSAGES_PER_PAGE
            if self.between is not None:
                await self.between()
        return first

    def _ended(self, sessions: list[StoredSession], before_ms: int, now_ms: int) -> list[StoredSession]:
        """The sessions that had ended before a moment, by themselves or because nobody used them any more."""
        found = []
        for session in sessions:
            ended_ms = session.ended_ms
            if ended_ms is None:
                if session.active_ms <= 0:  # nobody noted when that was
                    continue
                ended_ms = session.active_ms + self._session_idle_ms
                if ended_ms > now_ms:
                    continue
            if ended_ms < before_ms:
                found.append(session)
        return found

    async def _recorded_before(self, key: UserKey, before_ms: int, sessions: list[StoredSession]) -> int:
        if self._counts_itself:
            store: Any = self._store
            return int(await store.interruptions_before(key, before_ms))
        count = 0
        for session in sessions:
            kept = await self._store.interruptions(key.tenant, session.id, _INTERRUPTIONS_MAX)
            count += sum(each.at_ms < before_ms for each in kept)
        return count
