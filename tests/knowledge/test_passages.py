"""Passages: pieces of the document as it stands, bounded, whole to the last letter, cut where sentences end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samvad.knowledge.engine import Engine
from samvad.knowledge.passages import CHARS_MAX, CHARS_MIN, markdown_headings, passages
from samvad.knowledge.records import Filter
from samvad.knowledge.sentences import sentences
from tests.knowledge import lists

PIECES = st.sampled_from(
    [
        "The rate is 8.5 percent. ",
        "Dr. Rao came at 10 a.m. and left! ",
        "ब्याज दर ८.५ प्रतिशत है। ",
        "क्या यह सच है? ",
        "क्\u200dषमा",
        "\n\n",
        "\n",
        "\n# Heading\n",
        "\n## शीर्षक ##\n",
        "- item one\n",
        "1. first\n",
        "word " * 90,
        "अक्षर" * 300,
        "x" * 1_500,
        "👍🏽",
        " \t ",
        "…",
        "e\u0301" * 700,
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=40), max_size=25).map("".join)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_passages_are_pieces_of_the_text(text: str) -> None:
    """In order, within the bound, and every character that is no space is in one, or in a heading's line."""
    headings = markdown_headings(text)
    covered = bytearray(len(text))
    for heading in headings:
        covered[heading.start : heading.end] = b"\1" * (heading.end - heading.start)
    before = -1
    for passage in passages(text, headings):
        assert before < passage.start < passage.end <= len(text)
        before = passage.start
        assert passage.end - passage.start <= CHARS_MAX
        piece = text[passage.start : passage.end]
        assert piece == piece.strip()
        covered[passage.start : passage.end] = b"\1" * len(piece)
        assert (passage.start, passage.end) == (passage.sentences[0][0], passage.sentences[-1][1])
        assert all(
            one[1] <= other[0] for one, other in zip(passage.sentences, passage.sentences[1:], strict=False)
        )
        assert not any(heading.start < passage.end and passage.start < heading.end for heading in headings)
    assert [c for c, held in zip(text, covered, strict=True) if not held and not c.isspace()] == []


@given(TEXTS)
@settings(max_examples=25, deadline=None)
def test_what_is_found_stands_in_the_document(text: str) -> None:
    """The text of every hit is the document's from its start to its end."""
    text = f"quagga {text}"
    engine = Engine(None)
    stored = lists.stored("doc", "", text, "en")
    engine.put([stored])
    hits = engine.search("quagga rate ब्याज word", [lists.SCOPE], Filter(), 20)
    assert hits
    for hit in hits:
        assert hit.passage.text == text[hit.passage.start : hit.passage.end]
    engine.remove(lists.SCOPE, ["doc"])
    assert engine.search("quagga", [lists.SCOPE], Filter(), 20) == []


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("ब्याज दर ८.५ है। क्या आप जानते हैं? हाँ।", ["है।", "हैं?", "हाँ।"]),
        ("The rate is 8.5 percent. Ask Dr. Rao. He knows!", ["percent.", "Rao.", "knows!"]),
        ("यह डॉ. शर्मा हैं। वह आए।", ["हैं।", "आए।"]),
        ("पहला।दूसरा।", ["पहला।", "दूसरा।"]),
        ("یہ سچ ہے؟ ہاں", ["ہے؟", "ہاں"]),
        ("One line\n\nanother", ["line", "another"]),
        ("To do:\n- wash\n- cook", ["do:", "wash", "cook"]),
    ],
)
def test_where_sentences_end(text: str, ends: list[str]) -> None:
    """At the marks of the language, not at those of numbers, abbreviations and titles."""
    assert [text[start:end].rsplit(maxsplit=1)[-1] for start, end in sentences(text)] == ends


@pytest.mark.parametrize("sentence", ["The branch is open from ten to four. ", "शाखा दस से चार बजे तक खुली है। "])
def test_a_long_text_is_cut_at_sentence_ends(sentence: str) -> None:
    """Each passage ends with a whole sentence, is neither short nor too long, and begins with the one before."""
    found = passages(sentence * 200)
    assert len(found) > 4
    for one, other in itertools.pairwise(found):
        assert CHARS_MIN <= one.end - one.start <= CHARS_MAX
        assert (sentence * 200)[one.start : one.end].endswith(sentence[-3:].strip())
        assert other.sentences[0] == one.sentences[-1]


def test_sections_are_kept_apart() -> None:
    """A passage belongs to one section, and knows the headings above it."""
    text = "# Loans\nWe lend.\n## Homes\nFor houses.\n# Hours\nTen to four."
    found = passages(text, markdown_headings(text))
    assert [(text[one.start : one.end], one.headings) for one in found] == [
        ("We lend.", ("Loans",)),
        ("For houses.", ("Loans", "Homes")),
        ("Ten to four.", ("Hours",)),
    ]


def test_a_word_without_end_is_not_cut_within_a_syllable() -> None:
    """No piece of it begins with a vowel sign, a virama or a joiner."""
    text = "किताबें\u200d" * 500
    found = passages(text)
    assert len(found) > 2
    assert all(text[one.start].isalpha() for one in found)
