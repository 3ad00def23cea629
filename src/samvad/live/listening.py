"""What the user means by what they say while the assistant speaks, and in which language they say it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from samvad.types import InterruptionType

AUTO: Final = "auto"


class Verdict(NamedTuple):
    """What an utterance is: does it stop the assistant, ask it to go on, or ask it to be silent?"""

    type: InterruptionType
    interrupts: bool
    resumes: bool = False
    stops: bool = False


_SCRIPTS: Final = (
    (0x0900, 0x0963, "hi"),
    (0x0966, 0x097F, "hi"),
    (0x0980, 0x09FF, "bn"),
    (0x0A00, 0x0A7F, "pa"),
    (0x0A80, 0x0AFF, "gu"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0C80, 0x0CFF, "kn"),
    (0x0D00, 0x0D7F, "ml"),
)
_RESUMES: Final = re.compile(
    r"^(?:(?:please )?(?:go on|continue|carry on)|aage bolo|jaari rakho|आगे बोलो|आगे बोलिए|जारी रखो|जारी रखिए)$"
)
_STOPS: Final = re.compile(r"^(?:stop|wait|enough|ruko|bas|रुको|रुकिए|बस|एक मिनट)$")
_BACKCHANNELS_TEXT: Final = "ok okay yes yeah hmm mhm right haan achha ji theek hai हाँ हां अच्छा जी हम्म ठीक है"
_BACKCHANNELS: Final = frozenset(_BACKCHANNELS_TEXT.split())


def judge(utterance: str, *, language: str | None, after_question: bool) -> Verdict:
    """What an utterance means that was said over the assistant."""
    plain = re.sub(r"[\s.,!?।…]+", " ", utterance).strip().casefold()
    if _RESUMES.match(plain):
        return Verdict("BACKCHANNEL", interrupts=False, resumes=True)
    if _STOPS.match(plain):
        return Verdict("CUT_OFF", interrupts=True, stops=True)
    words = plain.split()
    if not words:
        return Verdict("NOISE", interrupts=False)
    if len(words) <= 3 and _BACKCHANNELS.issuperset(words) and not after_question:
        return Verdict("BACKCHANNEL", interrupts=False)
    return Verdict("BARGE_IN", interrupts=True)


def language_of(text: str) -> str | None:
    """The language that the script of a text tells; None for Latin letters, which tell nothing."""
    counts: dict[str, int] = {}
    for character in text:
        point = ord(character)
        if point < 0x0900:
            continue
        for first, last, language in _SCRIPTS:
            if first <= point <= last:
                counts[language] = counts.get(language, 0) + 1
                break
    return max(counts, key=counts.__getitem__) if counts else None
