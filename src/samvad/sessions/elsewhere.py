"""What other processes write to the store: memory here follows, and who listens here is told.

A record that another replica changed is looked up again when it is next needed, or at once where somebody follows
the user. What is pending here is put upon the other's as soon as that can be. An erasing elsewhere empties memory here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from samvad.records import UserKey, Version, user_hash
from samvad.sessions.acting import SessionCore
from samvad.sessions.journaled import JournaledStore
from samvad.stores.base import Lapse, Notice, UserChanged, UserGone

_HASHED_AT_ONCE: Final = 2_000  # about 3 ms of the event loop


class Elsewhere:
    """Takes the notices of a store. `remembered` names the users of whom memory beside the cache holds something.

    `on_gone` is told the hash of somebody who was erased, known here or not; None: somebody may have been.
    """

    def __init__(
        self,
        core: SessionCore,
        remembered: Callable[[], Iterable[tuple[str, str]]],
        on_gone: Callable[[bytes | None], Awaitable[None]],
    ) -> None:
        self._core = core
        self._on_gone = on_gone
        self._remembered = remembered
        self._journaled = core.store if isinstance(core.store, JournaledStore) else None

    async def heard(self, notice: Notice) -> None:
        """Follow a notice."""
        if isinstance(notice, UserChanged):
            self._changed(notice.user, notice.version)
        elif isinstance(notice, UserGone):
            for user in await self._users_of(notice.user_hash):
                self._changed(user, Version(notice.epoch, 0))
                for listener in self._core.on_erased:
                    listener(user)
            await self._on_gone(notice.user_hash)
            if self._journaled is not None:  # what the store had long ago is in its files for a while
                self._journaled.flusher.scrubber.scrub()
        elif isinstance(notice, Lapse):
            for lane in self._core.lanes.cache:
                lane.latest = None
            await self._on_gone(None)
            if self._journaled is not None:
                self._journaled.doubt_all()
                self._journaled.flusher.scrubber.scrub()  # an erasing may be among what was missed

    def _changed(self, user: UserKey, version: Version) -> None:
        if self._journaled is None or not self._journaled.heard(user, version):
            self._core.lanes.outdated(user, version)

    async def _users_of(self, wanted: bytes) -> list[UserKey]:
        """Whose hash this is, of all that are known here; the store does not name who was erased."""
        known = {*self._core.lanes.cache.keys(), *self._core.owners.values()}
        known.update(UserKey(tenant, user_id) for tenant, user_id in self._remembered())
        if self._journaled is not None:
            known.update(self._journaled.flusher.users())
        found = []
        for number, user in enumerate(known, 1):
            if user_hash(user) == wanted:
                found.append(user)
            if number % _HASHED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found
