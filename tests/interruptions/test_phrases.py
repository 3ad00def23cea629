"""Phrases per language, as data."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad.interruptions.phrases import best_language, languages, resume_phrase, resume_phrases

SCRIPTS = {
    "en": "LATIN",
    "hi": "DEVANAGARI",
    "ta": "TAMIL",
    "te": "TELUGU",
    "bn": "BENGALI",
    "mr": "DEVANAGARI",
    "gu": "GUJARATI",
    "kn": "KANNADA",
    "ml": "MALAYALAM",
    "pa": "GURMUKHI",
}


def test_every_promised_language_is_there() -> None:
    """English and nine languages of India have phrases, and each file is one that is promised."""
    assert languages() == set(SCRIPTS)


@pytest.mark.parametrize("language", sorted(SCRIPTS))
def test_phrases_are_whole_and_in_their_script(language: str) -> None:
    """Each language has several phrases with the topic once and several without, in its own script."""
    phrases = resume_phrases(language)
    assert len(set(phrases.with_topic)) >= 3 and len(set(phrases.without_topic)) >= 3
    assert all(phrase.count("{topic}") == 1 for phrase in phrases.with_topic)
    for phrase in phrases.with_topic + phrases.without_topic:
        bare = phrase.replace("{topic}", "")
        assert "{" not in bare and bare == unicodedata.normalize("NFC", bare)
        assert phrase[-1] in ":,"  # the rest of the answer follows
        letters = [character for character in bare if character.isalpha()]
        assert letters and all(unicodedata.name(letter).startswith(SCRIPTS[language]) for letter in letters)


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("hi", "hi"),
        ("hi-IN", "hi"),
        ("HI_in", "hi"),
        (" ta-Taml-IN ", "ta"),
        ("en-GB", "en"),
        ("fr-CA", "en"),
        ("auto", "en"),
        ("", "en"),
        (None, "en"),
        ("hindi", "en"),
        ("../hi", "en"),
        ("x" * 10_000, "en"),
    ],
)
def test_a_tag_finds_its_language(tag: str | None, language: str) -> None:
    """Region and script are dropped until there is a language; an unknown one is English."""
    assert best_language(tag) == language


@given(st.one_of(st.none(), st.text(max_size=20)), st.one_of(st.none(), st.text(max_size=200)), st.integers())
def test_there_is_always_a_phrase(tag: str | None, topic: str | None, variant: int) -> None:
    """Any tag, topic and variant give one line of text with no place left open by us."""
    phrase = resume_phrase(tag, topic, variant=variant)
    assert phrase and len(phrase.splitlines()) == 1
    assert "{topic}" not in phrase or "{topic}" in " ".join((topic or "").split())


def test_the_topic_is_spoken() -> None:
    """With a topic it is in the phrase; a blank one counts as none; braces in it are only text."""
    assert resume_phrase("en-IN", "home loans", variant=0) == "As I was saying about home loans,"
    assert resume_phrase("hi-IN", "गृह ऋण", variant=0) == "गृह ऋण के बारे में बात जारी रखते हैं:"
    assert resume_phrase("en", " \n", variant=0) == "As I was saying,"
    assert resume_phrase("en", "{0} {topic}", variant=0) == "As I was saying about {0} {topic},"


def test_variants_take_turns_and_repeat() -> None:
    """The variant picks in turn; without one the same call gives the same phrase."""
    choices = resume_phrases("hi").without_topic
    assert [resume_phrase("hi", variant=number) for number in range(len(choices) + 1)] == [
        *choices,
        choices[0],
    ]
    assert resume_phrase("hi", "ऋण") == resume_phrase("hi", "ऋण")
    assert len({resume_phrase("en", f"t{number}").replace(f"t{number}", "") for number in range(30)}) >= 3
