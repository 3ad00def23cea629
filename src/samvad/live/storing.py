"""A turn as messages of the history: what the user said, and the answer as it was heard."""

from __future__ import annotations

from typing import Any, Final

from samvad import limits
from samvad.live.recovery import UNHEARD_CHARS_MAX
from samvad.live.transcript import Heard
from samvad.live.turn import Turn


def user_message(turn: Turn, session_id: str, **more: Any) -> dict[str, Any]:
    """What the user said."""
    metadata: dict[str, Any] = {"turnId": turn.id, **more}
    if turn.user_spoke:
        metadata["spoken"] = True
    return {
        "id": turn.user_message_id,
        "role": "user",
        "content": turn.user_text.strip(),
        "sessionId": session_id,
        "metadata": metadata,
    }


def answer_messages(turn: Turn, heard: Heard, session_id: str, *, interrupted: bool) -> list[dict[str, Any]]:
    """What was heard of the answer: nothing, one message, or several where it is longer than a message may be.

    The last one carries `interrupted` and `unheardText` where the answer was cut off.
    """
    content = heard.text.strip()
    if not content:
        return []
    metadata: dict[str, Any] = {"turnId": turn.id, **turn.metadata}
    if turn.said.spoken:
        metadata["spoken"] = True
    if turn.usage:
        metadata["usage"] = dict(turn.usage)
    if turn.resumes:
        metadata["resumes"] = turn.resumes
    parts = split(content, limits.CONTENT_BYTES_MAX)
    messages: list[dict[str, Any]] = [
        {
            "id": turn.assistant_message_id if number == 0 else f"{turn.assistant_message_id}-{number + 1}",
            "role": "assistant",
            "content": part,
            "sessionId": session_id,
            "metadata": metadata if number == 0 else {"turnId": turn.id},
        }
        for number, part in enumerate(parts)
    ]
    if interrupted:
        messages[-1]["interrupted"] = True
        if heard.rest:
            messages[-1]["unheardText"] = heard.rest[:UNHEARD_CHARS_MAX]
    return messages


_BYTES_PER_CHAR_MAX: Final = 4


def split(text: str, bytes_max: int) -> list[str]:
    """A text in pieces of at most so many bytes of UTF-8."""
    if len(text) * _BYTES_PER_CHAR_MAX <= bytes_max or len(text.encode()) <= bytes_max:
        return [text]
    chars = bytes_max // _BYTES_PER_CHAR_MAX
    return [text[at : at + chars] for at in range(0, len(text), chars)]
