"""Writing users into a store from lines: exactly as they were, once, however often it is begun again.

Nothing that is there is overwritten. A user of whom the store has a part (because an earlier run was cut off) is
completed; one who is there is compared; one who differs is left alone and told. Each user that was written is read
back, and must have the checksum of where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from samvad.archive.reading import INTERRUPTIONS_MAX, head_of
from samvad.cli.carry.lines import Digest, EndLine, MessagesLine, SessionsLine, UserLine, UserLines
from samvad.cli.carry.reading import digest_of
from samvad.errors import MessageExists, SamvadError, SessionTaken, StaleVersion
from samvad.records import (
    Change,
    Commit,
    Erased,
    InterruptionAdded,
    MessagesAdded,
    ProfileSet,
    SessionSet,
    StateSet,
    StoredMessage,
    Trimmed,
    UserRecord,
    Version,
)

Outcome = Literal["added", "there", "erased", "differs"]
_ALL_BYTES: Final = 1 << 62


class Differs(Exception):
    """The store has something else of this user."""


class UserTaker:
    """Takes in the lines of one user. `erased_epoch`: lives before this one were ended by an erasing."""

    def __init__(self, store: Any, user: UserLine, erased_epoch: int = 0) -> None:
        self._store = store
        self._user = user
        self._key = user.key
        self._erased_epoch = erased_epoch
        self._there = UserRecord(Version(0, 0))
        self._version = Version(0, 0)
        self._session_ids: set[str] = set()
        self._digest = Digest()
        self._wrote = False
        self.outcome: Outcome | None = None
        self.why = ""

    async def take(self, line: UserLines) -> None:
        """Take in one line, of which the user's own is the first; SamvadError where the store fails."""
        if self.outcome is not None:
            return
        self._digest.add(line)
        try:
            if isinstance(line, UserLine):
                await self._begin()
            elif isinstance(line, SessionsLine):
                await self._sessions(line)
            elif isinstance(line, MessagesLine):
                await self._messages(line.stored())
            else:
                await self._end(line)
        except Differs as difference:
            self.outcome, self.why = "differs", str(difference)
        except (StaleVersion, MessageExists):
            self.outcome, self.why = "differs", "somebody else is writing to this user"
        except SessionTaken:
            self.outcome, self.why = "differs", "one of the sessions belongs to another user there"

    async def _begin(self) -> None:
        there = self._there = await head_of(self._store, self._key)
        epoch = self._user.epoch
        if max(there.version.epoch, self._erased_epoch) > epoch:
            self.outcome = "erased"
            return
        while there.version.epoch < epoch and there.version.revision == 0:
            await self._store.commit(Commit(self._key, there.version, (Erased(0),)))
            there = self._there = await head_of(self._store, self._key)
        self._version = there.version
        if there.trimmed != self._user.trimmed:
            if there.seq:
                raise Differs("its history begins elsewhere")
            await self._commit(Trimmed(self._user.trimmed + 1))
            there = self._there = await head_of(self._store, self._key)
        if there.version.epoch != epoch or there.seq > self._user.seq:
            raise Differs("there is more of this user than here")
        if there.state not in (None, self._user.stored_state()):
            raise Differs("the state is another")
        if there.profile not in (None, self._user.stored_profile()):
            raise Differs("the preferences, or when the user was heard of, are others")

    async def _commit(self, *changes: Change) -> None:
        committed = await self._store.commit(Commit(self._key, self._version, changes))
        self._version = committed.version
        self._wrote = True

    async def _sessions(self, line: SessionsLine) -> None:
        changes: list[Change] = []
        for session, interruptions in line.stored(self._key):
            self._session_ids.add(session.id)
            there = None
            if self._there.version.revision:
                there = await self._store.session(self._key.tenant, session.id)
            if there is None:
                changes.append(SessionSet(session))
                changes += [InterruptionAdded(each) for each in interruptions]
                continue
            kept = await self._store.interruptions(self._key.tenant, session.id, INTERRUPTIONS_MAX)
            if there != session or sorted(kept, key=_id) != sorted(interruptions, key=_id):
                raise Differs("one of the sessions is another")
        if changes:
            await self._commit(*changes)

    async def _messages(self, messages: list[StoredMessage]) -> None:
        known = [message for message in messages if message.seq <= self._there.seq]
        if known:
            there, _ = await self._store.page(
                self._key,
                after=known[0].seq - 1,
                before=known[-1].seq + 1,
                limit=len(known),
                bytes_max=_ALL_BYTES,
            )
            if there != known:
                raise Differs("one of the messages is another")
        new = messages[len(known) :]
        if new:
            await self._commit(MessagesAdded(tuple(new)))

    async def _end(self, end: EndLine) -> None:
        if self._there.version.revision:
            sessions = await self._store.sessions(self._key, open_after_ms=None)
            if not {session.id for session in sessions} <= self._session_ids:
                raise Differs("there are sessions that are not here")
        changes: list[Change] = []
        state, profile = self._user.stored_state(), self._user.stored_profile()
        if state is not None and self._there.state is None:
            changes.append(StateSet(state))
        if profile is not None and (self._wrote or self._there.profile is None):
            changes.append(ProfileSet(profile))  # last: messages move its time
        if changes:
            await self._commit(*changes)
        if self._digest.end() != end:
            raise SamvadError(f"What was read of {self._key.user_id!r} does not have its own checksum.")
        if not self._wrote:
            self.outcome = "there"
            return
        if await digest_of(self._store, self._key) != end:
            raise SamvadError(
                f"What was written of {self._key.user_id!r} does not read back as it was; nothing else is tried."
            )
        self.outcome = "added"


def _id(interruption: Any) -> Any:
    return interruption.id


async def erase_again(store: Any, erasures: Sequence[Any]) -> int:
    """Have erased users stay erased in a store, those who live there too; how many of these there were.

    `erasures` are StoredErasure. Before anything else is written to the store.
    """
    from samvad.cli.carry.reading import keys_of
    from samvad.cli.carry.sealed import drop_key
    from samvad.knowledge.carrying import erase
    from samvad.records import user_hash

    epochs = {each.user_hash: each for each in erasures}
    erased = 0
    if epochs:
        async for keys in keys_of(store):
            for key in keys:
                wanted = epochs.get(user_hash(key))
                if wanted is None:
                    continue
                head = await head_of(store, key)
                lived = head.version.revision > 0 and head.version.epoch < wanted.epoch
                erased += lived
                version = head.version
                if lived:
                    await erase(store, key)
                    await drop_key(store, wanted.user_hash, wanted.epoch)
                while lived and version.epoch < wanted.epoch:
                    change = Erased(wanted.erased_ms)
                    version = (await store.commit(Commit(key, version, (change,)))).version
    for start in range(0, len(erasures), 500):
        await store.keep_erasures(erasures[start : start + 500])
    return erased
