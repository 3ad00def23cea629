"""One connection to an endpoint of OpenAI's Realtime protocol through OpenAI's client, whose surprises end here."""

from __future__ import annotations

import array
import asyncio
import base64
import json
import logging
import sys
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from samvad import limits
from samvad.live.providers import base
from samvad.live.providers.base import Context, Turn
from samvad.live.providers.instructions import announcement, instructions
from samvad.live.providers.line import LineLost, Noise, Part, Usage

SETUP_S_MAX: Final = limits.LIVE_PROVIDER_SETUP_S_MAX
CLOSE_S_MAX: Final = limits.LIVE_PROVIDER_CLOSE_S_MAX
BYTES_PER_MS: Final = 48  # PCM16 mono, 24 kHz
TRANSCRIPTION_MODEL: Final = "gpt-4o-mini-transcribe"
_NEVER_MIND: Final = frozenset({400, 401, 403, 404})
_PCM: Final = {"type": "audio/pcm", "rate": 24_000}

_log = logging.getLogger("samvad.live")


class RealtimeDialer:
    """Makes lines with one client, which all conversations share."""

    def __init__(self, client: Any, model: str, *, setup_s: float = SETUP_S_MAX) -> None:
        self.model = model
        self._client = client
        self._setup_s = setup_s

    async def dial(self, context: Context, handle: str | None) -> RealtimeLine:
        """A line that is set up. The protocol knows no handles: each line is a new conversation."""
        connection = None
        try:
            async with asyncio.timeout(self._setup_s):
                connection = await self._client.realtime.connect(model=self.model).enter()
                await _until(connection, "session.created")
                await connection.session.update(session=session(context))
                await _until(connection, "session.updated")
        except TimeoutError:
            await _close(connection)
            raise LineLost("the endpoint does not answer the setup") from None
        except LineLost:
            await _close(connection)
            raise
        except Exception as error:  # the top of the vendor's code: whatever it raises, there is no line
            await _close(connection)
            raise _gone(error) from error
        return RealtimeLine(connection)


class RealtimeLine:
    """See `Line`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._answering = False  # a response is under way
        self._beside = False  # it is none of the conversation's: a notice
        self._answer_next = False  # ask for another as soon as it is over
        self._item: str | None = None  # the item that is being spoken, or was last
        self._item_bytes = 0
        self._calls: set[str] = set()  # whose results are owed before the model goes on
        self._heard: set[str] = set()  # items whose words came in pieces

    async def receive(self) -> Sequence[Part]:
        """What the next event means."""
        try:
            event = await self._connection.recv()
        except (TypeError, ValueError, KeyError, AttributeError):
            return [Noise()]
        except Exception as error:  # the top of the vendor's code: whatever it raises, the line is gone
            raise _gone(error) from error
        return await self._understand(event)

    async def _understand(self, event: Any) -> list[Part]:
        kind = getattr(event, "type", "")
        match kind:
            case "response.created":
                self._answering = True
            case "response.output_audio.delta":
                data = base64.b64decode(event.delta)
                if self._beside:
                    return [base.Audio(data)]
                if event.item_id != self._item:
                    self._item, self._item_bytes = event.item_id, 0
                self._item_bytes += len(data)
                return [base.Audio(data)]
            case "response.output_audio_transcript.delta":
                return [base.Transcript(role="assistant", text=event.delta)]
            case "response.output_text.delta":
                return [base.Delta(event.delta)]
            case "conversation.item.input_audio_transcription.delta":
                self._heard.add(event.item_id)
                return [base.Transcript(role="user", text=event.delta or "")]
            case "conversation.item.input_audio_transcription.completed":
                if event.item_id in self._heard:
                    self._heard.discard(event.item_id)
                    return []
                return [base.Transcript(role="user", text=event.transcript)]
            case "input_audio_buffer.speech_started":
                return [base.Interrupted()] if self._answering else []
            case "response.done":
                return await self._done(event.response)
            case "error":
                code = getattr(event.error, "code", None)
                if code == "session_expired":
                    raise LineLost("the endpoint's session is over")
                _log.info("an event was refused by the endpoint", extra={"code": code})
        return []

    async def _done(self, response: Any) -> list[Part]:
        self._answering = self._beside = False
        found: list[Part] = []
        if response.usage is not None:
            counts = response.usage.model_dump(exclude_none=True)
            found.append(Usage({name: value for name, value in counts.items() if isinstance(value, int)}))
        cancelled = response.status == "cancelled"
        calls = [] if cancelled else [each for each in response.output or () if each.type == "function_call"]
        for call in calls:
            arguments = _arguments(call.arguments)
            self._calls.add(call.call_id)
            if arguments is None:
                await self.result(call.call_id, call.name, {"error": "the arguments are not a JSON object"})
            else:
                found.append(base.ToolCall(id=call.call_id, name=call.name, arguments=arguments))
        if response.status == "failed":
            found.append(base.Failed(code="provider_failed", message="The model has failed.", retryable=True))
        elif cancelled:
            found += [base.Interrupted(), base.TurnDone()]
        elif not calls:
            found.append(base.TurnDone())
        if self._answer_next:
            self._answer_next = False
            await self._ask()
        return found

    async def seed(self, turns: Sequence[Turn]) -> None:
        """The last turns, item by item."""
        for turn in turns:
            kind = "output_text" if turn.role == "assistant" else "input_text"
            await self._item_of(turn.role, kind, turn.text)

    async def say(self, text: str, note: str | None) -> None:
        """The user's turn."""
        if note:
            await self.note(note)
        await self._item_of("user", "input_text", text)
        await self._ask()

    async def announce(self, text: str) -> None:
        """A response beside the conversation, which leaves no trace in the model's memory."""
        self._answering = self._beside = True
        self._item = None
        response = {
            "conversation": "none",
            "input": [],
            "instructions": announcement(text),
            "output_modalities": ["audio"],
            "tool_choice": "none",
        }
        await _sent(self._connection.response.create(response=response))

    async def hear(self, data: bytes) -> None:
        """A piece of the user's speech, at the rate that the protocol wants."""
        audio = base64.b64encode(to_24_khz(data)).decode()
        await _sent(self._connection.input_audio_buffer.append(audio=audio))

    async def activity(self, speaking: bool) -> None:
        """The user begins or ends to speak."""
        if speaking:
            if self._answering:
                await _sent(self._connection.response.cancel())
            await _sent(self._connection.input_audio_buffer.clear())
        else:
            await _sent(self._connection.input_audio_buffer.commit())
            await self._ask()

    async def note(self, text: str) -> None:
        """For the model alone."""
        await self._item_of("system", "input_text", text)

    async def cut(self, played_ms: int | None, under_way: bool) -> None:
        """Stop, and let the endpoint cut its memory to what was heard."""
        if under_way and self._answering:
            await _sent(self._connection.response.cancel())
        if self._item is None or played_ms is None or played_ms * BYTES_PER_MS >= self._item_bytes:
            return
        item, self._item = self._item, None
        await _sent(
            self._connection.conversation.item.truncate(
                item_id=item, content_index=0, audio_end_ms=max(0, int(played_ms))
            )
        )

    async def result(self, call_id: str, name: str, payload: Mapping[str, Any]) -> None:
        """The result of a call; with the last one the model goes on."""
        output = json.dumps(payload, ensure_ascii=False, default=str)
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        await _sent(self._connection.conversation.item.create(item=item))
        self._calls.discard(call_id)
        if not self._calls:
            await self._ask()

    async def instruct(self, context: Context) -> str | None:
        """The instructions may change at any time."""
        update = {"type": "realtime", "instructions": instructions(context)}
        await _sent(self._connection.session.update(session=update))
        return None

    async def close(self) -> None:
        """Hang up."""
        await _close(self._connection)

    async def _ask(self) -> None:
        """Ask for an answer; where one is under way it is cancelled first, for there is only one at a time."""
        if self._answering:
            self._answer_next = True
            await _sent(self._connection.response.cancel())
            return
        self._answering = True
        await _sent(self._connection.response.create())

    async def _item_of(self, role: str, kind: str, text: str) -> None:
        item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
        await _sent(self._connection.conversation.item.create(item=item))


def session(context: Context) -> dict[str, Any]:
    """The session's settings for a conversation."""
    transcription: dict[str, Any] = {"model": TRANSCRIPTION_MODEL}
    if context.language is not None:
        transcription["language"] = context.language.partition("-")[0]
    heard: dict[str, Any] = {
        "format": _PCM,
        "transcription": transcription,
        "turn_detection": None if context.client_activity else {"type": "server_vad"},
    }
    made: dict[str, Any] = {
        "type": "realtime",
        "instructions": instructions(context),
        "output_modalities": ["audio"],
        "audio": {"input": heard, "output": {"format": _PCM}},
    }
    if context.tools:
        made["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            }
            for tool in context.tools
        ]
    return made


def to_24_khz(data: bytes) -> bytes:
    """PCM16 LE mono of 16 kHz at 24 kHz: three samples for two, on the line between them."""
    samples = array.array("h", data[: len(data) // 2 * 2])
    if sys.byteorder == "big":
        samples.byteswap()
    made = array.array("h")
    last = len(samples) - 1
    for at in range(len(samples) * 3 // 2):
        place, rest = divmod(2 * at, 3)
        here, following = samples[place], samples[min(place + 1, last)]
        made.append((here * (3 - rest) + following * rest) // 3)
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


async def _until(connection: Any, kind: str) -> None:
    while True:
        event = await connection.recv()
        if event.type == kind:
            return
        if event.type == "error":
            code, what = getattr(event.error, "code", None), getattr(event.error, "type", None)
            _log.error("an endpoint refuses a conversation", extra={"code": code, "type": what})
            raise LineLost("the endpoint refuses the conversation", "refused")


async def _sent(sending: Awaitable[None]) -> None:
    try:
        await sending
    except Exception as error:  # the top of the vendor's code: whatever it raises, the line is gone
        raise _gone(error) from error


async def _close(connection: Any) -> None:
    if connection is None:
        return
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await connection.close()
    except Exception as error:  # the top of the vendor's code: a line that cannot be closed is gone as well
        _log.debug("a line could not be closed: %s", type(error).__name__)


def _gone(error: BaseException) -> LineLost:
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code in _NEVER_MIND:
        return LineLost(f"the endpoint refuses the conversation ({code})", "refused", code)
    return LineLost(f"the connection to the endpoint was lost ({code or type(error).__name__})", code=code)


def _arguments(text: str | None) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
