"""An event loop whose time passes only while nobody has anything to do: an hour of waiting takes a moment."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from samvad.clock import Clock
from samvad.testing.clock import START_MS

T = TypeVar("T")
_REAL_WAIT_S = 0.001  # for a thread that works, between two looks whether it is done


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Where the loop would sleep, it lets time pass instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; if nothing is, time jumps to the next timer, unless somebody works outside the loop."""
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._loop.busy():
            return super().select(_REAL_WAIT_S)
        self._loop.passed_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`busy` says whether a thread is at work whose answer the loop must wait for, in real time."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.busy: Callable[[], bool] = lambda: False
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Virtual seconds."""
        return self.passed_s


class LoopClock(Clock):
    """The clock that goes with a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        """See Clock."""
        return START_MS + round(self._loop.passed_s * 1000)

    def monotonic_s(self) -> float:
        """See Clock."""
        return self._loop.passed_s


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a new virtual loop."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))
