"""What a receipt keeps of a request, so that another one under the same Idempotency-Key is told apart.

A hash of the request alone could be tried out against what somebody may have said; so it is taken together with the
key, which only the caller knows. Earlier versions kept the hash alone, 32 bytes: a mark in front tells the two apart.
"""

from __future__ import annotations

import hashlib
from typing import Final

_WITH_KEY: Final = b"\x02"


def with_key(key: str, request: bytes) -> bytes:
    """The fingerprint of a request, given the caller's key (printable characters) and a SHA-256 of the request."""
    return _WITH_KEY + hashlib.sha256(key.encode() + b"\0" + request).digest()


def may_be_same(one: bytes, other: bytes) -> bool:
    """Whether two requests under one key are the same, or it cannot be told, because an earlier version kept the one.

    What cannot be told counts as a repetition: to do it twice would be worse, and a key is made for one request.
    """
    return one == other or len(one) != len(other)
