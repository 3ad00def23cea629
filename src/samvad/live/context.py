"""What a conversation begins with: the last messages, the state, the language, what was interrupted, the topic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from samvad import limits
from samvad.live.providers.base import Turn as EarlierTurn
from samvad.records import StoredMessage, UserRecord
from samvad.sessions.content import is_language
from samvad.types import Interruption

_decode = msgspec.json.decode


class Background(NamedTuple):
    """What is known of a user when a conversation begins. `language` is what the user or the session chose, if any."""

    state: Mapping[str, Any]
    topic: str | None
    language: str | None
    history: tuple[StoredMessage, ...]


class _Heard(msgspec.Struct, rename="camel"):
    role: str
    content: str
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


_heard = msgspec.json.Decoder(_Heard)


def background(record: UserRecord, session_id: str) -> Background:
    """From a user's record: state, topic, language, and the last messages."""
    state: dict[str, Any] = {} if record.state is None else _decode(record.state.body)
    context = state.get("conversationContext")
    topic = context.get("topic") if isinstance(context, dict) else None
    return Background(
        state,
        topic if isinstance(topic, str) and topic.strip() else None,
        _language(record, session_id, state),
        record.window[-limits.LIVE_CONTEXT_MESSAGES :],
    )


def earlier_turns(
    record: UserRecord | None,
    *,
    without: str | None,
    most: int = limits.LIVE_CONTEXT_MESSAGES,
    unkept: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[EarlierTurn, ...]:
    """The last messages as a provider is told them; `without` is the message that is being answered now.

    They never begin with a tool's result whose call is not among them. Where content is not kept, `unkept` has what
    this conversation remembers of it, by message id; of what was said before, a provider is told nothing.
    """
    if record is None:
        return ()
    window = [message for message in record.window if message.id != without][-most:]
    turns: list[EarlierTurn] = []
    for message in window:
        heard = _heard.decode(message.body)
        if not heard.content:
            if message.id not in unkept:
                continue
            heard = msgspec.convert(unkept[message.id], _Heard)
        if heard.tool_call_id is not None and not turns:
            continue
        turns.append(
            EarlierTurn(
                role=heard.role,  # type: ignore[arg-type]  # checked when it was appended
                text=heard.content,
                tool_calls=tuple(heard.tool_calls or ()),
                tool_call_id=heard.tool_call_id,
            )
        )
    return tuple(turns)


def _language(record: UserRecord, session_id: str, state: Mapping[str, Any]) -> str | None:
    """What the session, the state or the preferences say, if it is a tag: it stands in what the model is instructed."""
    session, profile = record.sessions.get(session_id), record.profile
    places = (
        {} if session is None else _decode(session.body),
        state,
        {} if profile is None else _decode(profile.preferences),
    )
    return next((each for place in places if is_language(each := place.get("language"))), None)


def interruption_view(interruption: Interruption | None) -> dict[str, Any] | None:
    """What a client is told of an interruption that can be resumed."""
    if interruption is None:
        return None
    return {
        "id": interruption.id,
        "heardText": interruption.heard_text,
        "unheardText": interruption.unheard_text,
        "topic": interruption.topic,
        "at": interruption.at,
    }
