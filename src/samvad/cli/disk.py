"""What a directory's disk is like: how long it takes to sync, what kind it is, how much is free."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = 4096 + 24  # what SQLite appends to its log for one page
_SYNCS: Final = 64
_SYNC_S_MAX: Final = 2.0


def existing(path: Path) -> Path:
    """The path itself, or the nearest directory above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def sync_ms(directory: Path, syncs: int = _SYNCS) -> float:
    """The median time in ms to append a page to a file there and sync it, as SQLite does for each commit."""
    sync = getattr(os, "fdatasync", os.fsync)
    times: list[float] = []
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".samvad-sync-") as file:
        page = os.urandom(_PAGE_BYTES)
        until = time.perf_counter() + _SYNC_S_MAX
        while len(times) < syncs and (not times or time.perf_counter() < until):
            started = time.perf_counter()
            os.write(file.fileno(), page)
            sync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def free_bytes(directory: Path) -> int:
    """How many bytes can still be written there without the rights of root."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def file_system(directory: Path) -> str:
    """The kind of file system, such as ext4, tmpfs, nfs4; empty where the system does not tell.

    https://www.kernel.org/doc/Documentation/filesystems/proc.rst, section 3.5, /proc/<pid>/mountinfo
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""
    resolved = directory.resolve()
    best, kind = -1, ""
    for mount in mounts.splitlines():
        before, _, after = mount.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split(" ")[0]
    return kind
