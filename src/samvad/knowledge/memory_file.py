"""A database in memory that is read and written as a file is: in pieces, and without a second copy of all of it.

It is SQLite's own (`memdb`); a name that begins with a slash is shared within the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
from collections.abc import Iterator
from typing import Final

import apsw

_BYTES_MAX: Final = 1 << 40  # SQLite's own bound is 1 GiB
_VFS: Final = "memdb"
_OPENED: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
_numbers = itertools.count()


class MemoryFile:
    """One such file, empty at first. It is gone when it and all its connections are closed."""

    def __init__(self) -> None:
        self._name = f"/samvad-{next(_numbers)}"
        self._file = apsw.VFSFile(_VFS, self._name, [_OPENED | apsw.SQLITE_OPEN_MAIN_DB, 0])
        limit = ctypes.c_int64(_BYTES_MAX)
        self._file.xFileControl(apsw.SQLITE_FCNTL_SIZE_LIMIT, ctypes.addressof(limit))

    def connect(self) -> apsw.Connection:
        """A connection to the database that it holds."""
        return apsw.Connection(f"file:{self._name}?vfs={_VFS}", flags=_OPENED | apsw.SQLITE_OPEN_URI)

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return self._file.xFileSize()

    def read(self, at: int, size_bytes: int) -> bytes:
        """So many bytes from there, or as many as there are."""
        return self._file.xRead(min(size_bytes, self.size_bytes - at), at)

    def append(self, data: bytes) -> None:
        """Bytes at the end; OSError where there is no room."""
        with _no_room():
            self._file.xWrite(data, self.size_bytes)

    def become(self, connection: apsw.Connection) -> None:
        """Hold what another database holds; OSError where there is no room."""
        with (
            _no_room(),
            contextlib.closing(self.connect()) as here,
            here.backup("main", connection, "main") as copy,
        ):
            copy.step()

    def close(self) -> None:
        """Let it go."""
        self._file.xClose()


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise OSError(errno.ENOMEM, f"{type(error).__name__}") from error
