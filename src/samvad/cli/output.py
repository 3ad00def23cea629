"""What commands write to a terminal: plain text that survives a pipe, and progress bars that stay out of it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from samvad.errors import SetupError


def printable(text: str, chars_max: int = 0) -> str:
    """The text in one line, with control characters escaped, so that no terminal obeys what a user once said."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text[: chars_max - 1] + "…" if 0 < chars_max < len(text) else text


def table(rows: Iterable[Sequence[str]], *, gap: str = "  ") -> str:
    """Rows as lines with their columns aligned; the last column is left as it is."""
    rows = [list(row) for row in rows]
    widths: list[int] = []
    for row in rows:
        for column, cell in enumerate(row[:-1]):
            if column == len(widths):
                widths.append(0)
            widths[column] = max(widths[column], len(cell))
    return "\n".join(
        gap.join(
            [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    )


@contextlib.contextmanager
def progress(text: str, total: int | None, *, unit_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal; yields what tells it how far we are."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn() if unit_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def private_output(path: str | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file only its owner may read, which is there under its name once it is complete.

    A pipe or a device is written to as it is, and never replaced. SetupError where it cannot be written.
    """
    if path is None or path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if is_special(target):
        with _writable(target, os.O_WRONLY, "wb") as out:
            yield out
        return
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)  # what somebody else may have put there is not written into
    out = open_private(part)
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    except BaseException:  # whatever it was, an interruption too: no half of a file stays
        part.unlink(missing_ok=True)
        raise


def is_special(path: Path) -> bool:
    """Whether it is a pipe or a device. SetupError for a directory, and for a link to a file, which is not ours."""
    if path.is_dir():
        raise SetupError(f"{path} is a directory; name a file in it.")
    if path.is_file() and path.is_symlink():
        raise SetupError(f"{path} is a link; name the file itself, or - for standard output.")
    return path.exists() and not path.is_file()


def open_private(path: Path, *, keep: bool = False) -> IO[bytes]:
    """A file for writing that only its owner may read; one that is there is gone on with only to `keep` it.

    SetupError where it cannot be made, or belongs to another user.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | (0 if keep else os.O_EXCL)
    out = _writable(path, flags, "r+b")
    if os.fstat(out.fileno()).st_uid != os.geteuid():
        out.close()
        raise SetupError(f"{path} belongs to another user; remove it, or choose another name.")
    os.fchmod(out.fileno(), 0o600)  # it may have been made by something else
    return out


def _writable(path: Path, flags: int, mode: str) -> IO[bytes]:
    try:
        return cast("IO[bytes]", os.fdopen(os.open(path, flags | os.O_CLOEXEC, 0o600), mode))
    except OSError as error:
        raise SetupError(f"Cannot write {path}: {error.strerror}.") from error
