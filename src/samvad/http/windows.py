"""Sliding windows in memory: how much of what somebody asked for lies within the last so many seconds.

A window is cut into 60 slots. A slot that is only partly within the window counts as a whole, so that in no stretch
of the window's length more than the quota is let through; what is used up comes back a sixtieth of the window late,
at most.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

import msgspec

SLOTS: Final = 60


class Quota:
    """So much in so many seconds; `unit` as the RateLimit-Policy field names it (`request`, `content-bytes`).

    It is the same as itself alone: what is looked up by quotas, with each request, is found at once.
    """

    __slots__ = ("amount", "name", "unit", "window_s")

    def __init__(self, name: str, amount: int, window_s: int = 60, unit: str = "request") -> None:
        self.name = name
        self.amount = amount
        self.window_s = window_s
        self.unit = unit


class Left(msgspec.Struct, frozen=True, gc=False):
    """What is left of a quota, in how many seconds all of it is back, and how long to wait where it is not enough."""

    quota: Quota
    amount: int
    reset_s: int
    wait_s: int = 0


Wanted = tuple[str, Quota, int]  # whose, of what, how much


class _Window:
    __slots__ = ("back_s", "ends_s", "slots", "total")

    def __init__(self) -> None:
        self.slots: deque[list[int]] = deque()  # [slot, amount], oldest first
        self.total = 0
        self.ends_s = 0.0  # when the newest slot is over; until then no older one falls out of the window
        self.back_s = 0.0  # when all of it is back


class Windows:
    """A window for each key and quota; those that were not used for longest are forgotten beyond `keys_max`."""

    def __init__(self, keys_max: int) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._keys_max = keys_max

    def __len__(self) -> int:
        return len(self._windows)

    def spend(self, wanted: Sequence[Wanted], now_s: float, *, take: bool = True) -> list[Left]:
        """Take all of it, or where there is not room for all of it, nothing; what is left, and how long to wait.

        With `take` false nothing is taken in any case: `amount` is then what would be left.
        """
        usual = self._once_more(wanted, now_s) if take else None
        return self._spend_at_length(wanted, now_s, take) if usual is None else usual

    def _spend_at_length(self, wanted: Sequence[Wanted], now_s: float, take: bool) -> list[Left]:
        found: list[Left] = []
        places: list[tuple[_Window | None, int]] = []
        room = True
        for key, quota, cost in wanted:
            left = quota.amount
            window = self._windows.get((quota.name, key))
            slot_s = quota.window_s / SLOTS
            slot = int(now_s // slot_s)
            reset_s = 0
            if window is not None:
                slots = window.slots
                while slots and slots[0][0] < slot - SLOTS:
                    window.total -= slots.popleft()[1]
                left -= window.total
                if slots:
                    reset_s = math.ceil((slots[-1][0] + SLOTS + 1) * slot_s - now_s)
            places.append((window, slot))
            if cost <= left:
                found.append(Left(quota, left - cost, reset_s))
            else:
                room = False
                found.append(Left(quota, max(left, 0), reset_s, _wait_s(window, quota, cost - left, now_s)))
        if room and take:
            for (key, quota, cost), (window, slot) in zip(wanted, places, strict=True):
                if window is None:
                    window = self._windows[quota.name, key] = _Window()
                    if len(self._windows) > self._keys_max:
                        self._windows.popitem(last=False)
                else:
                    self._windows.move_to_end((quota.name, key))
                slots = window.slots
                if slots and slots[-1][0] == slot:
                    slots[-1][1] += cost
                else:
                    slots.append([slot, cost])
                    slot_s = quota.window_s / SLOTS
                    window.ends_s = (slot + 1) * slot_s
                    window.back_s = (slot + SLOTS + 1) * slot_s
                window.total += cost
        return found

    def _once_more(self, wanted: Sequence[Wanted], now_s: float) -> list[Left] | None:
        """As `spend`, where of each something was taken in this very slot, and there is room: as most often.

        None for all else, with nothing taken.
        """
        windows = self._windows
        found: list[Left] = []
        taking: list[tuple[_Window, int]] = []
        for key, quota, cost in wanted:
            place = (quota.name, key)
            window = windows.get(place)
            if window is None or now_s >= window.ends_s:
                return None
            left = quota.amount - window.total - cost
            if left < 0:
                return None
            windows.move_to_end(place)
            taking.append((window, cost))
            found.append(Left(quota, left, math.ceil(window.back_s - now_s)))
        for window, cost in taking:
            window.slots[-1][1] += cost
            window.total += cost
        return found


def _wait_s(window: _Window | None, quota: Quota, missing: int, now_s: float) -> int:
    """How long until so much more has come back."""
    slot_s = quota.window_s / SLOTS
    for slot, amount in window.slots if window is not None else ():
        missing -= amount
        if missing <= 0:
            return max(math.ceil((slot + SLOTS + 1) * slot_s - now_s), 1)
    return quota.window_s
