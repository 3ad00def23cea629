"""LangChain asks the knowledge base through a retriever of its own kind."""

from __future__ import annotations

import pytest

from samvad import open_samvad

pytestmark = pytest.mark.anyio


async def test_a_chain_finds_passages() -> None:
    """The passage, with where it stands; another user's documents stay hidden."""
    pytest.importorskip("langchain_core")
    from samvad.adapters.langchain_retriever import SamvadRetriever

    text = "The interest rate of a home loan is 8.5 percent a year."
    async with open_samvad("memory://") as samvad:
        added = await samvad.knowledge.add_text("Home loan", text)
        await samvad.knowledge.add_text("Note", "My home loan is 24 lakh.", user_id="asha")
        found = await SamvadRetriever(knowledge=samvad.knowledge).ainvoke("home loan interest")
        assert [each.page_content for each in found] == [text]
        assert found[0].metadata["documentId"] == added.document.id
        assert text[found[0].metadata["start"] : found[0].metadata["end"]] == text
        own = await SamvadRetriever(knowledge=samvad.knowledge, user_id="asha").ainvoke("home loan")
        assert len(own) == 2
