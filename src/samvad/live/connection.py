"""One client's connection: its first frame, its resuming, every frame after that, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from samvad import limits
from samvad.auth.authenticator import Authenticator, Identity
from samvad.auth.lease import Lease
from samvad.clock import uuid7
from samvad.errors import Forbidden, InvalidRequest, SamvadError, TooLarge
from samvad.live import frames, phrases
from samvad.live.context import background, interruption_view
from samvad.live.conversation import Conversation, checked_language
from samvad.live.line import Line
from samvad.live.noting import Notes
from samvad.live.outbox import Outbox, Wire
from samvad.live.recovery import STALE_AFTER_MS, bring_to_its_end, open_turn_of
from samvad.live.service import LiveService
from samvad.live.tokens import InvalidResumeToken
from samvad.live.watch import Watch
from samvad.records import StoredMessage, UserKey
from samvad.sessions.feed import Grew, Missed, News, Restarted, Subscription
from samvad.sessions.service import SessionPersistenceService
from samvad.sessions.validation import check_id

_log = logging.getLogger(__name__)
_SETTLE_S: Final = 2.0
_FAREWELL_S: Final = 2.0

# Why a connection ended, and the WebSocket close code (RFC 6455, section 7.4) that goes with it.
CLOSE_CODES: Final = {
    "ended": 1000,
    "server_stopping": 1012,
    "inactive": 4000,
    "too_long": 4001,
    "taken_over": 4002,
    "slow_reader": 4003,
    "erased": 4004,
    "deleted": 4005,
    "too_many_errors": 4006,
    "not_started": 4007,
    "token_expired": 4008,
    "token_revoked": 4009,
    "overloaded": 1013,
}

Receive = Callable[[], Awaitable["str | bytes | None"]]


class ClosableWire(Wire, Protocol):
    """A connection that can be closed."""

    async def close(self, code: int, reason: str) -> None:
        """Close it, with the WebSocket close code and a reason."""
        ...

    def abort(self) -> None:
        """Drop it at once, with all that waits."""
        ...


class Connection:
    """One client. `service` acts for who is asking; `access`, if given, says for how long they may."""

    def __init__(
        self,
        live: LiveService,
        service: SessionPersistenceService,
        wire: ClosableWire,
        access: tuple[Authenticator, Identity] | None = None,
    ) -> None:
        self._live = live
        self._access = access
        self._lease: Lease | None = None
        # A token of one session opens that session alone; within it, the conversation is the user's.
        self._only = service.principal.session
        self._service = service.acting_as(service.principal._replace(session=None))
        self._wire = wire
        self.outbox = Outbox(live.options.outbox_bytes_max)
        self.outbox.on_overflow = self._reads_too_slowly
        self._line = Line(self.outbox)
        self._line.end = self.end
        self._conversation: Conversation | None = None
        self._subscription: Subscription | None = None
        self._watch: Watch | None = None
        self._reason: str | None = None
        self._ended = asyncio.Event()
        self._errors = 0
        self.notes = Notes()

    @property
    def errors_left(self) -> int:
        """How many malformed frames the client may still send."""
        return limits.LIVE_ERRORS_MAX - self._errors

    def end(self, reason: str) -> None:
        """End the connection for one of `CLOSE_CODES`; the first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._live.meter.ended[reason] += 1
            self._ended.set()

    def _reads_too_slowly(self) -> None:
        self._live.meter.slow_reader_bytes += self.outbox.bytes_dropped
        self.end("slow_reader")

    async def run(self, receive: Receive) -> None:
        """Talk with the client, who was admitted, until one side has had enough."""
        if self._access is not None:
            self._lease = Lease(*self._access, warn=self._warn_of_end, end=self.end)
        writer = asyncio.create_task(self.outbox.run(self._wire))
        reader = asyncio.create_task(self._read(receive))
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait([writer, reader, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            reader.cancel()
            if self._lease is not None:
                self._lease.stop()
            await asyncio.wait([reader])
            self.notes.end()
            await self._leave()
            await self._farewell(writer)
            for task in (reader, writer):
                error = task.exception() if task.done() and not task.cancelled() else None
                if error is not None and not _is_of_the_network(error):
                    _log.error("a live connection failed", exc_info=error)

    async def _leave(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        if self._subscription is not None:
            self._subscription.close()
        conversation = self._conversation
        if conversation is None:
            return
        if self._reason in ("ended", "inactive", "too_long"):
            await self._live.end(conversation)
            self._line.forget()
            return
        last = conversation.line is self._line
        await conversation.detach(self._line)
        if last:
            self._live.waits(conversation)

    async def _farewell(self, writer: asyncio.Task[None]) -> None:
        """Tell the reason and close; a client that takes nothing is dropped."""
        reason = self._reason
        try:
            async with asyncio.timeout(_FAREWELL_S):
                if reason is not None and not writer.done():
                    if self._conversation is not None:
                        self._line.send(frames.SessionEnded(reason=reason))
                    self.outbox.close()
                    await writer
                if reason is not None:
                    await self._wire.close(CLOSE_CODES[reason], reason)
        except (TimeoutError, OSError):
            self._wire.abort()
        except Exception as error:  # the top of the task: whatever a server raises for a client that is gone
            _log.debug("a connection could not be closed: %s", type(error).__name__)
        finally:
            if not writer.done():
                writer.cancel()
                await asyncio.wait([writer])
            if reason == "slow_reader":
                self._wire.abort()

    # --- reading -----------------------------------------------------------------------------------------

    async def _read(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        must_start = loop.call_later(limits.LIVE_START_S_MAX, self._not_started)
        try:
            while (data := await receive()) is not None:
                try:
                    await self._take(data)
                except SamvadError as error:
                    self._tell(error)
        finally:
            must_start.cancel()

    def _not_started(self) -> None:
        if self._conversation is None:
            self.end("not_started")

    def _tell(self, error: SamvadError) -> None:
        self._line.send(frames.ErrorFrame(code=error.code, message=error.message, retryable=error.retryable))
        if not error.retryable and error.status in (400, 401, 403):
            self._errors += 1
            if self._errors >= limits.LIVE_ERRORS_MAX:
                self.end("too_many_errors")

    async def _take(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            if len(data) > limits.LIVE_AUDIO_FRAME_BYTES_MAX:
                raise TooLarge(f"A piece of audio may take {limits.LIVE_AUDIO_FRAME_BYTES_MAX} bytes.")
            await self._need_conversation().hear(data)
            return
        if len(data) > limits.LIVE_TEXT_FRAME_BYTES_MAX:
            raise TooLarge(f"A frame may take {limits.LIVE_TEXT_FRAME_BYTES_MAX} characters.")
        try:
            frame = frames.decode_client(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise InvalidFrame(_why(error)) from None
        await self._answer(frame)

    def _need_conversation(self) -> Conversation:
        if self._conversation is None:
            raise InvalidFrame("The first frame must be start_session.")
        return self._conversation

    async def _answer(self, frame: frames.ClientFrame) -> None:
        if isinstance(frame, frames.StartSession):
            await self.notes.start(frame.user_id, self._start(frame))
            return
        if isinstance(frame, frames.Ping):
            self._line.send(frames.Pong())
            return
        if isinstance(frame, frames.RenewToken):
            await self.notes.renew(self._renew(frame.token))
            return
        talk = self._need_conversation()
        match frame:
            case frames.UserText():
                await talk.say(
                    frame.text, frame.id, played_ms=frame.played_ms, played_chars=frame.played_chars
                )
            case frames.ActivityStart():
                await talk.activity(True, frame.played_ms)
            case frames.ActivityEnd():
                await talk.activity(False)
            case frames.Interrupt():
                await talk.interrupt(frame.played_ms, frame.played_chars)
            case frames.Playback():
                talk.played(frame.played_ms, frame.finished)
            case frames.ResumeInterruption():
                await talk.resume()
            case frames.SetLanguage():
                await talk.set_language(frame.language)
            case frames.EndSession():
                await talk.service.end_session(talk.session_id)
                self.end("ended")

    # --- for how long ----------------------------------------------------------------------------------------

    async def _renew(self, token: str) -> None:
        if self._lease is None:
            raise InvalidFrame("Nobody is asked for a token here.")
        self._line.send(frames.TokenRenewed(expires_in_s=await self._lease.renew(token)))

    def _warn_of_end(self, in_s: int) -> None:
        text = "The token of this connection is about to expire; send renew_token with a newer one."
        self._line.send(frames.Warn(code="token_expires", message=text, in_s=in_s))

    # --- starting ------------------------------------------------------------------------------------------

    async def _start(self, frame: frames.StartSession) -> str:
        if self._conversation is not None:
            raise InvalidFrame("The session has started already.")
        service = self._service
        if self._only is not None:
            if frame.session_id not in (None, self._only):
                raise Forbidden
            frame = msgspec.structs.replace(frame, session_id=self._only)
        record = await service.read_user(frame.user_id)  # checks the name, and who asks
        key = UserKey(service.principal.tenant, frame.user_id)
        session_id = self._session_id(frame, key)
        instruction = frame.system_instruction or ""
        if len(instruction.encode(errors="replace")) > limits.LIVE_INSTRUCTION_BYTES_MAX:
            raise TooLarge(f"systemInstruction may take {limits.LIVE_INSTRUCTION_BYTES_MAX} bytes.")
        if instruction:
            service.need_instruction()
        self._live.provider(frame.provider)
        known = background(record, session_id)
        language = (
            known.language or service.core.rules.language
            if frame.language is None
            else checked_language(frame.language)
        )
        self._live.belongs_to(self, key)

        conversation = self._live.find(key, session_id)
        await service.save_session_fields(session_id, frame.user_id, {"language": language})
        if conversation is not None:
            await self._take_over(conversation)
        else:
            await self._recover_turns(key, session_id)

        subscription = self._live.samvad.feed.subscribe(key)
        self._subscription = subscription
        record = await service.read_user(frame.user_id)
        epoch, resume = record.version.epoch, frame.resume
        recovered = resume is not None and resume.epoch == epoch and 0 <= resume.last_seq <= record.seq
        subscription.start(record, resume.last_seq if resume is not None and recovered else None)

        conversation = self._live.find(key, session_id)
        again = conversation is not None
        if conversation is None:
            conversation = self._live.begin(
                service,
                key,
                session_id,
                background(record, session_id),
                provider=frame.provider,
                language=language,
                system_instruction=instruction,
                client_activity=frame.client_activity,
            )
            conversation.restore_interruption()
        elif frame.language is not None and language != conversation.language_choice:
            await conversation.set_language(language)
        self._conversation = conversation
        self._live.stays(conversation)
        conversation.attach(self._line)
        provider = conversation.provider
        topic = None if recovered or again else conversation.topic
        window = record.window[-limits.LIVE_CONTEXT_MESSAGES :]
        self._line.send(
            frames.SessionStarted(
                session_id=session_id,
                user_id=frame.user_id,
                resume_token=self._live.tokens.make(key.tenant, frame.user_id, session_id),
                epoch=epoch,
                seq=subscription.seq,
                recovered=recovered,
                language=conversation.language_choice,
                provider=provider.name,
                audio_in=provider.capabilities.audio_in,
                audio_out=provider.capabilities.audio_out,
                history=None if recovered else [msgspec.Raw(message.body) for message in window],
                welcome=phrases.welcome(conversation.language, topic) if topic and window else None,
                interruption=interruption_view(conversation.resumable()),
            )
        )
        while (news := subscription.now()) is not None:
            await self._pass_on(news)
        self._live.spawn(self._follow(subscription))
        self._watch = Watch(self._live, conversation, self._line)
        if await conversation.ready():
            self._line.send(frames.SessionReady())
        return session_id

    def _session_id(self, frame: frames.StartSession, key: UserKey) -> str:
        if frame.resume is None:
            if frame.session_id is None:
                return f"session_{uuid7(self._service.core.clock.now_ms())}"
            return check_id(frame.session_id, "sessionId")
        claims = self._live.tokens.check(frame.resume.token)
        same = claims.tenant == key.tenant and claims.user_id == key.user_id
        if not same or frame.session_id not in (None, claims.session_id):
            raise InvalidResumeToken
        return claims.session_id

    async def _take_over(self, conversation: Conversation) -> None:
        """The session is open here: its client was cut off, or it moves to another connection."""
        line = conversation.line
        if line is not None:
            line.end("taken_over")
            await conversation.detach(line)
        await conversation.keeper.settled(_SETTLE_S)

    async def _recover_turns(self, key: UserKey, session_id: str) -> None:
        """Bring to its end what a killed server, or one out of reach, left in the middle."""
        record = await self._service.read_user(key.user_id)
        now_ms = self._service.core.clock.now_ms()
        for session in list(record.sessions.values()):
            turn = open_turn_of(session)
            if turn is None or self._live.find(key, session.id) is not None:
                continue
            if session.id == session_id or now_ms - turn.at_ms > STALE_AFTER_MS:
                await bring_to_its_end(self._service, key.user_id, session)
                self._live.parts.open_turns.discard(key, session.id)

    # --- what others say -----------------------------------------------------------------------------------

    async def _follow(self, subscription: Subscription) -> None:
        try:
            while (news := await subscription.next()) is not None:
                await self._pass_on(news)
        except SamvadError as error:
            self._tell(error)
            self.end("overloaded")

    async def _pass_on(self, news: News) -> None:
        match news:
            case Restarted():
                self.end("erased")
            case Missed(_, first, last):
                await self._catch_up(first, last)
            case Grew(_, messages):
                for message in messages:
                    await self._send_message(message)

    async def _send_message(self, message: StoredMessage) -> None:
        own = self._line.own.get(message.id)
        if own is not None:
            await own
            self._line.own.pop(message.id, None)
            return
        await self.outbox.room()
        self._line.send(frames.MessageFrame(seq=message.seq, message=msgspec.Raw(message.body)))

    async def _catch_up(self, first: int, last: int) -> None:
        """Messages that memory does not hold any more: from the history, or where they are too many, a gap."""
        if last - first >= limits.LIVE_REPLAY_MESSAGES_MAX:
            self._line.send(frames.Gap(from_=first, to=last - limits.LIVE_REPLAY_MESSAGES_MAX))
            first = last - limits.LIVE_REPLAY_MESSAGES_MAX + 1
        assert self._subscription is not None
        user_id = self._subscription.key.user_id
        while first <= last:
            page, _ = await self._service.page_stored(
                user_id, after=first - 1, limit=min(100, last - first + 1)
            )
            page = [message for message in page if message.seq <= last]
            if not page or page[0].seq > first:
                until = page[0].seq - 1 if page else last
                self._line.send(frames.Gap(from_=first, to=until))
            for message in page:
                await self._send_message(message)
            first = page[-1].seq + 1 if page else last + 1


class InvalidFrame(InvalidRequest):
    """The frame is not one of the protocol's."""

    code = "invalid_frame"


def _is_of_the_network(error: BaseException) -> bool:
    """Whether the client is simply gone; each server says so in its own words."""
    return isinstance(error, SamvadError | OSError) or type(error).__name__ == "ClientDisconnected"


def _why(error: BaseException) -> str:
    """A decoder's message, without what the client sent."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        if text.startswith("Invalid value"):
            return "The frame's `type` is not one of the protocol's."
        return f"The frame does not fit: {text}."
    return "The frame is not valid JSON."
