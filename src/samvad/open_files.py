"""Whether the names of files that are open still lead to them.

Whoever writes to a file whose name was taken away, or given to another, writes for nobody: it is gone with the process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

NOTHING: Final = (-1, -1)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is no regular file on a disk."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def behind(path: Path, known: tuple[int, int]) -> tuple[str | None, tuple[int, int]]:
    """What became of a name, in words, if it does not lead to the file `known` any more; else None, size and time (ns).

    OSError where that cannot be seen.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 (half the time of Path.stat, with each group of commits)
    except (FileNotFoundError, NotADirectoryError):
        return f"{path.name} was removed or renamed", NOTHING
    if (found.st_dev, found.st_ino) != known:
        return f"{path.name} was replaced by another file", NOTHING
    return None, (found.st_size, found.st_mtime_ns)
