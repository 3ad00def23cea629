"""A turn that was cut in the middle, by a killed server or by one that is out of reach, is brought to its end.

While an answer is being heard, what was heard so far is kept with the session, as its field `liveTurn`, once a
second. Whoever opens the session next finds it there and stores it as the interrupted answer that it is. Message ids
come from the turn's id, so that doing it twice, here and elsewhere, is doing it once.

A server's own directory names the sessions with such turns, so that it finds them when it starts again, also where
nobody comes back for them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from samvad.errors import SamvadError
from samvad.live.open_turns import OpenTurns
from samvad.live.turn import Turn
from samvad.records import StoredSession
from samvad.sessions.people import LIVE_TURN
from samvad.sessions.service import SessionPersistenceService

_log = logging.getLogger(__name__)
CHECKPOINT_BYTES_MAX: Final = 40 * 1024  # of a session's 64 KiB
UNHEARD_CHARS_MAX: Final = 4_000
STALE_AFTER_MS: Final = 15_000  # a turn of another session is nobody's if it was not heard of for so long


class OpenTurn(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A turn under way, as it is kept with its session. `heardText` is at most a second behind."""

    turn_id: str
    at_ms: int
    user_message_id: str
    assistant_message_id: str
    user_text: str | None = None  # where the user's message is not in the history yet
    heard_text: str = ""
    unheard_text: str = ""
    spoken: bool = False
    topic: str | None = None
    language: str | None = None


def open_turn(turn: Turn, *, now_ms: int, topic: str | None, language: str | None) -> OpenTurn:
    """A turn as it stands."""
    heard = turn.heard()
    return OpenTurn(
        turn_id=turn.id,
        at_ms=now_ms,
        user_message_id=turn.user_message_id,
        assistant_message_id=turn.assistant_message_id,
        user_text=turn.user_text if turn.user_text and not turn.user_kept else None,
        heard_text=heard.text,
        unheard_text=heard.rest[:UNHEARD_CHARS_MAX],
        spoken=turn.said.spoken,
        topic=topic,
        language=language,
    )


def open_turn_of(session: StoredSession) -> OpenTurn | None:
    """The turn that a session was left with; None if there is none (or one of another version's)."""
    if b'"liveTurn"' not in session.body:
        return None
    found = msgspec.json.decode(session.body).get(LIVE_TURN)
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(found, OpenTurn)
    return None


def messages_of(turn: OpenTurn, session_id: str) -> list[Mapping[str, Any]]:
    """The messages that a cut turn comes to: the user's, and what was heard of the answer."""
    messages: list[Mapping[str, Any]] = []
    metadata = {"turnId": turn.turn_id}
    if turn.user_text:
        messages.append(
            {
                "id": turn.user_message_id,
                "role": "user",
                "content": turn.user_text,
                "sessionId": session_id,
                "metadata": metadata,
            }
        )
    if turn.heard_text:
        messages.append(
            {
                "id": turn.assistant_message_id,
                "role": "assistant",
                "content": turn.heard_text,
                "sessionId": session_id,
                "metadata": {**metadata, "recovered": True},
                "interrupted": True,
                **({"unheardText": turn.unheard_text} if turn.unheard_text else {}),
            }
        )
    return messages


async def bring_to_its_end(
    service: SessionPersistenceService, user_id: str, session: StoredSession
) -> OpenTurn | None:
    """Store the cut turn of a session, if it has one; returns it."""
    turn = open_turn_of(session)
    if turn is None:
        return None
    messages = messages_of(turn, session.id)
    if messages:
        await service.append_said(user_id, messages)
    await forget_turn(service, user_id, session.id)
    return turn


async def forget_turn(service: SessionPersistenceService, user_id: str, session_id: str) -> None:
    """The session's turn is stored."""
    await keep_turn(service, user_id, session_id, None)


async def keep_turn(
    service: SessionPersistenceService, user_id: str, session_id: str, turn: OpenTurn | None
) -> None:
    """Keep a turn under way with its session (None: there is none), unless the session was deleted or has ended."""
    session = (await service.read_user(user_id)).sessions.get(session_id)
    if session is None or session.ended_ms is not None:
        return
    if turn is None and b'"liveTurn"' not in session.body:
        return
    fields = {LIVE_TURN: None if turn is None else msgspec.to_builtins(turn)}
    if turn is not None and len(msgspec.json.encode(fields)) > CHECKPOINT_BYTES_MAX:
        return
    await service.save_live_fields(session_id, user_id, fields)


async def recover_left_over(service_of: Any, open_turns: OpenTurns) -> int:
    """Bring to their end all turns that an earlier process left; returns how many. `service_of` takes a tenant."""
    count = 0
    async for key, session_id in open_turns.left_over():
        service: SessionPersistenceService = service_of(key.tenant)
        try:
            record = await service.read_user(key.user_id)
            session = record.sessions.get(session_id)
            if session is not None and await bring_to_its_end(service, key.user_id, session):
                count += 1
        except SamvadError as error:
            if error.retryable:
                _log.warning("a cut turn could not be recovered yet", extra={"code": error.code})
                continue
        open_turns.discard(key, session_id)
    return count
