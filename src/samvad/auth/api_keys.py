"""API keys of back ends: `samvad_k1_<id>_<secret><check>`, of which only a hash is kept.

The prefix lets scanners find a key that was committed by mistake, the checksum (CRC-32) lets them, and us, tell one
from what merely looks like it. The secret has 256 random bits, so that one round of SHA-256 is hash enough: there is
nothing to guess (OWASP ASVS 5.0, 11.4.2 is about passwords).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from samvad.types import DEFAULT_TENANT, SCOPES, Principal

PREFIX: Final = "samvad_k1_"
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS: Final = 10
_SECRET_CHARS: Final = 43  # 62**43 > 2**256
_CHECK_CHARS: Final = 6  # 62**6 > 2**32
_FORM: Final = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{_ID_CHARS}}})_([0-9A-Za-z]{{{_SECRET_CHARS}}})([0-9A-Za-z]{{{_CHECK_CHARS}}})",
    re.ASCII,
)
KEY_CHARS: Final = len(PREFIX) + _ID_CHARS + 1 + _SECRET_CHARS + _CHECK_CHARS


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A key as it is kept: everything but the key. Times are milliseconds since 1970; `digest` is hexadecimal."""

    id: Annotated[str, Meta(pattern=rf"^[0-9A-Za-z]{{{_ID_CHARS}}}$")]
    name: str
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    scopes: frozenset[str]
    created_ms: int
    tenant: str = DEFAULT_TENANT
    expires_ms: int | None = None
    revoked_ms: int | None = None
    replaced_by: str | None = None

    @property
    def principal(self) -> Principal:
        """Whom it acts as; scopes that this version does not know count for nothing."""
        return Principal(self.tenant, None, self.scopes & SCOPES)

    def state(self, now_ms: int) -> str:
        """`valid`, `revoked` or `expired`."""
        if self.revoked_ms is not None and self.revoked_ms <= now_ms:
            return "revoked"
        return "expired" if self.expires_ms is not None and self.expires_ms <= now_ms else "valid"


def make_key() -> tuple[str, str, str]:
    """A new key: the text to hand out once, its id, and the digest to keep."""
    key_id = "".join(secrets.choice(_DIGITS) for _ in range(_ID_CHARS))
    secret = _base62(secrets.randbits(256), _SECRET_CHARS)
    text = f"{PREFIX}{key_id}_{secret}"
    text += check_of(text)
    return text, key_id, digest_of(text)


def digest_of(text: str) -> str:
    """SHA-256 over the whole key."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_of(text: str) -> str:
    """The checksum of what stands before it."""
    return _base62(zlib.crc32(text.encode()), _CHECK_CHARS)


def id_of(text: str) -> str | None:
    """The id in a key; None where the text is no key: of another form, or mistyped."""
    if len(text) != KEY_CHARS:
        return None
    match = _FORM.fullmatch(text)
    if match is None or check_of(text[:-_CHECK_CHARS]) != match[3]:
        return None
    return match[1]


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
