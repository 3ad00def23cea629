"""Said, heard and unsaid, kept apart.

An assistant speaks faster than it is heard. A `Transcript` records what it said, as words and audio arrive, and
tells at any moment which words the user has heard: from the position of the playback, from the clock, or from what
was delivered. Pure: no clock, no I/O. Times are milliseconds of audio, lengths are characters (code points).
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from samvad.types import HeardSource

# Speech is about this fast in English and Hindi; used only where nothing is known of this speaker yet.
CHARS_PER_MS: Final = 0.015
# A run of this many characters without a place between words is no word: it may be cut between its syllables.
WORD_CHARS_MAX: Final = 40

_ENDS_A_WORD: Final = frozenset("।॥؟。！？、，…")
_JOINERS: Final = frozenset("\u200c\u200d")
_VIRAMAS: Final = frozenset("\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d")


class Heard(NamedTuple):
    """What of an answer was heard: `text`, then `rest`; `progress` is the heard share, 0.0 to 1.0."""

    text: str
    rest: str
    source: HeardSource
    progress: float
    played_ms: int | None


class _Arrival(NamedTuple):
    """A piece of text came when so much audio was there; it takes the answer from `before` to `after` characters."""

    audio_ms: float
    before: int
    after: int


class Transcript:
    """What the assistant says in one turn."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._joined: str | None = ""
        self._arrivals: list[_Arrival] = []
        self.chars = 0
        self.audio_ms = 0.0
        self.finished = False
        self.planned: str | None = None  # the whole answer, where it is known before it is said

    @property
    def text(self) -> str:
        """All words so far."""
        if self._joined is None:
            self._joined = "".join(self._pieces)
            self._pieces = [self._joined]
        return self._joined

    @property
    def full_text(self) -> str:
        """The whole answer as far as it is known: the planned one, where it begins with what was said."""
        said = self.text
        if self.planned is not None and self.planned.startswith(said):
            return self.planned
        return said

    @property
    def spoken(self) -> bool:
        """Whether there is audio."""
        return self.audio_ms > 0

    def add_text(self, text: str) -> None:
        """More words, written or as the transcription of the audio."""
        if not text:
            return
        self._pieces.append(text)
        self._joined = None
        before = self.chars
        self.chars += len(text)
        last = self._arrivals[-1] if self._arrivals else None
        if last is not None and last.audio_ms == self.audio_ms:
            self._arrivals[-1] = _Arrival(self.audio_ms, last.before, self.chars)
        else:
            self._arrivals.append(_Arrival(self.audio_ms, before, self.chars))

    def add_audio(self, ms: float) -> None:
        """More audio, of so many milliseconds."""
        self.audio_ms += ms

    def finish(self) -> None:
        """Everything has been said: the last word and the last sample belong together."""
        self.finished = True

    def heard(
        self,
        *,
        played_ms: float | None = None,
        played_chars: int | None = None,
        elapsed_ms: float | None = None,
        delivered_chars: int | None = None,
        delivered_ms: float | None = None,
    ) -> Heard:
        """What was heard, by the best that is known: the client's report, else the clock, else what was delivered.

        `played_ms` and `played_chars` are the client's; `elapsed_ms` is the time since its playback began. None of
        them can be more than was delivered. The heard text ends at the end of a word.
        """
        most_chars = self.chars if delivered_chars is None else min(delivered_chars, self.chars)
        most_ms = self.audio_ms if delivered_ms is None else min(delivered_ms, self.audio_ms)
        at_ms: float | None = None
        source: HeardSource
        if played_chars is not None:
            chars, source = min(max(played_chars, 0), most_chars), "client"
            at_ms = played_ms
        elif played_ms is not None and self.spoken:
            at_ms, source = min(max(played_ms, 0.0), most_ms), "client"
            chars = self.chars_at(at_ms)
        elif elapsed_ms is not None and self.spoken:
            at_ms, source = min(max(elapsed_ms, 0.0), most_ms), "clock"
            chars = self.chars_at(at_ms)
        else:
            chars, source = most_chars, "delivered"
        return self._split(chars, source, at_ms)

    def everything(self) -> Heard:
        """As if all of it had been heard."""
        return self._split(self.chars, "delivered", self.audio_ms if self.spoken else None)

    def chars_at(self, ms: float) -> int:
        """How many characters have been spoken `ms` milliseconds into the audio."""
        if not self._arrivals:
            return 0
        if self.finished and ms >= self.audio_ms:
            return self.chars
        points = self._points()
        before_ms, before_chars = 0.0, 0.0
        for at_ms, chars in points:
            if at_ms > ms:
                share = (ms - before_ms) / (at_ms - before_ms) if at_ms > before_ms else 1.0
                return int(before_chars + share * (chars - before_chars))
            before_ms, before_chars = at_ms, chars
        rate = before_chars / before_ms if before_ms > 0 and before_chars > 0 else CHARS_PER_MS
        return int(min(before_chars + rate * (ms - before_ms), self.chars))

    def _points(self) -> list[tuple[float, float]]:
        """(milliseconds, characters) pairs through which the speech goes, in order.

        Some providers send the words of a piece of audio after it, some before. The very first piece tells which.
        """
        leads = self._arrivals[0].audio_ms == 0.0
        points = [(a.audio_ms, float(a.before if leads else a.after)) for a in self._arrivals]
        if self.finished:
            while points and points[-1][0] >= self.audio_ms:
                points.pop()
            points.append((self.audio_ms, float(self.chars)))
        return points

    def _split(self, chars: int, source: HeardSource, at_ms: float | None) -> Heard:
        text, full = self.text, self.full_text
        end = word_end(full, min(chars, len(text)))
        if at_ms is not None and self.audio_ms:
            progress = min(at_ms / self.audio_ms, 1.0) if self.finished else end / max(len(full), 1)
        else:
            progress = end / len(full) if full else 0.0
        return Heard(
            full[:end].rstrip(),
            full[end:].strip(),
            source,
            progress,
            None if at_ms is None else round(at_ms),
        )


def word_end(text: str, position: int) -> int:
    """The end of the last whole word before or at `position`; a word that is cut by it does not count.

    The danda ends a word as a space does. A run without any such place, as in scripts that write no spaces, is cut
    between its syllables.
    """
    if position >= len(text):
        return len(text)
    if position <= 0:
        return 0
    at = position
    while at > 0 and position - at <= WORD_CHARS_MAX:
        if _between_words(text[at - 1], text[at]):
            return at
        at -= 1
    return 0 if at == 0 else cluster_start(text, position)


def _between_words(before: str, after: str) -> bool:
    return after.isspace() or before.isspace() or (before in _ENDS_A_WORD and after not in _ENDS_A_WORD)


def cluster_start(text: str, position: int) -> int:
    """The start of the syllable (grapheme cluster, Unicode UAX 29) that `position` lies in; itself between two."""
    at = min(max(position, 0), len(text))
    while 0 < at < len(text):
        here, before = text[at], text[at - 1]
        joined = (
            here in _JOINERS
            or before == "\u200d"
            or before in _VIRAMAS
            or unicodedata.category(here).startswith("M")
        )
        if not joined:
            break
        at -= 1
    return at
