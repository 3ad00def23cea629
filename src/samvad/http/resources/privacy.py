"""Whether the content of what a user says is kept, or lengths and times only."""

from __future__ import annotations

from typing import Any

from samvad.errors import InvalidRequest, MissingFields
from samvad.http.access import USERS
from samvad.http.call import Call, Reply, encode
from samvad.http.resources.users import cleared_answer
from samvad.http.routing import Route
from samvad.types import Privacy


def _answer(user_id: str, privacy: Privacy) -> dict[str, Any]:
    told = {"content": privacy.content, "decidedBy": privacy.decided_by}
    return {"success": True, "userId": user_id, "privacy": told}


async def get_privacy(call: Call) -> Reply:
    """Whether the user's content is kept, and who decided so."""
    user_id = call.params[0]
    return Reply(encode(_answer(user_id, await call.service.get_privacy(user_id))))


async def save_privacy(call: Call) -> Reply:
    """Keep the user's content, or none of it."""
    user_id = call.params[0]
    body = await call.object()
    if body.get("content") is None:
        raise MissingFields("content")
    if unknown := sorted(set(body) - {"content"}):
        raise InvalidRequest(f"Only 'content' can be set here, not {unknown[0]!r}.")
    call.users.add(user_id)
    saved = await call.service.save_privacy(user_id, content=body["content"])
    answer = {
        **_answer(user_id, saved.privacy),
        "message": "Privacy saved successfully",
        "durability": call.service.core.rules.durability,
        "cleared": cleared_answer(saved.cleared),
    }
    if saved.cleared.pending:
        return Reply(encode({**answer, "pending": True}), 202)
    return Reply(encode(answer))


_PATH = "/api/session/{userId}/privacy"
ROUTES = (
    Route("GET", _PATH, get_privacy, "getPrivacy", USERS),
    Route("PUT", _PATH, save_privacy, "savePrivacy", USERS),
)
