"""In which language somebody writes, what providers call it, and the phrases that every language has."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad.interruptions.phrases import languages
from samvad.live.language import language_of, tag_for_providers
from samvad.live.phrases import phrases
from samvad.live.providers.extractive import language_to_answer_in

SCRIPTS = {
    "en": "LATIN",
    "hi": "DEVANAGARI",
    "mr": "DEVANAGARI",
    "bn": "BENGALI",
    "ta": "TAMIL",
    "te": "TELUGU",
    "gu": "GUJARATI",
    "kn": "KANNADA",
    "ml": "MALAYALAM",
    "pa": "GURMUKHI",
}


def test_a_chosen_language_stays_where_somebody_types_in_english() -> None:
    """Another Indian language is answered in itself; English words are not, where Hindi was asked for."""
    assert language_to_answer_in("what about gold?", "hi") == "hi"
    assert language_to_answer_in("what about gold?", None) == "en"
    assert language_to_answer_in("धन्यवाद", "en") == "hi"
    assert language_to_answer_in("நன்றி", "hi") == "ta"
    assert language_to_answer_in("HDFC", "mr") == "mr"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the interest rate?", "en"),
        ("Main Street is where I live", "en"),
        ("मुझे होम लोन के बारे में बताओ", "hi"),
        ("मेरी EMI कितनी है", "hi"),
        ("मला गृहकर्जाबद्दल सांगा", "mr"),
        ("व्याज किती आहे?", "mr"),
        ("mujhe home loan ke baare mein batao", "hi"),
        ("main theek hoon", "hi"),
        ("EMI kya hota hai", "hi"),
        ("সুদের হার কত।", "bn"),
        ("வட்டி எவ்வளவு", "ta"),
        ("వడ్డీ ఎంత", "te"),
        ("વ્યાજ દર કેટલો છે", "gu"),
        ("ಬಡ್ಡಿ ಎಷ್ಟು", "kn"),
        ("പലിശ എത്രയാണ്", "ml"),
        ("ਵਿਆਜ ਕਿੰਨਾ ਹੈ", "pa"),
        ("ସୁଧ ହାର କେତେ", "or"),
        ("ok", None),
        ("EMI", None),
        ("8.5 % ।", None),
        ("", None),
    ],
)
def test_the_language_is_found(text: str, language: str | None) -> None:
    """By its script, Hindi and Marathi by words, Hindi in Latin letters too; what tells nothing gives none."""
    assert language_of(text) == language


def test_what_was_spoken_before_decides_what_is_open() -> None:
    """One word that Hindi and Marathi share, or a name in Latin letters, does not change the language."""
    assert language_of("बँक", "mr") == "mr"
    assert language_of("बँक", "hi-IN") == "hi"
    assert language_of("HDFC", "ta") is None


@pytest.mark.parametrize("language", sorted(languages()))
def test_our_own_phrases_are_recognised(language: str) -> None:
    """What the system says in a language is taken for that language."""
    said = phrases(language)
    assert language_of(said.unknown, language) == language
    assert language_of(said.help, language) == language


def test_tags_for_providers() -> None:
    """Short codes get a region, tags stay, `auto` is left out."""
    assert tag_for_providers("hi") == "hi-IN"
    assert tag_for_providers("en-GB") == "en-GB"
    assert tag_for_providers("auto") is None and tag_for_providers(None) is None
    assert all(str(tag_for_providers(language)).startswith(language) for language in languages())


@pytest.mark.parametrize("language", sorted(SCRIPTS))
def test_every_phrase_is_there(language: str) -> None:
    """Each language has each phrase, in its own script, with the places that the English one has."""
    said, english = phrases(language), phrases("en")
    for field in english.__struct_fields__:
        text, model = getattr(said, field), getattr(english, field)
        places = re.findall(r"\{[^}]*\}", text)
        assert sorted(places) == sorted(re.findall(r"\{[^}]*\}", model)), field
        bare = re.sub(r"\{[^}]*\}|Samvad", "", text)
        letters = [character for character in bare if character.isalpha()]
        assert text == unicodedata.normalize("NFC", text), field
        assert letters and all(
            unicodedata.name(letter).startswith(SCRIPTS[language]) for letter in letters
        ), field
        assert language == "en" or text != model, field


@given(st.text(max_size=200), st.one_of(st.none(), st.text(max_size=10)))
def test_any_text_can_be_asked_about(text: str, before: str | None) -> None:
    """Whatever is written has one of the languages, or none."""
    assert language_of(text, before) in {*SCRIPTS, "or", None}
