"""Short-lived tokens for browsers and sockets, minted by a back end for one user: `samvad_t1.<claims>.<signature>`.

base64url of a JSON array and of its HMAC-SHA256, with no algorithm in it that a client could choose. A token says
which key minted it, and dies with that key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final, NamedTuple

import msgspec

from samvad import limits
from samvad.clock import Clock, random_hex
from samvad.types import Principal

PREFIX: Final = "samvad_t1."
PURPOSE: Final = "user tokens"  # of the key that is derived from a secret
_VERSION: Final = PREFIX.rstrip(".")
_FORM: Final = re.compile(r"samvad_t1\.([A-Za-z0-9_-]{1,2048})\.([A-Za-z0-9_-]{43})", re.ASCII)


class TokenClaims(NamedTuple):
    """Whom a token stands for, who minted it, and until when (milliseconds since 1970)."""

    tenant: str
    user: str
    session: str | None
    minted_by: str | None  # the id of the API key; None: the local principal
    issued_ms: int
    expires_ms: int
    id: str

    @property
    def principal(self) -> Principal:
        """Whom it acts as."""
        return Principal(self.tenant, self.user, frozenset(), self.session)


class UserTokens:
    """Mints and checks tokens. The first of the keys signs, all of them verify, so that keys can be changed.

    `keys` are asked for when the first token is.
    """

    def __init__(self, keys: Callable[[], Sequence[bytes]], clock: Clock) -> None:
        self._make_keys = keys
        self._clock = clock

    @cached_property
    def _keys(self) -> tuple[bytes, ...]:
        return tuple(self._make_keys())

    def claims(
        self, tenant: str, user: str, session: str | None, minted_by: str | None, ttl_s: int
    ) -> TokenClaims:
        """What a token minted now says, good for `ttl_s` seconds (at most an hour)."""
        now_ms = self._clock.now_ms()
        return TokenClaims(
            tenant, user, session, minted_by, now_ms, now_ms + ttl_s * 1000, f"tok_{random_hex()}"
        )

    def sign(self, claims: TokenClaims) -> str:
        """The token that says so."""
        body = _encoded(msgspec.json.encode(claims))
        return f"{PREFIX}{body}.{_signature(self._keys[0], body)}"

    def check(self, token: str) -> TokenClaims | None:
        """What a token says; None where it was not minted here or has expired."""
        match = _FORM.fullmatch(token) if len(token) <= limits.TOKEN_BYTES_MAX else None
        if match is None:
            return None
        body, signature = match[1], match[2]
        if not any(hmac.compare_digest(_signature(key, body), signature) for key in self._keys):
            return None
        try:
            claims = msgspec.json.decode(_decoded(body), type=TokenClaims)
        except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError):
            return None
        now_ms = self._clock.now_ms()
        if not now_ms < claims.expires_ms <= claims.issued_ms + limits.USER_TOKEN_TTL_S_MAX * 1000:
            return None
        return claims


def _signature(key: bytes, body: str) -> str:
    return _encoded(hmac.digest(key, f"{_VERSION}.{body}".encode(), hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
