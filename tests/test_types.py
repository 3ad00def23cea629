"""The records that callers see: names on the wire, what is left out, and that they cannot be altered."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from samvad import types


def json(value: object) -> Any:
    """As it goes over the wire."""
    return msgspec.json.decode(msgspec.json.encode(value))


def message(**fields: Any) -> types.Message:
    """A message with what it must have."""
    return types.Message(
        seq=1, id="m", role="user", content="x", timestamp="2025-01-10T17:00:00.000Z", **fields
    )


def test_a_message_on_the_wire() -> None:
    """camelCase, and nothing that was not said."""
    bare = {"seq": 1, "id": "m", "role": "user", "content": "x", "timestamp": "2025-01-10T17:00:00.000Z"}
    assert json(message()) == bare
    call = types.ToolCall("c", "rate", {"x": 1})
    full = message(session_id="s", tool_calls=[call], tool_call_id="c", metadata={})
    assert json(full) == bare | {
        "sessionId": "s",
        "toolCalls": [{"id": "c", "name": "rate", "arguments": {"x": 1}}],
        "toolCallId": "c",
        "metadata": {},
    }
    assert msgspec.json.decode(msgspec.json.encode(full), type=types.Message) == full


def test_answers_on_the_wire() -> None:
    """The names of the contract."""
    appended = types.Appended(message_id="m", seq=1, durability="stored")
    assert json(appended) == {"messageId": "m", "seq": 1, "durability": "stored"}
    cleared = types.Cleared(user_state=True, user_profile=False, sessions=2, interruptions=5, messages=7)
    assert json(cleared) == {
        "userState": True,
        "userProfile": False,
        "sessions": 2,
        "interruptions": 5,
        "messages": 7,
    }
    stats = types.SessionStats(active_users=1, active_sessions=2, total_profiles=3, total_interruptions=4)
    assert json(stats) == {
        "activeUsers": 1,
        "activeSessions": 2,
        "totalProfiles": 3,
        "totalInterruptions": 4,
    }
    session = types.Session(
        id="s", user_id="u", language="en", is_active=True, created_at="a", last_activity="b"
    )
    assert json(session) == {
        "id": "s",
        "userId": "u",
        "language": "en",
        "isActive": True,
        "createdAt": "a",
        "lastActivity": "b",
    }


def test_records_cannot_be_altered() -> None:
    """What one caller holds is what another holds: neither can change it."""
    with pytest.raises(AttributeError):
        message().content = "y"  # type: ignore[misc]


def test_extra_fields_are_not_shared() -> None:
    """The default of one message is not the default of all."""
    one = message()
    one.extra["a"] = 1
    assert message().extra == {}


def test_positions_are_in_order() -> None:
    """The epoch first, then seq: what came after an erasing is behind all that came before it."""
    assert types.Position(1, 1) > types.Position(0, 99) > types.Position(0, 98)


def test_the_local_principal() -> None:
    """It may act for every user of the default tenant."""
    assert ("default", None, types.SCOPES, None) == types.LOCAL
