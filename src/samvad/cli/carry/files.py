"""Backup files: written whole or not at all, and looked through before anything of them is believed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec

from samvad import __version__
from samvad.cli.carry import lines
from samvad.cli.carry.kinds import KINDS, erasures_in
from samvad.cli.carry.lines import DoneLine, EndLine, ErasuresLine, HeadLine, Line, UserLine
from samvad.clock import SystemClock, rfc3339
from samvad.errors import SetupError
from samvad.stores.carrying import StoredErasure

_SEALED: Final = re.compile(rb'"samvad\.sealed":"A[A-Za-z0-9+/]{48,}=*"}')  # see stores/sealing
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_ENDING_BYTES_MAX: Final = 4096
_TELL_EVERY_BYTES: Final = 1024 * 1024


class BackupWriter:
    """Writes the lines of a backup, and counts and sums them up."""

    def __init__(self, out: IO[bytes], engine: str, *, only_erasures: bool = False, sealed: bool) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self.totals = DoneLine()
        made_at = rfc3339(SystemClock().now_ms())
        self.write(HeadLine(lines.VERSION, made_at, __version__, engine, only_erasures, sealed))

    def write(self, line: Line) -> None:
        """Write one line."""
        self.write_bytes(lines.encode(line) + b"\n")
        totals = self.totals
        if isinstance(line, EndLine):
            totals.users += 1
            totals.sessions += line.sessions
            totals.interruptions += line.interruptions
            totals.messages += line.messages
        elif isinstance(line, ErasuresLine):
            totals.erasures += len(line.erasures)
        for kind in KINDS:
            if isinstance(line, kind.line):
                setattr(totals, kind.name, getattr(totals, kind.name) + kind.count(line))

    def write_bytes(self, data: bytes) -> None:
        """Write lines that are encoded already, and not counted here."""
        self._hash.update(data)
        self._out.write(data)

    def finish(self) -> DoneLine:
        """Write the last line."""
        self.totals.sha256 = self._hash.hexdigest()
        self._out.write(lines.encode(self.totals) + b"\n")
        return self.totals


class Checked(NamedTuple):
    """A backup that is whole: its first and last line, who is erased in it by hash, and where the users end."""

    head: HeadLine
    done: DoneLine
    erasures: dict[bytes, StoredErasure]
    sealed: bool = False


def check(path: Path, tell: Callable[[int], None] = lambda done: None) -> Checked:
    """Look through a backup from end to end; SetupError, in one line, where it is not whole and as it was written."""
    try:
        with path.open("rb") as opened:
            return _check(opened, path, tell)
    except OSError as error:
        raise SetupError(f"Cannot read {path}: {error.strerror}.") from error


def _check(opened: IO[bytes], path: Path, tell: Callable[[int], None]) -> Checked:
    first = opened.readline(LINE_BYTES_MAX)
    if not first.startswith(lines.BEGINNING):
        raise SetupError(f"{path} is not a backup of Samvad.")
    head = _decoded(first, path)
    if not isinstance(head, HeadLine):
        raise SetupError(f"{path} is not a backup of Samvad.")
    if head.version > lines.VERSION:
        raise SetupError(
            f"{path} was made by a newer Samvad ({head.by}, format {head.version}); update this one."
        )
    hashed = hashlib.sha256(first)
    erasures: dict[bytes, StoredErasure] = {}
    done: DoneLine | None = None
    sealed = False  # what a caller gave may look like a seal: where nothing was sealed, nothing is looked for
    offset = told = len(first)
    for raw in opened:
        offset += len(raw)
        if done is not None:
            raise SetupError(f"{path} goes on behind its last line: it was altered; nothing was restored.")
        if raw.startswith(lines.ENDING) and raw.endswith(b"\n"):
            found = _decoded(raw, path)
            done = found if isinstance(found, DoneLine) else None
            continue
        hashed.update(raw)
        if head.sealed is not False:
            sealed = sealed or _SEALED.search(raw) is not None
        if raw.startswith(b'{"type":"erasures",'):
            line = _decoded(raw, path)
            if isinstance(line, ErasuresLine):
                erasures.update((each.user_hash, each) for each in erasures_in(line))
        if offset - told > _TELL_EVERY_BYTES:
            tell(offset)
            told = offset
    if done is None:
        raise SetupError(f"{path} is cut off: its last line is missing; nothing was restored.")
    if done.sha256 != hashed.hexdigest():
        raise SetupError(f"{path} was altered: it does not have its own checksum; nothing was restored.")
    return Checked(head, done, erasures, sealed)


def _decoded(raw: bytes, path: Path) -> Any:
    try:
        return lines.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(
            f"{path} was altered: a line cannot be read ({error}); nothing was restored."
        ) from None


def read(path: Path, tell: Callable[[int], None] = lambda done: None) -> Iterator[Line]:
    """The lines of a backup that was checked, without the first and the last."""
    offset = 0
    with path.open("rb") as opened:
        for raw in opened:
            offset += len(raw)
            line: Line = _decoded(raw, path)
            if not isinstance(line, HeadLine | DoneLine):
                yield line
            if isinstance(line, EndLine):
                tell(offset)


def epochs_of(path: Path, wanted: set[bytes]) -> dict[bytes, int]:
    """In which epochs the users with these hashes live in a backup."""
    from samvad.records import user_hash

    found: dict[bytes, int] = {}
    for line in read(path):
        if isinstance(line, UserLine) and (hashed := user_hash(line.key)) in wanted:
            found[hashed] = line.epoch
    return found
