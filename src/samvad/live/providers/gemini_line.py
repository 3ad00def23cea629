"""One connection to Gemini Live through Google's client, whose surprises end here.

The client reports a close as its APIError with the WebSocket's code, sends on a closed connection raise what the
WebSocket library raises, a refused upgrade too, and a frame that it does not know raises TypeError.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, Final

from samvad import limits
from samvad.live.language import tag_for_providers
from samvad.live.providers import base
from samvad.live.providers.base import Context, Turn
from samvad.live.providers.instructions import announcement, answer_in, instructions
from samvad.live.providers.line import LineLost, Noise, NotResumable, Part, Usage

SETUP_S_MAX: Final = limits.LIVE_PROVIDER_SETUP_S_MAX
CLOSE_S_MAX: Final = limits.LIVE_PROVIDER_CLOSE_S_MAX
NOISE_IN_A_ROW_MAX: Final = limits.LIVE_PROVIDER_NOISES_MAX
_BAD_REQUEST: Final = frozenset(
    {1007, 1008}
)  # what the setup holds is refused: the handle, the model, a field
_NEVER_MIND: Final = frozenset({400, 401, 403, 404})

_log = logging.getLogger("samvad.live")


class GeminiDialer:
    """Makes lines with one client of Google's, which all conversations share."""

    def __init__(self, client: Any, model: str, *, vertex: bool, setup_s: float = SETUP_S_MAX) -> None:
        self.model = model
        self._client = client
        self._vertex = vertex
        self._setup_s = setup_s
        self._at_once = asyncio.Semaphore(16)  # of all that were cut off together

    async def dial(self, context: Context, handle: str | None) -> GeminiLine:
        """A line that is set up; see `Dialer`."""
        newer = takes_history(self.model) and not self._vertex
        config = setup(context, handle, model=self.model, history=newer and handle is None)
        stack = contextlib.AsyncExitStack()
        try:
            async with self._at_once, asyncio.timeout(self._setup_s):
                session = await stack.enter_async_context(
                    self._client.aio.live.connect(model=self.model, config=config)
                )
        except TimeoutError:
            raise LineLost("Gemini does not answer the setup") from None
        except Exception as error:  # the top of the vendor's code: whatever it raises, there is no line
            raise _refused(error, handle) from error
        if session.setup_complete is None:
            await _close(stack)
            raise LineLost("Gemini answers the setup with something else")
        return GeminiLine(
            session, stack, context, model=self.model, typed_as_content=self._vertex, history=newer
        )

    async def close(self) -> None:
        """Let the client go."""
        try:
            await self._client.aio.aclose()
        except Exception as error:  # the top of the vendor's code: there is nothing to be done about it
            _log.debug("Google's client could not be closed: %s", type(error).__name__)


class GeminiLine:
    """See `Line`."""

    def __init__(
        self,
        session: Any,
        stack: contextlib.AsyncExitStack,
        context: Context,
        *,
        model: str,
        typed_as_content: bool,
        history: bool,
    ) -> None:
        self._model = model
        self._session = session
        self._stack = stack
        self._client_activity = context.client_activity
        self._typed_as_content = typed_as_content
        self._history = history
        self._frames: AsyncIterator[Any] | None = None
        self._noises = 0

    async def receive(self) -> Sequence[Part]:
        """What the next frame holds, in the order in which it is to be understood."""
        while True:
            if self._frames is None:
                self._frames = self._session.receive()
            try:
                message = await anext(self._frames)
            except StopAsyncIteration:
                self._frames = None  # the client's iterator ends with each turn
                continue
            except (TypeError, ValueError, KeyError, AttributeError):
                self._frames = None
                self._noises += 1
                if self._noises > NOISE_IN_A_ROW_MAX:
                    raise LineLost("Gemini sends nothing that is understood") from None
                return [Noise()]
            except Exception as error:  # the top of the vendor's code: whatever it raises, the line is gone
                raise _gone(error) from error
            self._noises = 0
            return parts(message, self._model)

    async def seed(self, turns: Sequence[Turn]) -> None:
        """The last turns, which ask for no answer."""
        contents: list[dict[str, Any]] = []
        for turn in turns:
            role = "model" if turn.role == "assistant" else "user"
            text = turn.text if turn.role != "system" else f"(system) {turn.text}"
            if contents and contents[-1]["role"] == role:
                contents[-1]["parts"].append({"text": text})
            else:
                contents.append({"role": role, "parts": [{"text": text}]})
        await _sent(self._session.send_client_content(turns=contents, turn_complete=self._history))

    async def say(self, text: str, note: str | None) -> None:
        """The user's turn. Vertex wants typed text as content, the Gemini API as realtime input."""
        if self._typed_as_content:
            texts = [note, text] if note else [text]
            turn = {"role": "user", "parts": [{"text": each} for each in texts]}
            await _sent(self._session.send_client_content(turns=[turn], turn_complete=True))
            return
        if self._client_activity:
            await self.activity(True)
        await _sent(self._session.send_realtime_input(text=f"{note}\n\n{text}" if note else text))
        if self._client_activity:
            await self.activity(False)

    async def announce(self, text: str) -> None:
        """Gemini says nothing but answers: it is asked to."""
        await self.say(announcement(text), None)

    async def hear(self, data: bytes) -> None:
        """A piece of the user's speech."""
        blob = {"data": data, "mime_type": "audio/pcm;rate=16000"}
        await _sent(self._session.send_realtime_input(audio=blob))

    async def activity(self, speaking: bool) -> None:
        """The user begins or ends to speak."""
        if speaking:
            await _sent(self._session.send_realtime_input(activity_start={}))
        else:
            await _sent(self._session.send_realtime_input(activity_end={}))

    async def note(self, text: str) -> None:
        """For the model alone."""
        turn = {"role": "user", "parts": [{"text": text}]}
        await _sent(self._session.send_client_content(turns=[turn], turn_complete=False))

    async def cut(self, played_ms: int | None, under_way: bool) -> None:
        """Gemini has no way to stop an answer but the user's next turn; the session drops the rest."""

    async def result(self, call_id: str, name: str, payload: Mapping[str, Any]) -> None:
        """The result of a call."""
        response = {"id": call_id, "name": name, "response": dict(payload)}
        await _sent(self._session.send_tool_response(function_responses=[response]))

    async def instruct(self, context: Context) -> str | None:
        """The setup stands for as long as the line: a new language goes as a note."""
        return f"From now on: {answer_in(context.language)}"

    async def close(self) -> None:
        """Hang up."""
        await _close(self._stack)


def takes_history(model: str) -> bool:
    """Whether the model takes earlier turns only as history at the start (Gemini 3 and later do)."""
    found = re.search(r"gemini-(\d+)", model)
    return found is not None and int(found[1]) >= 3


def setup(context: Context, handle: str | None, *, model: str, history: bool = False) -> dict[str, Any]:
    """The setup (Google's LiveConnectConfig) for a conversation."""
    config: dict[str, Any] = {
        "response_modalities": ["AUDIO"],
        "input_audio_transcription": {},
        "output_audio_transcription": {},
        "system_instruction": instructions(context),
        "session_resumption": {"handle": handle} if handle else {},
        "context_window_compression": {"sliding_window": {}},
    }
    tag = tag_for_providers(context.language)
    if tag is not None and "native-audio" not in model:  # those know by themselves, and refuse the field
        config["speech_config"] = {"language_code": tag}
    if context.client_activity:
        config["realtime_input_config"] = {"automatic_activity_detection": {"disabled": True}}
    if history:
        config["history_config"] = {"initial_history_in_client_content": True}
    if context.tools:
        declared = [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters_json_schema": dict(tool.parameters),
            }
            for tool in context.tools
        ]
        config["tools"] = [{"function_declarations": declared}]
    return config


def parts(message: Any, model: str) -> list[Part]:
    """What a LiveServerMessage holds. Several fields may share one; the end of the turn comes last of all."""
    found: list[Part] = []
    done = False
    if message.usage_metadata is not None:
        counts = message.usage_metadata.model_dump(exclude_none=True)
        found.append(Usage({name: value for name, value in counts.items() if isinstance(value, int)}))
    content = message.server_content
    if content is not None:
        if content.interrupted:
            found.append(base.Interrupted())
        for role, transcription in (
            ("user", content.input_transcription),
            ("assistant", content.output_transcription),
        ):
            if transcription is not None and transcription.text:
                found.append(base.Transcript(role=role, text=transcription.text))  # type: ignore[arg-type]
        for part in (content.model_turn.parts or []) if content.model_turn else []:
            if part.inline_data is not None and part.inline_data.data:
                found.append(base.Audio(part.inline_data.data))
            elif part.text and not part.thought:
                found.append(base.Delta(part.text))
        done = bool(content.turn_complete)
    if message.tool_call is not None:
        found += [
            base.ToolCall(id=call.id or "", name=call.name or "", arguments=call.args or {})
            for call in message.tool_call.function_calls or []
        ]
    if message.tool_call_cancellation is not None:
        found.append(base.ToolCancelled(tuple(message.tool_call_cancellation.ids or ())))
    update = message.session_resumption_update
    if update is not None:
        if update.resumable and update.new_handle:
            found.append(base.Resumable(handle=update.new_handle, model=model))
        else:
            found.append(NotResumable())
    if done:
        found.append(base.TurnDone())
    if message.go_away is not None:
        found.append(base.GoingAway(seconds(message.go_away.time_left)))
    return found


def seconds(duration: str | None) -> float:
    """A duration on the wire (`9.5s`) in seconds; 0 where it says nothing."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)s", duration or "")
    return float(found[1]) if found else 0.0


async def _sent(sending: Awaitable[None]) -> None:
    try:
        await sending
    except Exception as error:  # the top of the vendor's code: whatever it raises, the line is gone
        raise _gone(error) from error


async def _close(stack: contextlib.AsyncExitStack) -> None:
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await stack.aclose()
    except Exception as error:  # the top of the vendor's code: a line that cannot be closed is gone as well
        _log.debug("a line to Gemini could not be closed: %s", type(error).__name__)


def _code(error: BaseException) -> int | None:
    """The WebSocket's or HTTP's code in whatever the client raises."""
    code = getattr(error, "code", None)
    if code is None:
        code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _gone(error: BaseException) -> LineLost:
    code = _code(error)
    return LineLost(f"the connection to Gemini was lost ({code or type(error).__name__})", code=code)


def _refused(error: BaseException, handle: str | None) -> LineLost:
    """Why there is no line, and whether dialling again can help."""
    code = _code(error)
    told = type(error).__name__  # its text may quote what was sent
    if code in _BAD_REQUEST and handle is not None:
        return LineLost("Gemini does not know the conversation any more", "handle", code)
    if code in _BAD_REQUEST or code in _NEVER_MIND:
        _log.error("Gemini refuses a conversation (%s): %s", code, told)
        return LineLost(f"Gemini refuses the conversation ({code})", "refused", code)
    if type(error).__module__.startswith("google.auth") and not getattr(error, "retryable", False):
        _log.error("there are no credentials for Vertex AI: %s", told)
        return LineLost("there are no credentials for Vertex AI", "refused")
    return LineLost(f"Gemini cannot be reached ({code or type(error).__name__})", code=code)
