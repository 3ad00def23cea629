"""The open connection of a conversation, as the turn loop sees it: frames go out, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from samvad.live.frames import ServerFrame, encode
from samvad.live.outbox import Delivered, Outbox


class Line:
    """One connection. `own` are the messages that the conversation itself tells of, by id.

    Who follows the user's log for this connection leaves them out, and waits until each was told, so that all that
    carries a `seq` goes out in the order of `seq`.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.own: dict[str, asyncio.Future[None]] = {}
        self.end: Callable[[str], None] = lambda reason: None  # close the connection, and say why

    def send(self, frame: ServerFrame) -> None:
        """Send a frame after all that waits."""
        self.outbox.put(encode(frame))

    def send_piece(self, turn_id: str, text: str, turn: Delivered, chars: int) -> None:
        """Send a piece of an answer's text, which takes it to so many characters."""
        self.outbox.put_text(turn_id, text, turn, chars)

    def send_audio(self, data: bytes, turn: Delivered, ms: float) -> None:
        """Send a piece of an answer's audio, which takes it to so many milliseconds."""
        self.outbox.put(data, audio=True, for_whom=turn, ms=ms)

    def claim(self, *message_ids: str) -> None:
        """The conversation will tell of these messages itself."""
        for message_id in message_ids:
            if message_id not in self.own:
                self.own[message_id] = asyncio.get_running_loop().create_future()

    def told(self, *message_ids: str) -> None:
        """It has (or never will)."""
        for message_id in message_ids:
            future = self.own.get(message_id)
            if future is not None and not future.done():
                future.set_result(None)

    def forget(self) -> None:
        """The connection is gone: nobody waits any more."""
        self.told(*self.own)
        self.own.clear()
