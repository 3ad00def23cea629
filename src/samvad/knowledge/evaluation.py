"""How well the knowledge base finds and answers, over questions whose answers are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from samvad import limits
from samvad.errors import InvalidRequest
from samvad.knowledge.base import KnowledgeBase
from samvad.knowledge.records import Hit, KnowledgeAnswer

_RANKS = 10


class Question(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One question: which document answers it (id, title or source), in which words, or that none does."""

    question: str
    document: str | None = None
    answer: str | None = None
    answerable: bool = True


class Outcome(NamedTuple):
    """What became of the questions. Shares are 0 to 1; `mrr` is the mean reciprocal rank among the first ten.

    None where no question of that kind was asked.
    """

    questions: int
    mrr: float | None
    recall_1: float | None
    recall_5: float | None
    recall_10: float | None
    answered: float | None  # of the answerable
    right: float | None  # of the answered ones whose answer is known
    wrongly_answered: float | None  # of those that no document answers
    unfound: tuple[str, ...]


def read_questions(lines: Iterable[str]) -> list[Question]:
    """Questions from JSON lines; InvalidRequest, with the line's number, for one that is none."""
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = msgspec.json.decode(line, type=Question)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"Line {number} is not a question: {error}.") from None
        if question.answerable and question.document is None and question.answer is None:
            raise InvalidRequest(
                f"Line {number} says neither `document` nor `answer`, nor `answerable` false."
            )
        found.append(question)
    if not found:
        raise InvalidRequest("There is no question in the file.")
    return found


async def evaluate(
    base: KnowledgeBase,
    questions: Sequence[Question],
    *,
    min_confidence: float = limits.ANSWER_CONFIDENCE_MIN,
) -> Outcome:
    """Ask all questions, and compare."""
    ranks: list[int] = []
    answered = right = known = wrongly = 0
    unfound: list[str] = []
    for question in questions:
        told = await base.answer(question.question, min_confidence=min_confidence)
        if not question.answerable:
            wrongly += told.answered
            continue
        hits = await base.search(question.question, max_results=_RANKS)
        rank = next((place for place, hit in enumerate(hits, 1) if fits(question, hit)), 0)
        ranks.append(rank)
        answered += told.answered
        if not rank:
            unfound.append(question.question)
        if told.answered and question.answer is not None:
            known += 1
            right += _says(told, question.answer)
    number = len(ranks)
    return Outcome(
        questions=len(questions),
        mrr=_share(sum(1 / rank for rank in ranks if rank), number),
        recall_1=_share(sum(rank == 1 for rank in ranks), number),
        recall_5=_share(sum(0 < rank <= 5 for rank in ranks), number),
        recall_10=_share(sum(0 < rank <= 10 for rank in ranks), number),
        answered=_share(answered, number),
        right=_share(right, known),
        wrongly_answered=_share(wrongly, len(questions) - number),
        unfound=tuple(unfound),
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def fits(question: Question, hit: Hit) -> bool:
    """Whether a passage is one that the question is known to be answered by."""
    if question.document is not None and question.document not in (hit.doc.id, hit.doc.title, hit.doc.source):
        return False
    return question.answer is None or question.answer.lower() in hit.passage.text.lower()


def _says(told: KnowledgeAnswer, answer: str) -> bool:
    return answer.lower() in (told.answer or "").lower()
