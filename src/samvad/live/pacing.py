"""Text that is known at once, said at a pace at which a reader can follow and interrupt."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

WORD_S: Final = 0.035  # about four times as fast as people read
_WORD: Final = re.compile(r"\S+\s*|\s+")


async def paced(text: str, word_s: float = WORD_S) -> AsyncIterator[str]:
    """The words of a text with the white space behind them, one every `word_s` seconds; the first at once."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    for match in _WORD.finditer(text):
        wait_s = due_s - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        yield match.group()
        due_s += word_s
