"""The knowledge base as a LangChain retriever: `pip install langchain-core`.

retriever = SamvadRetriever(knowledge=samvad.knowledge, max_results=4)
documents = await retriever.ainvoke("interest rate of a home loan")
"""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from samvad.knowledge.base import KnowledgeBase


class SamvadRetriever(BaseRetriever):
    """Passages as LangChain documents; `metadata` says where each stands, and its score. They are untrusted text.

    The knowledge base belongs to the event loop that opened it: use `ainvoke` there.
    """

    knowledge: Any
    max_results: int = 4
    category: str | None = None
    wanted_tags: tuple[str, ...] = ()
    language: str | None = None
    user_id: str | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        raise NotImplementedError("Use ainvoke: the knowledge base answers on the event loop that opened it.")

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        base: KnowledgeBase = self.knowledge
        hits = await base.search(
            query,
            max_results=self.max_results,
            category=self.category,
            tags=self.wanted_tags,
            language=self.language,
            user_id=self.user_id,
        )
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
