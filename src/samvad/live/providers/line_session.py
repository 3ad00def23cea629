"""A conversation over lines that come and go: `ProviderSession` for every vendor with a live connection.

One task holds the line: it reads, notices when the line is gone or is to be left, and dials again. What the user
says meanwhile waits. What was said and not answered is said again once; an answer that was cut in its middle is
not begun anew by itself, it ends with `Failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

from samvad.errors import ProviderUnavailable
from samvad.live.providers import base
from samvad.live.providers.base import Context, Event
from samvad.live.providers.instructions import payload, seed
from samvad.live.providers.line import (
    PROVEN_S,
    Dialer,
    Line,
    LineLost,
    Noise,
    NotResumable,
    Part,
    Redial,
    Usage,
)
from samvad.live.providers.outbox import Outbox
from samvad.live.providers.waiting import Step, Waiting

SEND_S_MAX: Final = 10.0
STALL_S: Final = 30.0  # an answer is owed, and nothing comes
NOISE_STALL_S: Final = 5.0  # the same, after a frame that nobody understood: it may have been an error
HANDLE_GRACE_S: Final = 1.0  # a handle may come after the turn is over
LEAVE_EARLY_S: Final = 1.0  # before the vendor ends the line
FIRST_ATTEMPTS_MAX: Final = 3

_ROLES: Final[tuple[Literal["user", "assistant"], ...]] = ("user", "assistant")

_log = logging.getLogger("samvad.live")


class LineSession:
    """See the module. `start` it, and `close` it."""

    def __init__(
        self,
        dialer: Dialer,
        context: Context,
        redial: Callable[..., Redial] = Redial,
        stall_s: float = STALL_S,
    ) -> None:
        self._dialer = dialer
        self._context = context
        self._make_redial = redial
        self._redial = redial(attempts_max=FIRST_ATTEMPTS_MAX)
        self._stall_s = stall_s
        self._outbox = Outbox()
        self._waiting = Waiting(context.client_activity)
        self._line: Line | None = None
        self._lost: LineLost | None = None  # noticed while sending
        self._lock = asyncio.Lock()  # what is sent stays in order
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._handle = context.resume_handle if context.resume_model in (None, dialer.model) else None
        self._handle_is_fresh = self._handle is not None
        self._to_seed = False
        self._leave_by_s: float | None = None
        self._last_frame_s = time.monotonic()
        self._dialled_s = 0.0
        self._noise = False
        # The turn under way
        self._turn = False  # an answer is owed, or being given
        self._answering = False  # some of it has come
        self._discarding = False  # nobody wants the rest
        self._interrupted = False
        self._words: set[Literal["user", "assistant"]] = set()  # whose words were heard and not closed yet
        self._usage: dict[str, int] | None = None
        self._owed = False  # the line was asked for an answer
        self._calls: dict[str, str] = {}  # owed results: the function's name by the call's id
        self._unwanted: dict[str, str] = {}  # the same, of an answer that nobody wants

    # --- life ----------------------------------------------------------------------------------------------

    async def start(self) -> LineSession:
        """Dial for the first time; ProviderUnavailable where that cannot be."""
        try:
            await self._connect()
        except LineLost as lost:
            raise ProviderUnavailable(
                f"The live provider cannot be reached: {lost.reason}", retryable=lost.kind != "refused"
            ) from lost
        self._redial = self._make_redial()
        self._redial.next_wait_s()  # the line that stands was dialled once
        self._task = asyncio.create_task(self._run())
        return self

    def events(self) -> AsyncIterator[Event]:
        """All that happens, until the session is closed or has failed for good."""
        return self._outbox.events()

    async def close(self) -> None:
        """End it and let everything go. Twice is fine."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=SEND_S_MAX)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._hang_up()
        self._outbox.finish()

    async def _run(self) -> None:
        try:
            while True:
                lost = await self._serve()
                if self._closing:
                    return
                _log.info("a live provider's line is gone", extra={"code": lost.code, "why": lost.kind})
                await self._hang_up()
                self._line_went()
                resumed = await self._connect()
                if self._closing:
                    return
                self._outbox.put(base.Reconnected(resumed=resumed, reason=lost.reason))
                await self._catch_up()
        except LineLost as lost:
            self._outbox.put(
                base.Failed(
                    code="provider_unavailable",
                    message="The connection to the live provider could not be renewed.",
                    retryable=lost.kind != "refused",
                    fatal=True,
                )
            )
        except Exception:  # the top of the session's task: it must not end without a word
            _log.exception("a live provider's session has failed")
            self._outbox.put(
                base.Failed(
                    code="internal", message="The live provider has failed.", retryable=True, fatal=True
                )
            )
        finally:
            self._outbox.finish()

    async def _connect(self) -> bool:
        """Dial until there is a line; True where the vendor remembers. Raises LineLost when there is none to be had."""
        last = LineLost("the connection is lost again and again")
        while not self._closing:
            wait_s = self._redial.next_wait_s()
            if wait_s is None:
                raise last
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until_closing(), wait_s)
            try:
                self._line = await self._dial()
            except LineLost as lost:
                if lost.kind == "refused":
                    raise
                last = lost
                continue
            self._to_seed = self._handle is None
            self._handle_is_fresh = self._handle is not None
            self._leave_by_s, self._lost, self._noise = None, None, False
            self._dialled_s = self._last_frame_s = time.monotonic()
            return self._handle is not None
        return False

    async def _dial(self) -> Line:
        """A line on which the conversation goes on; where its handle is refused, a new conversation."""
        if self._handle is not None:
            try:
                return await self._dialer.dial(self._context, self._handle)
            except LineLost as lost:
                if lost.kind != "handle":
                    raise
                self._handle = None
        return await self._dialer.dial(self._context, None)

    async def _until_closing(self) -> None:
        while not self._closing:
            self._wake.clear()
            await self._wake.wait()

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    # --- the line's side -----------------------------------------------------------------------------------

    async def _serve(self) -> LineLost:
        """Read until the line is gone, is to be left, or the session is closing; says why."""
        assert self._line is not None
        reader = asyncio.create_task(self._read(self._line))
        try:
            while True:
                self._wake.clear()
                if self._closing:
                    return LineLost("closed")
                if self._lost is not None:
                    return self._lost
                now = time.monotonic()
                if self._may_leave(now):
                    return LineLost("the provider ends the connection", code=0)
                if self._has_stalled(now) and not self._give_up_waiting():
                    return LineLost("the provider does not answer")
                waker = asyncio.create_task(self._wake.wait())
                try:
                    await asyncio.wait(
                        {reader, waker}, timeout=self._due_in_s(now), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waker.cancel()
                if reader.done():
                    if now - self._dialled_s > PROVEN_S:
                        self._redial.proved_good()
                    return reader.result()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, line: Line) -> LineLost:
        try:
            while True:
                for part in await line.receive():
                    self._take(part)
                self._last_frame_s = time.monotonic()
                await self._refuse_calls()
                await self._outbox.room()
        except LineLost as lost:
            return lost

    @property
    def _is_idle(self) -> bool:
        return not (self._turn or self._calls or self._waiting.speaking or self._waiting.said)

    def _may_leave(self, now: float) -> bool:
        if self._leave_by_s is None:
            return False
        if now >= self._leave_by_s:
            return True
        return self._is_idle and (self._handle_is_fresh or now >= self._last_frame_s + HANDLE_GRACE_S)

    def _has_stalled(self, now: float) -> bool:
        patience_s = min(NOISE_STALL_S, self._stall_s) if self._noise else self._stall_s
        owed = self._turn and not self._calls and not self._waiting.speaking
        return owed and now >= self._last_frame_s + patience_s

    def _give_up_waiting(self) -> bool:
        """Whether there was nothing to answer: a noise, taken for speech by the client, is no reason to dial."""
        if self._waiting.said or self._answering or self._words or self._noise:
            return False
        self._end_turn()
        self._outbox.put(base.TurnDone())
        return True

    def _due_in_s(self, now: float) -> float | None:
        """When to look again, if nothing happens."""
        due = [self._last_frame_s + (min(NOISE_STALL_S, self._stall_s) if self._noise else self._stall_s)]
        if not self._turn:
            due.clear()
        if self._leave_by_s is not None:
            due.append(self._leave_by_s)
            if self._is_idle:
                due.append(self._last_frame_s + HANDLE_GRACE_S)
        return max(0.005, min(due) - now) if due else None

    def _line_went(self) -> None:
        """The line is gone: an answer in its middle is over, and nobody waits for results any more."""
        if self._calls:
            self._outbox.put(base.ToolCancelled(tuple(self._calls)))
            self._calls.clear()
        self._unwanted.clear()
        if self._discarding:
            self._end_turn()
        elif self._answering or self._words:
            self._close_words()
            self._fail(
                "provider_lost", "The connection to the live provider was lost in the middle of the answer."
            )
        for said in self._waiting.line_went():
            self._fail("provider_lost", f"The live provider was lost {said.sent} times before it answered.")
        self._answering = self._interrupted = self._owed = False
        self._usage = None

    def _fail(self, code: str, message: str) -> None:
        self._end_turn()
        self._outbox.put(base.Failed(code=code, message=message, retryable=True))

    # --- what comes ----------------------------------------------------------------------------------------

    def _take(self, part: Part) -> None:
        match part:
            case base.Transcript(role="user"):
                self._turn = True
                self._words.add("user")
                self._waiting.was_heard()
                self._outbox.put(part)
            case base.Transcript() | base.Delta() | base.Audio():
                self._answer(part)
            case base.ToolCall(id=id, name=name):
                self._calls[id] = name
                self._answer(part)
            case base.ToolCancelled(ids=ids):
                for call_id in ids:
                    self._calls.pop(call_id, None)
                self._outbox.put(part)
            case base.Interrupted():
                self._interrupt_by_provider()
            case base.TurnDone():
                self._turn_done(part)
            case base.Resumable(handle=handle):
                self._handle, self._handle_is_fresh = handle, True
                self._outbox.put(part)
                self._wake.set()
            case NotResumable():
                self._handle_is_fresh = False
            case Usage(counts=counts):
                self._usage = dict(counts)
            case base.GoingAway(in_s=in_s):
                self._leave_by_s = time.monotonic() + max(0.0, in_s - min(LEAVE_EARLY_S, in_s / 2))
                self._outbox.put(part)
                self._wake.set()
            case Noise():
                self._noise = True
                self._wake.set()
            case _:
                self._outbox.put(part)

    def _answer(self, part: Event) -> None:
        """A piece of the assistant's answer."""
        self._noise = False
        self._handle_is_fresh = False
        if self._discarding:
            self._answering = True
            if isinstance(part, base.ToolCall):
                self._unwanted[part.id] = self._calls.pop(part.id)
            return
        self._turn = self._answering = True
        self._waiting.was_answered()
        if isinstance(part, base.Transcript):
            self._words.add("assistant")
        self._outbox.put(part)

    def _interrupt_by_provider(self) -> None:
        self._interrupted = True
        if self._discarding:
            return
        if self._answering:
            self._outbox.drop_audio()
            self._outbox.put(base.Interrupted())
        self._close_words()  # what comes now belongs to the next turn

    def _turn_done(self, done: base.TurnDone) -> None:
        self._redial.proved_good()
        interrupted, self._interrupted = self._interrupted, False
        if not interrupted and not self._discarding:
            self._waiting.was_answered()
            self._close_words()
        usage = done.usage or self._usage
        # An interrupted turn that has said nothing, while another is on its way, is nobody's.
        is_nobodys = self._discarding or (interrupted and not self._answering and bool(self._waiting.said))
        self._end_turn()
        if not is_nobodys:
            self._outbox.put(msgspec.structs.replace(done, usage=usage))

    def _end_turn(self) -> None:
        self._turn = bool(self._waiting.said)
        self._owed = any(said.on_line for said in self._waiting.said)
        self._answering = self._discarding = self._noise = False
        self._usage = None
        self._wake.set()

    def _close_words(self) -> None:
        for role in _ROLES:
            if role in self._words:
                self._outbox.put(base.Transcript(role=role, text="", final=True))
        self._words.clear()

    # --- what goes -----------------------------------------------------------------------------------------

    async def send_text(self, text: str, *, note: str | None = None) -> None:
        """The user's next turn."""
        if note:
            self._waiting.add_note(note)
        if self._discarding and not self._answering:
            self._discarding = False  # nothing of the unwanted answer has come: it may never be begun
        self._waiting.say(text)
        self._turn = True
        self._handle_is_fresh = False
        self._last_frame_s = time.monotonic()
        self._wake.set()
        async with self._lock:
            await self._send_said()

    async def send_audio(self, data: bytes) -> None:
        """A piece of the user's speech."""
        self._waiting.hear(data)
        async with self._lock:
            await self._send_audio()

    async def activity(self, speaking: bool) -> None:
        """The user begins or ends to speak (where the client decides)."""
        self._waiting.activity(speaking)
        if not speaking:
            self._turn = True
            self._last_frame_s = time.monotonic()
        self._handle_is_fresh = False
        self._wake.set()
        async with self._lock:
            await self._send_audio()

    async def interrupt(self, *, heard_text: str, played_ms: int | None) -> None:
        """Stop the answer under way."""
        if self._discarding or not (self._answering or self._owed or self._waiting.said):
            return
        self._discarding = self._answering or self._owed  # else no line knows of it
        self._outbox.drop_audio()
        self._close_words()
        self._waiting.said.clear()
        if self._calls:
            self._outbox.put(base.ToolCancelled(tuple(self._calls)))
            self._unwanted.update(self._calls)
            self._calls.clear()
        self._outbox.put(base.TurnDone(usage=self._usage))
        if not self._discarding:
            self._end_turn()
        async with self._lock:
            await self._do(lambda line: line.cut(played_ms))
        await self._refuse_calls()

    async def send_tool_result(
        self, call_id: str, name: str, result: Any, *, error: str | None = None
    ) -> None:
        """The result of a call; one that nobody waits for any more is dropped."""
        if self._calls.pop(call_id, None) is None:
            return
        self._last_frame_s = time.monotonic()
        self._wake.set()
        async with self._lock:
            await self._do(lambda line: line.result(call_id, name, payload(result, error)))

    async def set_note(self, note: str) -> None:
        """For the model alone, with the user's next turn."""
        self._waiting.add_note(note)

    async def set_language(self, language: str | None) -> None:
        """Answer in this language from the next turn on."""
        self._context = msgspec.structs.replace(self._context, language=language)
        async with self._lock:
            line = self._line
            if line is not None:
                notes: list[str | None] = []

                async def instruct(line: Line) -> None:
                    notes.append(await line.instruct(self._context))

                await self._do(instruct)
                for note in notes:
                    if note:
                        self._waiting.add_note(note)

    async def _refuse_calls(self) -> None:
        """Results that nobody wants are owed all the same: the model would wait for them."""
        while self._unwanted:
            call_id, name = self._unwanted.popitem()
            refusal = payload(None, "the user has interrupted")
            async with self._lock:
                await self._do(lambda line: line.result(call_id, name, refusal))  # noqa: B023 (awaited here)

    async def _catch_up(self) -> None:
        """A new line stands: what waited goes out."""
        async with self._lock:
            await self._send_said()
            await self._send_audio()

    async def _send_said(self) -> None:
        for said in list(self._waiting.unsent):
            note = self._waiting.take_note()
            say = functools.partial(_say, said.text, note)
            sent = await self._prepare() and await self._do(say)
            if not sent:
                self._waiting.give_back(note)
                return
            said.sent += 1
            said.on_line = self._owed = True

    async def _send_audio(self) -> None:
        while self._line is not None and (step := self._waiting.take_step()) is not None:
            if not await self._send_step(step):
                self._waiting.give_step_back(step)
                return
            self._owed = self._owed or step is False

    async def _send_step(self, step: Step) -> bool:
        if not await self._prepare():
            return False
        if isinstance(step, bytes):
            may_tell = not self._context.client_activity and (self._discarding or not self._answering)
            return (not may_tell or await self._tell_note()) and await self._do(lambda line: line.hear(step))
        return (not step or await self._tell_note()) and await self._do(lambda line: line.activity(step))

    async def _tell_note(self) -> bool:
        """Send the note that waits; never while the model is speaking, whom it would interrupt."""
        note = self._waiting.take_note()
        if note is None:
            return True
        if await self._do(lambda line: line.note(note)):
            return True
        self._waiting.give_back(note)
        return False

    async def _prepare(self) -> bool:
        """Tell a new conversation what was said before, once."""
        if self._to_seed and self._line is not None:
            turns = seed(self._context, [said.text for said in self._waiting.said])
            if turns and not await self._do(lambda line: line.seed(turns)):
                return False
            self._to_seed = False
        return self._line is not None

    async def _do(self, work: Callable[[Line], Awaitable[None]]) -> bool:
        """Do something with the line; False where it is gone, which its task then notices."""
        line = self._line
        if line is None:
            return False
        try:
            async with asyncio.timeout(SEND_S_MAX):
                await work(line)
        except (LineLost, TimeoutError) as error:
            if line is self._line:
                self._lost = error if isinstance(error, LineLost) else LineLost("the provider takes nothing")
                self._wake.set()
            return False
        return True


async def _say(text: str, note: str | None, line: Line) -> None:
    await line.say(text, note)
