"""How far an import has come, kept beside the database so that a later run can go on from there."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec


class Counts(msgspec.Struct):
    """What was done with the lines of a file."""

    lines: int = 0
    lines_skipped: int = 0
    users: int = 0
    sessions: int = 0
    messages: int = 0
    messages_there: int = 0
    messages_skipped: int = 0
    problems: int = 0

    def anything_added(self) -> bool:
        """Whether the store has more now than it had."""
        return bool(self.users or self.sessions or self.messages)

    def messages_seen(self) -> int:
        """All messages of the lines, whatever became of them."""
        return self.messages + self.messages_there + self.messages_skipped

    def report(self, before: Counts) -> list[str]:
        """The counts in words; `before` is what earlier runs had done. The parts of a line add up to its total."""
        earlier_messages = before.messages_seen()
        parts = [f"{self.messages:,} added", f"{self.messages_there:,} already there"]
        if self.messages_skipped:
            parts.append(f"{self.messages_skipped:,} skipped")
        if earlier_messages:
            parts.append(f"{earlier_messages:,} done by an earlier run")
        earlier = f", {before.lines:,} of them done by an earlier run" if before.lines else ""
        lines = [
            f"lines     {self.lines + before.lines:,}{earlier}",
            f"users     {self.users:,} added",
            f"sessions  {self.sessions:,} added",
            f"messages  {self.messages_seen() + earlier_messages:,}: {', '.join(parts)}",
        ]
        skipped = self.lines_skipped + before.lines_skipped
        if skipped:
            lines.append(f"skipped   {skipped:,} lines")
        return lines


class Place(msgspec.Struct):
    """Where the last batch that is done began: offset in bytes, number of lines before it, and their counts."""

    offset: int = 0
    line: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)


class _Kept(msgspec.Struct):
    file: list[int]
    database: list[int]
    place: Place


class Checkpoint:
    """The place in one file, for one database. One that does not fit either any more is as good as none.

    It names the beginning of the last batch that is done, not its end: the next run takes that batch in
    again, and where any of it turns out to be new, the database is not the one that the checkpoint knew.
    """

    def __init__(self, file: Path, prefix: str, database: Path | None) -> None:
        self._file = file
        self._database = database
        self._path: Path | None = None
        if database is not None:
            name = hashlib.sha256(f"{file.resolve()}\0{prefix}\0{database.name}".encode()).hexdigest()[:16]
            self._path = database.with_name(f".import-{name}.json")

    def load(self) -> Place:
        """Where to go on; the beginning, if nothing is known."""
        if self._path is not None:
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
                if kept.file == self._identity() and kept.database == self._database_identity():
                    return kept.place
        return Place()

    def save(self, offset: int, line: int, counts: Counts) -> None:
        """Remember a place. What cannot be remembered only costs time later."""
        if self._path is None:
            return
        kept = _Kept(self._identity(), self._database_identity(), Place(offset, line, counts))
        fresh = self._path.with_name(self._path.name + ".new")
        with contextlib.suppress(OSError):
            fresh.write_bytes(msgspec.json.encode(kept))
            fresh.replace(self._path)

    def remove(self) -> None:
        """Forget the place: everything is done."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _identity(self) -> list[int]:
        found = self._file.stat()
        return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]

    def _database_identity(self) -> list[int]:
        assert self._database is not None
        found = self._database.stat()
        return [found.st_dev, found.st_ino]
