"""Indexes that are left of users who were erased while no process ran here, or that another process erased.

The files of users name the beginning of their hash, which is how the store knows an erased one. Nothing heavy is
imported here, and no engine is started: this is done at each start.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from samvad.knowledge.base import KnowledgeBase

_HASH_CHARS: Final = 32
_CLOCKS_MS: Final = (
    300_000  # by how much the clocks of two machines may differ; what is removed for it is made anew
)


def index_directory(database: Path) -> Path:
    """The directory of the indexes beside a SQLite database; it may be removed while no server runs."""
    return database.with_name(f"{database.stem}.knowledge-index")


def directory_beside(store: Any) -> Path | None:
    """Where the indexes beside a store are; None where they are in memory."""
    journal, path = getattr(store, "journal", None), getattr(store, "path", None)
    if journal is not None and getattr(getattr(store, "inner", store), "name", "") == "firestore":
        return Path(journal.directory).with_name("knowledge-index")
    return index_directory(path) if isinstance(path, Path) else None


def remove_files_of(directory: Path, user_hash: bytes) -> None:
    """Remove what is left of the index of a user. Blocks."""
    for path in directory.glob(f"user-{user_hash.hex()[:_HASH_CHARS]}.*"):
        path.unlink(missing_ok=True)


async def remove_left(store: Any, knowledge: KnowledgeBase | None, erased: bytes | None) -> None:
    """Remove the index of a user who was erased elsewhere, known by this hash; None: of all who were erased since.

    StoreUnavailable where the store cannot be asked who that was: a question for each user who has an index.
    """
    directory = directory_beside(store)
    if bool(getattr(store, "readonly", False)):
        return
    if erased is not None:
        await _remove(directory, knowledge, erased)
        return
    erasures = getattr(getattr(store, "inner", store), "erasures", None)
    if directory is None or erasures is None:
        return
    for name, written_ms in (await asyncio.to_thread(_left, directory)).items():
        for each in await erasures(after=bytes.fromhex(name), limit=1):
            if each.user_hash.hex().startswith(name) and written_ms <= each.erased_ms + _CLOCKS_MS:
                await _remove(directory, knowledge, each.user_hash)


async def _remove(directory: Path | None, knowledge: KnowledgeBase | None, erased: bytes) -> None:
    if knowledge is not None:
        await knowledge.core.shelf.gone(erased)
    elif directory is not None:
        await asyncio.to_thread(remove_files_of, directory, erased)


def _left(directory: Path) -> dict[str, int]:
    """Whose indexes are there, as the beginnings of their hashes, and when they were written last (ms). Blocks."""
    found: dict[str, int] = {}
    for path in directory.glob("user-*"):
        name = path.name.removeprefix("user-").partition(".")[0]
        try:
            is_hash, written_ms = (
                len(bytes.fromhex(name)) * 2 == _HASH_CHARS,
                path.stat().st_mtime_ns // 10**6,
            )
        except (ValueError, FileNotFoundError):
            continue
        if is_hash:
            found[name] = max(found.get(name, 0), written_ms)
    return found
