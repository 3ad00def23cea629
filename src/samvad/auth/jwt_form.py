"""The outside of a JWT, taken apart strictly (RFC 7515, RFC 7519, RFC 8725) before any key is touched.

What is refused here, whoever signed it: other than three base64url parts in their one canonical form, members that
stand there twice, numbers that are none, headers that bring a key along or ask for an extension.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Final, NamedTuple

from samvad import limits

_PART: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# RFC 7515, sections 4.1.2 to 4.1.6 and 4.1.11; RFC 7516; RFC 7797. `x5t` only names a certificate, and is ignored.
FORBIDDEN_HEADERS: Final = frozenset(
    {"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk", "apu", "apv"}
)
ACCESS_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068, section 2.1
TYPES: Final = ACCESS_TYPES | {"jwt", "application/jwt"}
_KID_CHARS_MAX: Final = 256


class Refused(Exception):
    """A token is not accepted; the reason is for the log, never for the caller, and holds nothing of the token."""

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        return str(self.args[0])


class Parts(NamedTuple):
    """What was signed, the signature, and what both parts say."""

    algorithm: str
    kid: str | None
    signed: bytes
    signature: bytes
    claims: dict[str, Any]
    is_access: bool = False  # by its header


def looks_like_jwt(token: str) -> bool:
    """Whether it is worth taking apart."""
    return token.startswith("ey") and token.count(".") == 2


def taken_apart(token: str) -> Parts:
    """The parts of a token; Refused where it has not the one form that is accepted. Nothing is verified yet."""
    if len(token) > limits.TOKEN_BYTES_MAX or not token.isascii():
        raise Refused("size")
    pieces = token.split(".")
    if len(pieces) != 3:
        raise Refused("form")
    head, body, signature = (_bytes(piece) for piece in pieces)
    header = _object(head)
    for name in header:
        if name in FORBIDDEN_HEADERS:
            raise Refused(f"header {name}")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str):
        raise Refused("alg")
    if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= _KID_CHARS_MAX):
        raise Refused("kid")
    if "typ" in header and not (isinstance(kind, str) and kind.lower() in TYPES):
        raise Refused("typ")
    if "cty" in header:
        raise Refused("nested")
    is_access = isinstance(kind, str) and kind.lower() in ACCESS_TYPES
    return Parts(algorithm, kid, f"{pieces[0]}.{pieces[1]}".encode(), signature, _object(body), is_access)


def _bytes(piece: str) -> bytes:
    if not _PART.fullmatch(piece):
        raise Refused("base64url")
    try:
        data = base64.urlsafe_b64decode(piece + "=" * (-len(piece) % 4))
    except (binascii.Error, ValueError):
        raise Refused("base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != piece:  # bits behind the end that are not zero
        raise Refused("base64url")
    return data


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise Refused("json") from None
    if not isinstance(value, dict):
        raise Refused("json")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # RFC 8725, section 2.4: two readers must not read two things
        raise ValueError("a member stands there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)
