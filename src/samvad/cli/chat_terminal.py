"""What `samvad chat` shows and reads: a person's terminal, or a pipe."""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
import threading
from typing import Final

PROMPT: Final = "› "
_DIM, _BOLD, _PLAIN, _CLEAR_LINE = "\x1b[2m", "\x1b[1m", "\x1b[0m", "\r\x1b[K"


class Terminal:
    """Lines in, words out.

    A person sees a prompt, and notes beside the answers; into a pipe go the answers alone, a line each, and notes go
    to standard error.
    """

    def __init__(self, *, interactive: bool) -> None:
        self.interactive = interactive
        self._colours = interactive and not os.environ.get("NO_COLOR")
        self._in_answer = False
        self._prompted = False

    def lines(self) -> asyncio.Queue[str | None]:
        """The lines of standard input as they come, None at its end. Read by a thread that ends with the process."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(line: str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, line)

        def read() -> None:
            # By the descriptor: a thread that waits in sys.stdin would hold its lock when the process ends.
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            rest = ""
            while data := os.read(0, 65536):
                *whole, rest = (rest + decoder.decode(data)).split("\n")
                for line in whole:
                    put(line)
            if rest:
                put(rest)
            put(None)

        threading.Thread(target=read, daemon=True, name="samvad-chat-input").start()
        return queue

    def prompt(self) -> None:
        """It is the user's turn."""
        if self.interactive and not self._prompted:
            self._write(f"{self._style(_BOLD)}{PROMPT}{self._style(_PLAIN)}")
            self._prompted = True

    def entered(self) -> None:
        """The user has entered a line: the terminal has shown it, and the cursor is below it."""
        self._prompted = False

    def say(self, text: str) -> None:
        """A piece of the answer."""
        if not self._in_answer:
            self._clear()
            self._in_answer = True
        self._write(_printable(text))

    def end_answer(self) -> None:
        """The answer is over."""
        if self._in_answer:
            self._write("\n")
            self._in_answer = False

    def note(self, text: str) -> None:
        """Something about the conversation that is no part of it."""
        self.end_answer()
        if self.interactive:
            self._clear()
            self._write(f"{self._style(_DIM)}{_printable(text)}{self._style(_PLAIN)}\n")
        else:
            print(_printable(text), file=sys.stderr, flush=True)

    def message(self, who: str, text: str) -> None:
        """A whole message: of the history, or from another device."""
        self.end_answer()
        self._clear()
        self._write(f"{self._style(_BOLD)}{who}:{self._style(_PLAIN)} {_printable(text)}\n")

    def _clear(self) -> None:
        if self._prompted:
            self._write(_CLEAR_LINE)
            self._prompted = False

    def _style(self, code: str) -> str:
        return code if self._colours else ""

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _printable(text: str) -> str:
    """A text without control characters: what a model says must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0))
