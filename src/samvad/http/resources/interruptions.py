"""Where the assistant was cut off: the last three interruptions of a session."""

from __future__ import annotations

from typing import Any

import msgspec

from samvad import limits
from samvad.clock import parse_rfc3339
from samvad.errors import MissingFields, NotFound
from samvad.http.access import ONE_SESSION
from samvad.http.call import Call, Reply, encode
from samvad.http.routing import Route
from samvad.interruptions.manager import EXPIRES_AFTER_S
from samvad.types import Interruption

_FIELDS = {
    "type": "type",
    "fullText": "full_text",
    "heardText": "heard_text",
    "turnId": "turn_id",
    "progress": "progress",
    "playedMs": "played_ms",
    "generatedMs": "generated_ms",
    "userUtterance": "user_utterance",
    "language": "language",
    "topic": "topic",
    "heardSource": "heard_source",
}


async def list_interruptions(call: Call) -> Reply:
    """The session's interruptions, newest first, at most 3."""
    session_id = call.params[0]
    await call.service.session_owner(session_id)
    held: list[Any] = list(call.interruptions.list(session_id, tenant=call.tenant))
    if len(held) < limits.INTERRUPTIONS_PER_SESSION_MAX and call.records_interruptions:
        known = {interruption.id for interruption in held}
        recorded = await call.service.recorded_interruptions(session_id)
        held += [msgspec.Raw(kept.body) for kept in recorded if kept.id not in known]
        del held[limits.INTERRUPTIONS_PER_SESSION_MAX :]
    return Reply(encode({"success": True, "sessionId": session_id, "interruptions": held}))


async def push(call: Call) -> Reply:
    """Keep an interruption."""
    session_id = call.params[0]
    body = await call.object()
    missing = [name for name in ("type", "fullText", "heardText") if body.get(name) is None]
    if missing:
        raise MissingFields(*missing)
    user_id = await call.service.find_session_owner(session_id)
    given = {ours: body[wire] for wire, ours in _FIELDS.items() if body.get(wire) is not None}

    async def act(receipt: object) -> Interruption:
        owner = await call.service.may_interrupt(session_id)
        tenant = call.tenant
        interruption = call.interruptions.push(session_id, owner, tenant=tenant, **given)
        if call.records_interruptions:
            at_ms = parse_rfc3339(interruption.at)
            await call.service.record_interruption(session_id, interruption.id, at_ms, encode(interruption))
        return interruption

    interruption = await call.once(user_id, Interruption, act, keep=True)
    return Reply(encode({"success": True, "interruption": interruption, "durability": _durability(call)}))


async def resume(call: Call) -> Reply:
    """Take up the newest interruption that can be resumed."""
    session_id = call.params[0]
    await call.body()
    user_id = await call.service.find_session_owner(session_id)

    async def act(receipt: object) -> dict[str, Any]:
        await call.service.session_owner(session_id)
        tenant = call.tenant
        interruption = call.interruptions.resume(session_id, tenant=tenant)
        if call.records_interruptions:
            interruption = interruption or await _recorded_resumable(call, session_id)
            if interruption is not None:
                at_ms = parse_rfc3339(interruption.at)
                await call.service.record_interruption(
                    session_id, interruption.id, at_ms, encode(interruption)
                )
        if interruption is None:
            raise NotFound(f"Session {session_id!r} has no interruption that could be resumed.")
        phrase = call.interruptions.resume_phrase(
            interruption.language, interruption.topic, session_id=session_id, tenant=tenant
        )
        return {
            "success": True,
            "sessionId": session_id,
            "interruption": interruption,
            "durability": "memory",
            "unheardText": interruption.unheard_text,
            "resumePhrase": phrase,
        }

    return Reply(encode(await call.once(user_id, dict[str, Any], act, keep=True)))


async def clear(call: Call) -> Reply:
    """Forget the session's interruptions."""
    session_id = call.params[0]
    await call.service.session_owner(session_id)
    held = call.interruptions.clear(session_id, tenant=call.tenant)
    recorded = await call.service.forget_interruptions(session_id)
    answer = {
        "success": True,
        "sessionId": session_id,
        "cleared": max(held, recorded),
        "durability": _durability(call),
    }
    return Reply(encode(answer))


async def _recorded_resumable(call: Call, session_id: str) -> Interruption | None:
    """The newest recorded interruption that is still pending, now resumed: memory does not outlive a restart."""
    for kept in await call.service.recorded_interruptions(session_id):
        recorded = msgspec.json.decode(kept.body, type=Interruption)
        fresh = call.service.core.clock.now_ms() - kept.at_ms < EXPIRES_AFTER_S * 1000
        if recorded.status == "pending" and recorded.can_resume and fresh:
            return msgspec.structs.replace(recorded, status="resumed")
    return None


def _durability(call: Call) -> str:
    """Interruptions live in memory, unless they are recorded."""
    return call.service.core.rules.durability if call.records_interruptions else "memory"


_PATH = "/api/session/{sessionId}/interruptions"
ROUTES = (
    Route("GET", _PATH, list_interruptions, "listInterruptions", ONE_SESSION),
    Route("POST", _PATH, push, "pushInterruption", ONE_SESSION),
    Route("POST", _PATH + "/resume", resume, "resumeInterruption", ONE_SESSION),
    Route("DELETE", _PATH, clear, "clearInterruptions", ONE_SESSION),
)
