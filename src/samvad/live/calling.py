"""A tool's call: carried out, answered to the model, and kept in the history together with its result."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import msgspec

from samvad import limits
from samvad.live import frames, phrases
from samvad.live.providers import base
from samvad.live.tools import ToolContext, ToolFailed
from samvad.live.turn import Turn

if TYPE_CHECKING:
    from samvad.live.answering import Answering

_ARGUMENTS_SHOWN_CHARS: Final = 1_000


async def call_tool(talk: Answering, turn: Turn, event: base.ToolCall) -> None:
    """Call the function, tell the model what came of it, and keep both. Nothing is kept of a cancelled call."""
    context = ToolContext(talk.key.tenant, talk.key.user_id, talk.session_id, talk.language)
    result: Any = None
    error: str | None = None
    try:
        if len(turn.calls) > limits.LIVE_TOOL_CALLS_MAX:
            raise ToolFailed("Too many calls at once.")
        known = event.name if event.name in talk.parts.tools else None
        with nullcontext() if turn.spans is None else turn.spans.tool(known):
            result = await talk.parts.tools.call(event.name, event.arguments, context)
    except ToolFailed as failed:
        error = str(failed)
    talk.parts.meter.tool_calls["ok" if error is None else "failed"] += 1
    turn.calls.pop(event.id, None)
    talk.keep_user_message(turn)
    messages = pair(turn, event, result, error, talk.session_id)
    line = talk.line
    ids = [message["id"] for message in messages]
    if line is not None:
        line.claim(*ids)

    def kept(done: Any) -> None:
        if appended := done.result():
            turn.message_ids += [each.message_id for each in appended]
            turn.seq = max(turn.seq or 0, appended[-1].seq)
        if line is not None:
            line.told(*ids)

    talk.append(messages).add_done_callback(kept)
    # Why it failed is for the model, in English; the user is told in their language that it did.
    told = None if error is None else phrases.phrases(talk.language).tool_failed
    talk.send(
        frames.ToolResultFrame(turn_id=turn.id, id=event.id, name=event.name, ok=error is None, error=told)
    )
    session = talk.provider_session
    if session is not None:
        await session.send_tool_result(event.id, event.name, result, error=error)


def pair(
    turn: Turn, event: base.ToolCall, result: Any, error: str | None, session_id: str
) -> list[dict[str, Any]]:
    """The assistant's message that makes the call, and the tool's that answers it."""
    arguments = msgspec.json.encode(event.arguments).decode()
    content = msgspec.json.encode({"error": error} if error is not None else result).decode()
    turn.call_count += 1  # the model's own ids may hold anything
    call_id = event.id or f"{turn.id}-{turn.call_count}"
    return [
        {
            "id": f"{turn.id}-call-{turn.call_count}",
            "role": "assistant",
            "content": f"{event.name}({arguments[:_ARGUMENTS_SHOWN_CHARS]})",
            "sessionId": session_id,
            "metadata": {"turnId": turn.id},
            "toolCalls": [{"id": call_id, "name": event.name, "arguments": dict(event.arguments)}],
        },
        {
            "id": f"{turn.id}-result-{turn.call_count}",
            "role": "tool",
            "name": event.name,
            "content": content,
            "sessionId": session_id,
            "metadata": {"turnId": turn.id},
            "toolCallId": call_id,
        },
    ]
