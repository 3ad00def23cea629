"""The provider interface: all that the turn loop knows of a model or of what stands in its place.

A `Provider` is made once a server and opens one `ProviderSession` for each live conversation. Everything that is
particular to a vendor (frames, closes, handles, reconnecting) stays behind the session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec


class Capabilities(NamedTuple):
    """What a provider can do; the turn loop asks for nothing else."""

    text_in: bool = True
    audio_in: bool = False  # PCM16 LE mono, 16 kHz
    audio_out: bool = False  # PCM16 LE mono, 24 kHz
    server_activity: bool = False  # it notices by itself that the user begins and ends to speak
    truncates: bool = False  # told what was heard, it cuts its own memory to that
    tools: bool = False
    announces: bool = False  # it says a text aloud that it is given
    resumes: bool = False  # it gives handles by which a session goes on after a lost connection


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One earlier message, as it was heard."""

    role: Literal["user", "assistant", "system", "tool"]
    text: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()  # {id, name, arguments} each
    tool_call_id: str | None = None


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call; `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider is told when a conversation begins (or goes on).

    `history()` gives the last turns as they stand now: a provider that has to begin anew in the middle of a
    conversation (an expired handle) seeds the new one with it. `language` is a short code (`hi`), None for auto.
    """

    user_id: str
    session_id: str
    tenant: str = "default"
    language: str | None = None
    system_instruction: str = ""
    history: Callable[[], Sequence[Turn]] = tuple
    state: Mapping[str, Any] = {}
    tools: tuple[ToolSpec, ...] = ()
    resume_handle: str | None = None  # of the last `Resumable`, if the conversation was with this provider
    resume_model: str | None = None  # that of the same event; with another model the handle is of no use
    client_activity: bool = False  # the client says when the user speaks (push to talk)


# --- events: what a session tells ----------------------------------------------------------------------------


class Transcript(msgspec.Struct, frozen=True, tag=True):
    """Words of the user's or the assistant's speech, as they become known; in order, each piece once.

    `final` closes what that role said in this turn; its text may be empty. A provider that cannot tell where the
    words end closes both roles before `TurnDone`.
    """

    role: Literal["user", "assistant"]
    text: str
    final: bool = False


class Delta(msgspec.Struct, frozen=True, tag=True):
    """A piece of the assistant's written answer."""

    text: str


class Audio(msgspec.Struct, frozen=True, tag=True):
    """A piece of the assistant's speech (PCM16 LE mono, 24 kHz)."""

    data: bytes


class Ahead(msgspec.Struct, frozen=True, tag=True):
    """The whole text of the answer under way, from a provider that knows it before it has said it all.

    Where the answer is interrupted, what follows the heard part of it is what can be resumed, word for word.
    """

    text: str


class Interrupted(msgspec.Struct, frozen=True, tag=True):
    """The provider noticed that the user speaks over the assistant, and has stopped."""


class TurnDone(msgspec.Struct, frozen=True, tag=True):
    """The assistant's turn is over (also after an interruption). `usage` counts tokens by the provider's names.

    `metadata` is kept with the message: citations, for example.
    """

    usage: Mapping[str, int] | None = None
    metadata: Mapping[str, Any] | None = None


class ToolCall(msgspec.Struct, frozen=True, tag=True):
    """The model calls a function and waits for its result."""

    id: str
    name: str
    arguments: Mapping[str, Any]


class ToolCancelled(msgspec.Struct, frozen=True, tag=True):
    """The model no longer wants the results of these calls."""

    ids: tuple[str, ...]


class Resumable(msgspec.Struct, frozen=True, tag=True):
    """A handle by which the conversation can go on after a lost connection or a restart; replaces earlier ones."""

    handle: str
    model: str


class Reconnected(msgspec.Struct, frozen=True, tag=True):
    """The provider's connection was renewed. `resumed`: it remembers; else it is seeded with the last turns.

    What the user said and was not answered yet is said again by the session itself.
    """

    resumed: bool
    reason: str


class GoingAway(msgspec.Struct, frozen=True, tag=True):
    """The provider's connection ends in `in_s` seconds; the session renews it by itself where it can."""

    in_s: float


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Something went wrong. With `fatal` the session is over; else this turn is, and the next may succeed.

    It takes the place of the turn's `TurnDone`. What was said until then stays said.
    """

    code: str
    message: str
    retryable: bool = False
    fatal: bool = False


Event = (
    Transcript
    | Delta
    | Audio
    | Ahead
    | Interrupted
    | TurnDone
    | ToolCall
    | ToolCancelled
    | Resumable
    | Reconnected
    | GoingAway
    | Failed
)


class ProviderSession(Protocol):
    """One conversation with a provider. One task reads `events`; the other methods may be called beside it.

    None of them raises for a fault of the other side: that arrives as `Failed`.
    """

    def events(self) -> AsyncIterator[Event]:
        """All that happens, until the session is closed or has failed for good."""
        ...

    async def send_text(self, text: str, *, note: str | None = None) -> None:
        """The user's next turn. `note` is for the model alone: what of its last answer was not heard."""
        ...

    async def send_audio(self, data: bytes) -> None:
        """A piece of the user's speech (PCM16 LE mono, 16 kHz, 20 to 40 ms)."""
        ...

    async def activity(self, speaking: bool) -> None:
        """The user begins or ends to speak (where the client decides)."""
        ...

    async def interrupt(self, *, heard_text: str, played_ms: int | None) -> None:
        """Stop the answer under way; this is what of it was heard.

        If there was one, its `TurnDone` follows at once, and nothing of it after that.
        """
        ...

    async def send_tool_result(
        self, call_id: str, name: str, result: Any, *, error: str | None = None
    ) -> None:
        """The result of a call (JSON), or why there is none."""
        ...

    async def set_note(self, note: str) -> None:
        """For the model alone, to be sent with the user's next turn, spoken or written; never in mid-speech."""
        ...

    async def announce(self, text: str) -> bool:
        """Say this to the user, in these words: a notice of the system's. Asked only of what `announces`.

        It comes as an answer does, up to its `TurnDone`. False where something is being said, or there is no line.
        """
        ...

    async def set_language(self, language: str | None) -> None:
        """Answer in this language from the next turn on."""
        ...

    async def close(self) -> None:
        """End it and let everything go. Twice is fine."""
        ...


class Provider(Protocol):
    """A kind of model behind a name; `open` gives a session or raises ProviderUnavailable."""

    name: str
    capabilities: Capabilities

    async def open(self, context: Context) -> ProviderSession:
        """Begin a conversation (or go on, with `resume_handle`)."""
        ...

    async def close(self) -> None:
        """Let go of what all sessions share."""
        ...
