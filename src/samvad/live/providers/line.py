"""A line: one connection to a vendor's live API, as `LineSession` uses it. All that is the vendor's stays behind it.

A line lasts minutes, a conversation hours: sessions dial again, and lines know nothing of each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from samvad.live.providers.base import Context, Event, Turn


class LineLost(Exception):
    """The line is gone, or could not be had.

    `lost`: dialling again may help. `handle`: the handle is refused, a new conversation may help. `refused`: nothing
    will help until somebody changes something.
    """

    def __init__(
        self, reason: str, kind: Literal["lost", "handle", "refused"] = "lost", code: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.code = code


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the turn under way, by the vendor's names."""

    counts: Mapping[str, int]


class NotResumable(msgspec.Struct, frozen=True):
    """What was said last is in no handle yet."""


class Noise(msgspec.Struct, frozen=True):
    """A frame that nobody understands."""


Part = Event | Usage | NotResumable | Noise


class Line(Protocol):
    """One connection. Every method raises LineLost where it is gone."""

    async def receive(self) -> Sequence[Part]:
        """What the next frame holds."""
        ...

    async def seed(self, turns: Sequence[Turn]) -> None:
        """Tell a new conversation what was said before."""
        ...

    async def say(self, text: str, note: str | None) -> None:
        """The user's turn, written; it asks for an answer."""
        ...

    async def announce(self, text: str) -> None:
        """Have the model say this, in these words; nothing is under way."""
        ...

    async def hear(self, data: bytes) -> None:
        """A piece of the user's speech."""
        ...

    async def activity(self, speaking: bool) -> None:
        """The user begins or ends to speak."""
        ...

    async def note(self, text: str) -> None:
        """Something for the model alone; it asks for no answer."""
        ...

    async def cut(self, played_ms: int | None, under_way: bool) -> None:
        """Of the last answer only so much was heard; stop it where it is still under way. As far as the vendor can."""
        ...

    async def result(self, call_id: str, name: str, payload: Mapping[str, Any]) -> None:
        """The result of a call."""
        ...

    async def instruct(self, context: Context) -> str | None:
        """The context has changed; what the vendor has no way to change is returned, to be sent as a note."""
        ...

    async def close(self) -> None:
        """Hang up, in bounded time."""
        ...


class Dialer(Protocol):
    """Who can make lines."""

    model: str

    async def dial(self, context: Context, handle: str | None) -> Line:
        """A new line, ready to use, in bounded time; with a handle the conversation goes on. Raises LineLost."""
        ...


FIRST_WAIT_S: Final = 0.5
LAST_WAIT_S: Final = 4.0
PROVEN_S: Final = 60.0  # a line that lasted so long was good, whatever happened on it


class Redial:
    """How soon and how often a line is dialled again: at once, then after 0.5 to 4 s, and not for ever.

    What counts is dials since a line has last proved good, by a turn that was finished on it: a server that takes
    every connection and drops it again costs no more attempts than one that takes none.
    """

    def __init__(
        self,
        *,
        attempts_max: int = 6,
        first_wait_s: float = FIRST_WAIT_S,
        last_wait_s: float = LAST_WAIT_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.attempts_max = attempts_max
        self.attempts = 0
        self._first_wait_s = first_wait_s
        self._last_wait_s = last_wait_s
        self._chance = chance

    def next_wait_s(self) -> float | None:
        """How long to wait before the next dial, which is counted; None where there may be none."""
        if self.attempts >= self.attempts_max:
            return None
        doubled = self._first_wait_s * 2.0 ** (self.attempts - 1)
        wait_s = 0.0 if self.attempts == 0 else min(doubled, self._last_wait_s)
        self.attempts += 1
        return wait_s * (0.75 + 0.5 * self._chance())  # so that not all come back at once

    def proved_good(self) -> None:
        """The line works."""
        self.attempts = 0
