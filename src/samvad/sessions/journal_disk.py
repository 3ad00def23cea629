"""What the journal asks of a file system, as an object that tests replace to cut the power or fill the disk.

All calls block, and all errors are OSError. Whoever implements it keeps one promise: when `sync` returns, the
file's data and size are on stable storage; when `sync_directory` returns, so are its names.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """Files by path and descriptor, and the two kinds of sync."""

    def names(self, directory: Path) -> list[str]:
        """The names in a directory, in any order."""
        ...

    def read(self, path: Path, size_bytes: int | None = None) -> bytes:
        """The file, or its first `size_bytes` bytes."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make the directory and those above it where they are missing; only its owner may look inside."""
        ...

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file; one of that name is emptied."""
        ...

    def allocate(self, descriptor: int, size_bytes: int) -> None:
        """Make the file this long, reading as zeros, with its blocks reserved where the file system can."""
        ...

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`, or raise."""
        ...

    def sync(self, descriptor: int) -> None:
        """Bring the file's data and size to stable storage. After an error nothing may be assumed of the file."""
        ...

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut the file off at `size_bytes`."""
        ...

    def close(self, descriptor: int) -> None:
        """Let the descriptor go."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in one step; a file that had it is gone."""
        ...

    def remove(self, path: Path) -> None:
        """Take a name away."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Bring what was created, renamed and removed in the directory to stable storage."""
        ...


class LocalDisk:
    """The machine's own file systems."""

    def names(self, directory: Path) -> list[str]:
        return os.listdir(directory)  # noqa: PTH208 (names are wanted, not paths)

    def read(self, path: Path, size_bytes: int | None = None) -> bytes:
        with path.open("rb") as file:
            return file.read() if size_bytes is None else file.read(size_bytes)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def allocate(self, descriptor: int, size_bytes: int) -> None:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(descriptor, 0, size_bytes)
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                    raise
            else:
                return
        os.ftruncate(descriptor, size_bytes)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        written = os.pwrite(descriptor, data, offset)
        while written < len(data):  # a signal, or the limit of one call (2 GiB on Linux)
            count = os.pwrite(descriptor, data[written:], offset + written)
            if not count:
                raise OSError(errno.EIO, "the file takes no more bytes")
            written += count

    def sync(self, descriptor: int) -> None:
        if hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        elif hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync stops at the drive's own cache
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        os.ftruncate(descriptor, size_bytes)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
