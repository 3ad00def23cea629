"""What the user means by what they say while the assistant speaks, as the turn loop needs it."""

from __future__ import annotations

import array
import sys
from typing import NamedTuple

from samvad import limits
from samvad.interruptions.classifier import classify
from samvad.interruptions.rules import NOT_INTERRUPTING
from samvad.types import InterruptionType


class Verdict(NamedTuple):
    """What an utterance is: does it stop the assistant, ask it to go on, or ask it to be silent?"""

    type: InterruptionType
    interrupts: bool
    resumes: bool = False
    stops: bool = False


def judge(utterance: str, *, language: str | None, after_question: bool, resumable: bool = True) -> Verdict:
    """What an utterance means that was said over the assistant; see `classify` for the rules."""
    meant = classify(utterance, language, after_question=after_question, resumable=resumable)
    if meant == "RESUME":
        return Verdict("BACKCHANNEL", interrupts=False, resumes=True)
    return Verdict(meant, interrupts=meant not in NOT_INTERRUPTING, stops=meant == "CUT_OFF")


def is_audible(data: bytes) -> bool:
    """Whether a piece of speech (PCM16 LE) is ever louder than silence."""
    samples = array.array("h", data)
    if sys.byteorder == "big":
        samples.byteswap()
    return max(samples) > limits.LIVE_SILENCE_SAMPLE_MAX or min(samples) < -limits.LIVE_SILENCE_SAMPLE_MAX
