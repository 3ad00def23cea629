"""What the audit log says of one user: who did what with their data, and when. Nothing of anybody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from samvad.auth.audit import DIRECTORY, KEY_FILE, AuditEntry, entries, whom
from samvad.records import UserKey

LOOKED_AT_ONCE: Final = 2_000  # entries, between which others have their turn


def has_log(data_dir: Path) -> bool:
    """Whether an audit log is, or was, kept in this data directory."""
    return (data_dir / DIRECTORY).is_dir() and (data_dir / KEY_FILE).is_file()


class AuditFacts:
    """Looks for a user, and for their sessions and documents, in the log of a data directory."""

    def __init__(
        self, data_dir: Path, user: UserKey, sessions: Iterable[str], documents: Iterable[str]
    ) -> None:
        self._entries = entries(data_dir / DIRECTORY)
        key = (data_dir / KEY_FILE).read_bytes()
        self._user = whom(key, "user", *user)
        self._names = {self._user: "the user"}
        self._names |= {whom(key, "session", user.tenant, each): f"session {each}" for each in sessions}
        self._names |= {whom(key, "document", user.tenant, each): f"document {each}" for each in documents}
        self.found = 0

    def some(self) -> bytes | None:
        """What is found in the next entries, as lines of JSON; None when all were looked at. Blocks on the disk."""
        lines: list[bytes] = []
        looked = 0
        for entry in self._entries:
            looked += 1
            fact = self._fact(entry)
            if fact is not None:
                lines.append(msgspec.json.encode(fact) + b"\n")
                self.found += 1
            if looked == LOOKED_AT_ONCE:
                break
        return b"".join(lines) if looked else None

    def _fact(self, entry: AuditEntry) -> dict[str, Any] | None:
        by = list(_users_in(entry.who))
        about = [self._names[each] for each in entry.whom if each in self._names]
        if not about and self._user not in by:
            return None
        fact: dict[str, Any] = {
            "n": entry.n,
            "at": entry.at,
            "did": entry.did,
            "status": entry.status,
            "about": about,
        }
        if self._user in by:
            fact |= {"by": "the user", "address": entry.address}
        elif by:
            fact["by"] = "another user"
        elif entry.who.startswith("command:"):
            fact["by"] = "the operator, on the command line"
        elif entry.who.startswith("key:"):
            fact["by"] = "a program with an API key"
        else:
            fact["by"] = "a program" if entry.who == "local" else "somebody who was not let in"
        return fact


def _users_in(who: str) -> Iterator[str]:
    return (word for word in who.split(" ") if word.startswith("user:"))
