"""The write-ahead journal: a durable log of opaque entries, acknowledged when they are fsynced.

    journal = Journal(directory)
    replay = await journal.open()      # what earlier runs acknowledged and nobody has forgotten yet
    number = await journal.append(payload)
    journal.forget(number)             # it is in the store now

One thread writes: what waits while one group is being synced becomes the next, so one caller has the latency
of one sync and a hundred share it. Format: journal_records. Files, failures and compaction: journal_files.

What holds:

- An entry whose number was given is returned by every later `open` until it is forgotten, exactly as it was
  written, in the order of the numbers; or its damage is reported (`Replay.damages`).
- Forgetting is only tidiness. It is written down with the next entries, so after a crash a few entries come
  back that are in the store already. The store recognises them by (`Entry.replica`, `Entry.number`).
- Numbers only rise, with gaps, also over crashes: a new start begins above every number that the segments
  could hold, and at the wall clock (1,024 numbers a millisecond), so that also a directory restored from a
  backup does not use a number twice. They fit 53 bits until the year 2248.
- `replica` changes when the directory is found at another place (copied, restored, another machine or boot).
  Entries from before keep the name under which the store may know them. Machines forked from one memory
  snapshot cannot be told apart: give each a directory of its own.
- An entry refused with StoreUnavailable may exist or not after a crash, as with any failed commit. It never
  comes back within the running process, and its number is not given to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from samvad import limits
from samvad.clock import Clock, SystemClock
from samvad.errors import Overloaded, SamvadError, ShuttingDown, StoreUnavailable, TooLarge
from samvad.meters import SyncMeter
from samvad.sessions.journal_disk import Disk, LocalDisk
from samvad.sessions.journal_files import SegmentFiles
from samvad.sessions.journal_place import DirectoryLock, cannot_open
from samvad.sessions.journal_records import RECORD_BYTES
from samvad.sessions.journal_recovery import Damage, Entry, Replay

__all__ = ["Damage", "Entry", "Journal", "Replay"]

_FORGET_AFTER_S: Final = 0.1  # what is forgotten wakes the writer this late, if no entry does before
_FORGOTTEN_GATHERED_MAX: Final = 1_000
_COMPACT_AFTER_S: Final = 30.0

_log = logging.getLogger(__name__)

_Job = Callable[[], None]
_T = TypeVar("_T")
Done = Callable[[int | SamvadError], None]


class _Waiting(NamedTuple):
    encoded: bytes
    done: Done


class _Handed(NamedTuple):
    """What the event loop gives to the writer at once."""

    entries: list[_Waiting]
    forgotten: list[int]
    jobs: list[_Job]


def _as_it_is(data: bytes) -> bytes:
    return data


class Journal:
    """A log in a directory of its own. All methods are called on one event loop.

    `bytes_max` bounds what is not forgotten plus what waits; `segment_bytes` is the size of a file.
    `encode` and `decode` stand where a payload becomes bytes on disk; `decode` raises ValueError for what it
    cannot read. `disk` stands in for the file system in tests.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        clock: Clock | None = None,
        bytes_max: int = limits.JOURNAL_BYTES_MAX,
        segment_bytes: int = limits.JOURNAL_SEGMENT_BYTES,
        compact_after_s: float = _COMPACT_AFTER_S,
        encode: Callable[[bytes], bytes] = _as_it_is,
        decode: Callable[[bytes], bytes] = _as_it_is,
        disk: Disk | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._clock = clock or SystemClock()
        self._bytes_max = bytes_max
        self._encode = encode
        self._disk = disk or LocalDisk()
        self._segment_bytes = segment_bytes
        self._compact_after_s = compact_after_s
        self._decode = decode
        self._files = self._new_files()
        self._queue = self._new_queue()
        self._gathered = _Handed([], [], [])
        self._handing_over = False
        self._forget_timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._replay = Replay([], [])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._closing = True
        self._waiting = 0
        self._waiting_bytes = 0
        self.fault: tuple[str, int] | None = None  # why it cannot write, and since when (ms since 1970)
        self.groups = SyncMeter()

    def _new_queue(self) -> queue.SimpleQueue[_Handed | None]:
        return queue.SimpleQueue()  # tests watch it

    def _new_files(self) -> SegmentFiles:
        return SegmentFiles(
            self.directory,
            disk=self._disk,
            clock=self._clock,
            bytes_max=self._bytes_max,
            segment_bytes=self._segment_bytes,
            compact_after_s=self._compact_after_s,
            decode=self._decode,
        )

    # --- life ------------------------------------------------------------------------------------------

    async def open(self) -> Replay:
        """Lock the directory and read what is there. SetupError, in one line, where that cannot be."""
        if self._thread is not None:
            raise RuntimeError("the journal is open already")
        self._loop = asyncio.get_running_loop()
        self._files = self._new_files()
        self._queue = self._new_queue()
        self._gathered = _Handed([], [], [])
        self.fault = None
        opened: asyncio.Future[None] = self._loop.create_future()
        self._stopped = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="samvad-journal-write", daemon=True
        )
        self._thread.start()
        try:
            await opened
        except BaseException:
            await self.close()
            raise
        self._closing = False
        replay, self._replay = self._replay, Replay([], [])  # not kept: what it holds may be erased
        return replay

    async def close(self) -> None:
        """Write and answer all that was submitted, seal the log, and let the directory go. Closing twice is fine."""
        self._closing = True
        thread, stopped = self._thread, self._stopped
        if thread is None or stopped is None:
            return
        self._hand_over()
        self._queue.put(None)
        await asyncio.shield(stopped)
        thread.join()
        self._thread = None

    @property
    def replica(self) -> str:
        """The name (a UUID) under which the store remembers the numbers of this run's entries."""
        return self._files.replica

    # --- writing ---------------------------------------------------------------------------------------

    def append(self, payload: bytes) -> asyncio.Future[int]:
        """The number of the entry, once it is durable. Errors as for `submit`."""
        assert self._loop is not None, "open the journal first"
        future: asyncio.Future[int] = self._loop.create_future()
        self.submit(payload, partial(_settle, future))
        return future

    def submit(self, payload: bytes, done: Done) -> None:
        """Write an entry; `done` gets its number once it is durable, on the event loop, in a later turn of it.

        Or it gets an error: Overloaded where the journal is full, TooLarge, ShuttingDown (nothing was
        written), or StoreUnavailable where the disk failed (it may or may not have been written).
        """
        assert self._loop is not None, "open the journal first"
        encoded = self._encode(payload)
        refusal = self._refusal(RECORD_BYTES + len(encoded))
        if refusal is not None:
            self._loop.call_soon(done, refusal)
            return
        self._waiting += 1
        self._waiting_bytes += RECORD_BYTES + len(encoded)
        self._gathered.entries.append(_Waiting(encoded, done))
        self._hand_over_soon()

    def _refusal(self, size: int) -> SamvadError | None:
        if self._closing:
            return ShuttingDown()
        if size > min(limits.JOURNAL_ENTRY_BYTES_MAX, self._bytes_max):
            return TooLarge(f"{size} bytes are more than the journal takes as one entry.")
        if self.bytes_held + size > self._bytes_max:
            self._hand_over()  # what was forgotten meanwhile makes room
            return Overloaded(
                f"The journal is full: {self.bytes_held} bytes wait for the store (at most {self._bytes_max});"
                " nothing was acknowledged, try again soon."
            )
        waiting_bytes_max = max(limits.COMMIT_BYTES_QUEUED_MAX, size)
        if self._waiting >= limits.COMMITS_QUEUED_MAX or self._waiting_bytes + size > waiting_bytes_max:
            return Overloaded()
        return None

    def forget(self, number: int) -> None:
        """The entry is in the store and need not come back. Again, or for an unknown number, it does nothing."""
        if self._closing or self._loop is None:
            return
        self._gathered.forgotten.append(number)
        if len(self._gathered.forgotten) >= _FORGOTTEN_GATHERED_MAX:
            self._hand_over_soon()
        elif self._forget_timer is None:
            self._forget_timer = self._loop.call_later(_FORGET_AFTER_S, self._hand_over)

    async def scrub(self) -> None:
        """Leave no bytes of forgotten entries (but set-aside damage stays); StoreUnavailable where the disk fails."""
        await self._on_writer(self._files.scrub)

    async def settle(self) -> None:
        """Wait until what was forgotten so far is written down and not counted any more, and what can go is gone."""
        await self._on_writer(self._files.settle)

    def _hand_over_soon(self) -> None:
        """Give the writer all that one turn of the event loop brings as one piece: one wake-up, one group."""
        if not self._handing_over:
            assert self._loop is not None
            self._handing_over = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._handing_over = False
        if self._forget_timer is not None:
            self._forget_timer.cancel()
            self._forget_timer = None
        if any(self._gathered):
            self._queue.put(self._gathered)
            self._gathered = _Handed([], [], [])

    async def _on_writer(self, work: Callable[[], _T]) -> _T:
        """Run a piece of work on the writer's thread, behind what was submitted and forgotten before."""
        assert self._loop is not None, "open the journal first"
        if self._closing:
            raise ShuttingDown
        future: asyncio.Future[_T] = self._loop.create_future()

        def job() -> None:
            result: _T | SamvadError
            try:
                result = work()
            except OSError as error:
                result = StoreUnavailable(f"The journal cannot be written ({_reason(error)}).")
            except Exception as error:  # the top of a task on the thread
                _log.exception("the journal's writer failed")
                result = SamvadError(f"The journal failed ({type(error).__name__}); please report this.")
            self._to_loop(_settle, future, result)

        self._gathered.jobs.append(job)
        self._hand_over_soon()
        return await future

    # --- the writer's thread ---------------------------------------------------------------------------

    def _run(self, opened: asyncio.Future[None]) -> None:
        assert self._stopped is not None
        lock = None
        try:
            self._disk.make_directory(self.directory)
            lock = DirectoryLock(self.directory)
            self._replay = self._files.open()
            self._to_loop(_settle, opened, None)
            self._write_until_stopped()
            self._files.close()
        except SamvadError as error:
            self._to_loop(_settle, opened, error)
        except OSError as error:
            self._to_loop(_settle, opened, cannot_open(self.directory, error))
            _log.warning("the journal in %s was not closed cleanly: %s", self.directory, error)
        except Exception as error:  # the top of the thread: nobody else would hear of it
            _log.exception("the journal failed")
            self._to_loop(_settle, opened, SamvadError(f"The journal failed ({type(error).__name__})."))
        finally:
            if lock is not None:
                lock.release()
            self._to_loop(_settle, self._stopped, None)

    def _write_until_stopped(self) -> None:
        waiting: deque[_Waiting | _Job] = deque()
        stopping = False
        while waiting or not stopping:
            while not stopping:
                try:
                    handed = self._queue.get(block=not waiting)
                except queue.Empty:
                    break
                if handed is None:
                    stopping = True
                    break
                waiting.extend(handed.entries)
                waiting.extend(handed.jobs)
                self._files.forget(handed.forgotten)
                if not waiting:
                    self._after_group()
            if group := _group(waiting):
                self._write_group(group)
            self._after_group()
            while waiting and callable(waiting[0]):
                job = waiting.popleft()
                assert callable(job)
                job()

    def _write_group(self, group: list[_Waiting]) -> None:
        results: list[int | SamvadError]
        try:
            first = self.groups.timed(self._files.append, [entry.encoded for entry in group])
        except (OSError, MemoryError) as error:
            refusal = StoreUnavailable(
                f"The journal cannot be written ({_reason(error)}); nothing was acknowledged."
            )
            results = [refusal] * len(group)
            self._note_fault(_reason(error))
        except Exception as error:  # the top of the thread: a fault of ours must not leave callers waiting
            _log.exception("the journal's writer failed")
            fault = SamvadError(f"The journal failed ({type(error).__name__}); please report this.")
            results = [fault] * len(group)
        else:
            results = [first + index for index in range(len(group))]
            self.fault = None
        self._to_loop(self._answer, group, results)

    def _after_group(self) -> None:
        """Write down what was forgotten, where no entry took it along, and keep the directory small."""
        try:
            self._files.write_forgotten()
            self._files.tidy()
        except OSError as error:
            self._note_fault(_reason(error))
        except Exception:  # the top of a task on the thread: entries are written all the same
            _log.exception("the journal in %s cannot be kept small", self.directory)

    def _note_fault(self, reason: str) -> None:
        if self.fault is None:
            self.fault = (reason, self._clock.now_ms())
            _log.error("the journal in %s cannot be written: %s", self.directory, reason)

    def _to_loop(self, function: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for an answer any more
            self._loop.call_soon_threadsafe(function, *args)

    def _answer(self, group: list[_Waiting], results: list[int | SamvadError]) -> None:
        for (encoded, done), result in zip(group, results, strict=True):
            self._waiting -= 1
            self._waiting_bytes -= RECORD_BYTES + len(encoded)
            try:
                done(result)
            except Exception:  # at the top of a callback: the others of the group are answered all the same
                _log.exception("an answer of the journal was not taken")

    # --- measures --------------------------------------------------------------------------------------

    @property
    def entries_waiting(self) -> int:
        """Entries submitted and not answered yet."""
        return self._waiting

    @property
    def entries_held(self) -> int:
        """Entries acknowledged and not forgotten."""
        return self._files.ledger.live

    @property
    def bytes_held(self) -> int:
        """What `bytes_max` bounds: entries not forgotten, and those that wait, with 32 bytes for each."""
        return self._files.ledger.live_bytes + self._waiting_bytes

    @property
    def disk_bytes(self) -> int:
        """The bytes of all segments, up to the last record of each."""
        return self._files.disk_bytes

    @property
    def segments(self) -> int:
        """Files, the one that is written to included."""
        return len(self._files.ledger)

    @property
    def damaged(self) -> int:
        """Damages found since the start, torn tails left out."""
        return self._files.damaged

    @property
    def syncs(self) -> int:
        """How many times a file was synced."""
        return self._files.syncs

    @property
    def sync_s_last(self) -> float:
        """Seconds that the last sync took."""
        return self._files.sync_s_last

    @property
    def sync_s_sum(self) -> float:
        """Seconds that all syncs took."""
        return self._files.sync_s_sum


def _group(waiting: deque[_Waiting | _Job]) -> list[_Waiting]:
    """Take the next group off the queue: bounded in number and, but for one large entry, in bytes."""
    group: list[_Waiting] = []
    size = 0
    while waiting and len(group) < limits.COMMITS_PER_GROUP_MAX:
        entry = waiting[0]
        if not isinstance(entry, _Waiting):
            break
        size += len(entry.encoded)
        if group and size > limits.JOURNAL_GROUP_BYTES_MAX:
            break
        group.append(entry)
        waiting.popleft()
    return group


def _settle(future: asyncio.Future[_T], result: _T | SamvadError) -> None:
    if future.done():  # cancelled
        return
    if isinstance(result, SamvadError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
