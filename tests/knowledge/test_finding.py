"""What a search finds: short Hindi queries, spelling variants, digits, romanised Hindi; and what it must not find."""

from __future__ import annotations

import pytest

from samvad.knowledge.engine import Engine
from samvad.knowledge.records import Filter
from tests.knowledge import lists


@pytest.fixture(scope="module")
def search() -> lists.Search:
    """The search engine over the documents of the lists."""
    return lists.ours(lists.documents())


@pytest.fixture(scope="module")
def plain() -> lists.Search:
    """FTS5 as it comes, over the same documents."""
    return lists.plain(lists.documents())


def test_short_hindi_queries(search: lists.Search, plain: lists.Search) -> None:
    """Of 100 and more queries of one or two words the documents are among the first five, where FTS5 misses many."""
    asked = lists.short_hindi()
    assert len({one.query for one in asked}) >= 100
    assert all(len(one.query.split()) <= 2 for one in asked)
    found = lists.recall(asked, search)
    assert found >= lists.SHORT_RECALL_MIN
    assert found >= lists.recall(asked, plain) + 0.1


@pytest.mark.parametrize("name", ["romanised.tsv", "romanised_held_out.tsv"])
@pytest.mark.parametrize("language", ["hi", "en"])
def test_romanised_queries(name: str, language: str, search: lists.Search, plain: lists.Search) -> None:
    """Hindi in Latin letters finds documents of both languages, better than matching words does."""
    asked = lists.romanised(name, language)
    found = lists.recall(asked, search)
    assert found >= 0.8
    assert found >= lists.recall(asked, plain) + 0.3


def alone(text: str) -> Engine:
    """An engine that holds one text, beside others of which nothing is asked."""
    engine = Engine(None)
    others = [lists.stored(f"other-{n}", "", f"अन्य बात {n} elsewhere.", "hi") for n in range(3)]
    engine.put([lists.stored("doc", "", text, "hi"), *others])
    return engine


def finds(engine: Engine, query: str) -> bool:
    """Whether the text is found."""
    return "doc" in [hit.doc.id for hit in engine.search(query, [lists.SCOPE], Filter(), 3)]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("हिन्दी सीखें", "हिंदी"),
        ("हिंदी सीखें", "हिन्दी"),
        ("ज़मीन का नक्शा", "जमीन"),
        ("जमीन का नक्शा", "ज़मीन"),
        ("क्\u200dषमा करें", "क्षमा"),
        ("क्षमा करें", "क्\u200dषमा"),
        ("क्\u200cषमा करें", "क्षमा"),
        ("चाँद निकला", "चांद"),
        ("पेन्शन योजना", "पेंशन"),
        ("शुल्क १२५० रुपये", "1250"),
        ("शुल्क 1250 रुपये", "१२५०"),
        ("गाने सुनें", "गाना"),
        ("लड़कियों को", "लड़की"),
        ("ऋण लें", "ऋण"),
        ("घी डालें", "घी"),
    ],
)
def test_ways_of_writing_find_each_other(text: str, query: str) -> None:
    """Whichever way a word is written in the text and in the query."""
    assert finds(alone(text), query)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("कितनी बड़ी किताब", "तन"),
        ("कितनी बड़ी किताब", "ताब"),
        ("मकान बना", "कान"),
        ("दुर्घटना टली", "घटना"),
        ("कमल खिला", "कामिल"),
        ("दिन ढला", "दान"),
    ],
)
def test_no_match_within_a_word_or_by_its_consonants(text: str, query: str) -> None:
    """A part of a word, or its letters without their vowel signs, is not that word."""
    assert not finds(alone(text), query)


def test_a_common_word_finds_the_document_of_that_title() -> None:
    """Where more passages hold a word than are weighed, the document named by it is found, though it came last."""
    engine = Engine(None)
    many = [lists.stored(f"d{n}", f"Notice {n}", "The loan office is open.", "en") for n in range(2_100)]
    engine.put([*many, lists.stored("named", "Loan", "What the office asks for a loan.", "en")])
    assert engine.search("loan", [lists.SCOPE], Filter(), 3)[0].doc.id == "named"
    assert engine.search("loan office", [lists.SCOPE], Filter(), 3)[0].doc.id == "named"


def test_common_words_are_looked_for_together() -> None:
    """Each of the words stands in more passages than are weighed; the one that holds them all is found."""
    engine = Engine(None)
    documents = [
        lists.stored(f"{word}-{n}", "", f"The {word} office is open.", "en")
        for n in range(1_050)
        for word in ("loan", "house", "interest")
    ]
    engine.put(
        [*documents, lists.stored("all", "", "Gold loan interest is paid for a house, and more.", "en")]
    )
    assert engine.search("house loan interest", [lists.SCOPE], Filter(), 3)[0].doc.id == "all"
