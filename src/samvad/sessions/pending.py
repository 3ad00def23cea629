"""Where to find what is journaled and not in the store yet: receipts by key, sessions by id."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from samvad.records import (
    Change,
    Commit,
    Erased,
    ReceiptKept,
    Removed,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    StoredReceipt,
    StoredSession,
    UserKey,
    cleared,
)


class PendingIndex:
    """Kept beside the lanes, so that no read has to look through all that waits."""

    def __init__(self) -> None:
        self._receipts: dict[bytes, StoredReceipt] = {}
        self._users: dict[tuple[str, str], dict[UserKey, int]] = {}
        self.erasings = 0

    def add(self, commit: Commit) -> None:
        """A commit is pending."""
        for change in commit.changes:
            if isinstance(change, ReceiptKept):
                self._receipts[change.receipt.key] = change.receipt
            elif isinstance(change, Erased):
                self.erasings += 1
            elif (session_id := _session_id(change)) is not None:
                users = self._users.setdefault((commit.user.tenant, session_id), {})
                users[commit.user] = users.get(commit.user, 0) + 1

    def remove(self, commit: Commit) -> None:
        """A commit is pending no more."""
        for change in commit.changes:
            if isinstance(change, ReceiptKept):
                self._receipts.pop(change.receipt.key, None)
            elif isinstance(change, Erased):
                self.erasings -= 1
            elif (session_id := _session_id(change)) is not None:
                place = (commit.user.tenant, session_id)
                users = self._users[place]
                users[commit.user] -= 1
                if not users[commit.user]:
                    del users[commit.user]
                if not users:
                    del self._users[place]

    def erased(self, commits: Iterable[Commit]) -> None:
        """What these commits answered is erased."""
        for commit in commits:
            for change in commit.changes:
                if isinstance(change, ReceiptKept) and change.receipt.key in self._receipts:
                    blank = msgspec.structs.replace(change.receipt, answer=None)
                    self._receipts[change.receipt.key] = blank

    def receipt(self, key: bytes) -> StoredReceipt | None:
        """The pending answer under a key. How much a removal removed is not known yet."""
        receipt = self._receipts.get(key)
        if receipt is not None and receipt.answer == b"":
            answer = msgspec.json.encode(cleared(Removed(), receipt.at_ms, pending=True))
            return msgspec.structs.replace(receipt, answer=answer)
        return receipt

    def users_of_session(self, tenant: str, session_id: str) -> list[UserKey]:
        """Of whom something is pending that concerns a session of this id."""
        return list(self._users.get((tenant, session_id), ()))

    def __len__(self) -> int:
        return len(self._receipts) + len(self._users)


def _session_id(change: Change) -> str | None:
    if isinstance(change, SessionSet):
        return change.session.id
    if isinstance(change, SessionTouched | SessionRemoved):
        return change.session_id
    return getattr(change, "session_id", None) or getattr(
        getattr(change, "interruption", None), "session_id", None
    )


def session_among(
    changes: Iterable[Change], session_id: str, found: StoredSession | None
) -> tuple[StoredSession | None, bool]:
    """A session after some changes, `found` being what it was before, and whether it was set or removed by them."""
    decided = False
    for change in changes:
        if isinstance(change, SessionSet) and change.session.id == session_id:
            found, decided = change.session, True
        elif isinstance(change, SessionRemoved) and change.session_id == session_id:
            found, decided = None, True
        elif isinstance(change, SessionTouched) and change.session_id == session_id and found is not None:
            found = msgspec.structs.replace(found, active_ms=change.active_ms)
    return found, decided
