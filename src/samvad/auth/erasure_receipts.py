"""A signed receipt of an erasing: what was removed, where, and when; it can be checked years later, and names nobody.

Ed25519 (RFC 8032) over the receipt as JSON, its members in the order of their names, without `signature`. The user
stands in it as the SHA-256 of tenant and id, so that whoever knows the id can check that it is about them.

The same key signs the archives of users (archive/signing).
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from samvad.auth.secret_file import load_key
from samvad.clock import rfc3339
from samvad.errors import InvalidRequest
from samvad.records import UserKey, user_hash
from samvad.types import Cleared

KEY_FILE: Final = "erasures.key"
TYPE: Final = "samvad.erasure"
VERSION: Final = 1


def _canonical(fields: Mapping[str, Any]) -> bytes:
    unsigned = {name: value for name, value in fields.items() if name != "signature"}
    return msgspec.json.encode(unsigned, order="sorted")


class ErasureSigner:
    """Signs with the key of a data directory, which is made when the first receipt is asked for."""

    def __init__(self, data_dir: Path | None) -> None:
        self._path = None if data_dir is None else data_dir / KEY_FILE
        self._key: Any = None

    def _loaded(self) -> Any:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            seed = load_key(self._path, "the key of erasure receipts")
            self._key = Ed25519PrivateKey.from_private_bytes(seed)
        return self._key

    @property
    def public_key(self) -> str:
        """The public key, 32 bytes in base64."""
        return base64.b64encode(self._loaded().public_key().public_bytes_raw()).decode()

    def signature(self, data: bytes) -> str:
        """The signature of these bytes, 64 bytes in base64."""
        return base64.b64encode(self._loaded().sign(data)).decode()

    def sign(self, user: UserKey, cleared: Cleared, places: Mapping[str, str], at_ms: int) -> dict[str, Any]:
        """The receipt of what was removed of a user just now; `places` says what became of each place."""
        fields: dict[str, Any] = {
            "type": TYPE,
            "version": VERSION,
            "id": os.urandom(16).hex(),
            "tenant": user.tenant,
            "userHash": user_hash(user).hex(),
            "erasedAt": rfc3339(at_ms),
            "pending": cleared.pending,
            "removed": {
                "userState": cleared.user_state,
                "userProfile": cleared.user_profile,
                "messages": cleared.messages,
                "sessions": cleared.sessions,
                "interruptions": cleared.interruptions,
            },
            "places": dict(places),
            "publicKey": self.public_key,
        }
        fields["signature"] = self.signature(_canonical(fields))
        return fields


def key_of(data_dir: Path) -> str | None:
    """The public key that signs in a data directory; None where nothing was signed there yet."""
    return ErasureSigner(data_dir).public_key if (data_dir / KEY_FILE).exists() else None


def is_signed(data: bytes, signature: str, public_key: str) -> bool:
    """Whether this key (32 bytes in base64) has made this signature of these bytes. InvalidRequest if it is no key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidRequest("A public key is 32 bytes in base64.") from None
    try:
        key.verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def check_receipt(data: bytes, public_key: str, user: UserKey | None = None) -> dict[str, Any]:
    """The fields of a receipt that this key signed, about this user if one is named. InvalidRequest, saying why not."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        base64.b64decode(fields["signature"], validate=True)
        if fields["type"] != TYPE or fields["version"] != VERSION:
            raise KeyError
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError):
        raise InvalidRequest("This is no receipt of an erasing.") from None
    if not is_signed(_canonical(fields), fields["signature"], public_key):
        raise InvalidRequest("The receipt was changed, or another key has signed it.") from None
    if user is not None and fields["userHash"] != user_hash(user).hex():
        raise InvalidRequest("The receipt is about another user.")
    return fields


def places_of(store: Any, *, has_documents: bool) -> dict[str, str]:
    """What becomes of each place when a user is erased, by the name of the place."""
    inner, journaled, encrypted = store, False, False
    while (below := inner.__dict__.get("inner")) is not None:
        journaled = journaled or "journal" in inner.__dict__
        encrypted = encrypted or "data_keys" in inner.__dict__
        inner = below
    places = {"memory": "removed", f"store ({inner.name})": "removed"}
    if encrypted:
        places["data key"] = "destroyed: copies and backups of what was sealed cannot be read any more"
    if journaled:
        places["journal"] = "removed"
    if has_documents:
        places["knowledge base"] = "removed"
    return places
