"""The sessions with a turn under way, one small file each, so that a server that starts again finds them.

A file says whose turn it is and in which session, no more; where encryption is on that is sealed with the user's key,
and beside it stands the hash of the user. Its name is a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from samvad.errors import SamvadError, Unavailable
from samvad.private_files import replace_private
from samvad.records import UserKey, user_hash

if TYPE_CHECKING:
    from samvad.stores.data_keys import DataKeys

_MAGIC: Final = b"\xc1ST1"  # no JSON begins so
_HASH_BYTES: Final = 32


class OpenTurns:
    """Names the sessions with a turn under way in a directory. None: nowhere. `data_keys` seal what is written."""

    def __init__(self, directory: Path | None, data_keys: DataKeys | None = None) -> None:
        self._directory = directory
        self._data_keys = data_keys
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def add(self, key: UserKey, session_id: str) -> None:
        """A turn of this session is under way. Without the user's key, nothing is written."""
        if self._directory is None:
            return
        file = self._file(key.tenant, session_id)
        data = msgspec.json.encode((key.tenant, key.user_id, session_id))
        if self._data_keys is not None:
            from samvad.stores.sealing import sealed_bytes

            hashed = user_hash(key)
            try:
                keys = await self._data_keys.keys_of(hashed)
            except Unavailable:
                return
            if not keys:
                return
            data = _MAGIC + hashed + sealed_bytes(keys[max(keys)], hashed, _place(file), data)
        replace_private(file, data, sync=False)

    def discard(self, key: UserKey, session_id: str) -> None:
        """It is over."""
        if self._directory is not None:
            self._file(key.tenant, session_id).unlink(missing_ok=True)

    def forget(self, key: UserKey) -> None:
        """A user was erased: nothing of theirs stays, not of an earlier process either."""
        for file, data in self._files():
            if _belongs(data, key):
                file.unlink(missing_ok=True)

    async def left_over(self) -> AsyncIterator[tuple[UserKey, str]]:
        """The sessions that an earlier process left with a turn under way, as far as their keys can be had."""
        for file, data in list(self._files()):
            try:
                found = await self._opened(file, data)
            except Unavailable:
                continue  # the next start tries again; who comes back for the session does not need this
            if found is None or self._file(found[0], found[2]) != file:
                file.unlink(missing_ok=True)
            else:
                yield UserKey(*found[:2]), found[2]

    async def _opened(self, file: Path, data: bytes) -> tuple[str, str, str] | None:
        """Tenant, user and session; None where the key is gone, or this is nothing of ours."""
        try:
            if data.startswith(_MAGIC):
                if self._data_keys is None:
                    return None
                from samvad.stores.sealing import KeyMissing, opened_bytes

                start = len(_MAGIC) + _HASH_BYTES
                hashed = data[len(_MAGIC) : start]
                keys = await self._data_keys.keys_of(hashed)
                try:
                    data = opened_bytes(keys, hashed, _place(file), data[start:])
                except KeyMissing:
                    return None
            return msgspec.json.decode(data, type=tuple[str, str, str])
        except Unavailable:
            raise
        except (SamvadError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _files(self) -> Iterator[tuple[Path, bytes]]:
        if self._directory is None:
            return
        for file in sorted(self._directory.glob("*.turn*")):  # also one that was cut off while it was written
            try:
                yield file, file.read_bytes()
            except OSError:
                file.unlink(missing_ok=True)

    def _file(self, tenant: str, session_id: str) -> Path:
        assert self._directory is not None
        name = hashlib.sha256(f"{tenant}\0{session_id}".encode()).hexdigest()[:40]
        return self._directory / f"{name}.turn"


def _place(file: Path) -> tuple[str, str]:
    return "live turn", file.name


def _belongs(data: bytes, key: UserKey) -> bool:
    if data.startswith(_MAGIC):
        return data[len(_MAGIC) : len(_MAGIC) + _HASH_BYTES] == user_hash(key)
    try:
        tenant, user_id, _ = msgspec.json.decode(data, type=tuple[str, str, str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return (tenant, user_id) == (key.tenant, key.user_id)
