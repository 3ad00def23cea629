"""The knowledge base in LlamaIndex, as a retriever and as a vector store: `pip install llama-index-core`.

retriever = SamvadRetriever(samvad.knowledge, similarity_top_k=4)
nodes = await retriever.aretrieve("interest rate of a home loan")

index = VectorStoreIndex.from_vector_store(SamvadVectorStore(knowledge=samvad.knowledge), embed_model=…)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from samvad import limits
from samvad.adapters.loops import awaited, waited
from samvad.errors import NotFound
from samvad.knowledge.records import Document, Hit

_TAG: Final = "llamaindex"  # what came by this store: `clear` removes nothing else
_TITLES: Final = ("title", "file_name", "filename")


class SamvadRetriever(BaseRetriever):
    """Passages as nodes with their scores. They are untrusted text. `retrieve` waits; see `samvad.adapters.loops`."""

    def __init__(
        self,
        knowledge: Any,
        similarity_top_k: int = 4,
        *,
        filters: MetadataFilters | None = None,
        user_id: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self._knowledge = knowledge
        self._wanted = {"max_results": similarity_top_k, **_condition(filters), "user_id": user_id}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _scored(waited(self._knowledge, "search", query_bundle.query_str, **self._wanted))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _scored(await awaited(self._knowledge, "search", query_bundle.query_str, **self._wanted))


class SamvadVectorStore(BasePydanticVectorStore):
    """A vector store that keeps the text and needs no vectors from LlamaIndex: Samvad finds by the words of a query.

    Each node becomes a document of the tenant, or of the user `user_id`. Filters are of `category`, `language` (equal)
    and `tags` (any). The methods without `a` wait, and cannot be used on the knowledge base's own event loop.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    knowledge: Any = Field(exclude=True)
    user_id: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """Its name in LlamaIndex."""
        return "SamvadVectorStore"

    @property
    def client(self) -> Any:
        """The knowledge base."""
        return self.knowledge

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Keep nodes as documents; their ids."""
        for node in nodes:
            waited(self.knowledge, "add_text", **self._as_text(node))
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`."""
        for node in nodes:
            await awaited(self.knowledge, "add_text", **self._as_text(node))
        return [node.node_id for node in nodes]

    def _as_text(self, node: BaseNode) -> dict[str, Any]:
        metadata = dict(node.metadata)
        title = next((str(metadata[name]) for name in _TITLES if metadata.get(name)), node.node_id)
        tags = metadata.get("tags") if isinstance(metadata.get("tags"), list) else []
        return {
            "title": " ".join(title.split())[: limits.TITLE_CHARS_MAX],
            "content": node.get_content(metadata_mode=MetadataMode.NONE),
            "id": node.node_id,
            "category": metadata.get("category"),
            "language": metadata.get("language"),
            "tags": [*(tags or []), _TAG, _tag_of(node.ref_doc_id or node.node_id)],
            "metadata": {"refDocId": node.ref_doc_id, "metadata": metadata},
            "user_id": self.user_id,
        }

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Remove the nodes of a source document."""
        while names := self._named(waited(self.knowledge, "list_documents", **self._of(_tag_of(ref_doc_id)))):
            self.delete_nodes(names)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """As `delete`."""
        wanted = self._of(_tag_of(ref_doc_id))
        while names := self._named(await awaited(self.knowledge, "list_documents", **wanted)):
            await self.adelete_nodes(names)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Remove nodes by their ids."""
        for name in _only_ids(node_ids, filters):
            try:
                waited(self.knowledge, "delete", name, user_id=self.user_id)
            except NotFound:
                continue

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """As `delete_nodes`."""
        for name in _only_ids(node_ids, filters):
            try:
                await awaited(self.knowledge, "delete", name, user_id=self.user_id)
            except NotFound:
                continue

    def clear(self) -> None:
        """Remove all that came by this store; documents that were added otherwise stay."""
        while names := self._named(waited(self.knowledge, "list_documents", **self._of(_TAG))):
            self.delete_nodes(names)

    async def aclear(self) -> None:
        """As `clear`."""
        while names := self._named(await awaited(self.knowledge, "list_documents", **self._of(_TAG))):
            await self.adelete_nodes(names)

    def _of(self, tag: str) -> dict[str, Any]:
        return {"tags": [tag], "limit": limits.PAGE_DOCUMENTS_MAX, "user_id": self.user_id}

    def _named(self, page: Any) -> list[str]:
        """The ids of a page that are this store's to remove: of a user's store, that user's."""
        mine = "tenant" if self.user_id is None else "user"
        return [document.id for document in page.documents if document.owner == mine]

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes by their ids; those that are not there are left out."""
        found: list[BaseNode] = []
        for name in _only_ids(node_ids, filters):
            try:
                stored = waited(self.knowledge, "get", name, user_id=self.user_id)
            except NotFound:
                continue
            found.append(_node(stored.document, stored.text, 0, len(stored.text)))
        return found

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """As `get_nodes`."""
        found: list[BaseNode] = []
        for name in _only_ids(node_ids, filters):
            try:
                stored = await awaited(self.knowledge, "get", name, user_id=self.user_id)
            except NotFound:
                continue
            found.append(_node(stored.document, stored.text, 0, len(stored.text)))
        return found

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The passages that fit the words of a query."""
        return _result(query, waited(self.knowledge, "search", query.query_str, **self._searched(query)))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`."""
        found = await awaited(self.knowledge, "search", query.query_str, **self._searched(query))
        return _result(query, found)

    def _searched(self, query: VectorStoreQuery) -> dict[str, Any]:
        if query.query_str is None:
            raise ValueError("Samvad finds by words: give query_str, an embedding alone says nothing to it.")
        some = query.doc_ids or query.node_ids
        count = limits.RESULTS_MAX if some else min(query.similarity_top_k, limits.RESULTS_MAX)
        return {"max_results": count, **_condition(query.filters), "user_id": self.user_id}


def _tag_of(ref_doc_id: str) -> str:
    return f"ref-{hashlib.sha256(ref_doc_id.encode()).hexdigest()[:40]}"


def _only_ids(node_ids: list[str] | None, filters: MetadataFilters | None) -> list[str]:
    if node_ids is None or filters is not None:
        raise NotImplementedError("Name the nodes by their ids.")
    return node_ids


def _condition(filters: MetadataFilters | None) -> dict[str, Any]:
    """What of LlamaIndex's filters Samvad knows; ValueError for any other."""
    found: dict[str, Any] = {}
    for each in [] if filters is None else filters.filters:
        several = len(filters.filters) > 1 and filters.condition != FilterCondition.AND  # type: ignore[union-attr]
        if several or not isinstance(each, MetadataFilter) or each.key in found:
            raise ValueError(
                "Samvad knows filters that must all hold, one for each of category, language and tags."
            )
        if each.key in ("category", "language") and each.operator == FilterOperator.EQ:
            found[each.key] = each.value
        elif each.key == "tags" and each.operator in (FilterOperator.ANY, FilterOperator.IN):
            found["tags"] = list(each.value)  # type: ignore[arg-type]
        elif each.key == "tags" and each.operator in (FilterOperator.CONTAINS, FilterOperator.EQ):
            found["tags"] = [each.value]
        else:
            raise ValueError(f"Samvad knows no filter {each.key} {each.operator.value}.")
    return found


def _scored(hits: Sequence[Hit]) -> list[NodeWithScore]:
    return [NodeWithScore(node=_node_of(hit), score=hit.score) for hit in hits]


def _node_of(hit: Hit) -> TextNode:
    return _node(hit.doc, hit.passage.text, hit.passage.start, hit.passage.end)


def _node(document: Document, text: str, start: int, end: int) -> TextNode:
    kept = document.metadata or {}
    whole = (start, end) == (0, document.content_length)
    given = kept.get("metadata") if isinstance(kept.get("metadata"), dict) else kept
    source = kept.get("refDocId") or document.id
    return TextNode(
        id_=document.id if whole else f"{document.id}:{start}-{end}",
        text=text,
        start_char_idx=start,
        end_char_idx=end,
        metadata={
            "documentId": document.id,
            "title": document.title,
            "source": document.source,
            **(given or {}),
        },
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=source)},
    )


def _result(query: VectorStoreQuery, hits: Sequence[Hit]) -> VectorStoreQueryResult:
    pairs = [(_node_of(hit), hit.score, hit.doc.id) for hit in hits]
    if query.doc_ids:
        pairs = [pair for pair in pairs if pair[0].ref_doc_id in query.doc_ids]
    if query.node_ids:
        pairs = [pair for pair in pairs if pair[2] in query.node_ids]
    pairs = pairs[: query.similarity_top_k]
    nodes, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=[node.node_id for node in nodes])


__all__ = ["SamvadRetriever", "SamvadVectorStore"]
