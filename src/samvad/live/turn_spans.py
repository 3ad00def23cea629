"""The spans of a turn, by OpenTelemetry's conventions for generative AI. Never a prompt, never an answer.

`invoke_agent` is the turn, until all of it was heard; within it `chat` is the model's part, until all of it is there,
and `execute_tool` a function that it called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from samvad import tracing

if TYPE_CHECKING:
    from samvad.live.keeping import Keeping

_PROVIDERS: Final = {
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "openai": "openai",
    "openai_realtime": "openai",
}


class TurnSpans:
    """The spans of one turn. Made only where traces are on."""

    def __init__(self, talk: Keeping) -> None:
        name = talk.provider.name
        self._told: dict[str, Any] = {
            "gen_ai.provider.name": _PROVIDERS.get(name, f"samvad.{name}"),
            "gen_ai.conversation.id": tracing.conversation_hash(talk.key.tenant, talk.session_id),
            **tracing.user_attributes(talk.key.tenant, talk.key.user_id),
        }
        model = getattr(talk.provider, "model", None)
        if isinstance(model, str):
            self._told["gen_ai.request.model"] = model
        self._model = model if isinstance(model, str) else name
        operation = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": tracing.NAME}
        self.turn = tracing.begin(f"invoke_agent {tracing.NAME}", self._told | operation)
        self._chat: Any = None
        self._over = False

    def asked(self) -> AbstractContextManager[Any]:
        """The model has the user's words, or has begun to answer."""
        if self._chat is None:
            told = self._told | {"gen_ai.operation.name": "chat"}
            context = tracing.below(self.turn)
            self._chat = tracing.begin(f"chat {self._model}", told, kind="CLIENT", context=context)
        return tracing.under(self._chat)

    def first_piece(self, seconds: float) -> None:
        """The first of the answer came so long after the end of what the user said."""
        self.asked()
        self._chat.set_attribute("samvad.first_piece.seconds", seconds)

    def generated(self, usage: Mapping[str, int] | None) -> None:
        """All of the answer is there."""
        if self._chat is not None:
            for name, tokens in (usage or {}).items():
                if (told := _USAGE.get(name)) is not None:
                    self._chat.set_attribute(told, tokens)
            self._chat.end()

    def over(self, outcome: str, code: str | None = None) -> None:
        """The turn is over: complete, interrupted, failed. Only the first time counts."""
        if self._over:
            return
        self._over = True
        if self._chat is not None and self._chat.is_recording():
            tracing.finish(self._chat, code)
        self.turn.set_attribute("samvad.turn.outcome", outcome)
        tracing.finish(self.turn, code)

    def tool(self, name: str | None) -> AbstractContextManager[Any]:
        """A function that the model calls; None where there is none of the name that it gave."""
        told = self._told | {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name or "_OTHER"}
        return tracing.spanning(f"execute_tool {name or '_OTHER'}", told, context=tracing.below(self.turn))

    def bound(self, work: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """Work that is done later, below the turn."""

        async def done() -> Any:
            with tracing.under(self.turn):
                return await work()

        return done


_USAGE: Final = {
    **dict.fromkeys(("input_tokens", "prompt_tokens", "prompt_token_count"), "gen_ai.usage.input_tokens"),
    **dict.fromkeys(
        ("output_tokens", "completion_tokens", "response_token_count"), "gen_ai.usage.output_tokens"
    ),
}
