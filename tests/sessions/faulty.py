"""A real store whose commits a test can hold back, refuse, or write without answering."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, NamedTuple

from samvad.errors import Overloaded, SamvadError
from samvad.records import Commit, Committed
from samvad.stores.base import Store


class _Held(NamedTuple):
    number: int
    commit: Commit
    answer: asyncio.Future[Committed]


class FaultyStore:
    """Hands everything on to `store`, but for the commits and loads that a test has arranged otherwise.

    `refuse[n]` is the error that the commit of that number (from 0) meets instead of the store, `lose[n]` the
    one that takes the place of its answer after it was written. `refuse_all` and `loads_fail` are errors that
    all commits and loads meet. After `hold()` commits wait, in order, until `release()`: they are neither written
    nor answered, but for those that are Overloaded, which is said at once.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refuse: dict[int, SamvadError] = {}
        self.lose: dict[int, SamvadError] = {}
        self.refuse_all: SamvadError | None = None
        self.loads_fail: SamvadError | None = None
        self.commits = 0
        self.loads = 0
        self._held: list[_Held] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "submit":  # the short way past `commit`
            raise AttributeError(name)
        return getattr(self.store, name)

    def hold(self) -> None:
        """Let commits wait."""
        self._held = []

    def release(self) -> None:
        """Let them go on."""
        held, self._held = self._held or [], None
        for each in held:
            self._pass_on(each)

    def commit(self, commit: Commit) -> Awaitable[Committed]:
        each = _Held(self.commits, commit, asyncio.get_running_loop().create_future())
        self.commits += 1
        if self._held is None or isinstance(self.refuse.get(each.number), Overloaded):
            self._pass_on(each)
        else:
            self._held.append(each)
        return each.answer

    def _pass_on(self, each: _Held) -> None:
        refusal = self.refuse.get(each.number) or self.refuse_all
        under_way = None if refusal else asyncio.ensure_future(self.store.commit(each.commit))
        self._answering = asyncio.ensure_future(self._answer(each, under_way, refusal))

    async def _answer(
        self, each: _Held, under_way: asyncio.Future[Committed] | None, refusal: SamvadError | None
    ) -> None:
        for _ in range(5):  # no disk answers at once
            await asyncio.sleep(0)
        error: BaseException | None = refusal
        if under_way is not None:
            await asyncio.wait([under_way])
            error = under_way.exception() or self.lose.get(each.number)
        if each.answer.done():
            return
        if error is not None:
            each.answer.set_exception(error)
        elif under_way is not None:
            each.answer.set_result(under_way.result())

    async def load(self, *args: Any, **kwargs: Any) -> Any:
        self.loads += 1
        if self.loads_fail is not None:
            raise self.loads_fail
        return await self.store.load(*args, **kwargs)
