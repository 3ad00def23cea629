"""Requests that are refused again and again, told in few words: an attempt is seen, and cannot fill the log.

Of one caller, the first refusal by a limit is told at once, and refused input once it comes in bulk; what follows in
the same minute is told in one entry with its count when the minute is over. Only refused requests come here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from samvad import limits
from samvad.clock import Clock

OVER_LIMIT: Final = "overLimit"
REFUSED_INPUT: Final = "refusedInput"
EVENTS: Final = {429: OVER_LIMIT, **dict.fromkeys((400, 404, 405, 409, 413, 415, 422), REFUSED_INPUT)}
OTHERS: Final = "others"  # who they are together, where there are more callers than are told apart


class Caller(NamedTuple):
    """Who was refused, as an entry names them, and whether it is a program."""

    who: str
    tenant: str
    program: bool
    address: str | None = None


class Told(NamedTuple):
    """What is to be noted: so many requests of one caller were refused, the last of them so."""

    caller: Caller
    event: str
    status: int
    times: int


class _Burst:
    """The refusals of one caller within a minute."""

    __slots__ = ("caller", "count", "event", "least", "since_s", "status", "told")

    def __init__(self, caller: Caller, event: str, since_s: float) -> None:
        self.caller, self.event, self.since_s = caller, event, since_s
        self.count = self.told = self.status = 0
        program = caller.program
        bulk = limits.AUDIT_REFUSED_OF_PROGRAM_MIN if program else limits.AUDIT_REFUSED_OF_PERSON_MIN
        self.least = 1 if event == OVER_LIMIT else bulk


class Attempts:
    """Counts refusals; `tell` hears of at most two bursts of each caller in a minute, each event apart."""

    def __init__(self, clock: Clock, tell: Callable[[Told], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._bursts: OrderedDict[tuple[str, str], _Burst] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._bursts)

    def refused(self, name: str, status: int, caller: Callable[[], Caller]) -> None:
        """A request was refused so; only what `EVENTS` has counts.

        By `name` callers are told apart. Who it is costs more to say, and is asked once a minute.
        """
        event = EVENTS.get(status)
        if event is None:
            return
        now_s = self._clock.monotonic_s()
        self.sweep(now_s)
        burst = self._bursts.get((event, name))
        if burst is None and len(self._bursts) >= limits.AUDIT_CALLERS_MAX:
            name, caller = OTHERS, _others
            burst = self._bursts.get((event, name))
        if burst is None:
            burst = self._bursts[event, name] = _Burst(caller(), event, now_s)
        burst.count += 1
        burst.status = status
        if not burst.told and burst.count >= burst.least:
            self._told(burst)
        self._wake()

    def sweep(self, now_s: float | None = None) -> None:
        """Tell the rest of what is over: all of it where no time is given."""
        while self._bursts:
            place, burst = next(iter(self._bursts.items()))
            if now_s is not None and now_s - burst.since_s < limits.AUDIT_BURST_S:
                return
            del self._bursts[place]
            if burst.told and burst.count > burst.told:
                self._told(burst)

    def _told(self, burst: _Burst) -> None:
        count, burst.told = burst.count - burst.told, burst.count
        self._tell(Told(burst.caller, burst.event, burst.status, count))

    def _wake(self) -> None:
        """See to it that what is over is told, though nothing more comes."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(limits.AUDIT_BURST_S, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self.sweep(self._clock.monotonic_s())
        if self._bursts:
            self._wake()

    def close(self) -> None:
        """Tell all that is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.sweep()


def _others() -> Caller:
    return Caller(OTHERS, "-", True)
