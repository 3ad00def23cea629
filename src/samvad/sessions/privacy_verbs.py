"""The verbs of privacy: whether the content of what a user says is kept."""

from __future__ import annotations

import asyncio

from samvad.errors import InvalidRequest, Unavailable
from samvad.records import NOTHING_REMOVED, UserKey, UserRecord, cleared
from samvad.sessions import content
from samvad.sessions.acting import removed_by, to_the_end
from samvad.sessions.operations import EraseUser, KeepContent
from samvad.sessions.session_verbs import SessionVerbs
from samvad.types import Cleared, Privacy, PrivacySaved

_TRIES_MAX = 5  # others may write with content until they hear of the wish
_WRITTEN_WITHIN_S = 10.0
_PAGE_MESSAGES = 500
_PAGE_BYTES = 1024 * 1024


class PrivacyVerbs(SessionVerbs):
    """Keep the content of what a user says, or lengths and times only."""

    async def get_privacy(self, user_id: str) -> Privacy:
        """Whether the user's content is kept, and who decided that."""
        key = self._user(user_id)
        return self._privacy(key, await self.core.lanes.read(key))

    async def save_privacy(self, user_id: str, *, content: str) -> PrivacySaved:
        """`none`: from now on, keep of what the user says who, when and how long only; what is there is erased first.

        A person may ask for `none` for themself; `keep` takes a program with the scope `users` (else Forbidden).
        Where content is there, all of the user is erased as by `clear_user_data`, and the new life begins without.
        """
        key = self._user(user_id)
        if content == "keep":
            self.need("users")
            operation = KeepContent(at_ms=self.core.clock.now_ms(), kept=True)
            await self.core.lanes.write(key, operation)
            return PrivacySaved(await self.get_privacy(user_id), cleared(NOTHING_REMOVED))
        if content != "none":
            raise InvalidRequest("content must be 'keep' or 'none'.")
        return await to_the_end(self._keep_none(key))

    def _privacy(self, key: UserKey, record: UserRecord) -> Privacy:
        if content.wishes_none(record):
            return Privacy("none", "user")
        if not content.keeps_content(record, key.tenant, self.core.rules.unkept):
            return Privacy("none", "tenant")
        return Privacy("keep", "default")

    async def _keep_none(self, key: UserKey) -> PrivacySaved:
        removed = cleared(NOTHING_REMOVED)
        for _ in range(_TRIES_MAX):
            record = await self.core.lanes.settled(key)
            if await self._holds_content(key, record):
                removed = await self._begin_without(key, removed)
                if (
                    removed.pending
                ):  # the store is down: nothing of the old life is read, and it goes when it is back
                    return PrivacySaved(Privacy("none", "user"), removed)
            elif content.wishes_none(record):
                return PrivacySaved(Privacy("none", "user"), removed)
            else:
                await self.core.lanes.write(key, self._without(record))
        raise Unavailable("Too many others are writing for this user; try again.")

    def _without(self, record: UserRecord) -> KeepContent:
        patch = content.reduced_preferences(record)
        return KeepContent(at_ms=self.core.clock.now_ms(), kept=False, patch=patch)

    async def _begin_without(self, key: UserKey, before: Cleared) -> Cleared:
        """Erase the user, and begin the next life with the wish: nothing comes between the two."""
        core = self.core
        for remove in core.on_erasing:
            await remove(key)
        wish = self._without(await core.lanes.newest(key))
        erased = asyncio.ensure_future(core.lanes.write(key, EraseUser(at_ms=wish.at_ms)))
        begun = asyncio.ensure_future(core.lanes.write(key, wish))
        await asyncio.wait([erased, begun])
        _, committed = erased.result()
        for listener in core.on_erased:
            listener(key)
        begun.result()
        pending = committed is not None and committed.pending
        written = getattr(core.store, "written", None)
        if written is not None:  # what others have written by then, they wrote without knowing of the wish
            pending = pending or not await written(key, _WRITTEN_WITHIN_S)
        now = cleared(removed_by(committed), pending=pending)
        return Cleared(
            user_state=before.user_state or now.user_state,
            user_profile=before.user_profile or now.user_profile,
            sessions=before.sessions + now.sessions,
            interruptions=before.interruptions + now.interruptions,
            messages=before.messages + now.messages,
            pending=pending,
        )

    async def _holds_content(self, key: UserKey, record: UserRecord) -> bool:
        """Whether anything is kept of the user that would not be kept now: looked for in all of it."""
        if record.version.revision == 0:
            return False
        if content.holds_content(record):
            return True
        store, after = self.core.store, 0
        first = record.seq - len(record.window) + 1
        while after + 1 < first:
            page, _ = await store.page(
                key, after=after, before=first, limit=_PAGE_MESSAGES, bytes_max=_PAGE_BYTES
            )
            if content.any_content(page):
                return True
            if not page:
                break
            after = page[-1].seq
        for session in await store.sessions(key, open_after_ms=None):
            if content.session_holds_content(session):
                return True
            if await store.interruptions(key.tenant, session.id, 1):
                return True
        return False
