"""A circuit breaker in front of the store: while it is down, one probe asks, and nobody else."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from samvad.clock import Clock

_log = logging.getLogger(__name__)

FAILURES_MAX = 3
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0


class Breaker:
    """Opens after 3 failures in a row; then probes with full-jitter backoff until the store answers.

    (Full jitter: a random wait between 0 and the exponentially growing bound, so that many processes that
    lost the store together do not come back together.)
    """

    def __init__(self, clock: Clock, probe: Callable[[], Awaitable[bool]]) -> None:
        self._clock = clock
        self._probe = probe
        self._failures = 0
        self._closed = asyncio.Event()
        self._closed.set()
        self._prober: asyncio.Task[None] | None = None
        self.opened_ms: int | None = None
        self.times_opened = 0
        self.probes = 0

    @property
    def is_open(self) -> bool:
        """Whether the store is taken to be down."""
        return self.opened_ms is not None

    async def wait_closed(self) -> None:
        """Wait until the store is taken to be up."""
        await self._closed.wait()

    def succeeded(self) -> None:
        """A call came through."""
        self._failures = 0
        if self.is_open:
            self.opened_ms = None
            self._closed.set()
            _log.warning("the store is back")

    def failed(self) -> None:
        """A call failed for a reason that may pass."""
        self._failures += 1
        if self._failures >= FAILURES_MAX and not self.is_open:
            self.opened_ms = self._clock.now_ms()
            self.times_opened += 1
            self._closed.clear()
            _log.warning("the store is down: writes go on in the journal")
            self._prober = asyncio.create_task(self._probe_until_up())

    async def _probe_until_up(self) -> None:
        attempt = 0
        while self.is_open:
            bound_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2**attempt)
            await asyncio.sleep(random.uniform(0, bound_s))
            attempt += 1
            self.probes += 1
            if await self._probe():
                self.succeeded()

    async def stop(self) -> None:
        """End the probing."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
