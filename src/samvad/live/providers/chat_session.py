"""A written conversation with a chat endpoint: one request a turn, and one more for each round of tool calls."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from samvad import limits
from samvad.live.providers import base
from samvad.live.providers.base import Context, Event
from samvad.live.providers.chat_history import ChatHistory
from samvad.live.providers.chat_stream import DONE, CallPiece, Delta, EventData, decode_chunk
from samvad.live.providers.instructions import instructions, payload
from samvad.live.providers.outbox import Outbox

if TYPE_CHECKING:
    from samvad.live.providers.openai import OpenAIChat

ROUNDS_MAX: Final = limits.LIVE_CHAT_ROUNDS_MAX  # of tool calls in one turn
CLOSE_S_MAX: Final = limits.LIVE_PROVIDER_CLOSE_S_MAX
_REFUSED: Final = frozenset({400, 401, 403, 404, 422})

_UNAVAILABLE: Final = "The model's endpoint failed; try again."

_log = logging.getLogger("samvad.live")


class _Round(NamedTuple):
    """What one request has brought."""

    text: str
    calls: list[dict[str, Any]]
    finish: str


class TurnFailed(Exception):
    """Why a turn has no answer."""

    def __init__(self, code: str, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.event = base.Failed(code=code, message=message, retryable=retryable)


class ChatSession:
    """See `ProviderSession`."""

    def __init__(self, provider: OpenAIChat, client: Any, context: Context) -> None:
        self._provider = provider
        self._client = client
        self._context = context
        self._history = ChatHistory(context.history())
        self._outbox = Outbox()
        self._note: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._results: dict[str, asyncio.Future[Any]] = {}
        self._said: list[str] = []  # of the answer under way

    def events(self) -> AsyncIterator[Event]:
        """All that happens."""
        return self._outbox.events()

    async def send_text(self, text: str, *, note: str | None = None) -> None:
        """The user's next turn; an answer under way ends."""
        if await self._stop():
            self._history.assistant("".join(self._said))
            self._outbox.put(base.TurnDone())
        if note:
            await self.set_note(note)
        note, self._note = self._note, None
        self._history.user(text)
        self._task = asyncio.create_task(self._answer(note))

    async def send_audio(self, data: bytes) -> None:
        """It does not hear."""

    async def activity(self, speaking: bool) -> None:
        """It does not hear."""

    async def interrupt(self, *, heard_text: str, played_ms: int | None) -> None:
        """Stop; the model's memory of its answer ends where the user's does."""
        stopped = await self._stop()
        if stopped:
            self._history.assistant("".join(self._said))
        self._history.heard(heard_text)
        if stopped:
            self._outbox.put(base.TurnDone())

    async def send_tool_result(
        self, call_id: str, name: str, result: Any, *, error: str | None = None
    ) -> None:
        """The result of a call; one that nobody waits for is dropped."""
        waiting = self._results.get(call_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(payload(result, error))

    async def set_note(self, note: str) -> None:
        """For the model alone, with the user's next turn."""
        self._note = f"{self._note}\n{note}" if self._note else note

    async def set_language(self, language: str | None) -> None:
        """Answer in this language from the next turn on."""
        self._context = msgspec.structs.replace(self._context, language=language)

    async def close(self) -> None:
        """End it."""
        await self._stop()
        self._outbox.finish()

    async def _stop(self) -> bool:
        """Stop the answer under way; False where there is none."""
        task, self._task = self._task, None
        if task is None or task.done():
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._results:
            self._outbox.put(base.ToolCancelled(tuple(self._results)))
            self._results.clear()
        return True

    # --- one turn ------------------------------------------------------------------------------------------

    async def _answer(self, note: str | None) -> None:
        """Rounds of requests, until the model has said what it wants to say."""
        usage: dict[str, int] = {}
        self._said = []
        try:
            for _ in range(ROUNDS_MAX):
                brought = await self._round(note, usage)
                self._history.assistant(brought.text, brought.calls)
                self._said = []
                if not brought.calls:
                    cut = {} if brought.finish == "stop" else {"finishReason": brought.finish}
                    self._outbox.put(base.TurnDone(usage=usage or None, metadata=cut or None))
                    return
                await self._call(brought.calls)
            raise TurnFailed("provider_failed", "The model calls functions again and again.", retryable=False)
        except TurnFailed as failed:
            self._give_up(failed)
        except Exception as error:  # the top of the turn's task and of the vendor's code: the turn has failed
            self._give_up(_failed(error))

    def _give_up(self, failed: TurnFailed) -> None:
        self._history.assistant("".join(self._said))
        self._said = []
        self._results.clear()
        self._outbox.put(failed.event)

    async def _round(self, note: str | None, usage: dict[str, int]) -> _Round:
        provider, loop = self._provider, asyncio.get_running_loop()
        events, calls = EventData(), dict[int, dict[str, Any]]()
        finish = ""
        lenient_s = 0.0
        async with asyncio.timeout(provider.first_chunk_s) as patience:
            response = await self._request(note)
            try:
                async for data in response.aiter_bytes():
                    if loop.time() > lenient_s:  # not for each piece: that would cost as much as to read it
                        lenient_s = loop.time() + provider.next_chunk_s / 8
                        patience.reschedule(loop.time() + provider.next_chunk_s)
                    for event in events.feed(data):
                        if event == DONE:
                            continue  # the rest is read as well, so that the connection can be used again
                        chunk = decode_chunk(event)
                        if chunk.error:
                            raise TurnFailed("provider_unavailable", _UNAVAILABLE, retryable=True)
                        if chunk.usage is not None:
                            _count(usage, chunk.usage)
                        for choice in chunk.choices or ():
                            finish = choice.finish_reason or finish
                            if choice.delta is not None:
                                self._take(choice.delta, calls)
            finally:
                await _close(response)
        if not finish:
            raise TurnFailed("provider_lost", "The answer breaks off in its middle.", retryable=True)
        return _Round("".join(self._said), list(calls.values()), finish)

    def _take(self, delta: Delta, calls: dict[int, dict[str, Any]]) -> None:
        if delta.content:
            self._said.append(delta.content)
            self._outbox.put(base.Delta(delta.content))
        for piece in delta.tool_calls or ():
            _gather(calls, piece)

    async def _request(self, note: str | None) -> Any:
        """The response, of which only the head was read.

        The request is made by the client's `post`: to look through all messages for files to be encoded, as
        `chat.completions.create` does, takes three times as long as all the rest of a request.
        """
        messages = self._history.shown(instructions(self._context), note)
        body: dict[str, Any] = {"model": self._provider.model, "messages": messages, "stream": True}
        if self._context.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": dict(tool.parameters),
                    },
                }
                for tool in self._context.tools
            ]
        if self._provider.asks_for_usage:
            body["stream_options"] = {"include_usage": True}
        try:
            return await self._client.post(
                "/chat/completions", body=body, cast_to=_response_type(), stream=True, stream_cls=None
            )
        except Exception as error:  # the top of the vendor's code: all but one refusal goes on up
            refused = getattr(error, "status_code", None) in (400, 422)
            if not (refused and self._provider.asks_for_usage and "stream_options" in str(error)):
                raise
        self._provider.asks_for_usage = False
        return await self._request(note)

    async def _call(self, calls: list[dict[str, Any]]) -> None:
        """Offer the calls, and wait for their results; arguments that are no JSON object are the model's to mend."""
        for call in calls:
            arguments = _arguments(call["arguments"])
            if arguments is None:
                self._history.result(call["id"], payload(None, "the arguments are not a JSON object"))
                continue
            self._results[call["id"]] = asyncio.get_running_loop().create_future()
            self._outbox.put(base.ToolCall(id=call["id"], name=call["name"], arguments=arguments))
        for call_id, waiting in list(self._results.items()):
            self._history.result(call_id, await waiting)
            self._results.pop(call_id, None)


def _response_type() -> type:
    """That of the HTTP client under OpenAI's: what is asked for as this is handed over as it is."""
    try:
        from httpx2 import Response
    except ImportError:  # before that, it was httpx
        from httpx import Response  # type: ignore[assignment]
    return Response


def _arguments(text: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _gather(calls: dict[int, dict[str, Any]], piece: CallPiece) -> None:
    """Add a piece of a call to what there is of it."""
    call = calls.setdefault(piece.index or 0, {"id": "", "name": "", "arguments": ""})
    call["id"] = piece.id or call["id"] or f"call_{len(calls)}"
    if piece.function is not None:
        call["name"] = piece.function.name or call["name"]
        call["arguments"] += piece.function.arguments or ""


def _count(usage: dict[str, int], found: Mapping[str, Any]) -> None:
    """Add a request's tokens to those of the turn."""
    for name, value in found.items():
        if isinstance(value, int):
            usage[name] = usage.get(name, 0) + value


async def _close(response: Any) -> None:
    """Close the stream: where it is not at its end, the endpoint stops generating."""
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await response.aclose()
    except Exception as error:  # the top of the vendor's code: a stream that cannot be closed is gone as well
        _log.debug("a stream could not be closed: %s", type(error).__name__)


def _failed(error: Exception) -> TurnFailed:
    """What a turn's failure is to be called, whatever the client has raised."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return TurnFailed("provider_stalled", "The model does not go on; try again.", retryable=True)
    status = getattr(error, "status_code", None)
    _log.warning("a chat endpoint failed: %s (%s)", type(error).__name__, status)
    if status in _REFUSED:
        return TurnFailed("provider_refused", f"The model's endpoint refuses the request ({status}).", False)
    if status == 429:
        return TurnFailed("provider_busy", "The model's endpoint is busy; try again soon.", retryable=True)
    return TurnFailed("provider_unavailable", _UNAVAILABLE, retryable=True)
