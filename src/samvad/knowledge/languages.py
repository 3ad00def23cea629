"""Which language a text is in, as far as its script tells."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

_SCRIPTS: Final = {
    0x09: ("hi", "bn"),  # Devanagari, Bengali
    0x0A: ("pa", "gu"),
    0x0B: ("or", "ta"),
    0x0C: ("te", "kn"),
    0x0D: ("ml", "si"),
    0x04: ("ru", "ru"),
    0x06: ("ur", "ur"),
    0x0E: ("th", "lo"),
}
_SAMPLE_CHARS: Final = 20_000
_LETTERS = re.compile(r"[^\W\d_]")


def language_of(text: str) -> str | None:
    """The language that a text's script suggests: `hi` for Devanagari, `en` for Latin; None where nothing does."""
    counts: Counter[str] = Counter()
    for c in _LETTERS.findall(text[:_SAMPLE_CHARS]):
        point = ord(c)
        if point < 0x250:
            counts["en"] += 1
        elif known := _SCRIPTS.get(point >> 8):
            counts[known[(point >> 7) & 1]] += 1
    if not counts:
        return None
    # Texts in an Indian script quote Latin names freely; the other way about is rare.
    best, _ = max(counts.items(), key=lambda each: each[1] * (1 if each[0] == "en" else 2))
    return best
