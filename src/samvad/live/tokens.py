"""Resume tokens: who was here may go on, for a short while, in the same session, also after a restart.

A token is `v1.<claims>.<signature>`: base64url of a JSON array and of its HMAC-SHA256. It says nothing secret, and
nobody without the key can make one or carry one over to another session.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from samvad.clock import Clock
from samvad.errors import InvalidRequest, SetupError

KEY_FILE: Final = "live.key"
KEY_BYTES: Final = 32
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
        except (msgspec.DecodeError, binascii.Error):
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
        return hashlib.sha256(b"samvad live resume\0" + secret.encode()).digest()
    if directory is None:
        return os.urandom(KEY_BYTES)
    path = directory / KEY_FILE
    try:
        key = _read(path)
        if key is None:
            _write(path, os.urandom(KEY_BYTES))
            key = _read(path)
    except OSError as error:
        raise SetupError(f"Cannot keep the key of resume tokens in {path}: {error.strerror}.") from error
    if key is None or len(key) != KEY_BYTES:
        raise SetupError(f"{path} does not hold a key of {KEY_BYTES} bytes; remove it, and it is made anew.")
    return key


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _write(path: Path, key: bytes) -> None:
    """Write the key under its name at once and whole, unless another process was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(part)
    finally:
        part.unlink()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
