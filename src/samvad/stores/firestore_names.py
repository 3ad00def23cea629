"""Names of Firestore documents: from tenants and ids to paths, so that no two things ever share one.

A document id must be valid UTF-8 of at most 1,500 bytes, without `/`, not `.` or `..`, and not `__…__`
(https://firebase.google.com/docs/firestore/quotas#collections_documents_and_fields). The ids of the tenant
`default` stand there as they are, which is where profiles of the older layout are found. Those that Firestore
forbids, and all of other tenants, begin with `%` and have their separators escaped; a plain id that begins
with `%` is treated like those. The fields of a document hold the id itself, so nothing is ever decoded.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from samvad.records import UserKey, user_hash

DEFAULT_TENANT: Final = "default"
_FORBIDDEN = re.compile(r"%.*|__.*__|\.{1,2}|.*/.*|", re.DOTALL)
_SEPARATORS = {"%": "%25", ":": "%3A", "/": "%2F"}
_ESCAPES = str.maketrans(_SEPARATORS)
_BYTES_MAX = 700  # so that a name with an epoch and a session id behind it can still be an indexed value
EPOCH_BITS: Final = 40


def document_id(tenant: str, name: str) -> str:
    """The id of the document of a user or session; different for each pair."""
    if tenant == DEFAULT_TENANT:
        encoded = "%u" + name.translate(_ESCAPES) if _FORBIDDEN.fullmatch(name) else name
    else:
        encoded = f"%t{tenant.translate(_ESCAPES)}:{name.translate(_ESCAPES)}"
    return _bounded(encoded, tenant, name)


def _bounded(encoded: str, *parts: str) -> str:
    if len(encoded.encode()) <= _BYTES_MAX:
        return encoded
    return "%h" + hashlib.sha256("\0".join(parts).encode()).hexdigest()


def life(user: UserKey, epoch: int) -> str:
    """The name of one life of a user, which all that belongs to it carries: gone with the epoch."""
    return f"{document_id(*user)}#{epoch}"


def hashed_life(user: UserKey, epoch: int) -> str:
    """As `life`, where the user's id must not stand."""
    return f"{user_hash(user).hex()}#{epoch}"


def place(epoch: int, seq: int) -> int:
    """A message's place over all lives of its user, as one number that an index can order."""
    return (epoch << EPOCH_BITS) | seq


class Names:
    """The paths of one database."""

    def __init__(self, project: str, database: str) -> None:
        self.database = f"projects/{project}/databases/{database}"
        self.root = f"{self.database}/documents"

    def head(self, user: UserKey) -> str:
        """The head of a user's record, which all commits go through."""
        return f"{self.root}/user_profiles/{document_id(*user)}"

    def segment(self, user: UserKey, epoch: int, segment: str) -> str:
        """A sealed run of messages; `segment` is what the head knows it by."""
        return f"{self.head(user)}/history/{epoch}-{segment}"

    def state(self, user: UserKey) -> str:
        """A user's state."""
        return f"{self.root}/user_states/{document_id(*user)}"

    def session(self, tenant: str, session_id: str) -> str:
        """A session."""
        return f"{self.root}/sessions/{document_id(tenant, session_id)}"

    def interruption(self, tenant: str, session_id: str, interruption_id: str) -> str:
        """A recorded interruption."""
        parts = (tenant, session_id, interruption_id)
        encoded = "%i" + ":".join(part.translate(_ESCAPES) for part in parts)
        return f"{self.root}/interruptions/{_bounded(encoded, *parts)}"

    def receipt(self, key: bytes) -> str:
        """The answer kept under an idempotency key; the key is a hash over the tenant and more."""
        return f"{self.root}/receipts/{key.hex()}"

    def erasure(self, user: UserKey) -> str:
        """What is left of an erased user: the epoch, under a hash."""
        return f"{self.root}/erasures/{user_hash(user).hex()}"

    def purge(self, user: UserKey, epoch: int) -> str:
        """The note that a life has been erased and not all of it is purged."""
        return f"{self.root}/purges/{user_hash(user).hex()}-{epoch}"

    def stray_segments(self, user: UserKey) -> str:
        """The mark that there may be segments of the user's that no head tells of."""
        return f"{self.root}/strays/{user_hash(user).hex()}-segments"

    def stray_receipts(self, hashed: bytes) -> str:
        """The mark that there are answers of a user's, by the hash of the user, that no head tells of."""
        return f"{self.root}/strays/{hashed.hex()}-receipts"

    def probe(self) -> str:
        """A document that is never there."""
        return f"{self.root}/probes/none"
