"""The texts of the knowledge base's benchmark: XQuAD's articles, and passages mixed from their sentences."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from benchmarks.measure import DATA, Unavailable, load_pairs
from samvad.knowledge.sentences import sentences

XQUAD = DATA / "xquad"
LANGUAGES = ("en", "hi")
PASSAGE_CHARS = 800
PASSAGES_PER_DOCUMENT = 20


class Asked(NamedTuple):
    """A question, and the words that answer it."""

    question: str
    answers: tuple[str, ...]


class Paragraph(NamedTuple):
    """A paragraph of an article, with its questions."""

    id: str
    text: str
    asked: tuple[Asked, ...]


class Article(NamedTuple):
    """An article of XQuAD: its English title, in both languages."""

    title: str
    paragraphs: tuple[Paragraph, ...]


@cache
def articles(language: str) -> tuple[Article, ...]:
    """XQuAD's articles in a language, in the order of the file; Unavailable where the data set is not there."""
    path = XQUAD / f"xquad.{language}.json"
    titles = XQUAD / "xquad.en.json"
    if not path.exists() or not titles.exists():
        raise Unavailable(
            "XQuAD is not here: put xquad.en.json and xquad.hi.json below SAMVAD_BENCH_DATA/xquad"
        )
    names = [each["title"] for each in json.loads(titles.read_text(encoding="utf-8"))["data"]]
    found = []
    for name, article in zip(names, json.loads(path.read_text(encoding="utf-8"))["data"], strict=True):
        paragraphs = tuple(
            Paragraph(
                f"article:{name}#{number}",
                each["context"],
                tuple(
                    Asked(asked["question"], tuple(answer["text"] for answer in asked["answers"]))
                    for asked in each["qas"]
                ),
            )
            for number, each in enumerate(article["paragraphs"])
        )
        found.append(Article(name, paragraphs))
    return tuple(found)


def halves(language: str) -> tuple[tuple[Article, ...], tuple[Article, ...]]:
    """The articles to tune on, and those to report on: the first half of the file and the second."""
    found = articles(language)
    return found[: len(found) // 2], found[len(found) // 2 :]


def questions() -> list[str]:
    """All questions in both languages, mixed."""
    found = [
        asked.question
        for language in LANGUAGES
        for article in articles(language)
        for paragraph in article.paragraphs
        for asked in paragraph.asked
    ]
    random.Random(2).shuffle(found)
    return found


def documents(passages: int) -> Iterator[str]:
    """Texts of 20 passages each, English and Hindi by turns, of sentences drawn from XQuAD and the dialogues."""
    pools: dict[str, list[str]] = {}
    for language in LANGUAGES:
        texts = [paragraph.text for article in articles(language) for paragraph in article.paragraphs]
        pools[language] = [text[start:end] for text in texts for start, end in sentences(text)]
    pools["en"] += [text for pair in load_pairs(50_000) for text in pair]
    chance = random.Random(1)
    for number in range(0, passages, PASSAGES_PER_DOCUMENT):
        pool = pools[LANGUAGES[number // PASSAGES_PER_DOCUMENT % 2]]
        yield "\n\n".join(_passage(pool, chance) for _ in range(PASSAGES_PER_DOCUMENT))


def _passage(pool: list[str], chance: random.Random) -> str:
    parts: list[str] = []
    size = 0
    while size < PASSAGE_CHARS:
        parts.append(chance.choice(pool))
        size += len(parts[-1]) + 1
    return " ".join(parts)
