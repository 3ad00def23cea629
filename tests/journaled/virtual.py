"""Services behind journals on virtual time: replicas that share a store, far away from it, and can be killed."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import queue
import random
import re
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from samvad.runtime import Options, Samvad
from samvad.sessions.breaker import Patience
from samvad.sessions.journal import Journal
from samvad.sessions.journal_disk import LocalDisk
from samvad.sessions.journaled import JournaledStore
from samvad.sessions.user_log import Rules
from samvad.stores.base import Capabilities, Notice
from samvad.stores.memory import MemoryStore
from samvad.testing.loop import LoopClock, VirtualLoop, WatchedQueue
from tests.journaled.faulty import FaultyStore

CANARY: Final = re.compile(rb"canary-(\d+)-")
_LIFE: contextvars.ContextVar[object] = contextvars.ContextVar("life", default=None)


class KernelsDisk(LocalDisk):
    """Files that outlive the process and not the power, which is what a kill needs: nothing waits for the disk."""

    def sync(self, descriptor: int) -> None:
        """See Disk."""

    def sync_directory(self, path: Path) -> None:
        """See Disk."""


class WatchedJournal(Journal):
    """A journal whose thread a virtual loop waits for."""

    def __init__(self, directory: Path, loop: VirtualLoop, **more: Any) -> None:
        super().__init__(directory, disk=KernelsDisk(), **more)
        loop.busy.append(self._at_work)

    def _at_work(self) -> bool:
        return bool(self._queue.at_work())  # type: ignore[attr-defined]

    def _new_queue(self) -> queue.SimpleQueue[Any]:
        return WatchedQueue(lambda: self._thread)  # type: ignore[return-value]


def virtual_service(loop: VirtualLoop, inner: Any, directory: Path, patience: Patience) -> Samvad:
    """A service over `inner` behind a journal, on virtual time; only the journal's thread works in real time."""
    clock = LoopClock(loop)
    journal = WatchedJournal(directory, loop, clock=clock)
    rules = Rules(durability="journaled")
    store = JournaledStore(inner, journal, clock=clock, rules=rules, patience=patience)
    return Samvad(store, clock=clock, options=Options())


class DistantStore(FaultyStore):
    """A faulty store at a distance: each call, each answer and each notice takes a while, from the seed.

    Once `cut_off`, nothing of what was asked before reaches it or comes back: its process is dead.
    """

    def __init__(self, store: Any, seed: int, travel_s_max: float) -> None:
        super().__init__(store, seed)
        self.capabilities = Capabilities(durable=True, shared=True, tells=True)
        self._travel_s_max = travel_s_max
        self.cut_off = False

    async def _travel(self) -> None:
        await asyncio.sleep(self.random.uniform(0, self._travel_s_max))
        if self.cut_off:
            await asyncio.get_running_loop().create_future()

    async def _at_a_distance(self, asked: Callable[[], Awaitable[Any]]) -> Any:
        await self._travel()
        try:
            answer = await asked()
        except Exception:
            await self._travel()
            raise
        await self._travel()
        return answer

    async def commit(self, commit: Any) -> Any:
        """See Store."""
        asked = super().commit
        return await self._at_a_distance(lambda: asked(commit))

    async def changes(self) -> Any:
        """See TellsChanges."""
        await self._travel()
        notice: Notice
        async for notice in super().changes():
            await self._travel()
            yield notice

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)
        if not callable(method):
            return method

        async def asked(*args: Any, **kwargs: Any) -> Any:
            return await self._at_a_distance(lambda: method(*args, **kwargs))

        return asked


def remember_tasks(loop: VirtualLoop) -> weakref.WeakKeyDictionary[asyncio.Task[Any], object]:
    """From now on, which life (see `Replica`) each task of the loop belongs to."""
    lives: weakref.WeakKeyDictionary[asyncio.Task[Any], object] = weakref.WeakKeyDictionary()

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **more)
        lives[task] = _LIFE.get()
        return task

    loop.set_task_factory(make)
    return lives


class Replica:
    """A service with a journal, over a store that others use as well, through several lives."""

    def __init__(
        self,
        loop: VirtualLoop,
        store: Any,
        directory: Path,
        seed: int,
        *,
        patience: Patience,
        travel_s_max: float,
    ) -> None:
        self._loop = loop
        self._store = store
        self.directory = directory
        self._patience = patience
        self._travel_s_max = travel_s_max
        self._chance = random.Random(seed)
        self.cut = 0.0
        self.down = False
        self.kills = 0
        self.alive = False  # whether anybody can be reached there
        self.line: DistantStore
        self.samvad: Samvad
        self._life: object = None

    async def start(self) -> None:
        """Begin a life."""
        line = self.line = DistantStore(self._store, self._chance.randrange(1 << 30), self._travel_s_max)
        line.cut, line.down = self.cut, self.down
        self._life = object()
        token = _LIFE.set(self._life)
        try:
            self.samvad = virtual_service(self._loop, line, self.directory, self._patience)
            await self.samvad.open()
        finally:
            _LIFE.reset(token)
        self.alive = True

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Something that this life does."""
        token = _LIFE.set(self._life)
        try:
            return asyncio.get_running_loop().create_task(work)
        finally:
            _LIFE.reset(token)

    @property
    def journaled(self) -> JournaledStore:
        """The store of this life."""
        assert isinstance(self.samvad.store, JournaledStore)
        return self.samvad.store

    def weather(self, *, down: bool | None = None, cut: float | None = None) -> None:
        """Whether this replica reaches the store, and which share of its commits is not answered."""
        self.down = self.line.down = self.down if down is None else down
        self.cut = self.line.cut = self.cut if cut is None else cut

    async def kill(self, all_lives: weakref.WeakKeyDictionary[asyncio.Task[Any], object]) -> None:
        """End this life as SIGKILL does: the journal's files stay as they are at this moment."""
        kept = {path: path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}
        self.line.cut_off, self.alive = True, False
        self.kills += 1
        dying = [
            task
            for task, life in all_lives.items()
            if life is self._life and task is not asyncio.current_task()
        ]
        for task in dying:
            task.cancel()
        await asyncio.gather(*dying, return_exceptions=True)
        self.journaled.flusher._stopped = self.journaled.flusher.scrubber._stopped = True
        await self.journaled.journal.close()
        for path in self.directory.rglob("*"):
            if path.is_file() and path not in kept:
                path.unlink()
        for path, data in kept.items():
            path.write_bytes(data)


def canaries_in_files(directory: Path) -> set[int]:
    """The numbers of the canaries in the bytes of a directory's files."""
    found: set[int] = set()
    for path in directory.rglob("*"):
        if path.is_file():
            found.update(int(number) for number in CANARY.findall(path.read_bytes()))
    return found


def canaries_in_memory(*roots: object) -> set[int]:
    """The numbers of the canaries in any text or bytes that can be reached from these objects.

    Modules, classes and what functions have as globals are left out: they are shared by all. So is the store, and what
    stands before it.
    """
    apart = (types.ModuleType, type, asyncio.AbstractEventLoop, MemoryStore, FaultyStore)
    found: set[int] = set()
    seen = {id(root) for root in roots}
    waiting: list[Any] = list(roots)
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            found.update(int(number) for number in CANARY.findall(each.encode(errors="replace")))
            continue
        if isinstance(each, bytes | bytearray | memoryview):
            found.update(int(number) for number in CANARY.findall(bytes(each)))
            continue
        for other in _reached(each):
            if id(other) not in seen and not isinstance(other, apart):
                seen.add(id(other))
                waiting.append(other)
    return found


def _reached(each: Any) -> Iterable[Any]:
    if isinstance(each, types.FunctionType):
        return [each.__closure__, each.__defaults__, each.__kwdefaults__]
    if isinstance(each, msgspec.Struct):  # without `gc` it tells the collector nothing
        return [getattr(each, name) for name in each.__struct_fields__]
    if isinstance(each, types.FrameType):
        return list(each.f_locals.values())
    return gc.get_referents(each)
