"""The disks that could be found after the power went: a prefix of a log, with what was not synced in doubt.

What a completed sync covers is there. Each later write is, on its own, kept, dropped, or torn (a prefix, or
some of its 512- or 4096-byte sectors); a dropped write that would have made the file longer may still have
made it longer, with zeros. Truncates, creations and deletions not yet synced happened or did not. Bytes
outside the range of a write are never damaged: that is the "powersafe overwrite" SQLite assumes of a disk.
The shared memory of WAL (`-shm`) never survives.

    for state in power_losses(disk.log, moments, seed=1):
        path = state.write_to(directory) / "talk.db"
        …open it, and check what was acknowledged at or before state.moment
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from samvad.testing.disk import Created, Deleted, Existing, Operation, Synced, SyncFailed, Truncated, Written

#: One of these is drawn for each state: lose everything unsynced, keep a prefix, or decide write by write.
_MODES = ("drop", "prefix", "each", "each", "each")


@dataclass(frozen=True, slots=True)
class DiskState:
    """The files of one possible disk, by name, and what befell the writes in doubt (for tests of the rig)."""

    moment: int
    files: dict[str, bytes]
    in_doubt: int
    dropped: int
    torn: int

    def write_to(self, directory: Path) -> Path:
        """Make `directory` (created if need be) hold exactly these files; returns it."""
        directory.mkdir(parents=True, exist_ok=True)
        for entry in directory.iterdir():
            if entry.name not in self.files:
                entry.unlink()
        for name, data in self.files.items():
            (directory / name).write_bytes(data)
        return directory


@dataclass(slots=True)
class _InDoubt:
    """A write or truncate not folded into the durable image."""

    index: int
    operation: Written | Truncated
    sure: bool = False  # covered by a sync, but waiting behind one that is not
    doomed: bool = False  # met a failed sync: no later one covers it


class _File:
    """The durable image of one file, and the operations after it in their order."""

    def __init__(self, data: bytes = b"") -> None:
        self.image = bytearray(data)
        self.in_doubt: list[_InDoubt] = []

    def synced(self, covers: int) -> None:
        for entry in self.in_doubt:
            if entry.index < covers and not entry.doomed:
                entry.sure = True
        if any(entry.doomed for entry in self.in_doubt):
            self._drop_overwritten()
        folded = 0
        for entry in self.in_doubt:
            if not entry.sure:
                break
            _apply(self.image, entry.operation)
            folded += 1
        del self.in_doubt[:folded]

    def sync_failed(self, covers: int) -> None:
        for entry in self.in_doubt:
            if entry.index < covers and not entry.sure:
                entry.doomed = True

    def _drop_overwritten(self) -> None:
        """A doomed write no longer matters once a durable one covers its range."""
        kept: list[_InDoubt] = []
        sure: list[Written] = []
        for entry in reversed(self.in_doubt):
            operation = entry.operation
            if entry.sure and isinstance(operation, Written):
                sure.append(operation)
            elif entry.doomed and isinstance(operation, Written):
                end = operation.offset + len(operation.data)
                if any(w.offset <= operation.offset and end <= w.offset + len(w.data) for w in sure):
                    continue
            kept.append(entry)
        self.in_doubt = kept[::-1]


class PowerLoss:
    """Walks a log forwards, keeping what is durable; `state()` draws one possible disk at the present moment.

    The cost of a state is that of copying the files and applying what is in doubt, whatever the log's length.
    """

    def __init__(self, log: Sequence[Operation]) -> None:
        self._log = log
        self.moment = 0
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._names_in_doubt: list[tuple[int, Created | Deleted]] = []

    def advance(self, moment: int) -> None:
        """Go on to `log[:moment]`; a moment already passed is a ValueError."""
        if moment < self.moment or moment > len(self._log):
            raise ValueError(f"cannot go from moment {self.moment} to {moment} of {len(self._log)}")
        for index in range(self.moment, moment):
            self._step(index, self._log[index])
        self.moment = moment

    def _step(self, index: int, operation: Operation) -> None:
        match operation:
            case Written(file=file) | Truncated(file=file):
                self._files[file].in_doubt.append(_InDoubt(index, operation))
            case Synced(file=file, covers=covers, directory=directory):
                self._files[file].synced(covers)
                if directory:
                    self._directory_synced(covers)
            case SyncFailed(file=file, covers=covers):
                self._files[file].sync_failed(covers)
            case Created(file=file):
                self._files[file] = _File()
                self._names_in_doubt.append((index, operation))
            case Deleted(synced=synced):
                self._names_in_doubt.append((index, operation))
                if synced:
                    self._directory_synced(index + 1)
            case Existing(file=file, name=name, data=data):
                self._files[file] = _File(data)
                self._names[name] = file

    def _directory_synced(self, covers: int) -> None:
        for index, operation in self._names_in_doubt:
            if index < covers:
                _apply_name(self._names, operation)
        self._names_in_doubt = [entry for entry in self._names_in_doubt if entry[0] >= covers]
        reachable = set(self._names.values())
        reachable.update(entry.file for _, entry in self._names_in_doubt if isinstance(entry, Created))
        for file in self._files.keys() - reachable:
            # A deleted file may still be written by whoever has it open: keep the key, free the bytes.
            self._files[file] = _File()

    def state(self, rng: random.Random) -> DiskState:
        """One possible disk at this moment, drawn with `rng`."""
        mode = rng.choice(_MODES)
        names = dict(self._names)
        for _, name_operation in self._names_in_doubt:
            if mode == "prefix" or (mode == "each" and rng.random() < 0.5):
                _apply_name(names, name_operation)
        tally = _Tally()
        files = {name: _draw(self._files[file], mode, rng, tally) for name, file in names.items()}
        return DiskState(self.moment, files, tally.in_doubt, tally.dropped, tally.torn)


def power_losses(log: Sequence[Operation], moments: Iterable[int], *, seed: int) -> Iterator[DiskState]:
    """One state for each moment (an index into `log`; repeat one for more), in ascending order."""
    rng = random.Random(seed)
    walk = PowerLoss(log)
    for moment in sorted(moments):
        walk.advance(moment)
        yield walk.state(rng)


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory to write states into, in memory where the platform has `/dev/shm`; removed at the end."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="samvad-power-", dir=parent) as directory:
        yield Path(directory)


@dataclass(slots=True)
class _Tally:
    in_doubt: int = 0
    dropped: int = 0
    torn: int = 0


def _draw(file: _File, mode: str, rng: random.Random, tally: _Tally) -> bytes:
    if not file.in_doubt:
        return bytes(file.image)
    image = bytearray(file.image)
    last_kept = rng.randint(0, len(file.in_doubt)) if mode == "prefix" else 0
    dropping = rng.random()
    for position, entry in enumerate(file.in_doubt):
        if entry.sure:
            _apply(image, entry.operation)
            continue
        tally.in_doubt += 1
        if mode == "prefix":
            fate = "keep" if position < last_kept else "tear" if position == last_kept else "drop"
        elif mode == "drop":
            fate = "drop"
        else:
            fate = "drop" if rng.random() < dropping else "tear" if rng.random() < 0.4 else "keep"
        if fate == "keep":
            _apply(image, entry.operation)
        elif fate == "tear" and isinstance(entry.operation, Written):
            tally.torn += 1
            _tear(image, entry.operation, rng)
        else:
            tally.dropped += 1
            _drop(image, entry.operation, rng)
    return bytes(image)


def _apply(image: bytearray, operation: Written | Truncated) -> None:
    if isinstance(operation, Truncated):
        del image[operation.size_bytes :]
        image.extend(bytes(operation.size_bytes - len(image)))
        return
    if operation.offset > len(image):
        image.extend(bytes(operation.offset - len(image)))
    image[operation.offset : operation.offset + len(operation.data)] = operation.data


def _apply_name(names: dict[str, int], operation: Created | Deleted) -> None:
    if isinstance(operation, Created):
        names[operation.name] = operation.file
    else:
        names.pop(operation.name, None)


def _drop(image: bytearray, operation: Written | Truncated, rng: random.Random) -> None:
    """Without its data; yet the length of the file may have reached the disk before them."""
    if isinstance(operation, Written) and rng.random() < 0.25:
        image.extend(bytes(max(0, operation.offset + len(operation.data) - len(image))))


def _tear(image: bytearray, operation: Written, rng: random.Random) -> None:
    """Part of the write: a prefix of bytes, or any of the sectors it touches."""
    offset, data = operation.offset, operation.data
    if rng.random() < 0.3:
        _apply(image, Written(operation.file, offset, data[: rng.randrange(len(data))] if data else b""))
        return
    sector_bytes = rng.choice((512, 4096))
    start = 0
    while start < len(data):
        end = min(len(data), start + sector_bytes - (offset + start) % sector_bytes)
        if rng.random() < 0.5:
            _apply(image, Written(operation.file, offset + start, data[start:end]))
        start = end
