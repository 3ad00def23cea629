"""What kind of thing a question asks for, and whether a sentence holds one: by question words and by form."""

from __future__ import annotations

import re
from typing import Final, Literal

from samvad.knowledge.words import normalise, plain_words

Kind = Literal["number", "time", "person", "place", "other"]

_NUMBER: Final = re.compile(
    r"\bhow (?:many|much|long|far|old|tall|large|big|high|often|fast)\b"
    r"|\bwhat (?:percent|percentage|number|amount|rate)\b"
    r"|कितन[ेीाो]|कितनों|प्रतिशत|kitn[aei]\b"
)
_TIME: Final = re.compile(
    r"\bwhen\b|\b(?:what|which) (?:year|date|day|month|century|decade|time)\b|\bin what year\b"
    r"|(?:^|\s)कब(?:\s|$|\?)|किस (?:वर्ष|साल|सन|तारीख|दिन|महीने|शताब्दी|दशक)|कौन से (?:वर्ष|साल)|\bkab\b"
)
_PERSON: Final = re.compile(
    r"\bwho(?:m|se)?\b|\bkisne\b|\bkaun\b"
    r"|(?:^|\s)(?:किसने|किन्होंने|किसके द्वारा|कौन था|कौन थे|कौन थी|कौन है)|\bkisne\b|\bkaun\b"
)
_PLACE: Final = re.compile(
    r"\bwhere\b|\b(?:what|which) (?:city|country|place|state|river|continent|town)\b|कहां|कहाँ"
    r"|किस (?:देश|शहर|स्थान|जगह|राज्य|नदी|क्षेत्र)|\bkahan\b"
)
_DIGITS: Final = re.compile(r"\d")
_YEAR: Final = re.compile(r"(?<!\d)1\d{3}(?!\d)|(?<!\d)20\d{2}(?!\d)")
_CAPITAL: Final = re.compile(r"[^\W\d_a-z][\w’'.-]+")
_WRITTEN: Final = """
one two three four five six seven eight nine ten eleven twelve dozen twenty thirty forty fifty hundred thousand million
billion half third quarter first second twice एक दो तीन चार पांच पाँच छह सात आठ नौ दस बारह बीस तीस पचास सौ हजार हज़ार लाख
करोड मिलियन बिलियन आधा आधे तिहाई पहला पहली पहले दूसरा दूसरी दोनों
"""
_NUMBER_WORDS: Final = frozenset(normalise(word) for word in _WRITTEN.split())
_SPOKEN: Final = """
january february march april may june july august september october november december century centuries year years
decade monday tuesday wednesday thursday friday saturday sunday spring summer autumn winter
जनवरी फरवरी मार्च अप्रैल मई जून जुलाई अगस्त सितंबर अक्टूबर नवंबर दिसंबर वर्ष साल सदी शताब्दी दशक
"""
_TIME_WORDS: Final = frozenset(normalise(word) for word in _SPOKEN.split())


def kind_of(question: str) -> Kind:
    """What a question asks for."""
    text = question.lower()
    if _TIME.search(text):
        return "time"
    if _NUMBER.search(text):
        return "number"
    if _PLACE.search(text):
        return "place"
    if _PERSON.search(text):
        return "person"
    return "other"


def holds(kind: Kind, sentence: str, asked: frozenset[str]) -> float:
    """Whether a sentence holds something of this kind that the question does not name: 0, or up to 1."""
    if kind == "other":
        return 0.5
    words = [word for word in plain_words(sentence) if word not in asked]
    if kind == "number":
        if any(_DIGITS.search(word) for word in words):
            return 1.0
        return 0.8 if not _NUMBER_WORDS.isdisjoint(words) else 0.0
    if kind == "time":
        if any(_YEAR.search(word) for word in words):
            return 1.0
        return 0.7 if not _TIME_WORDS.isdisjoint(words) or any(_DIGITS.search(w) for w in words) else 0.0
    if not any("a" <= c <= "z" for c in sentence):
        return 0.5  # a script without capitals tells nothing
    names = [name for name in _CAPITAL.findall(sentence)[1:] if normalise(name) not in asked]
    return 1.0 if names else 0.2
