"""The thread that owns the connection which may write, and the queue in front of it.

Groups form by themselves: what waits while one group is being synced becomes the next. All that one turn of
the event loop brings is handed over as one piece: one wake-up, one group, one answer back to the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import apsw

from samvad import limits
from samvad.clock import Clock
from samvad.errors import DatabaseReplaced, Overloaded, SamvadError, ShuttingDown, StoreUnavailable
from samvad.meters import SyncMeter
from samvad.records import (
    Commit,
    Committed,
    InterruptionAdded,
    MessagesAdded,
    ProfileSet,
    SessionSet,
    StateSet,
)
from samvad.stores.sqlite_guard import FileGuard
from samvad.stores.sqlite_rescue import rescue
from samvad.stores.sqlite_writes import GroupWriter, fold

_log = logging.getLogger(__name__)
_FOLD_AGAIN_S = 0.25
_LOOK_AGAIN_S = (
    1.0  # at the files, where nobody writes: what was acknowledged is saved before the process may end
)

_T = TypeVar("_T")
Done = Callable[[Committed | SamvadError], None]
_Job = tuple[Commit, Done, int] | Callable[[apsw.Connection], None]


class WriterThread:
    """Takes commits on the event loop, writes them in groups in its thread, and answers on the event loop.

    `fault` is why the last group could not be written, and since when (ms since 1970); None if it could.
    `replaced` says that the files no longer are those that are open (see `sqlite_guard`): it stays, and from then on
    nothing is written, and nothing answered but that.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        guard: FileGuard,
        clock: Clock,
        wal_pages_max: int,
        recent_bytes_max: int,
    ) -> None:
        self._guard = guard
        self._clock = clock
        self._wal_pages_max = wal_pages_max
        self._recent_bytes_max = recent_bytes_max
        self._wal_pages = 0
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._gathered: list[_Job] = []
        self._queued_bytes = 0
        self._stopping = False
        self.queued = 0
        self.fault: tuple[str, int] | None = None
        self.replaced: DatabaseReplaced | None = None
        self._saved = False
        self.written_s = float("-inf")
        self.groups = SyncMeter()
        self.commits_written = 0
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name="samvad-sqlite-write", daemon=True
        )
        self._thread.start()

    def submit(self, commit: Commit, done: Done) -> None:
        """Write a commit with the next group; `done` is called on the event loop, in a later turn of it."""
        size = _size_bytes(commit)
        if self.replaced is not None:
            self._loop.call_soon(done, self.replaced)
        elif self._stopping:
            self._loop.call_soon(done, ShuttingDown())
        elif self.queued >= limits.COMMITS_QUEUED_MAX or (
            self.queued and self._queued_bytes + size > limits.COMMIT_BYTES_QUEUED_MAX
        ):
            self._loop.call_soon(done, Overloaded())
        else:
            self.queued += 1
            self._queued_bytes += size
            self._gather((commit, done, size))

    async def run(self, work: Callable[[apsw.Connection], _T]) -> _T:
        """Run a piece of work on the writer's connection, between two groups; StoreUnavailable if it fails."""
        if self.replaced is not None:
            raise self.replaced
        if self._stopping:
            raise ShuttingDown
        future: asyncio.Future[_T] = self._loop.create_future()

        def job(connection: apsw.Connection) -> None:
            refusal: SamvadError | None = self.replaced
            try:
                if refusal is None:
                    result = work(connection)
                    refusal = self._unwanted()
            except (apsw.Error, OSError) as error:
                refusal = self._unwanted(error) or StoreUnavailable(
                    f"The database cannot be written ({reason(error)})."
                )
            except Exception as error:  # the top of the thread, which everybody waits for
                _log.exception("the writer failed")
                refusal = SamvadError(f"The writer failed ({type(error).__name__}); please report this.")
            if (told := refusal) is not None:
                self._to_loop(lambda: None if future.done() else future.set_exception(told))
            else:
                self._to_loop(lambda: None if future.done() else future.set_result(result))

        self._gather(job)
        return await future

    async def stop(self) -> None:
        """Write what waits, answer it, close the connection and end the thread."""
        self._stopping = True
        self._hand_over()
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        await asyncio.sleep(0)  # the last group's answers were handed to the loop: let them arrive

    def _gather(self, job: _Job) -> None:
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(job)

    def _hand_over(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    # --- in the thread ---------------------------------------------------------------------------------

    def _run(self, connection: apsw.Connection) -> None:
        # Not SQLite's automatic checkpoint: it runs inside COMMIT, where its failure would make a commit that
        # is on the disk look refused, and where the callers would wait for it.
        connection.set_wal_hook(self._note_wal_pages)
        writer = GroupWriter(connection, self._guard)
        waiting: deque[_Job] = deque()
        stopping = False
        while waiting or not stopping:
            while not stopping:
                try:
                    handed = self._queue.get(
                        not waiting, _FOLD_AGAIN_S if writer.fold_owed else _LOOK_AGAIN_S
                    )
                except queue.Empty:
                    break
                if handed is None:
                    stopping = True
                else:
                    waiting.extend(handed)
            jobs = [waiting.popleft() for _ in range(min(limits.COMMITS_PER_GROUP_MAX, len(waiting)))]
            group = [job for job in jobs if isinstance(job, tuple)]
            if group:
                self._write(writer, group)
            for job in jobs:
                if callable(job):
                    job(connection)
            if not jobs:
                self._unwanted()
            if self.replaced is not None:
                self._save(connection)
                writer.fold_owed = False
            elif writer.fold_owed:
                writer.fold_owed = not fold(connection, self._guard, busy_ms=0)
            elif writer.recent_bytes > self._recent_bytes_max:
                self._gather_recent(writer)
            elif self._wal_pages > self._wal_pages_max:
                self._checkpoint(connection)
        if self._unwanted() is None:
            with contextlib.suppress(apsw.Error):
                self._guard.renew()  # what closing folds in can be told from older copies after the next start
        self._save(connection)
        with contextlib.suppress(apsw.Error):
            connection.close()

    def _note_wal_pages(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._wal_pages = self._guard.pages = pages
        return apsw.SQLITE_OK

    def _gather_recent(self, writer: GroupWriter) -> None:
        try:
            writer.gather()
        except (
            apsw.Error
        ) as error:  # nothing is lost: readers look at both places, and it is tried again later
            _log.warning("what was said lately could not be gathered: %s", reason(error))
        except Exception:  # the top of the thread, which everybody waits for
            _log.exception("what was said lately could not be gathered")

    def _checkpoint(self, connection: apsw.Connection) -> None:
        self._wal_pages = 0
        try:
            self._guard.renew()
            self._guard.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.Error, StoreUnavailable) as error:  # nothing is lost: the log has it; tried again
            _log.warning("the log could not be folded into the database: %s", reason(error))

    def _write(self, writer: GroupWriter, group: list[tuple[Commit, Done, int]]) -> None:
        results: list[Committed | SamvadError]
        refusal: SamvadError | None = self.replaced
        try:
            if refusal is None:
                results = self.groups.timed(writer.write, [commit for commit, _, _ in group])
                refusal = self._unwanted()
        except (apsw.Error, MemoryError) as error:
            refusal = self._unwanted(error)
            if refusal is None and isinstance(error, apsw.CorruptError) and len(group) > 1:
                self._write_each(writer, group)
                return
            why = reason(error)
            if refusal is None:
                refusal = StoreUnavailable(
                    f"The database cannot be written ({why}); nothing was acknowledged."
                )
                self._note(why)
        except Exception as error:  # the top of the thread: a fault of ours must not leave callers waiting
            if len(group) > 1:
                self._write_each(writer, group)
                return
            _log.exception("the writer failed")
            refusal = SamvadError(f"The writer failed ({type(error).__name__}); please report this.")
        if refusal is not None:
            results = [refusal] * len(group)
        else:
            self.fault = None
            self.written_s = self._clock.monotonic_s()
            self.commits_written += len(group)
        self._to_loop(lambda: self._answer(group, results))

    def _write_each(self, writer: GroupWriter, group: list[tuple[Commit, Done, int]]) -> None:
        """Write each by itself: where one meets what is damaged, the others are not to suffer for it."""
        for each in group:
            self._write(writer, [each])

    def _unwanted(self, error: BaseException | None = None) -> StoreUnavailable | None:
        """Why what was just written, or failed to be, must not be answered as if it were in the database's files."""
        try:
            lost = self._guard.look() if error is None else self._guard.look_closely()
        except StoreUnavailable as unknown:
            self._note(unknown.message)
            return unknown
        if lost is None:
            return None
        if self.replaced is None:
            why = f"{lost.what} beneath the server; nothing is acknowledged until it is restarted"
            self.fault = (f"{why}: its log says what was saved, and what to do first", self._clock.now_ms())
            self.replaced = DatabaseReplaced(
                f"The database's file {why}. Its operator finds in its log what was saved, and what to do first."
            )
        return self.replaced

    def _save(self, connection: apsw.Connection) -> None:
        """Once: save what can be saved, and tell the operator."""
        lost = self._guard.lost
        if lost is None or self._saved:
            return
        self._saved = True
        with contextlib.suppress(apsw.Error):  # closing is to fold nothing in, and to delete no other's log
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        _log.error("%s beneath the server; nothing is acknowledged any more", lost.what)
        saved, what_to_do = rescue(connection, self._guard, lost)
        _log.log(logging.WARNING if saved else logging.ERROR, "%s", what_to_do)

    def _note(self, why: str) -> None:
        if self.fault is None:
            self.fault = (why, self._clock.now_ms())

    def _to_loop(self, function: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for an answer any more
            self._loop.call_soon_threadsafe(function)

    def _answer(self, group: list[tuple[Commit, Done, int]], results: list[Committed | SamvadError]) -> None:
        self.queued -= len(group)
        for (_, done, size), result in zip(group, results, strict=True):
            self._queued_bytes -= size
            done(result)


def reason(error: BaseException) -> str:
    """What went wrong, in SQLite's words."""
    return f"{type(error).__name__.removesuffix('Error')}: {error}"


def _size_bytes(commit: Commit) -> int:
    size = 0
    for change in commit.changes:
        if isinstance(change, MessagesAdded):
            for message in change.messages:
                size += len(message.body)
        elif isinstance(change, StateSet):
            size += len(change.state.body)
        elif isinstance(change, ProfileSet):
            size += len(change.profile.preferences)
        elif isinstance(change, SessionSet):
            size += len(change.session.body)
        elif isinstance(change, InterruptionAdded):
            size += len(change.interruption.body)
    return size
