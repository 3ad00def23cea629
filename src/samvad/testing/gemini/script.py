"""What the fake server does when a user's turn is over: steps, one after the other.

A reply ends by itself with `generationComplete` and `turnComplete`, unless it was interrupted or its connection went.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from samvad.testing.gemini import wire
from samvad.testing.speech import SAMPLE_RATE_OUT, speech

if TYPE_CHECKING:
    from samvad.testing.gemini.connection import Connection


class UserTurn(NamedTuple):
    """What the user said in one turn."""

    text: str
    spoken: bool
    notes: tuple[str, ...] = ()  # what else came with it or before it, and was not answered


class Say(NamedTuple):
    """The model says a text: transcript and audio piece by piece (written, where the client asked for text)."""

    text: str
    words_per_piece: int = 3
    ms_per_word: int = 40
    together: bool = True  # the piece's transcript and audio in one frame, else in two

    async def play(self, connection: Connection) -> None:
        """Send it."""
        for piece in pieces(self.text, self.words_per_piece):
            connection.said(piece)
            if connection.answers_in_text:
                await connection.send(wire.server_content(modelTurn=wire.written(piece)))
                continue
            sound = speech(piece, self.ms_per_word * len(piece.split()), SAMPLE_RATE_OUT)
            if self.together:
                await connection.send(
                    wire.server_content(outputTranscription={"text": piece}, modelTurn=wire.spoken(sound))
                )
            else:
                await connection.send(wire.server_content(modelTurn=wire.spoken(sound)))
                await connection.send(wire.server_content(outputTranscription={"text": piece}))


class Heard(NamedTuple):
    """What the server understood of the user's speech; without this step it is what `speech` has put there."""

    text: str

    async def play(self, connection: Connection) -> None:
        """Send it, piece by piece."""
        for piece in pieces(self.text, 3):
            await connection.send(wire.server_content(inputTranscription={"text": piece}))


class CallTool(NamedTuple):
    """The model calls a function; with `wait` it goes on when the result is there."""

    name: str
    arguments: Mapping[str, Any]
    id: str = "call-1"
    wait: bool = True

    async def play(self, connection: Connection) -> None:
        """Send it."""
        await connection.call_tool(self.id, self.name, self.arguments)
        if self.wait:
            await connection.results.wait_for(self.id)


class CancelCalls(NamedTuple):
    """The model no longer wants these results."""

    ids: tuple[str, ...]

    async def play(self, connection: Connection) -> None:
        """Send it."""
        await connection.send({"toolCallCancellation": {"ids": list(self.ids)}})


class Usage(NamedTuple):
    """Tokens used."""

    prompt: int
    response: int

    async def play(self, connection: Connection) -> None:
        """Send it."""
        counts = {
            "promptTokenCount": self.prompt,
            # the two APIs call it by different names
            "candidatesTokenCount"
            if "aiplatform" in connection.path
            else "responseTokenCount": self.response,
            "totalTokenCount": self.prompt + self.response,
        }
        await connection.send({"usageMetadata": counts})


class GoAway(NamedTuple):
    """The server announces that it will end the connection, and does so when the time is over."""

    time_left_s: float

    async def play(self, connection: Connection) -> None:
        """Send it."""
        await connection.go_away(self.time_left_s)


class Close(NamedTuple):
    """The server closes the connection with a code: 1000, 1007, 1008, 1011."""

    code: int = 1000
    reason: str = ""

    async def play(self, connection: Connection) -> None:
        """Do it."""
        await connection.close(self.code, self.reason)


class Abort(NamedTuple):
    """The connection breaks, with no word of it: the client sees 1006."""

    async def play(self, connection: Connection) -> None:
        """Do it."""
        connection.abort()


class Interrupt(NamedTuple):
    """The server holds that the user has interrupted: the turn is over, without `generationComplete`."""

    async def play(self, connection: Connection) -> None:
        """Do it."""
        connection.interrupt_soon()
        await asyncio.Event().wait()  # until this reply is cancelled


class Frame(NamedTuple):
    """Any frame, as it is: unknown ones, `{"error": …}`, several fields at once."""

    frame: Mapping[str, Any]

    async def play(self, connection: Connection) -> None:
        """Send it."""
        await connection.send(dict(self.frame))


class Pause(NamedTuple):
    """Nothing for so long."""

    seconds: float

    async def play(self, connection: Connection) -> None:
        """Wait."""
        await asyncio.sleep(self.seconds)


class Wait(NamedTuple):
    """Nothing until the test says so."""

    event: asyncio.Event

    async def play(self, connection: Connection) -> None:
        """Wait."""
        await self.event.wait()


class Until(NamedTuple):
    """Nothing until the client has sent what is waited for: a function of the connection says."""

    condition: Callable[[Connection], bool]

    async def play(self, connection: Connection) -> None:
        """Wait."""
        async with connection.heard_something:
            await connection.heard_something.wait_for(lambda: self.condition(connection))


Step = (
    Say
    | Heard
    | CallTool
    | CancelCalls
    | Usage
    | GoAway
    | Close
    | Abort
    | Interrupt
    | Frame
    | Pause
    | Wait
    | Until
)


def pieces(text: str, words: int) -> list[str]:
    """A text cut after every so many words; together they are the text."""
    tokens = re.findall(r"\s*\S+\s*?", text)
    return ["".join(tokens[at : at + words]) for at in range(0, len(tokens), words)]
