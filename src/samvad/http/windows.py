"""Sliding windows in memory: how much of what somebody asked for lies within the last so many seconds.

A window is cut into 60 slots. A slot that is only partly within the window counts as a whole, so that in no stretch
of the window's length more than the quota is let through; what is used up comes back a sixtieth of the window late,
at most.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from math import ceil
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


_Place = tuple[str, str]  # the quota's name, and whose
_USED_PART: Final = (
    8  # of which a window is much used when one is gone: so much is to be had anew by having it forgotten
)
_LOOKED_AT_MAX: Final = 100  # windows, for the room of one: what was looked at once is not looked at again
Wanted = tuple[str, Quota, int]  # whose, of what, how much


class _Window:
    __slots__ = ("amount", "back_s", "ends_s", "quota", "slots", "total")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.amount = quota.amount  # -1: the window was forgotten, whoever has it at hand still
        self.slots: deque[list[int]] = deque()  # [slot, amount], oldest first
        self.total = 0
        self.ends_s = 0.0  # when the newest slot is over; until then no older one falls out of the window
        self.back_s = 0.0  # when all of it is back


class Account:
    """The windows of one who asks, at hand in the slot in which they were just spent from: of requests, and of bytes.

    Most requests come from who has just asked, in the same slots of the same windows.
    """

    __slots__ = ("_back_s", "_bytes", "_ends_s", "_requests")

    def __init__(self, requests: Sequence[_Window], size: Sequence[_Window]) -> None:
        self._requests = requests
        self._bytes = size
        self._ends_s = min([window.ends_s for window in (*requests, *size)], default=0.0)
        self._back_s = max([window.back_s for window in (*requests, *size)], default=0.0)

    def spend(self, size: int, now_s: float) -> list[int] | None:
        """As `Windows.spend`, of one request with `size` bytes; None, with nothing taken, where that has to look.

        Tells of each window in turn what is left, and in how many seconds all of it is back.
        """
        if now_s >= self._ends_s:
            return None
        for window in self._bytes:
            if window.total + size > window.amount:
                return None
        for window in self._requests:
            if window.total >= window.amount:
                return None
        reset_s = ceil(self._back_s - now_s)
        told: list[int] = []
        for window in self._requests:
            window.slots[-1][1] += 1
            window.total = total = window.total + 1
            told += (window.amount - total, reset_s)
        for window in self._bytes:
            window.slots[-1][1] += size
            window.total = total = window.total + size
            told += (window.amount - total, reset_s)
        return told


class Windows:
    """A window for each key and quota; beyond `keys_max` those are forgotten that matter least.

    That is, those of which all is back; then those that were hardly used, the oldest first. So whoever has many
    addresses cannot have the windows of others forgotten, nor one that they have used up themselves: for each of theirs
    to stay in the place of another they would have to ask as often as that one did.
    """

    def __init__(self, keys_max: int) -> None:
        # Each in the order in which all of them is back: one moves to the end when a slot of its begins.
        self._windows: OrderedDict[_Place, _Window] = OrderedDict()
        self._used: OrderedDict[_Place, _Window] = OrderedDict()  # found to be used up by an eighth, or more
        self._keys_max = keys_max

    def __len__(self) -> int:
        return len(self._windows) + len(self._used)

    def _window(self, place: _Place) -> _Window | None:
        return self._windows.get(place) or self._used.get(place)

    def spend(self, wanted: Sequence[Wanted], now_s: float, *, take: bool = True) -> list[Left]:
        """Take all of it, or where there is not room for all of it, nothing; what is left, and how long to wait.

        With `take` false nothing is taken in any case: `amount` is then what would be left.
        """
        usual = self.again(wanted, now_s) if take else None
        return self._spend_at_length(wanted, now_s, take) if usual is None else usual

    def _spend_at_length(self, wanted: Sequence[Wanted], now_s: float, take: bool) -> list[Left]:
        found: list[Left] = []
        places: list[tuple[_Window | None, int]] = []
        room = True
        for key, quota, cost in wanted:
            left = quota.amount
            window = self._window((quota.name, key))
            slot_s = quota.window_s / SLOTS
            slot = int(now_s // slot_s)
            reset_s = 0
            if window is not None:
                slots = window.slots
                while slots and slots[0][0] < slot - SLOTS:
                    window.total -= slots.popleft()[1]
                left -= window.total
                if slots:
                    reset_s = ceil((slots[-1][0] + SLOTS + 1) * slot_s - now_s)
            places.append((window, slot))
            if cost <= left:
                found.append(Left(quota, left - cost, reset_s))
            else:
                room = False
                found.append(Left(quota, max(left, 0), reset_s, _wait_s(window, quota, cost - left, now_s)))
        if room and take:
            for (key, quota, cost), (window, slot) in zip(wanted, places, strict=True):
                place = (quota.name, key)
                if window is None:
                    self._make_room(now_s)
                    window = self._windows[place] = _Window(quota)
                slots = window.slots
                if slots and slots[-1][0] == slot:
                    slots[-1][1] += cost
                else:
                    for of in (self._windows, self._used):
                        if place in of:  # it is not where it has just made room for another of these
                            of.move_to_end(place)
                    slots.append([slot, cost])
                    slot_s = quota.window_s / SLOTS
                    window.ends_s = (slot + 1) * slot_s
                    window.back_s = (slot + SLOTS + 1) * slot_s
                window.total += cost
        return found

    def again(self, wanted: Sequence[Wanted], now_s: float) -> list[Left] | None:
        """As `spend`, where of each something was taken in this very slot, and there is room: as most often.

        None for all else, with nothing taken.
        """
        windows, used = self._windows, self._used
        found: list[Left] = []
        taking: list[tuple[_Window, int]] = []
        for key, quota, cost in wanted:
            place = (quota.name, key)
            window = windows.get(place) or used.get(place)
            if window is None or now_s >= window.ends_s:
                return None
            left = quota.amount - window.total - cost
            if left < 0:
                return None
            taking.append((window, cost))
            found.append(Left(quota, left, ceil(window.back_s - now_s)))
        for window, cost in taking:
            window.slots[-1][1] += cost
            window.total += cost
        return found

    def account(self, wanted: Sequence[Wanted]) -> Account:
        """The windows from which `again` has just spent, all of them as long as each other; bytes behind requests."""
        windows = [window for key, quota, _ in wanted if (window := self._window((quota.name, key)))]
        requests = [window for window in windows if window.quota.unit == "request"]
        return Account(requests, windows[len(requests) :])

    def _make_room(self, now_s: float) -> None:
        """Forget a window where there are as many as there may be; which is much used is found out here alone."""
        windows, used = self._windows, self._used
        if len(windows) + len(used) < self._keys_max:
            return
        for of in (windows, used):
            for place, window in of.items():
                if window.back_s <= now_s:
                    del of[place]
                    return
                break
        for _ in range(_LOOKED_AT_MAX):
            if not windows:
                break
            place, window = windows.popitem(last=False)
            if window.total * _USED_PART < window.amount:
                window.amount = -1
                return
            used[place] = window
        used.popitem(last=False)[1].amount = -1


def _wait_s(window: _Window | None, quota: Quota, missing: int, now_s: float) -> int:
    """How long until so much more has come back."""
    slot_s = quota.window_s / SLOTS
    for slot, amount in window.slots if window is not None else ():
        missing -= amount
        if missing <= 0:
            return max(ceil((slot + SLOTS + 1) * slot_s - now_s), 1)
    return quota.window_s
