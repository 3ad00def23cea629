"""Resume tokens: who was here may go on, for a short while, in the same session, also after a restart.

A token is `v1.<claims>.<signature>`: base64url of a JSON array and of its HMAC-SHA256. It says nothing secret, and
nobody without the key can make one or carry one over to another session.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from samvad.auth import secret_file
from samvad.auth.secret_file import KEY_BYTES, derived
from samvad.clock import Clock
from samvad.errors import InvalidRequest

KEY_FILE: Final = "live.key"
TOKEN_CHARS_MAX: Final = 2_048
_VERSION: Final = "v1"


class InvalidResumeToken(InvalidRequest):
    """The resume token is not valid (any more); start the session without `resume`."""

    code = "invalid_resume_token"


class Claims(NamedTuple):
    """Whose conversation a token resumes, and until when (milliseconds since 1970)."""

    tenant: str
    user_id: str
    session_id: str
    expires_ms: int


class ResumeTokens:
    """Makes and checks resume tokens, each good for `ttl_s` seconds."""

    def __init__(self, key: bytes, clock: Clock, *, ttl_s: float) -> None:
        self._key = key
        self._clock = clock
        self.ttl_s = ttl_s

    def make(self, tenant: str, user_id: str, session_id: str) -> str:
        """A token for this session."""
        expires_ms = self._clock.now_ms() + round(self.ttl_s * 1000)
        claims = _encoded(msgspec.json.encode((tenant, user_id, session_id, expires_ms)))
        return f"{_VERSION}.{claims}.{self._signature(claims)}"

    def check(self, token: str) -> Claims:
        """What a token says; InvalidResumeToken where it was not made here or has expired."""
        version, _, rest = token[:TOKEN_CHARS_MAX].partition(".")
        claims, _, signature = rest.partition(".")
        if version != _VERSION or not token.isascii():
            raise InvalidResumeToken
        if not hmac.compare_digest(self._signature(claims), signature):
            raise InvalidResumeToken
        try:
            found = msgspec.json.decode(_decoded(claims), type=Claims)
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error):
            raise InvalidResumeToken from None
        if found.expires_ms < self._clock.now_ms():
            raise InvalidResumeToken("The resume token has expired; start the session without `resume`.")
        return found

    def _signature(self, claims: str) -> str:
        return _encoded(hmac.digest(self._key, f"{_VERSION}.{claims}".encode(), hashlib.sha256))


def load_key(directory: Path | None, secret: str | None = None) -> bytes:
    """The key: derived from `secret`, or kept in a file of `directory` (made when first needed), or random.

    Raises SetupError where the file cannot be read or written.
    """
    if secret is not None:
        return derived(secret, "live resume")
    return secret_file.load_key(
        None if directory is None else directory / KEY_FILE, "the key of resume tokens"
    )


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


__all__ = ["KEY_BYTES", "KEY_FILE", "Claims", "InvalidResumeToken", "ResumeTokens", "load_key"]
