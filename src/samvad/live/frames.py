"""The frames of the WebSocket protocol `samvad.v1`, as typed records: JSON objects with a `type`, names in camelCase.

Binary frames are audio and have no record here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

SUBPROTOCOL = "samvad.v1"


class _Frame(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", omit_defaults=True):
    pass


# --- what the client sends -----------------------------------------------------------------------------------


class Resume(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a client that was here before wants to go on: the last token it was given, and the last place it knows."""

    token: str
    epoch: int
    last_seq: int


class StartSession(_Frame, frozen=True, kw_only=True, tag="start_session"):
    """The first frame of a connection. `language` is a tag such as `hi` or `hi-IN`, or `auto`."""

    user_id: str
    session_id: str | None = None
    language: str | None = None
    system_instruction: str | None = None
    provider: str | None = None
    client_activity: bool = False
    resume: Resume | None = None


class UserText(_Frame, frozen=True, kw_only=True, tag="user_text"):
    """What the user wrote. The same `id` again is the same message. The positions are those of `interrupt`."""

    text: str
    id: str | None = None
    played_ms: float | None = None
    played_chars: int | None = None


class ActivityStart(_Frame, frozen=True, kw_only=True, tag="activity_start"):
    """The user begins to speak."""

    played_ms: float | None = None


class ActivityEnd(_Frame, frozen=True, kw_only=True, tag="activity_end"):
    """The user has ended to speak."""


class Interrupt(_Frame, frozen=True, kw_only=True, tag="interrupt"):
    """Stop. The user has heard `playedMs` ms of the answer's audio, or `playedChars` characters of its text."""

    played_ms: float | None = None
    played_chars: int | None = None


class Playback(_Frame, frozen=True, kw_only=True, tag="playback"):
    """How far the answer was played; with `finished`, all of it. Without it, the server goes by the clock."""

    played_ms: float | None = None
    finished: bool = False


class ResumeInterruption(_Frame, frozen=True, kw_only=True, tag="resume_interruption"):
    """Go on with what was interrupted."""


class SetLanguage(_Frame, frozen=True, kw_only=True, tag="set_language"):
    """Another language from the next turn on; `auto` follows the script in which the user writes."""

    language: str


class Ping(_Frame, frozen=True, kw_only=True, tag="ping"):
    """Is the server there? It answers `pong`."""


class RenewToken(_Frame, frozen=True, kw_only=True, tag="renew_token"):
    """A newer token for the same user: the connection goes on under it. Answered with `token_renewed`."""

    token: str


class EndSession(_Frame, frozen=True, kw_only=True, tag="end_session"):
    """The conversation is over."""


ClientFrame = (
    StartSession
    | UserText
    | ActivityStart
    | ActivityEnd
    | Interrupt
    | Playback
    | ResumeInterruption
    | SetLanguage
    | RenewToken
    | Ping
    | EndSession
)


# --- what the server sends -----------------------------------------------------------------------------------


class SessionStarted(_Frame, frozen=True, kw_only=True, tag="session_started"):
    """The conversation stands. If `recovered`, the messages behind `seq` follow; else `history` has the last."""

    session_id: str
    user_id: str
    resume_token: str
    epoch: int
    seq: int
    recovered: bool
    language: str
    provider: str
    audio_in: bool = False
    audio_out: bool = False
    history: Sequence[msgspec.Raw] | None = None
    welcome: str | None = None
    interruption: Mapping[str, Any] | None = None  # the newest one that can be resumed


class SessionReady(_Frame, frozen=True, kw_only=True, tag="session_ready"):
    """Now the user may speak."""


class TranscriptFrame(_Frame, frozen=True, kw_only=True, tag="transcript"):
    """Words of the user's or the assistant's; a `final` one of the user's has its place, once it is kept."""

    role: str
    text: str
    final: bool
    turn_id: str | None = None
    message_id: str | None = None
    seq: int | None = None


class TextChunk(_Frame, frozen=True, kw_only=True, tag="text_chunk"):
    """A piece of the assistant's written answer."""

    turn_id: str
    text: str


class TurnComplete(_Frame, frozen=True, kw_only=True, tag="turn_complete"):
    """The turn is over, and kept. `messageIds` are its messages in order, `seq` that of the last one."""

    turn_id: str
    message_ids: Sequence[str]
    interrupted: bool
    seq: int | None = None  # None where it could not be kept yet
    usage: Mapping[str, int] | None = None
    metadata: Mapping[str, Any] | None = None


class InterruptedFrame(_Frame, frozen=True, kw_only=True, tag="interrupted"):
    """The answer stopped here: what of it was heard, and what was not."""

    turn_id: str
    heard_text: str
    unheard_text: str
    can_resume: bool
    interruption_id: str | None = None


class LanguageChanged(_Frame, frozen=True, kw_only=True, tag="language_changed"):
    """The language from the next turn on."""

    language: str


class Pong(_Frame, frozen=True, kw_only=True, tag="pong"):
    """The answer to `ping`."""


class ResumeToken(_Frame, frozen=True, kw_only=True, tag="resume_token"):
    """A fresh token for `resume`; the one before it expires soon."""

    resume_token: str
    expires_in_s: int


class TokenRenewed(_Frame, frozen=True, kw_only=True, tag="token_renewed"):
    """The answer to `renew_token`: the seconds that the new token holds, none if it has no end."""

    expires_in_s: int | None = None


class SessionEnded(_Frame, frozen=True, kw_only=True, tag="session_ended"):
    """The conversation is over on this connection, which is closed now."""

    reason: str


class ToolCallFrame(_Frame, frozen=True, kw_only=True, tag="tool_call"):
    """The assistant calls a function (for display)."""

    turn_id: str
    id: str
    name: str
    arguments: Mapping[str, Any]


class ToolResultFrame(_Frame, frozen=True, kw_only=True, tag="tool_result"):
    """What became of the call (for display)."""

    turn_id: str
    id: str
    name: str
    ok: bool
    error: str | None = None


class MessageFrame(_Frame, frozen=True, kw_only=True, tag="message"):
    """A message that came by another door: another device, another session, the HTTP API."""

    seq: int
    message: msgspec.Raw


class Gap(_Frame, frozen=True, kw_only=True, tag="gap"):
    """Messages `from` to `to` (by seq) are not sent here; the history has them."""

    from_: int = msgspec.field(name="from")
    to: int


class Warn(_Frame, frozen=True, kw_only=True, tag="warning"):
    """Something the user should know: `message` is in the user's language."""

    code: str
    message: str
    in_s: int | None = None


class ErrorFrame(_Frame, frozen=True, kw_only=True, tag="error"):
    """Something did not work; `retryable` where the same may work later."""

    code: str
    message: str
    retryable: bool


ServerFrame = (
    SessionStarted
    | SessionReady
    | TranscriptFrame
    | TextChunk
    | TurnComplete
    | InterruptedFrame
    | LanguageChanged
    | Pong
    | ResumeToken
    | TokenRenewed
    | SessionEnded
    | ToolCallFrame
    | ToolResultFrame
    | MessageFrame
    | Gap
    | Warn
    | ErrorFrame
)

decode_client = msgspec.json.Decoder(ClientFrame).decode
encode = msgspec.json.Encoder().encode
