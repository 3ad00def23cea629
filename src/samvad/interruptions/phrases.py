"""What an assistant says, per language: data files in `languages/`, one a language, read when first needed.

Each file is TOML, named by its language tag in lower case. The table `resume` holds the phrases with which an
assistant goes on after an interruption; other tables may stand beside it.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Final
from zlib import crc32

import msgspec

from samvad.interruptions.rules import LANGUAGE_CHARS_MAX, TOPIC_CHARS_MAX
from samvad.interruptions.snippet import quotable_start

DEFAULT_LANGUAGE: Final = "en"
TOPIC_PLACE: Final = "{topic}"

FOLDER: Final = resources.files("samvad.interruptions") / "languages"


class ResumePhrases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ways to go on in one language; those `with_topic` contain `{topic}` once."""

    with_topic: tuple[str, ...]
    without_topic: tuple[str, ...]


@cache
def languages() -> frozenset[str]:
    """The languages that there are phrases for."""
    return frozenset(
        file.name.removesuffix(".toml") for file in FOLDER.iterdir() if file.name.endswith(".toml")
    )


def best_language(tag: str | None) -> str:
    """The language to use for a tag (BCP 47): `hi-IN` and `hi_IN` give `hi`, an unknown one `en`.

    Subtags are dropped from the end until a language is found (RFC 4647, section 3.4, Lookup).
    """
    subtags = (tag or "")[:LANGUAGE_CHARS_MAX].strip().lower().replace("_", "-").split("-")
    while subtags:
        candidate = "-".join(subtags)
        if candidate in languages():
            return candidate
        subtags.pop()
    return DEFAULT_LANGUAGE


@cache
def resume_phrases(language: str) -> ResumePhrases:
    """The phrases of one of `languages()`; reads a small file of the package once per language."""
    tables = tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    return msgspec.convert(tables["resume"], ResumePhrases)


def resume_phrase(language: str | None, topic: str | None = None, *, variant: int | None = None) -> str:
    """How to go on after an interruption, in the language of a tag, with the topic where there is one.

    The rest of the answer is meant to follow after a space. The `variant` (any whole number) picks one of the
    phrases in turn; without it the topic does, so that the same call gives the same phrase.
    """
    phrases = resume_phrases(best_language(language))
    name = quotable_start(topic or "", TOPIC_CHARS_MAX)
    choices = phrases.with_topic if name else phrases.without_topic
    if variant is None:
        variant = crc32(name.encode())
    return choices[variant % len(choices)].replace(TOPIC_PLACE, name)
