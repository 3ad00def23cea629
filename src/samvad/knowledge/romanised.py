"""Hindi in Latin letters: one key for how a word sounds, from either script.

«ghar loan byaj dar» means घर, लोन, ब्याज, दर. Nobody spells alike: long vowels are written once or twice, v or w,
ph or f, z or j. The key keeps the consonants, folded, and the vowels i, u, e, o; every `a` is left out, as it is
the inherent vowel that is written, left out and doubled as people like.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from samvad.knowledge.words import KEPT_WORDS, normalise

_LETTERS: Final = "कखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहळ"
_SOUNDS: Final = "k kh g gh n c c j j n t th d dh n t th d dh n p f b bh m y r l v s s s h l"
_CONSONANTS: Final = dict(zip(_LETTERS, _SOUNDS.split(), strict=True))
_VOWELS: Final = {
    "अ": "", "आ": "", "इ": "i", "ई": "i", "उ": "u", "ऊ": "u", "ऋ": "ri", "ए": "e", "ऐ": "e", "ऍ": "e", "ओ": "o",
    "औ": "o", "ऑ": "o", "ा": "", "ि": "i", "ी": "i", "ु": "u", "ू": "u", "ृ": "ri", "े": "e", "ै": "e", "ॅ": "e",
    "ो": "o", "ौ": "o", "ॉ": "o", "्": "", "ं": "n", "ः": "",
}  # fmt: skip
# In this order: what people write for the same sound.
_FOLDS: Final = (
    (re.compile(r"a+i$"), "i"),
    (re.compile(r"gny|jny|gya|dny"), "gy"),
    (re.compile(r"ksh|x|ks"), "ks"),
    (re.compile(r"chh|ch"), "c"),
    (re.compile(r"c(?=[^h]|$)"), "c"),
    (re.compile(r"sh"), "s"),
    (re.compile(r"ph"), "f"),
    (re.compile(r"w"), "v"),
    (re.compile(r"q"), "k"),
    (re.compile(r"z|jh"), "j"),
    (re.compile(r"ee|ii|ie|y$"), "i"),
    (re.compile(r"oo|uu|ou"), "u"),
    (re.compile(r"ai|ay(?=[^aeiou]|$)"), "e"),
    (re.compile(r"au|aw"), "o"),
    (re.compile(r"a"), ""),
    (re.compile(r"(?<=[kgtdb])h"), "h"),
    (re.compile(r"m(?=[pb])"), "n"),
    (re.compile(r"(.)\1+"), r"\1"),
)
# Endings of number, case and gender, in keys: किताबें and kitabein are heard as kitab.
_ENDING = re.compile(r"(?<=...)(?:yon|yen|yn|[eiou]n?)$")
_COMMONEST: Final = """
ka ki ke ko kya hai hain kaise kaisa kab kahan kahaan kitna kitni kitne mein main me se aur ya par kaun kyon kyun kyu
nahi nahin karna karne kare karen hota hoti hote hoga chahiye liye wala wale wali mera meri mere apna apni apne kis
kise kisko konsa kaunsa kaunsi tha thi the hun hoon ho raha rahi sakta sakte sakti milega milta milti lagta lagte
batao bataiye jankari
"""
_FUNCTION_WORDS: Final = frozenset(_COMMONEST.split())
_AMBIGUOUS: Final = frozenset({"me", "main", "par", "the", "ho", "hun"})
_DEVANAGARI = re.compile(r"[\u0900-\u097f]")
KEY_MARK: Final = "\u0298"  # a letter that no text uses: keys and words never meet


@functools.lru_cache(maxsize=KEPT_WORDS)
def sound_key(word: str) -> str:
    """How a Hindi word sounds, whichever script it is written in; empty where the key would say too little."""
    text = normalise(word)
    if _DEVANAGARI.search(text):
        latin = _latin(text)
    elif text.isascii() and text.isalpha():
        latin = text
        for pattern, replacement in _FOLDS:
            latin = pattern.sub(replacement, latin)
    else:
        return ""
    latin = _ENDING.sub("", latin)
    return KEY_MARK + latin if len(latin) > 1 else ""


def _latin(text: str) -> str:
    text = text.replace("ज्ञ", "ग्य")
    parts = []
    for c in text:
        if c in _CONSONANTS:
            parts.append(_CONSONANTS[c])
        elif c in _VOWELS:
            parts.append(_VOWELS[c])
    latin = "".join(parts)
    return re.sub(r"(.)\1+", r"\1", re.sub(r"y$", "i", latin.replace("iy", "iy")))


def is_function_word(word: str) -> bool:
    """Whether a Latin word is one of romanised Hindi's commonest (`kaise`, `kitna`), which say nothing of a topic."""
    return word.lower() in _FUNCTION_WORDS


def looks_romanised(words: list[str]) -> bool:
    """Whether a query in Latin letters is Hindi: one of its words is among the commonest of romanised Hindi."""
    return any(word in _FUNCTION_WORDS and word not in _AMBIGUOUS for word in (w.lower() for w in words))
