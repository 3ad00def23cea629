"""A disk in memory that keeps a record of what was asked, fails on demand, and can lose its power at any moment.

`MemoryDisk.files` is what a process sees (and what is there after kill -9). `state(moment, rng)` is a disk that
could be found after the power went at that moment: what a finished sync covers is there; every later write was
kept, dropped or torn by sectors; every later creation, renaming and removal happened or did not.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samvad.clock import Clock
from samvad.sessions.journal_files import SegmentFiles
from samvad.sessions.journal_recovery import Replay

SECTOR_BYTES = 512


class StillClock(Clock):
    """Time stands still unless it is set."""

    def __init__(self) -> None:
        self.ms = 0
        self.s = 0.0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.s


@dataclass
class _Change:
    """A write (data at offset) or, without data, a new size; `doomed` met a failed sync."""

    offset: int
    data: bytes | None
    doomed: bool = False

    def apply(self, image: bytearray, sectors: set[int] | None = None) -> None:
        if self.data is None:
            del image[self.offset :]
            image.extend(bytes(self.offset - len(image)))
            return
        end = self.offset + len(self.data)
        image.extend(bytes(max(end - len(image), 0)))
        if sectors is None:
            image[self.offset : end] = self.data
            return
        for sector in sectors:
            low, high = max(sector * SECTOR_BYTES, self.offset), min((sector + 1) * SECTOR_BYTES, end)
            image[low:high] = self.data[low - self.offset : high - self.offset]

    def torn(self, image: bytearray, rng: random.Random) -> None:
        """Happen in full, in part or not at all."""
        fate = rng.random()
        if fate < 0.35:
            return
        if fate < 0.6 or self.data is None:
            self.apply(image)
            return
        first, last = self.offset // SECTOR_BYTES, (self.offset + len(self.data)) // SECTOR_BYTES
        if fate < 0.8:  # a prefix
            sectors = set(range(first, rng.randint(first, last)))
        else:
            sectors = {sector for sector in range(first, last + 1) if rng.random() < 0.5}
        self.apply(image, sectors)


@dataclass
class _Inode:
    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Change] = field(default_factory=list)

    def change(self, change: _Change) -> None:
        change.apply(self.cached)
        self.pending.append(change)

    def synced(self) -> None:
        for change in self.pending:
            if not change.doomed:
                change.apply(self.durable)
        self.pending = [change for change in self.pending if change.doomed]


class MemoryDisk:
    """Files of one directory tree. `fail(name)` makes the next call of that name raise; `steps` counts calls."""

    def __init__(self, files: dict[Path, bytes] | None = None) -> None:
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        self._pending_names: list[tuple[str, Any, Any]] = []
        self._open: dict[int, _Inode] = {}
        self._failing: dict[str, int] = {}
        self.steps: list[str] = []
        self.on_step: Any = None
        for path, data in (files or {}).items():
            inode = _Inode(bytearray(data), bytearray(data))
            self._names[path] = self._durable_names[path] = inode

    @property
    def files(self) -> dict[Path, bytes]:
        """What every process sees."""
        return {path: bytes(inode.cached) for path, inode in self._names.items()}

    @property
    def descriptors(self) -> int:
        """How many files are open."""
        return len(self._open)

    def fail(self, name: str, error: int = errno.EIO) -> None:
        """Let the next call of this name fail. A failed sync loses its pages; a failed write wrote one half."""
        self._failing[name] = error

    def heal(self) -> None:
        """Fail no more."""
        self._failing.clear()

    def _step(self, name: str) -> int | None:
        self.steps.append(name)
        if self.on_step is not None:
            self.on_step(self)
        return self._failing.pop(name, None)

    def _check(self, name: str) -> None:
        if (error := self._step(name)) is not None:
            raise OSError(error, f"{name} failed")

    def state(self, rng: random.Random) -> dict[Path, bytes]:
        """One disk that could be found if the power went now."""
        images: dict[int, bytes] = {}
        names = dict(self._durable_names)
        keep = rng.choice(["none", "prefix", "each"])
        count = rng.randint(0, len(self._pending_names))
        for index, (what, path, target) in enumerate(self._pending_names):
            if (
                keep == "none"
                or (keep == "prefix" and index >= count)
                or (keep == "each" and rng.random() < 0.5)
            ):
                continue
            if what == "create":
                names[path] = target
            elif what == "remove":
                names.pop(path, None)
            else:
                inode, old = target
                names[path] = inode
                names.pop(old, None)
        everything = rng.random() < 0.3
        for inode in names.values():
            if id(inode) in images:
                continue
            image = bytearray(inode.durable)
            if not everything:
                for change in inode.pending:
                    change.torn(image, rng)
            images[id(inode)] = bytes(image)
        return {path: images[id(inode)] for path, inode in names.items()}

    # --- the calls of Disk -----------------------------------------------------------------------------

    def names(self, directory: Path) -> list[str]:
        return [path.name for path in self._names if path.parent == directory]

    def read(self, path: Path, size_bytes: int | None = None) -> bytes:
        self._check("read")
        return bytes(self._names[path].cached[:size_bytes])

    def make_directory(self, path: Path) -> None:
        self._check("make_directory")

    def create(self, path: Path) -> int:
        self._check("create")
        inode = _Inode()
        self._names[path] = inode
        self._pending_names.append(("create", path, inode))
        descriptor = max(self._open, default=2) + 1
        self._open[descriptor] = inode
        return descriptor

    def allocate(self, descriptor: int, size_bytes: int) -> None:
        self._check("allocate")
        self._open[descriptor].change(_Change(size_bytes, None))

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        error = self._step("write")
        written = data if error is None else data[: len(data) // 2]
        self._open[descriptor].change(_Change(offset, bytes(written)))
        if error is not None:
            raise OSError(error, "write failed")

    def sync(self, descriptor: int) -> None:
        inode = self._open[descriptor]
        error = self._step("sync")
        if error is not None:
            for change in inode.pending:
                change.doomed = True
            raise OSError(error, "sync failed")
        inode.synced()

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self._check("truncate")
        self._open[descriptor].change(_Change(size_bytes, None))

    def close(self, descriptor: int) -> None:
        self.steps.append("close")
        del self._open[descriptor]

    def rename(self, old: Path, new: Path) -> None:
        self._check("rename")
        inode = self._names.pop(old)
        self._names[new] = inode
        self._pending_names.append(("rename", new, (inode, old)))

    def remove(self, path: Path) -> None:
        self._check("remove")
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        del self._names[path]
        self._pending_names.append(("remove", path, None))

    def sync_directory(self, path: Path) -> None:
        self._check("sync_directory")
        self._durable_names = dict(self._names)
        self._pending_names.clear()


def segment_files(
    directory: Path,
    disk: MemoryDisk,
    clock: Clock,
    *,
    segment_bytes: int = 8 * 1024,
    bytes_max: int = 1 << 30,
    compact_after_s: float = 0.0,
) -> SegmentFiles:
    """The journal's files on such a disk; `directory` is a real one, for its inode."""
    return SegmentFiles(
        directory,
        disk=disk,
        clock=clock,
        bytes_max=bytes_max,
        segment_bytes=segment_bytes,
        compact_after_s=compact_after_s,
        decode=lambda data: data,
    )


def reopened(directory: Path, files: dict[Path, bytes]) -> tuple[SegmentFiles, MemoryDisk, Replay]:
    """A journal started on such files."""
    disk = MemoryDisk(files)
    journal = segment_files(directory, disk, StillClock())
    return journal, disk, journal.open()
