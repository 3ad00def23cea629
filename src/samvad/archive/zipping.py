"""A ZIP written as a stream: nothing is ever gone back to, and nothing of it is held longer than a piece."""

from __future__ import annotations

import asyncio
import hashlib
import stat
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from samvad.archive.form import Member

# What a member is made of: bytes, or what makes some, called in a thread of its own.
Part = bytes | Callable[[], Iterable[bytes]]
_PIECE_BYTES: Final = 64 * 1024


class _Sink:
    """A file that is no more than what was not taken from it yet; it cannot be gone back in."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> int:
        self._held.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        self.size = 0
        return data


class StreamedZip:
    """Takes members one after the other and gives the bytes of the ZIP, piece by piece.

    Compressing and hashing are done in threads: the event loop goes on meanwhile.
    """

    def __init__(self, at_ms: int) -> None:
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED)
        self._at = time.gmtime(at_ms / 1000)[:6]
        self.members: list[Member] = []

    async def add(
        self, name: str, parts: AsyncIterator[Part], *, large: bool = False
    ) -> AsyncIterator[bytes]:
        """Write a member; `large`: it may be longer than 2 GiB."""
        info = zipfile.ZipInfo(name, (max(self._at[0], 1980), *self._at[1:]))
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (stat.S_IFREG | 0o600) << 16
        digest, size = hashlib.sha256(), 0

        def put(part: Part) -> int:
            written = 0
            for data in (part,) if isinstance(part, bytes) else part():
                digest.update(data)
                out.write(data)
                written += len(data)
            return written

        with self._zip.open(info, "w", force_zip64=large) as out:
            async for part in parts:
                size += await asyncio.to_thread(put, part)
                if self._sink.size >= _PIECE_BYTES:
                    yield self._sink.take()
        self.members.append(Member(name, size, digest.hexdigest()))
        if self._sink.size >= _PIECE_BYTES:
            yield self._sink.take()

    def end(self) -> bytes:
        """The rest of the ZIP, with its directory; without it nothing reads as a ZIP."""
        self._zip.close()
        return self._sink.take()
