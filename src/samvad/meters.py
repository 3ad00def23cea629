"""What is counted where it happens, as plain numbers; `samvad.http.metrics` makes Prometheus' families of it.

A histogram of Prometheus' own client takes a lock for each observation, which costs more than what is measured. Each of
these is written by one thread alone (the event loop, or a writer's), and read by the loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, TypeVar

_Group = TypeVar("_Group", bound=Sequence[object])
_T = TypeVar("_T")

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
LONG_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Histogram:
    """How often values up to each bound were seen (`buckets`, the last one for all above), and their sum."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_all(self, other: Histogram) -> None:
        """All values that another one of the same bounds has seen."""
        self.buckets = [mine + more for mine, more in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.buckets)


class SyncMeter:
    """Groups that a writer's thread has brought to the disk: how many shared one sync, and how long it took."""

    __slots__ = ("seconds", "sizes")

    def __init__(self) -> None:
        self.seconds = Histogram()
        self.sizes = Histogram(SIZES)

    def timed(self, write: Callable[[_Group], _T], group: _Group) -> _T:
        """`write(group)`; counted where it does not raise."""
        began_s = perf_counter()
        result = write(group)
        self.seconds.add(perf_counter() - began_s)
        self.sizes.add(len(group))
        return result
