"""What the system itself says in a live conversation, per language: the table `live` of the languages' files."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

import msgspec

from samvad.interruptions.phrases import best_language
from samvad.interruptions.rules import TOPIC_CHARS_MAX
from samvad.interruptions.snippet import quotable_start


class LivePhrases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One language's phrases; `{topic}`, `{topics}`, `{seconds}` and `{title}` are filled in."""

    welcome: str
    inactive: str
    duration: str
    not_kept: str
    unknown: str
    no_documents: str
    hello: str
    thanks: str
    goodbye: str
    help: str
    tool_failed: str
    source: str


@cache
def _phrases(language: str) -> LivePhrases:
    file = resources.files("samvad.interruptions") / "languages" / f"{language}.toml"
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return msgspec.convert(tables["live"], LivePhrases)


def phrases(language: str | None) -> LivePhrases:
    """The phrases of the language of a tag (BCP 47), English if it is not known."""
    return _phrases(best_language(language))


def welcome(language: str | None, topic: str) -> str:
    """The greeting of somebody who comes back, with what they were asking about."""
    return phrases(language).welcome.replace("{topic}", quotable_start(topic, TOPIC_CHARS_MAX))


def with_seconds(phrase: str, seconds: int) -> str:
    """A phrase with the number of seconds in it."""
    return phrase.replace("{seconds}", str(seconds))
