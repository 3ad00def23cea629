"""Small files that only their owner may read, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def make_private(path: Path) -> None:
    """Make an empty file that only its owner may read, unless there is one under that name. Blocks; OSError.

    For those who would make it themselves with the rights of the umask, as SQLite does.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def sync_path(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk. Blocks; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_private(path: Path, data: bytes, *, sync: bool) -> None:
    """Write a file anew under its name. `sync`: it is on the disk when this returns. Blocks; OSError.

    Of two processes that write at once, the last one stays.
    """
    with replacing_private(path, sync=sync) as file:
        file.write(data)


@contextlib.contextmanager
def replacing_private(path: Path, *, sync: bool) -> Iterator[IO[bytes]]:
    """As `replace_private`, for what is written piece by piece: in place of the old file once all of it is there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor)
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
