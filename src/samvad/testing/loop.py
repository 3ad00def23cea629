"""An event loop whose time passes only while nobody has anything to do, and whose surprises come from a seed.

An hour of waiting takes a moment. What comes from outside the loop (another thread, an executor) is waited for in
real time, while virtual time stands still, and is then delivered after a latency drawn from the seed: so the same
seed gives the same run, and another seed another interleaving.

>>> async def hour() -> float:
...     await asyncio.sleep(3600)
...     return asyncio.get_running_loop().time()
>>> run(lambda loop: hour())
3600.0
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import random
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from samvad.testing.clock import START_MS

_T = TypeVar("_T")
_REAL_WAIT_S: Final = 0.0005  # for a thread that works, between two looks whether it is done
_APART_S: Final = 1e-6  # two things from outside do not come at the same moment: their order is kept


class _Selector(selectors.DefaultSelector):
    """Where the loop would sleep, it lets time pass instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; if nothing is, time jumps to the next timer, unless somebody works outside the loop."""
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        while self._loop.waits_outside():
            ready += super().select(_REAL_WAIT_S)
        if self._loop.take_in() or ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(_REAL_WAIT_S)
        self._loop.passed_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, for tests.

    `seed` and `latency_s_max` decide how late, in virtual seconds, that arrives which comes from outside the loop;
    the order is kept. `busy` holds functions that say whether a thread is at work whose answer the loop must wait
    for, in real time (see `WatchedQueue`).
    """

    def __init__(self, seed: int = 0, *, latency_s_max: float = 0.0) -> None:
        self.passed_s = 0.0
        self.busy: list[Callable[[], bool]] = []
        self.chance = random.Random(seed)
        self._latency_s_max = latency_s_max
        self._outside: list[tuple[Callable[..., object], tuple[Any, ...], contextvars.Context | None]] = []
        self._lock = threading.Lock()
        self._last_s = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.passed_s

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """From another thread: the call is made once that thread's work is waited for, after a latency."""
        if getattr(self, "_thread_id", None) == threading.get_ident():
            return super().call_soon_threadsafe(callback, *args, context=context)
        with self._lock:
            self._outside.append((callback, args, context))
        return super().call_soon_threadsafe(_nothing)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Run it at once, in this thread; the answer comes after a latency."""
        future: asyncio.Future[_T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # the top of a task: whatever it is, it is the answer
            self._later(_settle, (future, None, error), None)
        else:
            self._later(_settle, (future, result, None), None)
        return future

    def waits_outside(self) -> bool:
        """Whether a thread works whose answer must be waited for."""
        return any(at_work() for at_work in self.busy)

    def take_in(self) -> bool:
        """Plan the calls that other threads asked for; whether there were any."""
        with self._lock:
            taken, self._outside = self._outside, []
        for each in taken:
            self._later(*each)
        return bool(taken)

    def _later(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        due_s = self.passed_s + self.chance.uniform(0.0, self._latency_s_max)
        self._last_s = max(due_s, self._last_s + _APART_S)
        self.call_at(self._last_s, callback, *args, context=context)


def _nothing() -> None:
    """Wakes the loop."""


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class WatchedQueue:
    """A queue to a thread of which can be said whether the thread has done all that was put into it.

    Its consumer is one thread that gets until it has nothing to do. `thread` names that thread, once it runs.
    """

    def __init__(self, thread: Callable[[], threading.Thread | None]) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = thread
        self._put = 0
        self._got = 0
        self._done = -1

    def put(self, item: Any) -> None:
        """As SimpleQueue.put."""
        self._put += 1
        self._queue.put(item)

    def get(self, block: bool = True) -> Any:
        """As SimpleQueue.get; who would have to wait has done everything before."""
        try:
            item = self._queue.get(block=False)
        except queue.Empty:
            if not block:
                raise
            self._done = self._got
            item = self._queue.get()
        self._got += 1
        return item

    def at_work(self) -> bool:
        """Whether the thread has something to do, or has yet to begin or to end."""
        thread = self._thread()
        return thread is not None and thread.is_alive() and self._done != self._put


class LoopClock:
    """The `samvad.clock.Clock` that goes with a virtual loop; `wrong_ms` is by how much its wall clock is off."""

    def __init__(self, loop: VirtualLoop, wrong_ms: int = 0) -> None:
        self._loop = loop
        self._wrong_ms = wrong_ms

    def now_ms(self) -> int:
        """The wall clock, in milliseconds since 1970 UTC."""
        return START_MS + round(self._loop.passed_s * 1000) + self._wrong_ms

    def monotonic_s(self) -> float:
        """The clock that never jumps, in seconds."""
        return self._loop.passed_s


def run(
    main: Callable[[VirtualLoop], Coroutine[Any, Any, _T]], seed: int = 0, *, latency_s_max: float = 0.0
) -> _T:
    """Run a coroutine on a virtual loop of its own. `random`, where the code asks it, is seeded as well."""
    loop = VirtualLoop(seed, latency_s_max=latency_s_max)
    before = random.getstate()
    random.seed(seed)
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main(loop))
    finally:
        random.setstate(before)
