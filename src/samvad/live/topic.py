"""What the user is asking about, and what for: the topic and the intent of a turn, by plain rules.

A provider that knows better says so (`topic` and `intent` in the metadata of its turn).
"""

from __future__ import annotations

import re
from typing import Final

TOPIC_CHARS_MAX: Final = 80
_WORDS_MAX: Final = 6
_WORD: Final = re.compile(r"[^\s.,;:!?।॥؟\"“”«»()\[\]{}…]+")
_SENTENCE_END: Final = re.compile(r"[.!?।॥؟]+\s*")

_LITTLE_WORDS_TEXT: Final = """
a about an and any are as at be been but by can could did do does explain for from get give go had
has have how i if in is it its just know let like list make may me mean my need of ok okay on one or
our please say should show so some talk tell than thank thanks that the their them then there these
they this those to too us use want was we what when where which who why will with would yes no you
your hello hi hey more much many actually again also mujhe mera meri mere kya kaise kab kahan kaun
kitna kitni kitne kyon kyun hai hain ho tha thi the ka ki ke ko se mein par ne aur ya yeh woh wo ye
bataiye batao batayein chahiye liye bare baare karna kare karein hota hoti hote namaste haan nahi
nahin ji मुझे मेरा मेरी मेरे क्या कैसे कब कहाँ कहां कौन कौनसा कौनसे कितना कितनी कितने क्यों है हैं
हो था थी थे का की के को से में पर ने और या यह वह ये वे बताइए बताइये बताओ बताएं बताएँ चाहिए लिए बारे
करना करें करे करता करते होता होती होते नमस्ते हाँ हां नहीं जी कि तो भी एक मैं हम आप सकता सकते सकती
कृपया समझाइए समझाओ दीजिए दो
"""
LITTLE_WORDS: Final = frozenset(_LITTLE_WORDS_TEXT.split())
_ABOUT: Final = re.compile(r"\b(?:about|regarding|concerning|for|on|of)\s+", re.IGNORECASE)
_ABOUT_BEFORE: Final = re.compile(
    r"\s+(?:के\s+बारे\s+में|के\s+लिए|ke\s+(?:baa?re\s+mein?|liye))(?=\s|$)", re.IGNORECASE
)
_ASKS: Final = re.compile(
    r"[?？؟]|^(?:what|when|where|which|who|whom|whose|why|how|is|are|can|could|do|does|did|will|would|should|may)\b"
    r"|(?:^|\s)(?:क्या|कैसे|कब|कहाँ|कहां|कौन\S*|कितन\S+|क्यों|kya|kaise|kab|kahan|kaun|kitn\S+|kyo?u?n)(?:\s|$)",
    re.IGNORECASE,
)
_REQUESTS: Final = re.compile(
    r"^(?:please|tell|show|give|explain|list|describe|help)\b|(?:बताइए|बताइये|बताओ|बताएं|बताएँ|दीजिए|समझाइए|समझाओ|bataiye|batao)",
    re.IGNORECASE,
)


def topic_of(text: str) -> str | None:
    """A few words of what was said that tell what it is about; None where it is about nothing (a greeting)."""
    sentences = [part for part in _SENTENCE_END.split(text.strip()) if part.strip()]
    for sentence in reversed(sentences):
        runs = _runs(sentence)
        if not runs:
            continue
        before = _ABOUT_BEFORE.search(sentence)
        if before is not None and (near := _runs(sentence[: before.start()])):
            return _cut(near[-1])
        places = [match.end() for match in _ABOUT.finditer(sentence)]
        for place in reversed(places):
            if near := _runs(sentence[place:]):
                return _cut(near[0])
        return _cut(max(runs, key=len))
    return None


def intent_of(text: str) -> str:
    """`question`, `request` or `statement`."""
    stripped = text.strip()
    if _ASKS.search(stripped):
        return "question"
    return "request" if _REQUESTS.search(stripped) else "statement"


def _runs(text: str) -> list[list[str]]:
    """The runs of words between the little ones, in order."""
    runs: list[list[str]] = [[]]
    for match in _WORD.finditer(text):
        word = match.group()
        if word.casefold().strip("'’-") in LITTLE_WORDS:
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def _cut(words: list[str]) -> str:
    return " ".join(words[:_WORDS_MAX])[:TOPIC_CHARS_MAX]
