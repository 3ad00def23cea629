"""What Firestore bills: operations really done, at its prices, and what one write for each message would have cost.

Counted where the store calls Firestore, and nowhere else. Totals over restarts are kept in a small file, written once
a minute and at a clean stop: what a killed process did in its last minute is missing there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from samvad.clock import Clock
from samvad.private_files import replace_private

PER: Final = 100_000  # operations that a price is for
FILE: Final = "cost.json"

_log = logging.getLogger(__name__)


class Prices(NamedTuple):
    """US dollars for 100,000 operations. The defaults are those of the multi-region nam5.

    https://cloud.google.com/firestore/pricing
    """

    reads: float = 0.06
    writes: float = 0.18
    deletes: float = 0.02


class Billed(msgspec.Struct, frozen=True):
    """Operations as Firestore bills them, and the messages that these writes brought there."""

    reads: int = 0
    writes: int = 0
    deletes: int = 0
    messages: int = 0

    def plus(self, other: Billed) -> Billed:
        """Both together."""
        return Billed(
            self.reads + other.reads,
            self.writes + other.writes,
            self.deletes + other.deletes,
            self.messages + other.messages,
        )

    def usd(self, prices: Prices) -> float:
        """What they cost, without regard to what is free each day."""
        cost = self.reads * prices.reads + self.writes * prices.writes + self.deletes * prices.deletes
        return cost / PER


class Kept(msgspec.Struct, rename="camel"):
    """The file: since when (ms since 1970), of which store, and how much."""

    since_ms: int
    store: str
    billed: Billed


def kept_at(path: Path) -> Kept | None:
    """What the file says; None where there is none, or it cannot be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    return None


class CostMeter:
    """What this process and those before it had done. `store` is any; only one that bills has `billed`."""

    def __init__(self, store: Any, clock: Clock, prices: Prices, *, path: Path | None, url: str) -> None:
        self._store = getattr(store, "inner", store)
        self._clock = clock
        self._path = path
        self._url = url
        self._before = Billed()
        self._saved: Billed | None = None
        self.prices = prices
        self.started_ms = clock.now_ms()
        self.since_ms = self.started_ms

    @property
    def bills(self) -> bool:
        """Whether this engine costs anything for an operation."""
        return hasattr(self._store, "billed")

    @property
    def process(self) -> Billed:
        """Since this process began."""
        billed: Billed = Billed(*self._store.billed) if self.bills else Billed()
        return billed

    @property
    def total(self) -> Billed:
        """Since the file was begun."""
        return self._before.plus(self.process)

    async def load(self) -> None:
        """Go on with what earlier processes have counted for this store."""
        if self._path is None or not self.bills:
            return
        kept = await asyncio.to_thread(kept_at, self._path)
        if kept is not None and kept.store == self._url:
            self._before, self.since_ms = kept.billed, kept.since_ms

    async def save(self) -> None:
        """Keep the totals. A disk that cannot is logged; nothing else depends on it."""
        if self._path is None or not self.bills or self._saved == self.total:
            return
        total = self.total
        try:
            await asyncio.to_thread(_write, self._path, Kept(self.since_ms, self._url, total))
        except OSError as error:
            _log.warning("the totals of cost cannot be kept: %s", error.strerror)
        else:
            self._saved = total


def _write(path: Path, kept: Kept) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_private(path, msgspec.json.encode(kept), sync=False)


class Compared(NamedTuple):
    """What was done against one write for each message: `share` is writes by messages (None: no message)."""

    writes: int
    usd: float
    saved_usd: float
    share: float | None


def compared(billed: Billed, prices: Prices) -> Compared:
    """The same reads and deletes, with one write for each message and none for anything else."""
    plain = msgspec.structs.replace(billed, writes=billed.messages)
    share = billed.writes / billed.messages if billed.messages else None
    return Compared(plain.writes, plain.usd(prices), plain.usd(prices) - billed.usd(prices), share)
