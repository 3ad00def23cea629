"""Sessions: one conversation on one device."""

from __future__ import annotations

from typing import Any

from samvad.errors import MissingFields, NotFound
from samvad.http.access import ONE_SESSION, SESSIONS, STATS
from samvad.http.call import Call, Reply, encode
from samvad.http.resources.users import degraded
from samvad.http.routing import Route
from samvad.types import Session


def session_json(session: Session) -> dict[str, Any]:
    """A session as the JSON object that callers read, its further fields included."""
    body: dict[str, Any] = {
        "id": session.id,
        "userId": session.user_id,
        "language": session.language,
        "isActive": session.is_active,
        "createdAt": session.created_at,
        "lastActivity": session.last_activity,
    }
    if session.ended_at is not None:
        body["endedAt"] = session.ended_at
    if session.metadata is not None:
        body["metadata"] = session.metadata
    return {**session.extra, **body}


async def create(call: Call) -> Reply:
    """Create a session, or merge into it, refresh it and open it again."""
    body = await call.object()
    session_id, user_id, fields = session_fields(body)
    await call.once(user_id, bool, lambda receipt: _saved(call, session_id, user_id, fields, receipt=receipt))
    return Reply(encode(created_answer(call, session_id, user_id)))


def session_fields(body: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Session id, user id and all else of a body that creates a session."""
    missing = [name for name in ("sessionId", "userId") if body.get(name) is None]
    if missing:
        raise MissingFields(*missing)
    fields = {name: value for name, value in body.items() if name not in ("sessionId", "userId")}
    return body["sessionId"], body["userId"], fields


async def _saved(call: Call, session_id: str, user_id: str, fields: dict[str, Any], *, receipt: Any) -> bool:
    await call.service.save_session_fields(session_id, user_id, fields, receipt=receipt)
    return True


def created_answer(call: Call, session_id: str, user_id: str) -> dict[str, Any]:
    """The answer to creating a session."""
    return {
        "success": True,
        "message": "Session created/updated successfully",
        "sessionId": session_id,
        "userId": user_id,
        "durability": call.service.core.rules.durability,
    }


async def get(call: Call) -> Reply:
    """One session."""
    session_id = call.params[0]
    session = await call.service.get_session(session_id)
    if session is None:
        raise NotFound(f"There is no session {session_id!r}.")
    return Reply(b'{"success":true,"session":' + encode(session_json(session)) + degraded(call))


async def end(call: Call) -> Reply:
    """End a session."""
    session_id = call.params[0]
    await call.service.end_session(session_id)
    answer = {
        "success": True,
        "message": "Session ended successfully",
        "sessionId": session_id,
        "durability": call.service.core.rules.durability,
    }
    return Reply(encode(answer))


async def active(call: Call) -> Reply:
    """A user's open sessions, newest activity first."""
    user_id = call.params[0]
    sessions = await call.service.get_user_active_sessions(user_id)
    body = {
        "success": True,
        "userId": user_id,
        "count": len(sessions),
        "sessions": [session_json(session) for session in sessions],
    }
    return Reply(encode(body)[:-1] + degraded(call))


async def clear(call: Call) -> Reply:
    """Delete a session and its interruptions."""
    session_id = call.params[0]
    cleared = await call.service.clear_session(session_id)
    answer = {
        "success": True,
        "message": "Session cleared successfully",
        "sessionId": session_id,
        "durability": call.service.core.rules.durability,
        "cleared": cleared,
    }
    return Reply(encode(answer))


async def stats(call: Call) -> Reply:
    """Counts over all users."""
    return Reply(encode({"success": True, "stats": await call.service.get_stats()}))


ROUTES = (
    Route("POST", "/api/session/create", create, "saveSession", SESSIONS),
    Route("GET", "/api/session/stats", stats, "getStats", STATS),
    Route("GET", "/api/session/user/{userId}/active", active, "getUserActiveSessions", SESSIONS),
    Route("GET", "/api/session/{sessionId}", get, "getSession", ONE_SESSION),
    Route("PUT", "/api/session/{sessionId}/end", end, "endSession", ONE_SESSION),
    Route("DELETE", "/api/session/{sessionId}", clear, "clearSession", ONE_SESSION),
)
