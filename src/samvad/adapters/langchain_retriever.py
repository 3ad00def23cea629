"""The knowledge base as a LangChain retriever: `pip install langchain-core`.

retriever = SamvadRetriever(knowledge=samvad.knowledge, k=4)
documents = await retriever.ainvoke("interest rate of a home loan")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from samvad.adapters.loops import awaited, waited
from samvad.knowledge.records import Hit


class SamvadRetriever(BaseRetriever):
    """Passages as LangChain documents; `metadata` says where each stands, and its score. They are untrusted text.

    `knowledge` is that of an open service, entered with `async with` or with `with`. `k` passages are given, as many as
    there are at most; a call may name another `k`. `invoke` waits, and cannot be used on the event loop that the
    knowledge base belongs to: there, use `ainvoke`.
    """

    knowledge: Any
    k: int = 4
    category: str | None = None
    wanted_tags: tuple[str, ...] = ()
    language: str | None = None
    user_id: str | None = None

    def _wanted(self, k: int | None) -> dict[str, Any]:
        return {
            "max_results": self.k if k is None else k,
            "category": self.category,
            "tags": self.wanted_tags,
            "language": self.language,
            "user_id": self.user_id,
        }

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return _documents(waited(self.knowledge, "search", query, **self._wanted(k)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return _documents(await awaited(self.knowledge, "search", query, **self._wanted(k)))


def _documents(hits: Sequence[Hit]) -> list[Document]:
    return [
        Document(
            id=f"{hit.doc.id}:{hit.passage.start}-{hit.passage.end}",
            page_content=hit.passage.text,
            metadata={
                "documentId": hit.doc.id,
                "title": hit.doc.title,
                "source": hit.doc.source,
                "start": hit.passage.start,
                "end": hit.passage.end,
                "score": hit.score,
            },
        )
        for hit in hits
    ]
