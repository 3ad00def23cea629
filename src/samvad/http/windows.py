"""Sliding windows in memory: how much of what somebody asked for lies within the last so many seconds.

A window is cut into 60 slots. A slot that is only partly within the window counts as a whole, so that in no stretch
of the window's length more than the quota is let through; what is used up comes back a sixtieth of the window late,
at most.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Final, NamedTuple

SLOTS: Final = 60


class Quota(NamedTuple):
    """So much in so many seconds; `unit` as the RateLimit-Policy field names it (`request`, `content-bytes`)."""

    name: str
    amount: int
    window_s: int = 60
    unit: str = "request"


class Left(NamedTuple):
    """What is left of a quota, in how many seconds all of it is back, and how long to wait where it is not enough."""

    quota: Quota
    amount: int
    reset_s: int
    wait_s: int = 0


class _Window:
    __slots__ = ("slots", "total")

    def __init__(self) -> None:
        self.slots: deque[list[int]] = deque()  # [slot, amount], oldest first
        self.total = 0


class Windows:
    """A window for each key and quota; those that were not used for longest are forgotten beyond `keys_max`."""

    def __init__(self, keys_max: int) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._keys_max = keys_max

    def __len__(self) -> int:
        return len(self._windows)

    def look(self, key: str, quota: Quota, cost: int, now_s: float) -> Left:
        """What would be left after `cost`; `wait_s` is 0 where there is room for it. Nothing is taken."""
        window = self._windows.get((quota.name, key))
        if window is None:
            return Left(quota, max(quota.amount - cost, 0), 0, 0 if cost <= quota.amount else quota.window_s)
        slot_s = quota.window_s / SLOTS
        self._expire(window, math.floor(now_s / slot_s))
        if not window.slots:
            return Left(quota, max(quota.amount - cost, 0), 0, 0 if cost <= quota.amount else quota.window_s)
        reset_s = math.ceil((window.slots[-1][0] + SLOTS + 1) * slot_s - now_s)
        left = quota.amount - window.total
        if cost <= left:
            return Left(quota, left - cost, reset_s)
        wait_s = float(quota.window_s)
        for slot, amount in window.slots:
            left += amount
            if cost <= left:
                wait_s = (slot + SLOTS + 1) * slot_s - now_s
                break
        return Left(quota, max(quota.amount - window.total, 0), reset_s, max(math.ceil(wait_s), 1))

    def take(self, key: str, quota: Quota, cost: int, now_s: float) -> None:
        """Take `cost` from a quota, whether there is room for it or not."""
        place = (quota.name, key)
        window = self._windows.get(place)
        if window is None:
            window = self._windows[place] = _Window()
            if len(self._windows) > self._keys_max:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(place)
        slot = math.floor(now_s / (quota.window_s / SLOTS))
        if window.slots and window.slots[-1][0] == slot:
            window.slots[-1][1] += cost
        else:
            window.slots.append([slot, cost])
        window.total += cost

    @staticmethod
    def _expire(window: _Window, slot: int) -> None:
        slots = window.slots
        while slots and slots[0][0] < slot - SLOTS:
            window.total -= slots.popleft()[1]
