"""The Firestore store does what every store must, on Google's emulator."""

from __future__ import annotations

import asyncio
from typing import Any

from samvad.records import Commit, Committed, UserKey
from samvad.stores.base import Store
from samvad.testing.conformance import DurableStoreConformance, StoreConformance
from tests.firestore.support import open_store


class InOrder:
    """A store that waits where the user changes: the model writes everything in the order in which it is asked.

    Firestore orders the commits of each user, and nothing between users: which of two users gets a session id,
    or keeps a receipt under a key, is open where they ask at once.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._user: UserKey | None = None
        self._answers: list[asyncio.Future[Committed]] = []
        self._gate = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, commit: Commit) -> Committed:
        """The commits of one user all at once, and those of another user after them."""
        async with self._gate:  # first come, first served
            if commit.user != self._user:
                if self._answers:
                    await asyncio.wait(self._answers)
                self._answers = []
                self._user = commit.user
            answer = self._store.commit(commit)
            self._answers.append(answer)
        return await answer


class UserByUser(StoreConformance):
    """For stores whose users do not wait for one another: random work is compared one user after the other."""

    in_order = False

    def test_random_work_reads_as_in_the_model(self) -> None:
        """As for every store, one user after the other."""
        self.in_order = True
        super().test_random_work_reads_as_in_the_model()


class DurableUserByUser(UserByUser, DurableStoreConformance):
    """The same of stores that keep what they are given."""

    def test_random_work_is_there_after_a_restart(self) -> None:
        """As for every store, one user after the other."""
        self.in_order = True
        super().test_random_work_is_there_after_a_restart()


class TestFirestoreStore(DurableUserByUser):
    """The suite over the Firestore store. Here a session's own document never lags, so that the model counts alike."""

    random_examples = 15

    async def open_store(self) -> Store:
        """One over a new project."""
        store = await open_store(session_lag_s=0)
        return InOrder(store) if self.in_order else store

    async def reopen(self, store: Store) -> Store:
        """Another over the same project."""
        project = store.project  # type: ignore[attr-defined]
        await store.close()
        again = await open_store(project, session_lag_s=0)
        return InOrder(again) if self.in_order else again
