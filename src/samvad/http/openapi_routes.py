"""What the OpenAPI document says of each route beyond its path and its handler's docstring."""

from __future__ import annotations

from typing import Any

from samvad import errors, limits
from samvad.http import openapi_knowledge, wire, wire_answers
from samvad.http.openapi_description import Description

_KEPT = "Any further fields are kept."

_Bad, _Gone, _Down = errors.InvalidRequest, errors.NotFound, errors.Unavailable
_BODY = (_Bad, errors.TooLarge, errors.UnsupportedMediaType, _Down)
_KEY = ("Idempotency-Key",)
_KEYED = (errors.Conflict, errors.IdempotencyKeyReused)
_USER_LINKS = (("getUserState", "userId", "userId"), ("getUserProfile", "userId", "userId"))
_STATE_TEXT = (
    "`userId`, `updatedAt`, `isActive` and `version` in the body are ignored; they are the server's."
)
_STATE = Description(
    "State",
    wire_answers.StateSavedAnswer,
    dict,
    (*_BODY, *_KEYED, errors.PreconditionFailed),
    ("If-Match", "If-None-Match on write", "Idempotency-Key"),
    ("ETag",),
    text=f"At most {limits.STATE_BYTES_MAX} bytes of JSON, {limits.JSON_DEPTH_MAX} levels deep. {_STATE_TEXT}",
    links=(("getUserState", "userId", "userId"), ("getUserActiveSessions", "userId", "userId")),
)

DESCRIPTIONS: dict[str, Description] = {
    "saveUserState": _STATE,
    "replaceUserState": _STATE,
    "getUserState": Description(
        "State",
        wire_answers.StateAnswer,
        errors=(_Bad, _Gone, _Down),
        parameters=("If-None-Match",),
        answer_headers=("ETag",),
        other_answers={"304": None},
    ),
    "getUserProfile": Description(
        "Profile and history",
        wire_answers.ProfileAnswer,
        errors=(_Bad, _Down),
        text="Never 404: an unknown user has an empty history and the default preferences.",
    ),
    "saveUserProfile": Description(
        "Profile and history", wire_answers.ProfileSavedAnswer, wire.PreferencesGiven, _BODY
    ),
    "getPrivacy": Description("Privacy", wire_answers.PrivacyAnswer, errors=(_Bad, _Down)),
    "savePrivacy": Description(
        "Privacy",
        wire_answers.PrivacySavedAnswer,
        wire.PrivacyGiven,
        _BODY,
        other_answers={"202": wire_answers.PrivacySavedAnswer},
        text="`none`: of what the user says from now on, only role, `seq`, id, session, time and length are kept. "
        "Where there is content, all of the user is erased first, as by `POST /api/session/refresh`. 202 where the "
        "store is down and will be purged when it is back.",
    ),
    "appendToUserHistory": Description(
        "Profile and history",
        wire_answers.MessageAppended | wire_answers.MessagesAppended,
        (
            wire.UserMessageGiven,
            wire.SystemMessageGiven,
            wire.AssistantMessageGiven,
            wire.ToolMessageGiven,
            wire.MessagesGiven,
        ),
        (*_BODY, *_KEYED),
        _KEY,
        text=f"The same `id` again is the same message and changes nothing. {_KEPT}",
        links=(("pageHistory", "userId", "userId"), *_USER_LINKS),
    ),
    "pageHistory": Description(
        "Profile and history",
        wire_answers.HistoryAnswer,
        errors=(_Bad, _Down),
        parameters=("limit", "before", "after"),
        text="With `after` the first messages behind it; without, the last ones ahead of `before` or of the end.",
    ),
    "saveSession": Description(
        "Sessions",
        wire_answers.SessionSavedAnswer,
        wire.SessionGiven,
        (*_BODY, *_KEYED),
        _KEY,
        text=f"409 where the id belongs to another user. {_KEPT} Merging follows RFC 7396.",
        links=tuple(
            (name, "sessionId", "sessionId")
            for name in ("getSession", "endSession", "clearSession", "pushInterruption", "listInterruptions")
        ),
    ),
    "getSession": Description("Sessions", wire_answers.SessionAnswer, errors=(_Bad, _Gone, _Down)),
    "endSession": Description("Sessions", wire_answers.SessionEndedAnswer, errors=(_Bad, _Gone, _Down)),
    "clearSession": Description("Sessions", wire_answers.SessionClearedAnswer, errors=(_Bad, _Gone, _Down)),
    "getUserActiveSessions": Description("Sessions", wire_answers.ActiveSessionsAnswer, errors=(_Bad, _Down)),
    "listInterruptions": Description(
        "Interruptions", wire_answers.InterruptionsAnswer, errors=(_Bad, _Gone, _Down)
    ),
    "pushInterruption": Description(
        "Interruptions",
        wire_answers.InterruptionAnswer,
        wire.InterruptionGiven,
        (*_BODY, _Gone, *_KEYED),
        _KEY,
        text="The oldest is forgotten beyond three.",
        links=(("resumeInterruption", "sessionId", "interruption/sessionId"),),
    ),
    "resumeInterruption": Description(
        "Interruptions",
        wire_answers.InterruptionResumedAnswer,
        errors=(_Bad, _Gone, errors.TooLarge, _Down, *_KEYED),
        parameters=_KEY,
        text="404 where there is none that can be resumed. A body is not needed and not looked at.",
    ),
    "clearInterruptions": Description(
        "Interruptions", wire_answers.InterruptionsClearedAnswer, errors=(_Bad, _Gone, _Down)
    ),
    "batch": Description(
        "All at once",
        wire_answers.BatchAnswer,
        wire.BatchGiven,
        (*_BODY, *_KEYED),
        _KEY,
        text="The operations of one user keep their order, those of different users run side by side.",
    ),
    "clearUserData": Description(
        "All at once",
        wire_answers.UserClearedAnswer,
        wire.RefreshGiven,
        (*_BODY, *_KEYED),
        _KEY,
        other_answers={"202": wire_answers.UserClearedAnswer},
        text="State, profile, history, sessions and interruptions; what comes later starts a new life.",
        links=_USER_LINKS,
    ),
    "exportUser": Description(
        "All at once",
        "application/zip",
        errors=(_Bad, _Gone, _Down),
        text="A ZIP of JSON and Markdown: state, preferences, sessions, interruptions, all messages, own documents, "
        "what the audit log says of the user, and a manifest with the SHA-256 of each file. A program needs the scopes "
        "`users`, `sessions` and `knowledge`. Sent as it is made: a body that breaks off is no ZIP, and 503 comes "
        "first where not everything can be known. `samvad user import` takes it in.",
    ),
    "getStats": Description("All at once", wire_answers.StatsAnswer, errors=(_Down,)),
    "liveEvents": Description(
        "Live conversations",
        "text/event-stream",
        errors=(_Bad, _Down),
        parameters=("userId", "lastEventId", "Last-Event-ID"),
        text="The stream has no end of its own. The id of an event is its place, `epoch:seq`; a client that comes back "
        "with the last one misses nothing. Events: `ready` `{epoch, seq, recovered}` first; `message` "
        "`{seq, message}`; `gap` `{from, to}` for messages that are too many to be sent here; `reset` `{epoch, seq}` "
        "where the user was erased. A comment every 15 seconds shows that the server is there.",
    ),
    **openapi_knowledge.DESCRIPTIONS,
    "getCost": Description(
        "All at once",
        wire_answers.CostAnswer,
        text="Operations are counted where Firestore is called. A store that bills nothing for them has zeros.",
    ),
    "mintToken": Description(
        "Access",
        wire_answers.TokenAnswer,
        wire.TokenGiven,
        (*_BODY, *_KEYED),
        _KEY,
        text="For browsers and sockets: the token acts as the user and reaches nobody else. A back end mints it with "
        "its API key; users cannot mint tokens themselves.",
    ),
    "healthz": Description("The process", wire_answers.HealthAnswer),
    "readyz": Description(
        "The process", wire_answers.ReadyAnswer, other_answers={"503": wire_answers.ReadyAnswer}
    ),
    "metrics": Description("The process", "text/plain"),
    "openapi": Description("The process", dict),
    "docs": Description("The process", "text/html"),
    "talk": Description("The process", "text/html"),
    "talkFile": Description("The process", "*/*", errors=(_Bad, _Gone)),
}


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


_TAG_LIST: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "enum": ["*"]},
        {"type": "string", "pattern": r'^(W/)?"[!#-~]*"( ?, ?(W/)?"[!#-~]*")*$'},
    ],
    "examples": ['"0-1"'],
}
_EVENT_ID: dict[str, Any] = {
    "type": "string",
    "pattern": r"^([0-9]{1,18}:[0-9]{1,18})?$",
    "examples": ["0:17"],
}
_SEQ_MAX = (1 << 62) - 1
PARAMETERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "in": "header",
        "description": "Save only if the state still has one of these entity tags; `*`: if there is any.",
        "schema": _TAG_LIST,
    },
    "If-None-Match": {
        "in": "header",
        "description": "Answer 304 if the state still has one of these entity tags.",
        "schema": _TAG_LIST,
    },
    "If-None-Match on write": {
        "name": "If-None-Match",
        "in": "header",
        "description": "Save only if there is no state yet.",
        "schema": {"type": "string", "enum": ["*"]},
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "Repeating the request under this key gives the first answer again, for 24 hours.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": limits.IDEMPOTENCY_KEY_CHARS_MAX,
            "pattern": "^[!-~]+( [!-~]+)*$",
        },
    },
    "limit": {
        "in": "query",
        "description": "How many messages at most.",
        "schema": _integer(1, limits.PAGE_MESSAGES_MAX) | {"default": limits.PAGE_MESSAGES},
    },
    "before": {
        "in": "query",
        "description": "Only messages ahead of this `seq`.",
        "schema": _integer(0, _SEQ_MAX),
    },
    "after": {
        "in": "query",
        "description": "Only messages behind this `seq`.",
        "schema": _integer(0, _SEQ_MAX),
    },
    "userId": {
        "in": "query",
        "required": True,
        "description": "Whose timeline.",
        "schema": {"$ref": f"{wire.SCHEMAS}Id"},
    },
    "lastEventId": {
        "in": "query",
        "description": "As `Last-Event-ID`, for clients that cannot set a header.",
        "schema": _EVENT_ID,
    },
    "Last-Event-ID": {
        "in": "header",
        "description": "Go on behind this event. Browsers send it by themselves.",
        "schema": _EVENT_ID,
    },
    **openapi_knowledge.PARAMETERS,
}
