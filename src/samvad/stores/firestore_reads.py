"""What the Firestore store reads. Each answer is of one moment: what follows the head is read as of its time,
and read again with a new head where it turns out to be newer than the head (the emulator is not exact there).

Reads of documents (missing ones are billed too):
load: the head; then, all at once, the state if there is one, the segments that the window reaches into (none
for up to 100 ordinary messages in the tail, one else) and the open sessions that were used lately.
page: the head, and the segments that the page lies in. session: its document and its owner's head.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import msgspec

from samvad.records import (
    Erasure,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredReceipt,
    StoredSession,
    StoredState,
    UserKey,
    UserRecord,
    Version,
)
from samvad.stores import firestore_documents as documents
from samvad.stores import firestore_head as heads
from samvad.stores import firestore_names as names_of
from samvad.stores.firestore_client import BoundedClient, Found
from samvad.stores.firestore_head import Head, Torn, of_moment
from samvad.stores.firestore_history import History
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_plan import Facts
from samvad.stores.firestore_queries import query

_T = TypeVar("_T")


class Reader:
    """Reads one database. `session_lag_ms` is by how much a session's document may lag behind the head."""

    def __init__(self, client: BoundedClient, names: Names, session_lag_ms: int) -> None:
        self._client = client
        self._names = names
        self._history = History(client, names)
        self._lag_ms = session_lag_ms

    # --- heads -----------------------------------------------------------------------------------------

    async def head(self, user: UserKey, deadline: float) -> tuple[Head, Any]:
        """The user's head, and the moment of which it is: 1 read, 2 or 3 for a user that is not there."""
        name = self._names.head(user)
        found = await self._client.get([name], deadline)
        document = found.documents[name]
        head = None if document is None else heads.head_from(user, document)
        if head is not None and not head.older:
            return head, found.read_time
        erasure, state = self._names.erasure(user), self._names.state(user)
        wanted = [erasure, state] if user.tenant == names_of.DEFAULT_TENANT else [erasure]
        beside = (await self._client.get(wanted, deadline, read_time=found.read_time)).documents
        older = beside.get(state)
        older_state = None if older is None else documents.older_state(older)
        fence = beside[erasure]
        epoch = 0 if fence is None else fence.fields["epoch"].integer_value
        fenced = None if fence is None else fence.update_time
        erased = Erasure() if fence is None else heads.erasure_from(fence)
        if head is None:
            return heads.absent(epoch, fenced, older_state, erased), found.read_time
        head = msgspec.structs.replace(
            head, epoch=epoch, erasure_time=fenced, erased=erased, older_state=older_state
        )
        if older_state is not None:
            head = msgspec.structs.replace(head, state_ms=older_state.updated_ms)
        return head, found.read_time

    async def facts(
        self,
        user: UserKey,
        head: Head,
        *,
        sessions: set[str],
        interruptions: set[str],
        unproven: set[str],
        trims: set[int],
        old_interruptions: set[int],
        deadline: float,
    ) -> Facts:
        """What a plan must know: the documents of some sessions, the names of their interruptions, and known ids."""
        facts = Facts()
        life = names_of.life(user, head.epoch)
        if sessions:
            by_name = {self._names.session(user.tenant, each): each for each in sessions}
            found = await self._client.get(by_name, deadline)
            for name, document in found.documents.items():
                facts.sessions[by_name[name]] = document
            for session_id, document in facts.sessions.items():
                others = document is not None and document.fields["life"].string_value != life
                if others and await self._is_anothers(user, document, deadline):
                    facts.foreign.add(session_id)
        for session_id in interruptions:
            place = documents.session_place(life, session_id)
            wanted = query("interruptions", ("place", "EQUAL", place), only_names=True)
            kept = await self._client.query(self._names.root, wanted, deadline)
            facts.interruptions[session_id] = [document.name for document in kept]
        if unproven and (head.segments or head.segments_more):
            facts.ids = await self._history.seqs_of(user, head, sorted(unproven), deadline)
        if trims and (head.segments or head.segments_more):
            facts.segments = await self._history.in_front_of(user, head, max(trims), deadline)
            cut = {s for s in facts.segments for before in trims if s.first < before <= s.last}
            facts.cut = {s.name: await self._history.messages_of(s, deadline) for s in cut}
        for before_ms in old_interruptions:
            wanted = self._interruptions_before(life, before_ms, only_names=True)
            kept = await self._client.query(self._names.root, wanted, deadline)
            facts.old_interruptions[before_ms] = [document.name for document in kept]
        return facts

    @staticmethod
    def _interruptions_before(life: str, before_ms: int, *, only_names: bool = False) -> Any:
        old = ("atMs", "LESS_THAN", before_ms)
        return query("interruptions", ("life", "EQUAL", life), old, only_names=only_names)

    async def interruptions_before(self, user: UserKey, before_ms: int) -> int:
        """See Retaining.interruptions_before."""
        deadline = self._client.deadline()
        head, _ = await self.head(user, deadline)
        if not head.there:
            return 0
        wanted = self._interruptions_before(names_of.life(user, head.epoch), before_ms)
        return (await self._client.aggregate(wanted, deadline))["count"]

    async def _is_anothers(self, user: UserKey, document: Any, deadline: float) -> bool:
        """Whether a session's document belongs to another user who is (still) there."""
        owner = UserKey(user.tenant, document.fields["userId"].string_value)
        if owner == user or "life" not in document.fields:
            return owner != user
        return await self._owner_head(owner, document, deadline) is not None

    async def _owner_head(
        self, owner: UserKey, document: Any, deadline: float, read_time: Any = None
    ) -> Head | None:
        """The head of the user in whose life a document was written, if that life goes on."""
        name = self._names.head(owner)
        found = await self._client.get([name], deadline, read_time=read_time)
        there = found.documents[name]
        if there is None:
            return None
        head = heads.head_from(owner, there)
        alive = document.fields["life"].string_value == names_of.life(owner, head.epoch)
        return head if alive else None

    async def newest_ms(self) -> int | None:
        """See Retaining.newest_ms: when the newest head was written, as Firestore's own clock has it; 1 read."""
        wanted = query("user_profiles", order=[("changedAt", "DESCENDING")], limit=1)
        wanted.select.fields.add().field_path = "changedAt"
        found = await self._client.query(self._names.root, wanted, self._client.deadline())
        return max(
            [each.fields["changedAt"].timestamp_value.ToMilliseconds() for each in found], default=None
        )

    # --- records ---------------------------------------------------------------------------------------

    async def load(self, user: UserKey, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        """See Store.load."""
        return (await self.load_with_head(user, window, open_after_ms, sessions_max))[0]

    async def load_with_head(
        self, user: UserKey, window: int, open_after_ms: int, sessions_max: int
    ) -> tuple[UserRecord, Head]:
        """A user's record, and the head that it was made of."""
        return await self._whole(
            lambda deadline: self._load(user, window, open_after_ms, sessions_max, deadline)
        )

    async def _whole(self, read: Callable[[float], Awaitable[_T]]) -> _T:
        """What `read` answers once it is of one moment."""
        deadline = self._client.deadline()
        while True:
            try:
                return await read(deadline)
            except Torn:
                await self._client.give_way(0, deadline)

    async def _load(
        self, user: UserKey, window: int, open_after_ms: int, sessions_max: int, deadline: float
    ) -> tuple[UserRecord, Head]:
        head, read_time = await self.head(user, deadline)
        if not head.there:
            return UserRecord(Version(head.epoch, 0), erased=head.erased), head
        first = max(head.trimmed, head.seq - window) + 1
        state, sessions, sealed = await asyncio.gather(
            self._state(user, head, deadline, read_time),
            self._open_sessions(user, head, open_after_ms, sessions_max + 1, deadline, read_time),
            self._history.between(user, head, first, head.tail_first - 1, deadline, read_time),
        )
        messages = (*sealed, *head.tail)[-window:]
        record = UserRecord(
            version=Version(head.epoch, head.revision),
            seq=head.seq,
            state=state,
            profile=head.profile,
            early=messages,
            sessions={session.id: session for session in sessions[:sessions_max]},
            sessions_complete=len(sessions) <= sessions_max,
            applied={replica: number for replica, (number, _) in head.applied.items()},
            erased=head.erased,
            trimmed=head.trimmed,
        )
        return record, head

    async def _state(self, user: UserKey, head: Head, deadline: float, read_time: Any) -> StoredState | None:
        if head.state_ms is None or head.older:
            return head.older_state
        name = self._names.state(user)
        found = await self._client.get([name], deadline, read_time=read_time)
        return documents.state_from(of_moment(found.documents[name], head))

    # --- messages --------------------------------------------------------------------------------------

    async def page(
        self, user: UserKey, after: int | None, before: int | None, limit: int, bytes_max: int
    ) -> tuple[list[StoredMessage], bool]:
        """See Store.page."""

        async def read(deadline: float) -> tuple[list[StoredMessage], bool]:
            head, read_time = await self.head(user, deadline)
            return await self._history.page(user, head, after, before, limit, bytes_max, deadline, read_time)

        return await self._whole(read)

    # --- sessions --------------------------------------------------------------------------------------

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        """See Store.session."""
        deadline = self._client.deadline()
        found = await self._living_session(tenant, session_id, deadline)
        return None if found is None else found[0]

    async def _living_session(
        self, tenant: str, session_id: str, deadline: float
    ) -> tuple[StoredSession, str, Any] | None:
        """A session as it is now, the life that it belongs to, and the moment of which this is true."""
        name = self._names.session(tenant, session_id)
        found = await self._client.get([name], deadline)
        document = found.documents[name]
        if document is None or "life" not in document.fields:
            return None
        stored = documents.session_from(document)
        owner = UserKey(tenant, stored.user_id)
        head = await self._owner_head(owner, document, deadline, found.read_time)
        if head is None:
            return None
        return _as_used(stored, head), document.fields["life"].string_value, found.read_time

    async def sessions(self, user: UserKey, open_after_ms: int | None) -> list[StoredSession]:
        """See Store.sessions."""
        return await self._whole(lambda deadline: self._sessions(user, open_after_ms, deadline))

    async def _sessions(
        self, user: UserKey, open_after_ms: int | None, deadline: float
    ) -> list[StoredSession]:
        head, read_time = await self.head(user, deadline)
        if not head.there:
            return []
        if open_after_ms is not None:
            return await self._open_sessions(user, head, open_after_ms, None, deadline, read_time)
        wanted = query("sessions", ("life", "EQUAL", names_of.life(user, head.epoch)))
        found = await self._client.query(self._names.root, wanted, deadline, read_time=read_time)
        return _newest_first(_as_used(documents.session_from(each), head) for each in found)

    async def _open_sessions(
        self,
        user: UserKey,
        head: Head,
        open_after_ms: int,
        limit: int | None,
        deadline: float,
        read_time: Any,
    ) -> list[StoredSession]:
        if head.sessions_more:
            wanted = query(
                "sessions",
                ("life", "EQUAL", names_of.life(user, head.epoch)),
                ("open", "EQUAL", True),
                ("activeMs", "GREATER_THAN", open_after_ms - self._lag_ms),
                order=[("activeMs", "DESCENDING")],
                limit=limit,
            )
            found = await self._client.query(self._names.root, wanted, deadline, read_time=read_time)
            if len(found) == limit:  # one whose document lags behind may have been left out
                there = {document.fields["sessionId"].string_value for document in found}
                used = {name for name, each in head.sessions.items() if each.active_ms > open_after_ms}
                found += await self._sessions_by_id(user, head, used - there, deadline, read_time)
        else:
            newest = [
                (-s.active_ms, name) for name, s in head.sessions.items() if s.active_ms > open_after_ms
            ]
            names = [name for _, name in sorted(newest)[:limit]]
            found = await self._sessions_by_id(user, head, names, deadline, read_time)
        sessions = _newest_first(_as_used(documents.session_from(each), head) for each in found)
        return [session for session in sessions if session.active_ms > open_after_ms]

    async def _sessions_by_id(
        self, user: UserKey, head: Head, session_ids: Collection[str], deadline: float, read_time: Any
    ) -> list[Any]:
        if not session_ids:
            return []
        names = [self._names.session(user.tenant, session_id) for session_id in session_ids]
        found = await self._client.get(names, deadline, read_time=read_time)
        return [of_moment(document, head) for document in found.documents.values()]

    async def interruptions(self, tenant: str, session_id: str, limit: int) -> list[StoredInterruption]:
        """See Store.interruptions."""
        deadline = self._client.deadline()
        found = await self._living_session(tenant, session_id, deadline)
        if found is None:
            return []
        _, life, read_time = found
        wanted = query(
            "interruptions",
            ("place", "EQUAL", documents.session_place(life, session_id)),
            order=[("atMs", "DESCENDING"), ("id", "DESCENDING")],
            limit=limit,
        )
        kept = await self._client.query(self._names.root, wanted, deadline, read_time=read_time)
        return [documents.interruption_from(each) for each in kept]

    # --- the rest --------------------------------------------------------------------------------------

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        """See Store.receipt."""
        name = self._names.receipt(key)
        found: Found = await self._client.get([name], self._client.deadline())
        document = found.documents[name]
        return None if document is None else documents.receipt_from(key, document)

    async def stats(self, tenant: str, active_after_ms: int, open_after_ms: int) -> Stats:
        """See Store.stats. Six queries, each a read for a thousand of what it counts."""
        deadline = self._client.deadline()
        count = self._client.aggregate
        mine = ("tenant", "EQUAL", tenant)
        recent = ("activeMs", "GREATER_THAN", active_after_ms)
        used = ("activeMs", "GREATER_THAN", open_after_ms)
        everyone, trimmed, active, profiles, sessions, interruptions = await asyncio.gather(
            count(query("user_profiles", mine), deadline, sums=["seq"]),
            count(query("user_profiles", mine), deadline, sums=["trimmed"]),
            count(query("user_profiles", mine, recent), deadline),
            count(query("user_profiles", mine, ("hasProfile", "EQUAL", True)), deadline),
            count(query("sessions", mine, ("open", "EQUAL", True), used), deadline),
            count(query("interruptions", mine), deadline),
        )
        return Stats(
            active_users=active["count"],
            active_sessions=sessions["count"],
            total_profiles=profiles["count"],
            total_interruptions=interruptions["count"],
            total_messages=everyone["seq"] - trimmed["trimmed"],
            total_users=everyone["count"],
        )

    async def users(self, tenant: str, after: str, limit: int) -> list[str]:
        """See Store.users. A profile of the older layout is listed once it has been carried over."""
        wanted = query(
            "user_profiles",
            ("tenant", "EQUAL", tenant),
            ("userId", "GREATER_THAN", after),
            order=[("userId", "ASCENDING")],
            limit=limit,
        )
        wanted.select.fields.add().field_path = "userId"
        found = await self._client.query(self._names.root, wanted, self._client.deadline())
        return [document.fields["userId"].string_value for document in found]


def _as_used(session: StoredSession, head: Head) -> StoredSession:
    """A session with the activity that the head knows of."""
    listed = head.sessions.get(session.id)
    if listed is None:
        return session
    return msgspec.structs.replace(session, active_ms=listed.active_ms)


def _newest_first(sessions: Any) -> list[StoredSession]:
    return sorted(sessions, key=lambda session: (-session.active_ms, session.id))
