"""Where the assistant was cut off: the last interruptions of each session, in memory; what the user meant by it."""

from __future__ import annotations

from samvad.interruptions.classifier import UtteranceType, asks, classify
from samvad.interruptions.manager import InterruptionContextManager
from samvad.interruptions.patterns import InterruptionPatterns
from samvad.interruptions.phrases import languages, resume_phrase
from samvad.interruptions.rules import HEARD_SOURCES, INTERRUPTION_TYPES

__all__ = [
    "HEARD_SOURCES",
    "INTERRUPTION_TYPES",
    "InterruptionContextManager",
    "InterruptionPatterns",
    "UtteranceType",
    "asks",
    "classify",
    "languages",
    "resume_phrase",
]
