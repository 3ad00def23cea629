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
from typing import Any, Final

import msgspec

from samvad import limits
from samvad.errors import ProviderUnavailable
from samvad.live.providers import base
from samvad.live.providers.base import Context, Event
from samvad.live.providers.instructions import payload, seed
from samvad.live.providers.line import PROVEN_S, Dialer, Line, LineLost, Redial
from samvad.live.providers.outbox import Outbox
from samvad.live.providers.turn_under_way import TurnUnderWay
from samvad.live.providers.waiting import Step, Waiting

SEND_S_MAX: Final = limits.LIVE_PROVIDER_SEND_S_MAX
STALL_S: Final[float] = limits.LIVE_PROVIDER_STALL_S_MAX  # an answer is owed, and nothing comes
NOISE_STALL_S: Final = 5.0  # the same, after a frame that nobody understood: it may have been an error
HANDLE_GRACE_S: Final = 1.0  # a handle may come after the turn is over
LEAVE_EARLY_S: Final = 1.0  # before the vendor ends the line
FIRST_ATTEMPTS_MAX: Final = limits.LIVE_PROVIDER_FIRST_ATTEMPTS_MAX

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
        handle = context.resume_handle if context.resume_model in (None, dialer.model) else None
        self._turn = TurnUnderWay(self._outbox, self._waiting, handle, self._wake.set)
        self._to_seed = False
        self._last_frame_s = time.monotonic()
        self._must_leave_s: float | None = None
        self._dialled_s = 0.0

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
                self._turn.line_went()
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
            resumed = self._turn.handle is not None
            self._to_seed = not resumed
            self._turn.handle_is_fresh = resumed
            self._lost = self._must_leave_s = None
            self._dialled_s = self._last_frame_s = time.monotonic()
            return resumed
        return False

    async def _dial(self) -> Line:
        """A line on which the conversation goes on; where its handle is refused, a new conversation."""
        if self._turn.handle is not None:
            try:
                return await self._dialer.dial(self._context, self._turn.handle)
            except LineLost as lost:
                if lost.kind != "handle":
                    raise
                self._turn.handle = None
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
                if self._has_stalled(now) and not self._turn.give_up():
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
                found = await line.receive()
                self._last_frame_s = time.monotonic()
                done = self._turn.turns_done
                for part in found:
                    self._turn.take(part)
                if self._turn.turns_done > done:
                    self._redial.proved_good()
                await self._refuse_calls()
                await self._outbox.room()
        except LineLost as lost:
            return lost

    def _may_leave(self, now: float) -> bool:
        leave_by_s = self._leave_by_s()
        if leave_by_s is None:
            return False
        if now >= leave_by_s:
            return True
        waited = now >= self._last_frame_s + HANDLE_GRACE_S
        return self._turn.is_idle and (self._turn.handle_is_fresh or waited)

    def _leave_by_s(self) -> float | None:
        """When the line must be left at the latest, a little before the vendor ends it."""
        if self._turn.leave_in_s is not None:
            in_s, self._turn.leave_in_s = self._turn.leave_in_s, None
            self._must_leave_s = time.monotonic() + in_s - min(LEAVE_EARLY_S, in_s / 2)
        return self._must_leave_s

    @property
    def _stalls_at_s(self) -> float:
        return self._last_frame_s + (min(NOISE_STALL_S, self._stall_s) if self._turn.noise else self._stall_s)

    def _has_stalled(self, now: float) -> bool:
        owed = self._turn.active and not self._turn.calls and not self._waiting.speaking
        return owed and now >= self._stalls_at_s

    def _due_in_s(self, now: float) -> float | None:
        """When to look again, if nothing happens."""
        due = [self._stalls_at_s] if self._turn.active else []
        if self._must_leave_s is not None:
            due.append(self._must_leave_s)
            if self._turn.is_idle:
                due.append(self._last_frame_s + HANDLE_GRACE_S)
        return max(0.005, min(due) - now) if due else None

    # --- what goes -----------------------------------------------------------------------------------------

    async def send_text(self, text: str, *, note: str | None = None) -> None:
        """The user's next turn."""
        if note:
            self._waiting.add_note(note)
        self._waiting.say(text)
        self._last_frame_s = time.monotonic()
        self._turn.begin()
        async with self._lock:
            await self._send_said()

    async def announce(self, text: str) -> bool:
        """Say this to the user; False where something is under way, or there is no line."""
        async with self._lock:
            if self._line is None or not self._turn.is_idle:
                return False
            self._last_frame_s = time.monotonic()
            self._turn.begin()
            self._turn.owed = await self._do(lambda line: line.announce(text))
            if not self._turn.owed:
                self._turn.end()
            return self._turn.owed

    async def send_audio(self, data: bytes) -> None:
        """A piece of the user's speech."""
        self._waiting.hear(data)
        async with self._lock:
            await self._send_audio()

    async def activity(self, speaking: bool) -> None:
        """The user begins or ends to speak (where the client decides)."""
        self._waiting.activity(speaking)
        self._turn.handle_is_fresh = False
        if not speaking:
            self._last_frame_s = time.monotonic()
            self._turn.begin()
        async with self._lock:
            await self._send_audio()

    async def interrupt(self, *, heard_text: str, played_ms: int | None) -> None:
        """Stop the answer under way."""
        stopped = self._turn.interrupt()
        async with self._lock:  # the vendor may cut its memory of an answer that is complete, too
            await self._do(lambda line: line.cut(played_ms, stopped))
        await self._refuse_calls()

    async def send_tool_result(
        self, call_id: str, name: str, result: Any, *, error: str | None = None
    ) -> None:
        """The result of a call; one that nobody waits for any more is dropped."""
        if self._turn.calls.pop(call_id, None) is None:
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
        while self._turn.unwanted:
            call_id, name = self._turn.unwanted.popitem()
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
            said.add_note(self._waiting.take_note())
            say = functools.partial(_say, said.text, said.note)
            if not (await self._prepare() and await self._do(say)):
                return
            said.sent += 1
            said.on_line = self._turn.owed = True

    async def _send_audio(self) -> None:
        while self._line is not None and (step := self._waiting.take_step()) is not None:
            if not await self._send_step(step):
                self._waiting.give_step_back(step)
                return
            self._turn.owed = self._turn.owed or step is False

    async def _send_step(self, step: Step) -> bool:
        if not await self._prepare():
            return False
        if isinstance(step, bytes):
            may_tell = not self._context.client_activity and (
                self._turn.discarding or not self._turn.answering
            )
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
