"""A real store that a test can take down, let hang, let answer into the void, or let refuse what it chooses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from samvad.errors import SamvadError, StoreUnavailable
from samvad.records import Commit, Committed
from samvad.stores.base import HealthReport, Notice, Store


class FaultyStore:
    """Hands everything on to `store`.

    `down`: every call fails. `hang()`: calls wait until `release()`. `cut`: the share of commits whose reply is lost,
    half of them before they were written. `refuse`: for a commit, the error that it meets for ever, or None.
    """

    def __init__(self, store: Store, seed: int = 0) -> None:
        self.store = store
        self.name = store.name
        self.capabilities = store.capabilities
        self.down = False
        self.cut = 0.0
        self.cuts = 0
        self.refuse: Callable[[Commit], SamvadError | None] = lambda commit: None
        self.on_commit: Callable[[Commit], None] = lambda commit: None
        self.random = random.Random(seed)
        self.commits: list[Commit] = []
        self.calls = 0
        self.probes = 0
        self._flowing = asyncio.Event()
        self._flowing.set()

    def hang(self) -> None:
        """Calls wait."""
        self._flowing.clear()

    def release(self) -> None:
        """They go on."""
        self._flowing.set()

    async def open(self) -> None:
        """A store that several share is opened by the test; one that is down cannot be reached."""
        if self.down:
            raise StoreUnavailable

    async def close(self) -> None:
        """A store that several share is closed by the test."""

    async def check(self) -> HealthReport:
        self.probes += 1
        if self.down:
            raise StoreUnavailable
        await self._flowing.wait()
        return HealthReport(True)

    async def commit(self, commit: Commit) -> Committed:
        self.calls += 1
        self.on_commit(commit)
        await self._flowing.wait()
        await asyncio.sleep(0)  # no network answers at once
        if self.down:
            raise StoreUnavailable
        if (refusal := self.refuse(commit)) is not None:
            raise refusal
        fate = self.random.random() if self.cut else 1.0
        if fate < self.cut / 2:
            self.cuts += 1
            raise StoreUnavailable
        committed = await self.store.commit(commit)
        if fate < self.cut:
            self.cuts += 1
            raise StoreUnavailable
        self.commits.append(commit)
        return committed

    async def changes(self) -> AsyncIterator[Notice]:
        """Breaks off with the first notice while it is down."""
        if self.down:
            raise StoreUnavailable
        async for notice in self.store.changes():  # type: ignore[attr-defined]
            if self.down:
                raise StoreUnavailable
            yield notice

    def __getattr__(self, name: str) -> Any:
        if name == "submit":  # the short way past `commit`
            raise AttributeError(name)
        method = getattr(self.store, name)
        if not callable(method):  # the client and the names, which the knowledge base takes as they are
            return method

        async def asked(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            await self._flowing.wait()
            if self.down:
                raise StoreUnavailable
            return await method(*args, **kwargs)

        return asked
