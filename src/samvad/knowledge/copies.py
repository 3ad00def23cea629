"""Sealed copies of indexes in files: what is searched is in memory, and need not be made anew at the next start.

A file is a magic, a random id, and pieces of the index, each AES-256-GCM under the owner's index key with a nonce of
its own. A piece is bound to the file's name and id, to its number and to whether it is the last. A file that is cut
off, altered, another owner's or of another layout is no index: it is made anew from the documents.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from samvad.private_files import replacing_private
from samvad.stores.master_keys import NONCE_BYTES, aead_of, opened_with, sealed_with

SUFFIX: Final = ".sealed"
_MAGIC: Final = b"samvad index 1\n"
_ID_BYTES: Final = 16
_PIECE_BYTES: Final = 1 << 20
_MORE_BYTES: Final = NONCE_BYTES + 16
_GROWN: Final = (
    1.5  # times as many passages as in the copy: then it is written again, and not with every change
)
_PASSAGES_MIN: Final = 2_000
_KEYS_MAX: Final = 20_000  # twice as many as are given before all are given again (shelf._SCOPES_MAX)

if TYPE_CHECKING:
    from samvad.knowledge.index import ScopeIndex
    from samvad.knowledge.memory_file import MemoryFile


class Copies:
    """The sealed copies of some indexes, by their files. `keys` are those that were given."""

    def __init__(self) -> None:
        self.keys: dict[Path, bytes] = {}
        self._passages: dict[Path, int] = {}  # in the copy
        self._changes: dict[Path, int] = {}  # of the index, when it was as its copy

    def unlock(self, path: Path, key: bytes) -> None:
        """The key of a copy. Of those that were not given again for long, none is held."""
        self.keys.pop(path, None)
        self.keys[path] = key
        while len(self.keys) > _KEYS_MAX:
            oldest = next(iter(self.keys))
            for kept in (self.keys, self._passages, self._changes):
                kept.pop(oldest, None)

    def index(self, path: Path | None) -> ScopeIndex | None:
        """The index that a copy is of, in memory; None where there is none that can be believed."""
        from samvad.knowledge.index import ScopeIndex
        from samvad.knowledge.memory_file import MemoryFile

        if path is None or path not in self.keys:
            return None
        memory, index = MemoryFile(), ScopeIndex(None)
        if not read(path, self.keys[path], memory.append) or not index.load(memory):
            index.close()
            memory.close()
            return None
        self._kept(path, index)
        return index

    def _kept(self, path: Path, index: ScopeIndex) -> None:
        self._passages[path], self._changes[path] = index.size()[0], index.changes

    def keep(self, path: Path | None, index: ScopeIndex) -> bool:
        """See that the copy is as the index; false where it cannot be: there is no key, or no room."""
        if path is None or path not in self.keys:
            return False
        if self._changes.get(path) != index.changes:
            try:
                with index.dumped() as dumped:
                    write(path, self.keys[path], dumped)
            except OSError:
                return False
            self._kept(path, index)
        return True

    def keep_if_grown(self, path: Path | None, index: ScopeIndex) -> None:
        """Keep the index if so much is new that making it anew would take long."""
        if path is not None and index.size()[0] > max(_PASSAGES_MIN, _GROWN * self._passages.get(path, 0)):
            self.keep(path, index)

    def drop(self, path: Path | None, *, key: bool = False) -> None:
        """Remove a copy; with `key` its key as well."""
        if path is None:
            return
        path.unlink(missing_ok=True)
        self._passages.pop(path, None)
        self._changes.pop(path, None)
        if key:
            self.keys.pop(path, None)


def write(path: Path, key: bytes, data: MemoryFile) -> None:
    """Put a sealed copy in place of the one that is there, in one step. OSError where that cannot be."""
    aead, file_id, size = aead_of(key), os.urandom(_ID_BYTES), data.size_bytes
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with replacing_private(path, sync=False) as file:
        file.write(_MAGIC + file_id)
        for number, at in enumerate(range(0, size, _PIECE_BYTES)):
            context = _context(path, file_id, number, at + _PIECE_BYTES >= size)
            file.write(sealed_with(aead, data.read(at, _PIECE_BYTES), context))


def read(path: Path, key: bytes, take: Callable[[bytes], object]) -> bool:
    """Give `take` what was written there with this key; false where nothing was, or not all of it is as it was written.

    Then what it was given is no index.
    """
    try:
        with path.open("rb") as source:
            return _read(source, path, key, take)
    except OSError:
        return False


def _read(source: BinaryIO, path: Path, key: bytes, take: Callable[[bytes], object]) -> bool:
    if source.read(len(_MAGIC)) != _MAGIC:
        return False
    aead, file_id = aead_of(key), source.read(_ID_BYTES)
    number, piece = 0, source.read(_PIECE_BYTES + _MORE_BYTES)
    while piece:
        following = source.read(_PIECE_BYTES + _MORE_BYTES)
        opened = opened_with(aead, piece, _context(path, file_id, number, not following))
        if opened is None:
            return False
        take(opened)
        number, piece = number + 1, following
    return number > 0


def _context(path: Path, file_id: bytes, number: int, last: bool) -> bytes:
    return b"\0".join(
        (b"samvad index", path.name.encode(), file_id, b"%d" % number, b"last" if last else b"")
    )
