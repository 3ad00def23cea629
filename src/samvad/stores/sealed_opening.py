"""What a sealed store believes: parts that cannot be opened are marked, and all else of a user is read as before.

Whoever damages one row must not take the rest of a user along, nor keep the user from being erased.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from samvad.errors import Unreadable
from samvad.logs import user_hash as user_name
from samvad.records import StoredMessage, StoredProfile, StoredSession, StoredState, UserKey, user_hash
from samvad.stores import sealing
from samvad.stores.data_keys import DataKeys
from samvad.stores.sealing import KeyMissing, Keys

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_NOTED_MAX: Final = 1_000

_replace = msgspec.structs.replace


class Opened:
    """Opens what a store holds. `unreadable`: how often something was not what was sealed there."""

    def __init__(self, data_keys: DataKeys) -> None:
        self.data_keys = data_keys
        self.unreadable = 0
        self.messages_gone = 0
        self._noted: set[tuple[UserKey | None, str]] = set()  # of what that was said in the log

    def messages(
        self, keys: Keys, user: UserKey, messages: Sequence[StoredMessage], last: bool
    ) -> tuple[StoredMessage, ...]:
        """Messages of a user; KeyMissing where a key is missing, unless this is the `last` try."""
        opened = []
        hashed = user_hash(user)
        for message in messages:
            try:
                opened.append(sealing.open_message(keys, hashed, message, self.data_keys.strict))
            except KeyMissing:
                if not last:
                    raise
                self.messages_gone += 1
                opened.append(sealing.gone_message(message))
            except Unreadable:
                self.note(user, "message")
                opened.append(sealing.gone_message(message))
        return tuple(opened)

    def note(self, user: UserKey | None, kind: str) -> None:
        """Something is not what was sealed there: it is not believed, and all else of the user is read as before."""
        self.unreadable += 1
        if (user, kind) not in self._noted and len(self._noted) < _NOTED_MAX:
            self._noted.add((user, kind))
            told = {"kind": kind} if user is None else {"kind": kind, "user": user_name(*user)}
            _log.error("what is stored is not what was sealed there, and is not believed", extra=told)

    def _or_gone(self, user: UserKey, kind: str, open_it: Callable[[], _T], gone: Callable[[], _T]) -> _T:
        try:
            return open_it()
        except (Unreadable, TypeError):  # text where bytes were
            self.note(user, kind)
            return gone()

    def state(self, keys: Keys, user: UserKey, state: StoredState | None) -> StoredState | None:
        """A state."""
        if state is None:
            return None
        return self._or_gone(
            user,
            "state",
            lambda: sealing.open_state(keys, user_hash(user), state, self.data_keys.strict),
            lambda: _replace(state, body=sealing.GONE),
        )

    def profile(self, keys: Keys, user: UserKey, profile: StoredProfile | None) -> StoredProfile | None:
        """Preferences."""
        if profile is None:
            return None
        return self._or_gone(
            user,
            "preferences",
            lambda: sealing.open_profile(keys, user_hash(user), profile, self.data_keys.strict),
            lambda: _replace(profile, preferences=sealing.GONE),
        )

    def session(self, keys: Keys, user: UserKey, session: StoredSession) -> StoredSession:
        """A session."""
        return self._or_gone(
            user,
            "session",
            lambda: sealing.open_session(keys, user_hash(user), session, self.data_keys.strict),
            lambda: _replace(session, body=sealing.GONE),
        )
