"""Short-lived tokens for browsers and sockets, minted by a back end."""

from __future__ import annotations

from typing import Any

from samvad import limits
from samvad.auth.user_tokens import TokenClaims
from samvad.clock import rfc3339
from samvad.errors import InvalidRequest, MissingFields
from samvad.http.access import MINTING
from samvad.http.call import Call, Reply, encode
from samvad.http.routing import Route
from samvad.sessions.validation import check_id


async def mint(call: Call) -> Reply:
    """Mint a token with which a browser acts as one user, for at most an hour."""
    body = await call.object()
    user_id, session_id = body.get("userId"), body.get("sessionId")
    if user_id is None:
        raise MissingFields("userId")
    if unknown := sorted(set(body) - {"userId", "sessionId", "ttlSeconds"}):
        raise InvalidRequest(f"A token has a userId, a sessionId and ttlSeconds, not {unknown[0]!r}.")
    check_id(user_id, "userId")
    if session_id is not None:
        check_id(session_id, "sessionId")
    ttl_s: Any = limits.USER_TOKEN_TTL_S if body.get("ttlSeconds") is None else body["ttlSeconds"]
    if isinstance(ttl_s, float) and ttl_s.is_integer():
        ttl_s = int(ttl_s)
    whole = isinstance(ttl_s, int) and not isinstance(ttl_s, bool)
    if not whole or not 1 <= ttl_s <= limits.USER_TOKEN_TTL_S_MAX:
        raise InvalidRequest(f"ttlSeconds must be a whole number from 1 to {limits.USER_TOKEN_TTL_S_MAX}.")

    async def act(receipt: object) -> TokenClaims:
        return call.auth.mint(call.identity, user_id, session_id, ttl_s)

    # What is kept under an Idempotency-Key are the claims: the token itself is at rest nowhere.
    claims = await call.once(user_id, TokenClaims, act, keep=True)
    answer: dict[str, Any] = {
        "success": True,
        "token": call.auth.tokens.sign(claims),
        "userId": claims.user,
        "expiresAt": rfc3339(claims.expires_ms),
        "expiresInSeconds": max(-((call.service.core.clock.now_ms() - claims.expires_ms) // 1000), 0),
    }
    if claims.session is not None:
        answer["sessionId"] = claims.session
    return Reply(encode(answer))


ROUTES = (Route("POST", "/api/auth/tokens", mint, "mintToken", MINTING),)
