"""What waits to be sent on one connection: in order, bounded in bytes, with a note of what got through."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from samvad import limits
from samvad.live.frames import TextChunk, encode


class Delivered(Protocol):
    """Who wants to know that a piece of an answer went out."""

    def delivered(self, chars: int, audio_ms: float) -> None:
        """All up to so many characters, and so many milliseconds of audio, has been handed to the network."""
        ...


class Wire(Protocol):
    """The connection itself."""

    def write(self, data: bytes, audio: bool) -> bool:
        """Hand a frame to the network at once; False where it takes nothing just now, or only by the other two."""
        ...

    async def send_text(self, data: bytes) -> None:
        """Send one text frame (UTF-8); returns once the network has taken it."""
        ...

    async def send_audio(self, data: bytes) -> None:
        """Send one binary frame."""
        ...


class _Waiting:
    __slots__ = ("audio", "chars", "data", "for_whom", "ms", "pieces", "turn_id")

    def __init__(
        self, data: bytes, audio: bool, for_whom: Delivered | None = None, chars: int = 0, ms: float = 0.0
    ) -> None:
        self.data = data
        self.audio = audio
        self.for_whom = for_whom
        self.chars = chars
        self.ms = ms
        self.turn_id = ""
        self.pieces: list[str] = []

    @property
    def size(self) -> int:
        """About the bytes that it takes."""
        return len(self.data) + sum([_PIECE_BYTES + _BYTES_PER_CHAR * len(piece) for piece in self.pieces])


_PIECE_BYTES: Final = 64  # of memory that an empty text takes
_BYTES_PER_CHAR: Final = 2  # of Indian scripts, in memory


class Outbox:
    """Frames on their way to one client. `overflowed` is set where the client reads too slowly: it is cut off.

    Pieces of an answer's text that wait behind one another go out as one frame: the slower the reader, or the busier
    the server, the less a piece costs.
    """

    def __init__(self, bytes_max: int = limits.LIVE_OUTBOX_BYTES_MAX) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._bytes_max = bytes_max
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._closing = False
        self._idle_wire: Wire | None = None  # the connection, while nothing waits for it
        self.bytes_waiting = 0
        self.bytes_dropped = 0  # by the overflow
        self.overflowed = False
        self.on_overflow: Callable[[], Any] = lambda: None

    def put(
        self,
        data: bytes,
        *,
        audio: bool = False,
        for_whom: Delivered | None = None,
        ms: float = 0.0,
    ) -> None:
        """Send this after all that waits. What comes after an overflow or a close is dropped."""
        if self._closing or self.overflowed:
            return
        if self._went_out(data, audio):
            if for_whom is not None:
                for_whom.delivered(0, ms)
            return
        self._waiting.append(_Waiting(data, audio, for_whom, 0, ms))
        self._added(len(data))

    def put_text(self, turn_id: str, text: str, for_whom: Delivered, chars: int) -> None:
        """Send a piece of an answer's text, which takes it to so many characters, after all that waits."""
        if self._closing or self.overflowed:
            return
        if self._idle_wire is not None and self._went_out(
            encode(TextChunk(turn_id=turn_id, text=text)), False
        ):
            for_whom.delivered(chars, 0.0)
            return
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.for_whom is not for_whom or last.turn_id != turn_id:
            last = _Waiting(b"", False, for_whom)
            last.turn_id = turn_id
            self._waiting.append(last)
        last.pieces.append(text)
        last.chars = chars
        self._added(_PIECE_BYTES + _BYTES_PER_CHAR * len(text))

    def _went_out(self, data: bytes, audio: bool) -> bool:
        """Whether the network took it at once, without waking the task that waits for it."""
        wire = self._idle_wire
        return wire is not None and not self._waiting and wire.write(data, audio)

    def _added(self, size: int) -> None:
        self.bytes_waiting += size
        if self.bytes_waiting > self._bytes_max:
            self.overflowed = True
            self.bytes_dropped = self.bytes_waiting
            self._waiting.clear()
            self.bytes_waiting = 0
            self._sent.set()
            self.on_overflow()
        self._wake.set()

    def drop_answer(self, for_whom: Delivered) -> None:
        """Take back what waits of an answer that was interrupted: nobody is to hear it any more."""
        kept = deque([each for each in self._waiting if each.for_whom is not for_whom])
        self._waiting = kept
        self.bytes_waiting = sum([each.size for each in kept])

    async def room(self) -> None:
        """Wait until there is room for what can wait: messages that are read from the history."""
        while self.bytes_waiting > self._bytes_max // 4 and not (self._closing or self.overflowed):
            self._sent.clear()
            await self._sent.wait()

    def close(self) -> None:
        """Nothing more is to come; `run` ends when all is sent."""
        self._closing = True
        self._wake.set()
        self._sent.set()

    async def run(self, wire: Wire) -> None:
        """Send what comes, until closed or overflowed."""
        while not self.overflowed:
            while self._waiting:
                each = self._waiting.popleft()
                self.bytes_waiting -= each.size
                if each.audio:
                    await wire.send_audio(each.data)
                elif each.pieces:
                    text = each.pieces[0] if len(each.pieces) == 1 else "".join(each.pieces)
                    await wire.send_text(encode(TextChunk(turn_id=each.turn_id, text=text)))
                else:
                    await wire.send_text(each.data)
                self._sent.set()
                if each.for_whom is not None:
                    each.for_whom.delivered(each.chars, each.ms)
            if self._closing:
                return
            self._wake.clear()
            self._idle_wire = wire
            try:
                await self._wake.wait()
            finally:
                self._idle_wire = None
