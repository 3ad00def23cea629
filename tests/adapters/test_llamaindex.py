"""LlamaIndex asks the knowledge base, as a retriever and as a vector store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from samvad import open_samvad

pytest.importorskip("llama_index.core")

from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import Document
from llama_index.core.vector_stores.types import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

from samvad.adapters.llamaindex import SamvadRetriever, SamvadVectorStore

pytestmark = pytest.mark.anyio
TEXT = "The interest rate of a home loan is 8.5 percent a year."


def where(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    """One filter."""
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


async def test_a_retriever_finds_passages() -> None:
    """With their scores and where they stand; owners and filters hold."""
    async with open_samvad("memory://") as samvad:
        kb = samvad.knowledge
        added = await kb.add_text("Home loan", TEXT, category="loans", tags=["home"])
        await kb.add_text("Note", "My home loan is 24 lakh.", user_id="asha")
        (found,) = await SamvadRetriever(kb).aretrieve("home loan interest")
        assert (found.node.get_content(), found.node.metadata["documentId"]) == (TEXT, added.document.id)
        assert 0 < found.score <= 1
        assert len(await SamvadRetriever(kb, user_id="asha").aretrieve("home loan")) == 2
        assert await SamvadRetriever(kb, filters=where("category", "other")).aretrieve("home loan") == []
        tagged = where("tags", ["home", "car"], FilterOperator.ANY)
        assert len(await SamvadRetriever(kb, filters=tagged).aretrieve("home loan")) == 1
        assert len(await asyncio.to_thread(SamvadRetriever(kb).retrieve, "home loan")) == 1
        with pytest.raises(ValueError, match="no filter"):
            SamvadRetriever(kb, filters=where("year", 2024))


async def test_an_index_over_the_vector_store() -> None:
    """LlamaIndex splits, keeps, finds and removes; documents that were added otherwise stay."""
    async with open_samvad("memory://") as samvad:
        kb = samvad.knowledge
        await kb.add_text("Own", "A home loan of our own.", id="own")
        store = SamvadVectorStore(knowledge=kb)
        assert await store.aquery(VectorStoreQuery(query_str="zebra")) is not None
        documents = [
            Document(text=TEXT, id_="loan", metadata={"file_name": "loan.txt", "tags": ["home"]}),
            Document(text="The branch is open from 10 to 4.", id_="hours"),
        ]
        index = await asyncio.to_thread(
            lambda: VectorStoreIndex.from_documents(
                documents,
                storage_context=StorageContext.from_defaults(vector_store=store),
                embed_model=MockEmbedding(embed_dim=1),
            )
        )
        retriever = index.as_retriever(similarity_top_k=1)
        (found,) = await retriever.aretrieve("What is the interest rate of a home loan?")
        assert (found.node.get_content(), found.node.ref_doc_id) == (TEXT, "loan")
        assert found.node.metadata["file_name"] == "loan.txt"
        assert [node.node_id for node in await store.aget_nodes([found.node.node_id, "none"])] == [
            found.node.node_id
        ]
        only = VectorStoreQuery(query_str="home loan", similarity_top_k=5, doc_ids=["loan"])
        assert len((await store.aquery(only)).nodes or []) == 1
        tagged = VectorStoreQuery(query_str="home loan", similarity_top_k=5, filters=where("tags", "home"))
        assert len((await store.aquery(tagged)).ids or []) == 1
        await store.adelete("loan")
        assert [
            each.node.node_id for each in await index.as_retriever(similarity_top_k=5).aretrieve("loan")
        ] == ["own"]
        await store.aclear()
        assert [each.id for each in (await kb.list_documents()).documents] == ["own"]
        with pytest.raises(ValueError, match="query_str"):
            await store.aquery(VectorStoreQuery(query_embedding=[1.0]))


def test_a_script_needs_no_event_loop() -> None:
    """One user's store, over a service that was entered with a plain `with`."""
    with open_samvad("memory://") as samvad:
        store = SamvadVectorStore(knowledge=samvad.knowledge, user_id="asha")
        (name,) = store.add([Document(text=TEXT, id_="loan")])
        assert (store.query(VectorStoreQuery(query_str="home loan")).ids or []) == [name]
        assert samvad.knowledge.search("home loan") == []
        store.delete("loan")
        assert store.get_nodes(["loan"]) == []
        store.clear()
