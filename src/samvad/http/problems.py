"""Errors as application/problem+json (RFC 9457), with the members that readers of the old shape look for."""

from __future__ import annotations

from typing import Any

from samvad.errors import (
    MethodNotAllowed,
    SamvadError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from samvad.http.call import Reply, encode

PROBLEM_JSON = b"application/problem+json"
TYPE_PREFIX = "urn:samvad:problem:"


def problem(error: SamvadError) -> dict[str, Any]:
    """The members of a problem, without the request's id."""
    return {
        "success": False,
        "error": error.message,
        "code": error.code,
        "status": error.status,
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "detail": error.message,
    }


def problem_reply(error: SamvadError, request_id: str) -> Reply:
    """The answer that tells an error."""
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, Unavailable | TooManyRequests):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    elif isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="samvad"'))
    elif isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.details.get("allow", ())).encode()))
    elif isinstance(error, UnsupportedMediaType) and error.details.get("coding"):
        headers.append((b"accept-encoding", b"identity"))  # RFC 9110, section 12.5.3
    body = problem(error)
    body["requestId"] = request_id
    return Reply(encode(body), error.status, PROBLEM_JSON, tuple(headers))
