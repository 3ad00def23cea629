"""What a chat model is shown of a conversation: messages in OpenAI's form, within bounds, calls with their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from samvad import limits
from samvad.live.providers.base import Turn

MESSAGES_MAX: Final = limits.LIVE_PROMPT_MESSAGES_MAX
CHARS_MAX: Final = limits.LIVE_PROMPT_CHARS_MAX
CANCELLED: Final = '{"error": "cancelled: the user went on"}'

Message = dict[str, Any]


class ChatHistory:
    """The turns of one conversation, as they were heard."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._messages: list[Message] = [_message(turn) for turn in turns if turn.text or turn.tool_calls]

    def user(self, text: str) -> None:
        """The user's turn."""
        self._messages.append({"role": "user", "content": text})

    def assistant(self, text: str, calls: Sequence[Mapping[str, Any]] = ()) -> None:
        """What the model said, with the calls that it made (`id`, `name`, `arguments` as JSON text)."""
        message: Message = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in calls
            ]
        if text or calls:
            self._messages.append(message)

    def result(self, call_id: str, result: Any) -> None:
        """The result of a call."""
        content = json.dumps(result, ensure_ascii=False, default=str)
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def heard(self, text: str) -> None:
        """Of the answer to the last user's turn, only this was heard."""
        for at in range(len(self._messages) - 1, -1, -1):
            message = self._messages[at]
            if message["role"] == "user":
                return
            if message["role"] == "assistant" and not message.get("tool_calls"):
                if text:
                    message["content"] = text
                else:
                    del self._messages[at]
                return

    def shown(self, instruction: str, note: str | None = None) -> list[Message]:
        """The messages of a request: the instruction, then the last turns; the note stands before the user's last."""
        messages = trimmed(self._messages)
        if note:
            for at in range(len(messages) - 1, -1, -1):
                if messages[at]["role"] == "user":
                    messages[at] = {**messages[at], "content": f"{note}\n\n{messages[at]['content']}"}
                    break
        return [{"role": "system", "content": instruction}, *messages]


def trimmed(
    messages: Sequence[Message], *, messages_max: int = MESSAGES_MAX, chars_max: int = CHARS_MAX
) -> list[Message]:
    """The last messages within bounds. It begins with a user's turn where there is one, and no call is without its
    result, no result without its call: an endpoint refuses both.
    """
    start = len(messages)
    chars = 0
    while start > 0 and len(messages) - start < messages_max:
        chars += len(messages[start - 1]["content"] or "") + 200 * len(
            messages[start - 1].get("tool_calls", ())
        )
        if chars > chars_max and start < len(messages):
            break
        start -= 1
    kept = list(messages[start:])
    if start > 0:
        first = next((at for at, message in enumerate(kept) if message["role"] == "user"), None)
        kept = kept[first:] if first is not None else kept
    return _paired(kept)


def _paired(messages: Sequence[Message]) -> list[Message]:
    results = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    paired: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            continue
        paired.append(message)
        for call in message.get("tool_calls", ()):
            missing = {"role": "tool", "tool_call_id": call["id"], "content": CANCELLED}
            paired.append(results.get(call["id"], missing))
    return paired


def _message(turn: Turn) -> Message:
    message: Message = {"role": turn.role, "content": turn.text or None}
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                "id": str(call.get("id")),
                "type": "function",
                "function": {
                    "name": str(call.get("name")),
                    "arguments": json.dumps(call.get("arguments") or {}, ensure_ascii=False, default=str),
                },
            }
            for call in turn.tool_calls
        ]
    if turn.role == "tool":
        message["tool_call_id"] = turn.tool_call_id or ""
        message["content"] = turn.text
    return message
