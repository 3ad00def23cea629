"""A user's state, profile and history, and erasing them."""

from __future__ import annotations

import re
from typing import Any

from samvad import limits
from samvad.clock import rfc3339
from samvad.errors import InvalidRequest, MissingFields, NotFound
from samvad.http.access import USERS
from samvad.http.call import Call, Reply, encode
from samvad.http.routing import Route
from samvad.records import UserKey, UserRecord
from samvad.sessions.user_log import etag
from samvad.types import Appended, Cleared, StateSaved

# RFC 9110, section 8.8.3; a list may have empty elements.
_ENTITY_TAG = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')
_ENTITY_TAGS = re.compile(rf"[\s,]*(?:{_ENTITY_TAG.pattern}\s*(?:,[\s,]*|$))+")
_SEQ_MAX = (1 << 62) - 1


def degraded(call: Call) -> bytes:
    """What a read adds while the store is down: the answer is what this process knows."""
    return b',"degraded":true}' if call.service.core.lanes.degraded else b"}"


# --- state -------------------------------------------------------------------------------------------------


def _entity_tags(call: Call, header: bytes) -> list[str] | None:
    value = call.header(header)
    if value is None:
        return None
    if value.strip() == "*":
        return ["*"]
    if not _ENTITY_TAGS.fullmatch(value):
        raise InvalidRequest(f"{header.decode().title()} must be '*' or a list of quoted entity tags.")
    return [str(tag) for tag in _ENTITY_TAG.findall(value)]


async def _save(call: Call, replace: bool) -> Reply:
    user_id = call.params[0]
    state = await call.object()
    if_match = _entity_tags(call, b"if-match")
    if_none_match = _entity_tags(call, b"if-none-match")
    verb = call.service.replace_user_state if replace else call.service.save_user_state
    if if_none_match not in (None, ["*"]):
        raise InvalidRequest("If-None-Match on a write must be '*': save only if there is no state yet.")
    saved = await call.once(
        user_id,
        StateSaved,
        lambda receipt: verb(
            user_id, state, if_match=if_match, if_absent=if_none_match is not None, receipt=receipt
        ),
    )
    body = {
        "success": True,
        "message": "User state saved successfully",
        "userId": user_id,
        "version": saved.version,
        "durability": saved.durability,
    }
    if not saved.content_kept:
        body["contentKept"] = False
    return Reply(encode(body), headers=((b"etag", saved.etag.encode()),))


async def save_state(call: Call) -> Reply:
    """Merge the user's state (RFC 7396)."""
    return await _save(call, replace=False)


async def replace_state(call: Call) -> Reply:
    """Replace the user's state."""
    return await _save(call, replace=True)


async def get_state(call: Call) -> Reply:
    """The user's state."""
    user_id = call.params[0]
    record = await call.service.read_user(user_id)
    state = record.state
    if state is None:
        raise NotFound(f"There is no state of user {user_id!r}.")
    tag = etag(record.version.epoch, state.version)
    if_none_match = _entity_tags(call, b"if-none-match")
    # RFC 9110, section 13.1.2: If-None-Match compares weakly; proxies that compress make tags weak.
    if if_none_match is not None and (
        "*" in if_none_match or tag in [t.removeprefix("W/") for t in if_none_match]
    ):
        return Reply(b"", 304, headers=((b"etag", tag.encode()),))
    inner = state.body[:-1] + b"," if len(state.body) > 2 else b"{"
    ends = b'"updatedAt":"%b","isActive":%b,"version":%d}' % (
        rfc3339(state.updated_ms).encode(),
        b"true" if call.service.is_active(record) else b"false",
        state.version,
    )
    body = b"".join(
        (b'{"success":true,"userId":', encode(user_id), b',"state":', inner, ends, degraded(call))
    )
    return Reply(body, headers=((b"etag", tag.encode()),))


# --- profile -----------------------------------------------------------------------------------------------


async def get_profile(call: Call) -> Reply:
    """The user's last messages and preferences."""
    user_id = call.params[0]
    record = await call.service.read_user(user_id)
    return Reply(
        b"".join(
            (
                b'{"success":true,"userId":',
                encode(user_id),
                b',"profile":',
                _profile(call, user_id, record),
                degraded(call),
            )
        )
    )


def _profile(call: Call, user_id: str, record: UserRecord) -> bytes:
    profile = record.profile
    created = updated = b"null"
    if profile is not None:
        created = b'"%b"' % rfc3339(profile.created_ms).encode()
        updated = b'"%b"' % rfc3339(profile.updated_ms).encode()
    return b"".join(
        (
            b'{"userId":',
            encode(user_id),
            b',"conversationHistory":[',
            b",".join([message.body for message in record.window]),
            b'],"preferences":',
            call.service.preferences(record),
            b',"historyLength":%d,"totalMessages":%d' % (len(record.window), record.seq - record.trimmed),
            b',"createdAt":%b,"lastUpdated":%b}' % (created, updated),
        )
    )


async def save_profile(call: Call) -> Reply:
    """Merge the user's preferences (RFC 7396)."""
    user_id = call.params[0]
    body = await call.object()
    if "preferences" not in body:
        raise MissingFields("preferences")
    if unknown := sorted(set(body) - {"preferences"}):
        raise InvalidRequest(f"Only 'preferences' can be changed in a profile, not {unknown[0]!r}.")
    await call.service.save_user_profile(user_id, body["preferences"])
    record = await call.service.read_user(user_id)
    head = encode({"success": True, "message": "User profile saved successfully", "userId": user_id})
    return Reply(
        b'%b,"preferences":%b,"durability":"%b"}'
        % (head[:-1], call.service.preferences(record), call.service.core.rules.durability.encode())
    )


# --- history -----------------------------------------------------------------------------------------------


async def append_history(call: Call) -> Reply:
    """Append one message, or up to 100 in `messages`, all or none."""
    user_id = call.params[0]
    body = await call.object(limits.BODY_BYTES_MAX)
    many = "messages" in body
    messages: Any = body["messages"] if many else [body]
    check_messages(messages)
    appended = await call.once(
        user_id,
        list[Appended],
        lambda receipt: call.service.append_many(user_id, messages, receipt=receipt),
    )
    return Reply(encode(appended_answer(user_id, appended, many)))


def check_messages(messages: object) -> None:
    """InvalidRequest unless it is a list of objects."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("messages must be a list of message objects.")


def appended_answer(user_id: str, appended: list[Appended], many: bool) -> dict[str, Any]:
    """The answer to appending one or many."""
    first, last = appended[0], appended[-1]
    if many:
        return {
            "success": True,
            "message": "Messages appended to history",
            "userId": user_id,
            "count": len(appended),
            "messages": appended,
            "seq": last.seq,
            "durability": last.durability,
        }
    answer = {
        "success": True,
        "message": "Message appended to history",
        "userId": user_id,
        "messageId": first.message_id,
        "seq": first.seq,
        "durability": first.durability,
    }
    if first.duplicate:
        answer["duplicate"] = True
    if not first.content_kept:
        answer["contentKept"] = False
    return answer


async def page_history(call: Call) -> Reply:
    """A page of the user's history, oldest first."""
    user_id = call.params[0]
    query = call.query("limit", "before", "after")
    limit = call.query_int(query, "limit", 1, limits.PAGE_MESSAGES_MAX) or limits.PAGE_MESSAGES
    messages, has_more = await call.service.page_stored(
        user_id,
        limit=limit,
        before=call.query_int(query, "before", 0, _SEQ_MAX),
        after=call.query_int(query, "after", 0, _SEQ_MAX),
    )
    return Reply(
        b"".join(
            (
                b'{"success":true,"userId":',
                encode(user_id),
                b',"messages":[',
                b",".join([message.body for message in messages]),
                b'],"hasMore":true' if has_more else b'],"hasMore":false',
                b',"firstSeq":%d' % await call.service.first_seq(user_id),
                degraded(call),
            )
        )
    )


# --- erasing -----------------------------------------------------------------------------------------------


async def refresh(call: Call) -> Reply:
    """Erase everything of the user."""
    body = await call.object()
    user_id = body.get("userId")
    if user_id is None:
        raise MissingFields("userId")
    wants_receipt = body.get("receipt", False)
    if not isinstance(wants_receipt, bool):
        raise InvalidRequest("receipt must be true or false.")
    if wants_receipt:
        call.erasure_signer()  # what cannot be proven is not begun
    cleared = await call.once(
        user_id, Cleared, lambda receipt: call.service.clear_user_data(user_id, receipt=receipt)
    )
    answer: dict[str, Any] = {
        "success": True,
        "message": "User data cleared successfully",
        "userId": user_id,
        "durability": call.service.core.rules.durability,
        "cleared": cleared_answer(cleared),
    }
    if wants_receipt:
        answer["receipt"] = call.erasure_receipt(UserKey(call.tenant, user_id), cleared)
    if cleared.pending:  # the store is down: nobody reads anything of the user from now on, purging follows
        return Reply(encode({**answer, "pending": True}), 202)
    return Reply(encode(answer))


def cleared_answer(cleared: Cleared) -> dict[str, Any]:
    """What was removed, as it is told."""
    return {
        "userState": cleared.user_state,
        "userProfile": cleared.user_profile,
        "sessions": cleared.sessions,
        "interruptions": cleared.interruptions,
        "messages": cleared.messages,
    }


ROUTES = (
    Route("POST", "/api/session/{userId}/state", save_state, "saveUserState", USERS),
    Route("PUT", "/api/session/{userId}/state", replace_state, "replaceUserState", USERS),
    Route("GET", "/api/session/{userId}/state", get_state, "getUserState", USERS),
    Route("GET", "/api/session/{userId}/profile", get_profile, "getUserProfile", USERS),
    Route("PATCH", "/api/session/{userId}/profile", save_profile, "saveUserProfile", USERS),
    Route("POST", "/api/session/{userId}/history", append_history, "appendToUserHistory", USERS),
    Route("GET", "/api/session/{userId}/history", page_history, "pageHistory", USERS),
    Route("POST", "/api/session/refresh", refresh, "clearUserData", USERS),
)
