"""A circuit breaker in front of the store: while it is down, one probe asks, and nobody else."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from samvad.clock import Clock
from samvad.errors import KeyUnavailable, SamvadError, SetupError, StoreUnavailable, Unavailable
from samvad.stores.base import HealthReport

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

FAILURES_MAX = 3


class Patience(NamedTuple):
    """How long to wait for what, in seconds. The defaults are for a store across a network."""

    write_interval_s: float = 1.0  # Firestore: about one sustained write a second per document
    gather_s: float = (
        1.2  # the first words after a silence wait for more: what is said and answered is one write
    )
    erase_wait_s: float = 2.0  # how long a removal waits for the store before it is answered as pending
    call_s: float = 20.0  # the longest that one call to the store may take, whatever the store itself bounds
    retry_s_max: float = 0.5  # between two tries of one lane while the store is taken to be up
    probe_s_min: float = 0.1
    probe_s_max: float = 10.0
    clock_skew_s: float = 0.1  # by how much the clocks of two replicas may differ (see reapply.is_over)


def is_up(report: HealthReport) -> bool:
    """Whether a store is there; SetupError where it is and refuses whoever asks."""
    if report.refused:
        raise SetupError(report.fault or "The store refuses this project or its credentials.")
    return report.up


class Breaker:
    """Opens after 3 failures in a row; then probes with full-jitter backoff until the store answers.

    After a failure, and after a probe came through, the store is in doubt: one lane at a time may try, so that an
    outage costs a few calls and not one for each lane. (Full jitter: a random wait between 0 and the
    exponentially growing bound, so that many processes that lost the store do not come back together.)
    """

    def __init__(
        self,
        clock: Clock,
        probe: Callable[[], Awaitable[bool]],
        patience: Patience | None = None,
        *,
        on_down: Callable[[], None] = lambda: None,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._probe = probe
        self._patience = patience or Patience()
        self._on_down = on_down
        self._on_up = on_up
        self._failures = 0
        self._attempt = 0
        self._doubt = False
        self._trying = False
        self._stopped = False
        self._closed = asyncio.Event()
        self._closed.set()
        self._news = asyncio.Event()
        self._prober: asyncio.Task[None] | None = None
        self._looker: asyncio.Task[None] | None = None
        self.opened_ms: int | None = None
        self.reason = ""  # what keeps it down that the operator must mend, where that is known
        self.times_opened = 0
        self.probes = 0
        self.failures = 0

    @property
    def is_open(self) -> bool:
        """Whether the store is taken to be down."""
        return self.opened_ms is not None

    async def admitted(self) -> bool:
        """Wait until a call may be made; true if it is the one that tries, for everybody: then say `leave` after it."""
        while True:
            await self._closed.wait()
            if not self._doubt:
                return False
            if not self._trying:
                self._trying = True
                return True
            await self._news.wait()

    def leave(self, trying: bool) -> None:
        """The call that was admitted is over."""
        if trying:
            self._trying = False
            self._tell()

    async def through(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call and note how it went; StoreUnavailable at once where the store is taken to be down."""
        if self.is_open:
            raise StoreUnavailable("The store is down, and this process does not know the answer.")
        try:
            async with asyncio.timeout(self._patience.call_s):
                answer = await ask()
        except TimeoutError:
            self.failed()
            raise StoreUnavailable("The store did not answer in time.") from None
        except Unavailable as error:
            self.failed()
            if isinstance(
                error, KeyUnavailable
            ):  # it fails for whoever is next as well: a probe tells when to go on
                self.open()
            raise
        except SamvadError:
            self.succeeded()  # it refuses, so it is there
            raise
        self.succeeded()
        return answer

    def succeeded(self) -> None:
        """A call came through."""
        in_doubt = self._doubt or self.is_open
        self._failures = self._attempt = 0
        self._doubt = False
        if in_doubt:
            self._close()

    def failed(self) -> None:
        """A call failed for a reason that may pass."""
        self.failures += 1
        self._failures += 1
        self._doubt = True
        if self._failures >= FAILURES_MAX:
            self.open()

    def open(self) -> None:
        """Take the store to be down, and probe until it answers."""
        if self.is_open or self._stopped:
            return
        self.opened_ms = self._clock.now_ms()
        self.times_opened += 1
        self._closed.clear()
        _log.warning("the store is down: writes go on in the journal")
        self._prober = asyncio.create_task(self._probe_until_up())
        self._on_down()

    def _close(self) -> None:
        if self.is_open:
            self.opened_ms = None
            self.reason = ""
            self._closed.set()
            _log.warning("the store is back")
        self._tell()
        self._on_up()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _probe_until_up(self) -> None:
        patience = self._patience
        while self.is_open:
            bound_s = min(patience.probe_s_max, patience.probe_s_min * 2 ** min(self._attempt, 30))
            await asyncio.sleep(random.uniform(0, bound_s))
            self._attempt += 1
            if not self.is_open:
                break
            self.probes += 1
            if await self._answers() and self.is_open:
                self._failures = FAILURES_MAX - 1  # one call will tell; if it fails, this goes on as before
                self._close()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._patience.call_s):
                return await self._probe()
        except SetupError as error:  # waiting does not mend it: say what does, once
            if self.reason != error.message:
                self.reason = error.message
                _log.error("the store cannot be used: %s", error.message)
            return False
        except (TimeoutError, SamvadError):
            return False
        except Exception:  # the top of a task: whatever ails the store, probing goes on
            _log.exception("the store could not be probed")
            return False

    def look(self) -> None:
        """Probe until it answers: a store that refuses whoever asks is taken to be down before anybody needs it."""
        self._looker = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while not self.is_open and not await self._answers():
            if self.reason:
                self.open()
            else:
                self.failed()
                await asyncio.sleep(random.uniform(0, self._patience.retry_s_max))

    async def stop(self) -> None:
        """End the probing."""
        self._stopped = True
        for task in (self._prober, self._looker):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
