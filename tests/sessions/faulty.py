"""A real store whose answers a test can hold back, refuse or lose."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from samvad.errors import SamvadError
from samvad.records import Commit, Committed
from samvad.stores.base import Store


class FaultyStore:
    """Hands everything on to `store`, but for the commits and loads that a test has arranged otherwise.

    `refuse[n]` is the error that the commit of that number (from 0) meets before it reaches the store, `lose[n]`
    the one that takes the place of its answer after it was written. While `hold()` is in force, commits are
    written but not answered. `refuse_all` and `loads_fail` are errors that all commits and loads meet.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refuse: dict[int, SamvadError] = {}
        self.lose: dict[int, SamvadError] = {}
        self.refuse_all: SamvadError | None = None
        self.loads_fail: SamvadError | None = None
        self.commits = 0
        self.loads = 0
        self._answers = asyncio.Event()
        self._answers.set()

    def __getattr__(self, name: str) -> Any:
        if name == "submit":  # the short way past `commit`
            raise AttributeError(name)
        return getattr(self.store, name)

    def hold(self) -> None:
        """Answer no commit until `release`."""
        self._answers.clear()

    def release(self) -> None:
        """Answer those that were held back."""
        self._answers.set()

    def commit(self, commit: Commit) -> Awaitable[Committed]:
        number, self.commits = self.commits, self.commits + 1
        refusal = self.refuse.get(number) or self.refuse_all
        under_way = None if refusal else asyncio.ensure_future(self.store.commit(commit))
        return asyncio.ensure_future(self._answer(under_way, refusal or self.lose.get(number)))

    async def _answer(
        self, under_way: asyncio.Future[Committed] | None, fault: SamvadError | None
    ) -> Committed:
        await self._answers.wait()
        for _ in range(5):  # no disk answers at once
            await asyncio.sleep(0)
        if under_way is not None:
            await asyncio.wait([under_way])
            if fault is None:
                return under_way.result()
        assert fault is not None
        raise fault

    async def load(self, *args: Any, **kwargs: Any) -> Any:
        self.loads += 1
        if self.loads_fail is not None:
            raise self.loads_fail
        return await self.store.load(*args, **kwargs)
