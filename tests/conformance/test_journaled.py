"""Behind journal and flusher, each store does what every store must, over a restart too."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samvad.records import ANY_VERSION, Commit, Committed, UserKey, UserRecord
from samvad.sessions.journaled import JournaledStore
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.stores.sqlite import SQLiteStore
from tests.conformance.test_firestore import DurableUserByUser, InOrder
from tests.firestore.support import make_store
from tests.journaled.support import QUICK, journaled

UUID_CHARS = 36


class KeptMemory(MemoryStore):
    """A memory store that stays when what is in front of it is closed, as a database does."""

    async def close(self) -> None:
        """It is not the journal's."""


class Told:
    """A journaled store as the suite wants it.

    Receipts that were made against no record are acknowledged before anybody looks which version the user has; the
    suite's model looks first. And the journal numbers what nobody has numbered, under a name of its own (a UUID).
    """

    def __init__(self, store: JournaledStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def load(self, user: UserKey, **bounds: Any) -> UserRecord:
        """As the store's, with the numbers of the suite's own replicas."""
        record = await self.store.load(user, **bounds)
        applied = {replica: number for replica, number in record.applied.items() if len(replica) < UUID_CHARS}
        return msgspec.structs.replace(record, applied=applied)

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        """As the store's, with the version that the user has."""
        answer = self.store.commit(commit)
        return asyncio.ensure_future(self._looked_up(commit, answer))

    async def _looked_up(self, commit: Commit, answer: asyncio.Future[Committed]) -> Committed:
        committed = await answer
        if committed.version != ANY_VERSION:
            return committed
        record = await self.store.inner.load(commit.user, window=1, open_after_ms=0, sessions_max=1)
        return msgspec.structs.replace(committed, version=record.version, seq=record.seq)


class Journaled(DurableUserByUser):
    """The suite over a store behind a journal. `inner` makes the store, or another over what the last one kept.

    Each user has a lane, and lanes do not wait for one another (see InOrder).
    """

    random_examples = 6

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.paths = (tmp_path / str(number) for number in itertools.count())

    def inner(self, path: Path, before: Any = None) -> Any:
        """A store, not open."""
        raise NotImplementedError

    async def _opened(self, path: Path, before: Any = None) -> Any:
        store = journaled(
            self.inner(path, before), path / "journal", patience=QUICK._replace(erase_wait_s=20)
        )
        await store.open()
        told = Told(store)
        return InOrder(told) if self.in_order else told

    async def open_store(self) -> Store:
        """A new one behind a new journal."""
        path = next(self.paths)
        path.mkdir()
        store: Store = await self._opened(path)
        return store

    async def reopen(self, store: Store) -> Store:
        """The journal is closed as it is; what it still has flows out after the start."""
        before: Any = store
        await before.close()
        again: Store = await self._opened(before.journal.directory.parent, before.inner)
        return again


class TestMemoryBehindAJournal(Journaled):
    """The in-memory store."""

    def inner(self, path: Path, before: Any = None) -> Any:
        """It stays."""
        return before or KeptMemory()


class TestSQLiteBehindAJournal(Journaled):
    """The SQLite store."""

    def inner(self, path: Path, before: Any = None) -> Any:
        """Another over the same file."""
        return SQLiteStore(path / "inner.db")


class TestFirestoreBehindAJournal(Journaled):
    """The Firestore store on Google's emulator."""

    random_examples = 2

    def inner(self, path: Path, before: Any = None) -> Any:
        """Another over the same project."""
        return make_store(before.project if before is not None else None, session_lag_s=0)
