"""After an erasing: no bytes of it stay in the journal, and only then is it answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from samvad.clock import Clock
from samvad.errors import SamvadError, ShuttingDown
from samvad.records import Commit, Erased
from samvad.sessions.breaker import Patience
from samvad.sessions.journal import Journal

_log = logging.getLogger(__name__)

Tell = Callable[[], None]


class Scrubber:
    """Scrubs the journal when something in it was erased. `waits`: other replicas may write to the store."""

    def __init__(self, journal: Journal, clock: Clock, patience: Patience, *, waits: bool) -> None:
        self._journal = journal
        self._clock = clock
        self._patience = patience
        self._skew_ms = round(patience.clock_skew_s * 1000) if waits else None
        self._told: list[Tell] = []
        self._stopped = False
        self.owed = False
        self.task: asyncio.Task[None] | None = None

    def then_tell(self, commit: Commit, tell: Tell) -> None:
        """Tell it once this place is clean (or that takes too long), and no clock stands before it any more."""
        at_ms = next(change.at_ms for change in commit.changes if isinstance(change, Erased))

        def clean() -> None:
            self._after_all_clocks(at_ms, tell)

        self._told.append(clean)
        asyncio.get_running_loop().call_later(self._patience.erase_wait_s, clean)

    def _after_all_clocks(self, at_ms: int, tell: Tell) -> None:
        """What any replica is asked for from the answer on counts as after the erasing (see reapply.is_over)."""
        if self._skew_ms is None or self._stopped:
            tell()
            return
        wait_ms = min(at_ms - self._clock.now_ms(), 0) + 2 * self._skew_ms + 1
        if wait_ms > 0:
            asyncio.get_running_loop().call_later(wait_ms / 1000, tell)
        else:
            tell()

    def scrub(self) -> None:
        """See that no bytes of what is forgotten stay in the journal."""
        self.owed = True
        if self.task is None and not self._stopped:
            self.task = asyncio.create_task(self._scrub())

    async def scrubbed(self) -> None:
        """Scrub, and wait until that is done."""
        self.scrub()
        if self.task is not None:
            await asyncio.wait({self.task})

    async def stop(self) -> None:
        """Finish the round that is under way; nobody waits any longer."""
        self._stopped = True
        if self.task is not None:
            await asyncio.gather(self.task, return_exceptions=True)
        for tell in self._told:
            tell()

    async def _scrub(self) -> None:
        try:
            while self.owed and not self._stopped:
                self.owed = False
                told, self._told = self._told, []
                try:
                    await self._journal.scrub()
                except ShuttingDown:
                    self.owed = True
                    break
                except SamvadError as error:  # the disk: what was erased is erased in the store all the same
                    self.owed = True
                    _log.warning("the journal could not be scrubbed", extra={"code": error.code})
                    await asyncio.sleep(self._patience.retry_s_max)
                finally:
                    for tell in told:
                        tell()
        finally:
            self.task = None
