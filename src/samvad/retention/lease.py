"""One sweep at a time over a store that several replicas share: a note that the one who sweeps keeps young.

It saves reads, and nothing rests on it: two sweeps at once do no harm. So a replica that hangs or dies holds nobody up
for longer than `LEASE_S`, and how old the note is tells the store's clock, not those of the replicas.

The note also tells how many users a sweep that was cut off had passed, so that the next one need not look at them
again: a number and no id, for whoever is erased must not stand here.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
from typing import Any, Final, Literal

import msgspec

from samvad.clock import Clock
from samvad.errors import SamvadError, Unavailable
from samvad.stores.shared_notes import SharedNote, SharedNotes

_log = logging.getLogger(__name__)

NAME: Final = "retention"
LEASE_S: Final = 300.0  # without a sign of life for so long, a sweep counts as cut off
RENEW_S: Final = 60.0
_RELEASE_S: Final = 2.0  # a server that stops waits no longer


class SweptElsewhere(SamvadError):
    """Another replica sweeps, or has swept not long ago: there is nothing to do here for `wait_s`."""

    code = "swept_elsewhere"
    status = 503

    def __init__(self, message: str, wait_s: float, began_ms: int, *, done: bool) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.began_ms = began_ms
        self.done = done


class CutShort(SamvadError):
    """A sweep ended before it had seen everyone; the next one goes on."""

    code = "cut_short"
    status = 503


class Holding(msgspec.Struct, rename="camel"):
    """What the note says. `began_ms` is by the holder's clock; `passed` of all users were looked at or need not be."""

    holder: str
    state: Literal["sweeping", "done", "cut short"]
    began_ms: int
    passed: int
    turn: int


class SweepLease:
    """The right to sweep, for one process; its name is the host's and a few letters of chance."""

    def __init__(self, notes: SharedNotes, clock: Clock) -> None:
        self._notes = notes
        self._clock = clock
        self.holder = f"{platform.node()[:60]}-{secrets.token_hex(3)}"
        self._note: SharedNote | None = None
        self._holding: Holding | None = None
        self._unsaid: Holding | None = None  # what could not be written when the store was down
        self._renewed_s = 0.0
        self._renewing = asyncio.Lock()
        self.taken_over = 0

    async def look(self) -> tuple[Holding, float] | None:
        """What the note says, and how many seconds ago that was written."""
        note = await self._notes.get(NAME)
        there = _read(note)
        return None if note is None or there is None else (there, note.age_ms / 1000)

    async def take(self, began_ms: int, due_s: float) -> int:
        """Take the lease; returns how many users the last sweep had passed when it was cut off.

        SweptElsewhere where another holds it, or a whole sweep ended less than `due_s` ago. With 0 for it, by hand,
        only the former counts, and nobody is passed over.
        """
        note = await self._notes.get(NAME)
        there = _read(note)
        passed = turn = 0
        over = False
        if note is not None and there is not None:
            age_s, turn = note.age_ms / 1000, there.turn
            over = there.state == "sweeping" and there.holder != self.holder
            if over and age_s < LEASE_S:
                raise _elsewhere(there, LEASE_S - age_s)
            if there.state == "done" and age_s < due_s:
                raise _elsewhere(there, due_s - age_s)
            if there.state != "done" and age_s < due_s:
                unsaid = self._unsaid
                passed = unsaid.passed if unsaid is not None and unsaid.turn > turn else there.passed
        holding = Holding(self.holder, "sweeping", began_ms, passed, turn + 1)
        if not await self._write(note, holding):
            raise SweptElsewhere("Another replica begins to sweep just now.", LEASE_S, began_ms, done=False)
        self.taken_over += over
        return passed

    async def renew(self, passed: int) -> None:
        """Say that the sweep goes on, where that is due; CutShort where another replica has taken over."""
        if self._clock.monotonic_s() - self._renewed_s < RENEW_S:
            return
        async with self._renewing:
            holding = self._holding
            if holding is None or self._clock.monotonic_s() - self._renewed_s < RENEW_S:
                return
            if not await self._write(self._note, _next(holding, passed, "sweeping")):
                raise CutShort(
                    "Another replica took this sweep over: it had heard nothing of it for too long."
                )

    async def release(self, passed: int, *, done: bool) -> None:
        """Let another take it; where that cannot be written, it can be once the note is old."""
        if self._holding is None:
            return
        last = _next(self._holding, passed, "done" if done else "cut short")
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._write(self._note, last)
        except (Unavailable, TimeoutError) as error:
            self._unsaid = last
            _log.info("retention: the lease is left to run out", extra={"code": type(error).__name__})
        self._note = self._holding = None

    async def _write(self, note: SharedNote | None, holding: Holding) -> bool:
        self._note = await self._notes.swap(NAME, note, msgspec.json.encode(holding))
        self._holding = None if self._note is None else holding
        self._renewed_s = self._clock.monotonic_s()
        return self._note is not None


def lease_of(engine: Any, clock: Clock) -> SweepLease | None:
    """The lease over a store; None where there is one process alone, or the store keeps no notes."""
    notes = getattr(engine, "notes", None) if engine.capabilities.shared else None
    return None if notes is None else SweepLease(notes, clock)


def _next(holding: Holding, passed: int, state: Literal["sweeping", "done", "cut short"]) -> Holding:
    return msgspec.structs.replace(holding, passed=passed, state=state, turn=holding.turn + 1)


def _elsewhere(there: Holding, wait_s: float) -> SweptElsewhere:
    done = there.state == "done"
    what = "has swept" if done else "is sweeping, or was until it ended in the middle;"
    again = f"{'the next sweep is due' if done else 'try again'} in {max(1, round(wait_s / 60))} minutes."
    return SweptElsewhere(f"{there.holder} {what} {again}", wait_s, there.began_ms, done=done)


def _read(note: SharedNote | None) -> Holding | None:
    try:
        return None if note is None else msgspec.json.decode(note.body, type=Holding)
    except (msgspec.DecodeError, UnicodeDecodeError):  # of a version to come
        return None
