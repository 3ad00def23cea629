"""Extractive answers: the best sentence of the best passages, with its place and how likely it is to be right.

Two small linear models over a dozen features: one chooses the sentence; one, fitted on the first half of XQuAD's
articles (English and Hindi together), says whether the documents answer the question at all. Both are sums: no model is
downloaded, and a choice can be explained by its features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from samvad.knowledge.engine import Engine, Found
from samvad.knowledge.queries import Query
from samvad.knowledge.questions import holds, kind_of
from samvad.knowledge.ranking import Weights, piece_words, query_pieces
from samvad.knowledge.records import Citation, Filter, KnowledgeAnswer, Scope
from samvad.knowledge.words import plain_words

PASSAGES: Final = 5
_LENGTH_WORDS: Final = 25
# In the order of `features`.
CHOICE: Final = (4.0, 2.0, 1.0, 3.0, 8.0, 1.0, 0.0, 0.0)
# In the order of `signs`, and the constant.
TRUST: Final = (11.805, 5.642, 1.318, 2.008, 2.161, 1.504, 1.797, -0.101, 4.08)
TRUST_CONSTANT: Final = -13.485


class Candidate(NamedTuple):
    """A sentence that may be the answer."""

    found: Found
    start: int
    end: int
    features: tuple[float, ...]
    score: float

    @property
    def text(self) -> str:
        """The sentence."""
        return self.found.row.text[self.start : self.end]


def candidates(query: Query, passages: Sequence[Found]) -> list[Candidate]:
    """The sentences of the best passages, best first."""
    whole = sum(one.idf for one in query.terms) or 1.0
    weights = Weights(query.terms)
    kind = kind_of(query.text)
    asked = frozenset(plain_words(query.text))
    pieces = query_pieces(query.text, sounds=query.sounds)
    top = passages[0].score if passages else 0.0
    found = []
    for place, passage in enumerate(passages[:PASSAGES]):
        sentences = passage.prepared.sentences
        for at, sentence in enumerate(sentences):
            text = passage.row.text[sentence.start : sentence.end]
            before = sentences[at - 1].terms if at else frozenset()
            after = sentences[at + 1].terms if at + 1 < len(sentences) else frozenset()
            words = piece_words(text, sounds=query.sounds)
            plain = "_" + "_".join(words) + "_"
            values = (
                weights.held(sentence.terms) / whole,
                weights.held(sentence.terms | before) / whole,
                weights.held(sentence.terms | after) / whole,
                sum(1 for piece in pieces if piece in plain) / max(1, len(pieces)),
                passage.score - top,
                holds(kind, text, asked),
                min(1.0, len(words) / _LENGTH_WORDS),
                1.0 if place == 0 else 0.0,
            )
            score = sum(weight * value for weight, value in zip(CHOICE, values, strict=True))
            found.append(Candidate(passage, sentence.start, sentence.end, values, score))
    found.sort(key=lambda one: -one.score)
    return found


def signs(query: Query, passages: Sequence[Found], ordered: Sequence[Candidate]) -> tuple[float, ...]:
    """What tells whether the best candidate answers the question."""
    best = ordered[0]
    whole = sum(one.idf for one in query.terms) or 1.0
    passage = best.found
    weights = Weights(query.terms)
    held_terms = frozenset(passage.prepared.counts) | passage.prepared.title | passage.prepared.headings
    covered = weights.held(held_terms) / whole
    missing = [one.idf for one in query.terms if held_terms.isdisjoint(one.variants)]
    rarest = max((one.idf for one in query.terms), default=1.0) or 1.0
    runner_up = next((other.score for other in passages if other.document.id != passage.document.id), 0.0)
    return (
        passage.score,
        covered,
        best.features[0],
        best.features[1],
        best.features[3],
        max(missing, default=0.0) / rarest,
        passage.score - runner_up,
        best.features[5],
        min(1.0, len(query.terms) / 8),
    )


def confidence(values: Sequence[float]) -> float:
    """How likely an answer with these signs is to be right, 0 to 1."""
    total = TRUST_CONSTANT + sum(weight * value for weight, value in zip(TRUST, values, strict=True))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))


def answer(
    engine: Engine,
    query: str,
    scopes: Sequence[Scope],
    condition: Filter,
    *,
    threshold: float,
    citations: int,
) -> KnowledgeAnswer:
    """The sentence that answers a question best; not answered where the confidence is below the threshold."""
    parsed, passages = engine.find_parsed(query, scopes, condition, PASSAGES)
    ordered = candidates(parsed, passages)
    if not ordered:
        return KnowledgeAnswer(query=query, answered=False, confidence=0.0)
    sure = round(confidence(signs(parsed, passages, ordered)), 4)
    if sure < threshold:
        return KnowledgeAnswer(query=query, answered=False, confidence=sure)
    best = ordered[0]
    cited = [best]
    for other in ordered[1:]:
        # Others are cited where they are nearly as good, and say it elsewhere.
        if len(cited) >= citations or other.score < 0.85 * best.score:
            break
        if all(other.found.document.id != one.found.document.id for one in cited):
            cited.append(other)
    return KnowledgeAnswer(
        query=query,
        answered=True,
        confidence=sure,
        answer=best.text,
        citations=tuple(_citation(one) for one in cited),
        language=best.found.document.language,
    )


def _citation(candidate: Candidate) -> Citation:
    found = candidate.found
    return Citation(
        document_id=found.document.id,
        title=found.document.title,
        start=found.row.start + candidate.start,
        end=found.row.start + candidate.end,
        text=candidate.text,
        source=found.document.source,
        owner=found.document.owner,
    )
