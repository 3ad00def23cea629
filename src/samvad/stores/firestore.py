"""The Firestore store: commits of a user in one lane, each lane's waiting commits as one atomic batch.

Documents: `user_profiles/{user}` is the head (see firestore_head), `user_profiles/{user}/history/{segment}`
the sealed messages, `user_states/{user}`, `sessions/{session}`, `interruptions/{id}`, `receipts/{key}`,
`erasures/{hash}`, `purges/{hash}-{epoch}`, `strays/{hash}-…` (see firestore_erasing).

Where an answer does not come, the head tells what became of the batch (see firestore_commits); only where that
cannot be found out either is StoreUnavailable raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

from samvad import limits
from samvad.clock import Clock, SystemClock
from samvad.errors import (
    Overloaded,
    SamvadError,
    SetupError,
    ShuttingDown,
    StoreUnavailable,
    Unavailable,
)
from samvad.records import (
    Commit,
    Committed,
    Erased,
    MessagesAdded,
    SessionSet,
    StateSet,
    Stats,
    StoredInterruption,
    StoredMessage,
    StoredReceipt,
    StoredSession,
    UserKey,
    UserRecord,
)
from samvad.stores import firestore_documents as documents
from samvad.stores.base import Capabilities, HealthReport, Notice
from samvad.stores.carrying import KeysFound, OwnedReceipt, StoredErasure
from samvad.stores.firestore_carrying import Carrier
from samvad.stores.firestore_client import (
    BoundedClient,
    CommitRefused,
    Operations,
)
from samvad.stores.firestore_commits import Committer, Result
from samvad.stores.firestore_erasing import Eraser
from samvad.stores.firestore_listening import Listener
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_notes import FirestoreNotes
from samvad.stores.firestore_queries import QueryShape
from samvad.stores.firestore_reads import Reader
from samvad.stores.shared_notes import SharedNotes

CALL_TIMEOUT_S: Final = 10.0
ATTEMPT_TIMEOUT_S: Final = 4.0
ATTEMPTS_MAX: Final = 8  # with the pauses between them about 2 s, where they are refused at once
SESSION_LAG_S: Final = 300.0
REQUEST_BYTES_MAX: Final = 3 * 1024 * 1024  # the emulator takes 4 MiB, Firestore 10
GROUP_BYTES_MAX: Final = 2 * 1024 * 1024
GROUP_COMMITS_MAX: Final = 100
HEADS_BYTES_MAX: Final = 64 * 1024 * 1024
_OPEN_TIMEOUT_S: Final = 1.0  # a server that starts while Firestore is away serves after this
_PROBE_AFTER_S: Final = 30.0
_SWEEP_EVERY_S: Final = 600.0

_log = logging.getLogger(__name__)

_Waiting = tuple[Commit, "asyncio.Future[Committed]", int]


class FirestoreStore:
    """Conversations in one Firestore database.

    `call_timeout_s` bounds every call in total, `attempts_max` and `attempt_timeout_s` the attempts of it: where a
    flusher stands in front, which comes again by itself, two attempts are enough. `session_lag_s` is by how much
    the activity in a session's own document may lag behind: reads of sessions and users know better, the count of
    open sessions in `stats` does not. `emulator_host` stands for FIRESTORE_EMULATOR_HOST.
    """

    name = "firestore"
    capabilities = Capabilities(durable=True, shared=True, tells=True)

    def __init__(
        self,
        project: str,
        database: str | None = None,
        *,
        clock: Clock | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        attempts_max: int = ATTEMPTS_MAX,
        session_lag_s: float = SESSION_LAG_S,
        emulator_host: str | None = None,
    ) -> None:
        self.project = project
        self._clock = clock or SystemClock()
        self._names = Names(project, database or "(default)")
        self._client = BoundedClient(
            self._names,
            call_timeout_s=call_timeout_s,
            attempt_timeout_s=attempt_timeout_s,
            attempts_max=attempts_max,
            emulator_host=emulator_host,
        )
        lag_ms = round(session_lag_s * 1000)
        self._reader = Reader(self._client, self._names, lag_ms)
        self._eraser = Eraser(self._client, self._names)
        self._carrier = Carrier(self._client, self._names)
        self._listener = Listener(self._client, self._names)
        self._committer = Committer(self._client, self._names, self._reader, self._eraser, lag_ms)
        self._lanes: dict[UserKey, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._queued = 0
        self._queued_bytes = 0
        self._open = False
        self._fault_ms: int | None = None
        self._swept_s = float("-inf")

    @property
    def client(self) -> BoundedClient:
        """The calls to the database, for what else is kept in it."""
        return self._client

    @property
    def names(self) -> Names:
        """The paths of the database."""
        return self._names

    @property
    def place(self) -> str:
        """Which database this is, as its URL; the same one is called the same."""
        project, _, database = self._names.database.removeprefix("projects/").partition("/databases/")
        return f"firestore://{project}" + ("" if database == "(default)" else f"/{database}")

    @property
    def operations(self) -> Operations:
        """What was read, written and deleted, as it is billed, and the calls made for it."""
        return self._client.operations

    @property
    def billed(self) -> tuple[int, int, int, int]:
        """Documents read, written and deleted, as it is billed, and the messages that these writes brought."""
        done = self._client.operations
        return done.reads, done.writes, done.deletes, self._committer.messages_written

    @property
    def query_shapes(self) -> set[QueryShape]:
        """The shapes of all queries made so far: each needs its index."""
        return self._client.shapes

    # --- life ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. A database that does not answer is no error: it may come back; one that refuses is."""
        self._client.open()
        self._open = True
        try:
            await self._client.get([self._names.probe()], self._client.deadline(_OPEN_TIMEOUT_S))
        except StoreUnavailable as error:
            if self._client.misconfigured:
                await self.close()
                raise SetupError(error.message) from error
            _log.warning("Firestore does not answer yet: %s", error.message)

    async def close(self) -> None:
        self._open = False
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._client.close()
        self._committer.forget_all()

    # --- writing ---------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        size = _size_bytes(commit)
        if not self._open:
            future.set_exception(ShuttingDown())
        elif self._queued >= limits.COMMITS_QUEUED_MAX or (
            self._queued and self._queued_bytes + size > limits.COMMIT_BYTES_QUEUED_MAX
        ):
            future.set_exception(Overloaded())
        else:
            self._queued += 1
            self._queued_bytes += size
            lane = self._lanes.get(commit.user)
            if lane is None:
                lane = self._lanes[commit.user] = deque()
                task = asyncio.create_task(self._run(commit.user, lane))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            lane.append((commit, future, size))
        return future

    @property
    def commits_queued(self) -> int:
        """How many commits wait for Firestore."""
        return self._queued

    async def _run(self, user: UserKey, lane: deque[_Waiting]) -> None:
        """Write what waits for a user, until nothing does."""
        while lane:
            group = _next_group(lane)
            commits = [commit for commit, _, _ in group]
            results: Sequence[Result]
            try:
                if _erases(commits[0]):
                    results = [await self._committer.erase(commits[0])]
                else:
                    results = await self._committer.write(user, commits)
            except SamvadError as error:
                results = [error] * len(group)
                if isinstance(error, Unavailable):
                    self._committer.forget(user)
                    group += lane  # what waits was built on what has just failed
                    results = [error] * len(group)
                    lane.clear()
            except Exception as error:  # the top of the task: a fault of ours must not leave callers waiting
                _log.exception("a batch failed")
                self._committer.forget(user)
                fault = SamvadError(f"The store failed ({type(error).__name__}); please report this.")
                results = [fault] * len(group)
            for (_, future, size), result in zip(group, results, strict=True):
                self._queued -= 1
                self._queued_bytes -= size
                if future.done():
                    continue
                if isinstance(result, SamvadError):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        del self._lanes[user]

    # --- reading ---------------------------------------------------------------------------------------

    async def load(self, user: UserKey, *, window: int, open_after_ms: int, sessions_max: int) -> UserRecord:
        record, head = await self._reader.load_with_head(user, window, open_after_ms, sessions_max)
        if user not in self._lanes:
            self._committer.remember(user, head)
        return record

    async def page(
        self, user: UserKey, *, after: int | None, before: int | None, limit: int, bytes_max: int
    ) -> tuple[list[StoredMessage], bool]:
        return await self._reader.page(user, after, before, limit, bytes_max)

    async def session(self, tenant: str, session_id: str) -> StoredSession | None:
        return await self._reader.session(tenant, session_id)

    async def sessions(self, user: UserKey, *, open_after_ms: int | None) -> list[StoredSession]:
        return await self._reader.sessions(user, open_after_ms)

    async def interruptions(self, tenant: str, session_id: str, limit: int) -> list[StoredInterruption]:
        return await self._reader.interruptions(tenant, session_id, limit)

    async def interruptions_before(self, user: UserKey, before_ms: int) -> int:
        return await self._reader.interruptions_before(user, before_ms)

    async def newest_ms(self) -> int | None:
        return await self._reader.newest_ms()

    async def receipt(self, key: bytes) -> StoredReceipt | None:
        return await self._reader.receipt(key)

    async def stats(self, tenant: str, *, active_after_ms: int, open_after_ms: int) -> Stats:
        return await self._reader.stats(tenant, active_after_ms, open_after_ms)

    async def users(self, tenant: str, *, after: str, limit: int) -> list[str]:
        return await self._reader.users(tenant, after, limit)

    @property
    def notes(self) -> SharedNotes:
        """What all replicas see beside the conversations."""
        return FirestoreNotes(self._client, self._names)

    # --- carrying to another store ---------------------------------------------------------------------

    async def keys(self, *, after: str = "", limit: int) -> KeysFound:
        return await self._carrier.keys(after, limit)

    async def erasures(self, *, after: bytes = b"", limit: int) -> list[StoredErasure]:
        return await self._carrier.erasures(after, limit)

    async def keep_erasures(self, erasures: Sequence[StoredErasure]) -> None:
        await self._carrier.keep_erasures(erasures)
        self._committer.forget_all()  # what is remembered of users who are not there names their epochs

    async def receipts(self, *, after: bytes = b"", limit: int) -> list[OwnedReceipt]:
        return await self._carrier.receipts(after, limit)

    async def keep_receipts(self, receipts: Sequence[OwnedReceipt]) -> None:
        await self._carrier.keep_receipts(receipts)

    def changes(self) -> AsyncIterator[Notice]:
        """See TellsChanges. Each change costs a read, this process's own as well."""
        return self._listener.notices()

    # --- upkeep ----------------------------------------------------------------------------------------

    async def expire(self, *, receipts_before_ms: int) -> int:
        """Forget old receipts (Firestore's TTL does so too), and finish purges that were cut short."""
        if self._eraser.left_over or self._clock.monotonic_s() - self._swept_s >= _SWEEP_EVERY_S:
            await self._eraser.sweep()
            self._swept_s = self._clock.monotonic_s()
        return await self._eraser.expire_receipts(receipts_before_ms)

    async def check(self) -> HealthReport:
        if not self._open:
            return HealthReport(False, "closed")
        client = self._client
        quiet_s = asyncio.get_running_loop().time() - client.answered_s
        if client.fault is not None or quiet_s > _PROBE_AFTER_S:
            probe = documents.delete_write(self._names.probe())
            try:
                await client.commit_surely([probe], client.deadline(client.attempt_timeout_s))
            except (SamvadError, CommitRefused) as error:
                self._fault_ms = self._fault_ms or self._clock.now_ms()
                if client.misconfigured and isinstance(error, SamvadError):
                    return HealthReport(False, error.message, self._fault_ms, refused=True)
                return HealthReport(False, client.fault or "refused", self._fault_ms)
        self._fault_ms = None
        return HealthReport(True)


def _next_group(lane: deque[_Waiting]) -> list[_Waiting]:
    """The commits at the start of a lane that can be one batch; an erasing is one by itself."""
    group = [lane.popleft()]
    size = group[0][2]
    if _erases(group[0][0]):
        return group
    while lane and len(group) < GROUP_COMMITS_MAX and not _erases(lane[0][0]):
        size += lane[0][2]
        if size > GROUP_BYTES_MAX:
            break
        group.append(lane.popleft())
    return group


def _erases(commit: Commit) -> bool:
    return any(isinstance(change, Erased) for change in commit.changes)


def _size_bytes(commit: Commit) -> int:
    size = 0
    for change in commit.changes:
        if isinstance(change, MessagesAdded):
            size += sum(len(message.body) for message in change.messages)
        elif isinstance(change, StateSet):
            size += len(change.state.body)
        elif isinstance(change, SessionSet):
            size += len(change.session.body)
    return size
