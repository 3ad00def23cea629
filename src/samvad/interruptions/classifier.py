"""What a user meant by speaking while the assistant spoke: pure rules over word lists.

The rules, in this order; the first that fits decides:

1. nothing but sounds is NOISE;
2. "go on" is RESUME, where something can be resumed; else it encourages: BACKCHANNEL;
3. a word of danger or haste makes it URGENT;
4. "stop", "wait", "that's enough", and nothing else of weight, is CUT_OFF;
5. at most three words of assent are BACKCHANNEL, unless the assistant had asked: then they answer it;
6. "I meant", "that's wrong", "not X, Y" is CORRECTION, a question is CLARIFICATION, a "no" at the start CORRECTION
   again (an answer, where the assistant had asked);
7. whatever else is said is BARGE_IN, an answer to a question too.

People mix languages, so English is always understood, and Hindi in Latin letters wherever Latin letters are used.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from samvad.interruptions.lexicon import TEXT_CHARS_MAX, Lexicon, folded, lexicon
from samvad.interruptions.phrases import best_language
from samvad.types import InterruptionType

UtteranceType = InterruptionType | Literal["RESUME"]

BACKCHANNELS_MAX: Final = 3
CONTRAST_WORDS_MAX: Final = 2
STOP_WORDS_MAX: Final = 10  # in a longer utterance "stop it" is no order to the assistant

_ANNOTATION: Final = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>|\*[^*]*\*|♪[^♪]*♪?")
_QUESTION_MARKS: Final = ("?", "？", "؟")
_CLAUSES: Final = re.compile(r"[,;:—–।]|\s-\s")

# The languages of each script by the first code point of its Unicode block; blocks are of 128.
_SCRIPTS: Final = {
    0x0900: ("hi", "mr"),
    0x0980: ("bn",),
    0x0A00: ("pa",),
    0x0A80: ("gu",),
    0x0B80: ("ta",),
    0x0C00: ("te",),
    0x0C80: ("kn",),
    0x0D00: ("ml",),
}


def classify(
    utterance: str,
    language: str | None = None,
    *,
    after_question: bool = False,
    resumable: bool = False,
) -> UtteranceType:
    """What was meant by an utterance (a transcript) that was spoken while the assistant spoke.

    `language` is the conversation's (a BCP 47 tag; None or `auto` goes by the script). `after_question`: the
    assistant had just asked something (see `asks`). `resumable`: an earlier answer can be resumed.

    RESUME asks for that; BACKCHANNEL and NOISE do not interrupt; all others do.
    """
    if len(utterance) > TEXT_CHARS_MAX:
        utterance = utterance[:TEXT_CHARS_MAX].rsplit(None, 1)[0]
    spoken = _ANNOTATION.sub(" ", utterance)
    text = folded(spoken)
    words = lexicon(_languages(text, language))
    if not text or words.noise.fill(text):
        return "NOISE"
    asked = any(mark in spoken for mark in _QUESTION_MARKS)
    if words.resumes.fill_with(words.resume, text):
        if resumable:
            return "RESUME"
        return "BARGE_IN" if after_question else "BACKCHANNEL"
    if _is_urgent(text, words):
        return "URGENT"
    if _is_stop(text, words, asked=asked):
        return "CUT_OFF"
    if words.backchannels.fill(text) and words.counted.kinds_in(text) <= BACKCHANNELS_MAX:
        if asked:
            return "CLARIFICATION"
        return "BARGE_IN" if after_question and not words.murmurs.fill(text) else "BACKCHANNEL"
    return _with_content(spoken, text, words, after_question=after_question, asked=asked)


def asks(text: str) -> bool:
    """Whether an assistant's words end with a question, so that the next "yes" is its answer."""
    return text.rstrip(" \n\t\"'”’)»").endswith(_QUESTION_MARKS)


def _with_content(
    spoken: str, text: str, words: Lexicon, *, after_question: bool, asked: bool
) -> UtteranceType:
    rest = text[words.lead.starts(text) :]
    if words.correction.found_in(text) or _is_contrast(spoken, text, words):
        return "CORRECTION"
    if asked or any(words.question_start.start(start) for start in (text, rest)):
        return "CLARIFICATION"
    if words.question.found_in(text):
        return "CLARIFICATION"
    if not after_question and any(words.negation.start(start) for start in (text, rest)):
        return "CORRECTION"
    last = text.rsplit(" ", 1)[-1]
    if last.endswith(words.question_endings) and last not in words.not_questions:
        return "CLARIFICATION"
    return "BARGE_IN"


def _is_urgent(text: str, words: Lexicon) -> bool:
    if words.urgent_wholes.fill_with(words.urgent_whole, text):
        return True
    return words.urgent.found_in(text) and not words.calm.found_in(text)


def _is_stop(text: str, words: Lexicon, *, asked: bool) -> bool:
    start = words.asking.starts(text)
    if words.request.found_in(text[:start]) and words.stops.fill_with(words.stop, text[start:]):
        return True  # "could you wait a moment?" is a question by its form alone
    if asked:
        return False
    if words.stops.fill_with(words.stop, text):
        return True
    return text.count(" ") < STOP_WORDS_MAX and words.stop_anywhere.found_in(text)


def _is_contrast(spoken: str, text: str, words: Lexicon) -> bool:
    """As in "home loan nahi, car loan": a clause that ends with "not" before another, or a word on both sides of it."""
    clauses = [clause for clause in map(folded, _CLAUSES.split(spoken)) if clause]
    for clause in clauses[:-1]:
        start, _, last = clause.rpartition(" ")
        if start and words.contrast.fill(last) and not words.negation.fill(start):
            return not words.question.found_in(clause)
    tokens = text.split()
    if _is_bare_contrast(text, words):
        return True
    return any(
        words.contrast.fill(token) and not set(tokens[:at]).isdisjoint(tokens[at + 1 :])
        for at, token in enumerate(tokens)
        if at and tokens[at - 1] != token
    )


def _is_bare_contrast(text: str, words: Lexicon) -> bool:
    """As in "kal nahi parso": a word or two on both sides of a "not", and nobody of whom something is denied."""
    tokens = text[words.around.starts(text) :].split()
    while tokens and words.around.fill(tokens[-1]):
        tokens.pop()
    places = [at for at, token in enumerate(tokens) if words.contrast.fill(token)]
    if len(places) != 1 or words.not_contrasts.found_in(" ".join(tokens)):
        return False
    before, after = places[0], len(tokens) - places[0] - 1
    return 1 <= before <= CONTRAST_WORDS_MAX and 1 <= after <= CONTRAST_WORDS_MAX


def _languages(text: str, language: str | None) -> tuple[str, ...]:
    """The languages whose words may stand in a text: that of the conversation, those of its scripts, English."""
    found = {"en"}
    spoken = best_language(language)
    scripts = {ord(character) & ~0x7F for character in text if ord(character) > 0x7F}
    for script in scripts:
        of_script = _SCRIPTS.get(script, ())
        found.update((spoken,) if spoken in of_script else of_script)
    if not scripts or text[0] < "\x80":
        found.update(("hi", spoken))
    return tuple(sorted(found))
