"""Operations that the store refuses for ever, as they are told to the operator.

A running server keeps the list in `parked.json` beside its journal, so that whoever looks need not ask it. The
operations themselves are in the journal, and stay there until somebody decides. The list holds ids, kinds and
error codes, and nothing that was said; so do not the summaries made here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from samvad import limits
from samvad.clock import Clock
from samvad.errors import SamvadError, SetupError
from samvad.private_files import replace_private
from samvad.records import UserKey
from samvad.sessions import parked_requests
from samvad.sessions.flush_lane import FlushLane
from samvad.sessions.journal_disk import LocalDisk
from samvad.sessions.journal_entry import JournalEntry, decode_entry
from samvad.sessions.journal_recovery import Entry, read_directory
from samvad.sessions.journaled import JournaledStore

FILE: Final = "parked.json"
_LOOKS: Final = 5  # at a directory that a server is changing

_log = logging.getLogger(__name__)

_decoders: dict[Path, Callable[[bytes], bytes]] = {}


def _as_it_is(payload: bytes) -> bytes:
    return payload


def opened_by(directory: Path, decode: Callable[[bytes], bytes]) -> None:
    """From now on, what this process reads of a journal's directory is opened so: its entries are sealed."""
    _decoders[directory] = decode


class Parked(msgspec.Struct, frozen=True, rename="camel"):
    """One operation that the store refuses. `behind` is how many more of the user wait for it; times are ms since 1970.

    The store would know it as (`replica`, `number`). `reason` is the store's own sentence.
    """

    tenant: str
    user_id: str
    replica: str
    number: int
    kind: str
    code: str
    reason: str
    since_ms: int
    behind: int


class Waiting(msgspec.Struct, frozen=True):
    """One entry of a journal, taken apart."""

    number: int
    replica: str
    entry: JournalEntry
    size_bytes: int

    @property
    def user(self) -> UserKey:
        """Whose it is."""
        return UserKey(self.entry.tenant, self.entry.user_id)


def kind_of(operation: Any) -> str:
    """What kind of operation this is: its class, or `Receipt` where an answer is kept and nothing else."""
    return type(operation).__name__ if operation is not None else "Receipt"


def parked_lanes(lanes: Iterable[FlushLane], now_ms: int) -> list[Parked]:
    """The lanes that are parked, told."""
    found = []
    for lane in lanes:
        if lane.parked is None or not lane.entries:
            continue
        entry = lane.entries[0]
        found.append(
            Parked(
                lane.user.tenant,
                lane.user.user_id,
                entry.replica,
                entry.number,
                kind_of(entry.commit.operation),
                lane.parked.code,
                lane.parked.message,
                now_ms,
                len(lane.entries) - 1,
            )
        )
    return found


def save(directory: Path, found: list[Parked]) -> None:
    """Write the list, or remove it where nothing is parked. What is in it already keeps its time. Blocks; OSError."""
    path = directory / FILE
    if not found:
        path.unlink(missing_ok=True)
        return
    since = {(each.replica, each.number): each.since_ms for each in load(directory)}
    told = [
        msgspec.structs.replace(each, since_ms=since.get((each.replica, each.number), each.since_ms))
        for each in found
    ]
    replace_private(path, msgspec.json.encode(told), sync=False)


def load(directory: Path) -> list[Parked]:
    """The list as it was written last; empty where there is none, or it cannot be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode((directory / FILE).read_bytes(), type=list[Parked])
    return []


def waiting(directory: Path) -> list[Waiting]:
    """What waits in a journal's directory, in order; nothing is changed. A server may be writing there.

    SetupError where it cannot be read.
    """
    return [each for each in (taken_apart(entry) for entry in _entries(directory)) if each is not None]


def _entries(directory: Path) -> list[Entry]:
    decode = _decoders.get(directory, _as_it_is)
    for look in range(_LOOKS):
        try:
            found = read_directory(
                LocalDisk(), directory, segment_bytes=limits.JOURNAL_SEGMENT_BYTES, decode=decode
            )
        except FileNotFoundError:
            if not directory.is_dir():
                return []
            if look == _LOOKS - 1:
                raise SetupError(f"The journal {directory} changes too fast to be read; try again.") from None
        except OSError as error:
            raise SetupError(f"Cannot read the journal {directory}: {error.strerror}.") from error
        else:
            return [entry for entry in found.entries if entry.number not in found.forgotten]
    return []


def taken_apart(entry: Entry) -> Waiting | None:
    """An entry of the journal; None for an empty one, which only tried whether the journal can be written."""
    if not entry.payload:
        return None
    return Waiting(entry.number, entry.replica, decode_entry(entry.payload), len(entry.payload))


class ParkedNotes:
    """Keeps the list beside a running journal; called where a lane was parked, or is not any more.

    While something is parked it looks for what the operator asks about it (see parked_requests).
    """

    def __init__(self, store: JournaledStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._latest: list[Parked] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        """Write the list as it is now, soon: the disk may be slow, and nobody waits."""
        flusher = self._store.flusher
        self._latest = parked_lanes(flusher.parked(), self._clock.now_ms())
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())
        if self._latest and self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        try:
            while self._store.flusher.parked():
                await asyncio.sleep(parked_requests.LOOK_S)
                if await parked_requests.carry_out(self._store):
                    await self._written()
                    await asyncio.to_thread(parked_requests.take_back, self._store.journal.directory)
        except (OSError, SamvadError) as error:
            _log.warning("what is asked about parked operations cannot be done (%s)", type(error).__name__)
        finally:
            self._watching = None

    async def _write(self) -> None:
        try:
            while (latest := self._latest) is not None:
                self._latest = None
                await asyncio.to_thread(save, self._store.journal.directory, latest)
        except OSError as error:
            _log.warning("the list of parked operations cannot be written: %s", error.strerror)
        finally:
            self._writing = None

    async def settle(self) -> None:
        """Wait until it is written, and look for requests no longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._written()

    async def _written(self) -> None:
        while self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)


def still_there(directory: Path) -> list[Parked]:
    """The parked operations that are still in the journal, with how many wait behind each now."""
    listed = load(directory)
    if not listed:
        return []
    entries = waiting(directory)
    numbers = {(each.replica, each.number) for each in entries}
    users: dict[UserKey, int] = {}
    for each in entries:
        users[each.user] = users.get(each.user, 0) + 1
    return [
        msgspec.structs.replace(each, behind=users[UserKey(each.tenant, each.user_id)] - 1)
        for each in listed
        if (each.replica, each.number) in numbers
    ]
