"""Words: one term for all ways of writing a word, and never a match within a syllable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad.knowledge.romanised import sound_key
from samvad.knowledge.words import normalise, term_of, terms, words

SAME = [
    ("हिन्दी", "हिंदी"),
    ("सम्पत्ति", "संपत्ति"),
    ("अङ्क", "अंक"),
    ("पञ्च", "पंच"),
    ("ठण्डा", "ठंडा"),
    ("ज़मीन", "जमीन"),
    ("\u095bमीन", "जमीन"),  # the letter that has its nukta in itself
    ("क्\u200dषमा", "क्षमा"),
    ("क्\u200cषमा", "क्षमा"),
    ("हाँ", "हां"),
    ("१२३", "123"),
    ("১২৩", "123"),
    ("１２３", "123"),
    ("CAFÉ", "cafe"),
    ("ﬁnance", "finance"),
    ("loans", "loan"),
    ("लड़कियों", "लड़की"),
    ("किताबें", "किताब"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_ways_of_writing_are_one(one: str, other: str) -> None:
    """Whichever way a word is written, its term is the same."""
    assert term_of(one) == term_of(other) != ""


@pytest.mark.parametrize("word", ["कितनी", "ऋण", "किताब", "श्रीमती", "दुर्घटना", "தமிழ்", "বাংলা", "ગુજરાતી"])
def test_no_vowel_sign_is_lost(word: str) -> None:
    """A word of an Indian script is one word, with all its signs."""
    found = words(f"x {word}, y।")
    assert [word] == [f"x {word}, y।"[one.start : one.end] for one in found[1:2]]
    assert len(found) == 3


@given(st.text())
def test_normalising_is_idempotent(text: str) -> None:
    """What is normalised stays as it is."""
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(alphabet="कखगिीुून्ंँ़\u200d\u200c्ज़abc 12१२.,।éﬁ", max_size=60))
def test_places_are_those_of_the_text(text: str) -> None:
    """A word's place leads to it in the text as it was given."""
    for word in words(text):
        piece = text[word.start : word.end]
        assert piece
        assert word.term in ("", term_of(piece))
    assert [word.term for word in words(text) if word.term] == terms(text)


@pytest.mark.parametrize(
    ("hindi", "latin"),
    [
        ("घर", "ghar"),
        ("ब्याज", "byaj"),
        ("ब्याज", "byaaj"),
        ("दर", "dar"),
        ("ज़मीन", "zameen"),
        ("ज़मीन", "jamin"),
        ("योजना", "yojana"),
        ("विज्ञान", "vigyan"),
        ("संपत्ति", "sampatti"),
        ("मौसम", "mausam"),
        ("छात्र", "chhatra"),
        ("वाहन", "wahan"),
        ("पानी", "paani"),
    ],
)
def test_sounds(hindi: str, latin: str) -> None:
    """A Hindi word in Latin letters sounds as in its own."""
    assert sound_key(hindi) == sound_key(latin) != ""
