"""Embedders: what turns texts into vectors, and how it is asked without anybody waiting for it.

There is none by default. One is asked only about languages that it says it knows: an embedder of English alone, asked
about Hindi, finds the wrong passages with confidence.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from array import array
from collections.abc import Sequence
from typing import Final, Protocol

from samvad import limits
from samvad.knowledge.languages import language_of
from samvad.knowledge.records import QueryVector
from samvad.knowledge.romanised import looks_romanised
from samvad.knowledge.words import plain_words

_log = logging.getLogger(__name__)
_REST_S: Final = 10.0  # after a failure nobody asks again for so long, and twice as long each time
_REST_S_MAX: Final = 300.0


class Embedder(Protocol):
    """Texts to vectors. All methods are called from one event loop; they may raise anything when the service fails.

    `space` names the model and all that a vector depends on (dimensions, task, prefix): vectors of two spaces are never
    compared. `languages` are the languages it knows, as BCP 47 primary tags; None where it knows all of them.
    """

    space: str
    languages: frozenset[str] | None

    async def embed_documents(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector for each of at most 64 passages; all of one length."""
        ...

    async def embed_query(self, text: str) -> Sequence[float]:
        """The vector of what is asked."""
        ...

    async def close(self) -> None:
        """Let connections go. Twice is fine."""
        ...


def knows(embedder: Embedder, language: str | None) -> bool:
    """Whether an embedder may be asked about a text in this language (None: nobody knows which)."""
    if embedder.languages is None:
        return True
    return language is not None and language.partition("-")[0].lower() in embedder.languages


def language_of_query(text: str) -> str | None:
    """The language of what is asked; Hindi in Latin letters is Hindi."""
    return "hi" if looks_romanised(plain_words(text)) else language_of(text)


def packed(vector: Sequence[float]) -> bytes:
    """A vector as 32-bit floats, little-endian."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


class Asker:
    """Asks an embedder about queries within a bound of time, and lets it rest after it has failed."""

    def __init__(self, embedder: Embedder, seconds_max: float = limits.EMBED_QUERY_S_MAX) -> None:
        self.embedder = embedder
        self._seconds_max = seconds_max
        self._rest_s = _REST_S
        self._asks_again_s = 0.0
        self.failures = 0

    async def ask(self, text: str) -> QueryVector | None:
        """Where a query stands; None where the embedder does not know the language, fails, is late or rests."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._asks_again_s or not knows(self.embedder, language_of_query(text)):
            return None
        try:
            async with asyncio.timeout(self._seconds_max):
                data = packed(await self.embedder.embed_query(text))
        except Exception as error:  # the top of the vendor's code: whatever it raises, words alone must do
            self.failures += 1
            self._asks_again_s = loop.time() + self._rest_s
            _log.warning(
                "the embedder does not answer (%s): searching by words alone for %g s",
                type(error).__name__,
                self._rest_s,
            )
            self._rest_s = min(2 * self._rest_s, _REST_S_MAX)
            return None
        self._rest_s = _REST_S
        return QueryVector(self.embedder.space, data)


__all__ = ["Asker", "Embedder", "knows", "language_of_query", "packed"]
