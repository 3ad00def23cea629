"""LangChain asks the knowledge base through a retriever of its own kind.

Beside what is particular to Samvad, the checks of LangChain's own suite for retrievers (langchain-tests,
`RetrieversIntegrationTests`), which brings too many packages to be installed for five of them.
"""

from __future__ import annotations

import asyncio

import pytest

from samvad import open_samvad

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from samvad.adapters.langchain_retriever import SamvadRetriever

pytestmark = pytest.mark.anyio
TEXT = "The interest rate of a home loan is 8.5 percent a year."


async def test_a_chain_finds_passages() -> None:
    """The passage, with where it stands; another user's documents stay hidden."""
    async with open_samvad("memory://") as samvad:
        added = await samvad.knowledge.add_text("Home loan", TEXT)
        await samvad.knowledge.add_text("Note", "My home loan is 24 lakh.", user_id="asha")
        retriever = SamvadRetriever(knowledge=samvad.knowledge)
        chain = retriever | RunnableLambda(lambda documents: [each.page_content for each in documents])
        assert await chain.ainvoke("home loan interest") == [TEXT]
        (found,) = await retriever.ainvoke("home loan interest")
        assert found.metadata["documentId"] == added.document.id
        assert TEXT[found.metadata["start"] : found.metadata["end"]] == TEXT
        own = await SamvadRetriever(knowledge=samvad.knowledge, user_id="asha").ainvoke("home loan")
        assert len(own) == 2


async def test_langchains_own_checks() -> None:
    """`k` of the constructor and of a call, `invoke`, `ainvoke`, `abatch`: documents, as many as wanted."""
    async with open_samvad("memory://") as samvad:
        for number in range(6):
            await samvad.knowledge.add_text(f"Loan {number}", f"Home loan {number} has an interest rate.")
        for wanted in (1, 3):
            retriever = SamvadRetriever(knowledge=samvad.knowledge, k=wanted)
            found = await asyncio.to_thread(retriever.invoke, "home loan")
            assert len(found) == wanted and all(isinstance(each, Document) for each in found)
            assert await retriever.ainvoke("home loan") == found
            assert len(await retriever.ainvoke("home loan", k=2)) == 2
        assert [len(each) for each in await retriever.abatch(["home loan", "zebra"])] == [3, 0]
        with pytest.raises(RuntimeError, match="asynchronous method"):
            retriever.invoke("home loan")


def test_a_script_needs_no_event_loop() -> None:
    """Over a service that was entered with a plain `with`."""
    with open_samvad("memory://") as samvad:
        samvad.knowledge.add_text("Home loan", TEXT)
        retriever = SamvadRetriever(knowledge=samvad.knowledge)
        assert [each.page_content for each in retriever.invoke("home loan interest")] == [TEXT]
        assert len(asyncio.run(retriever.ainvoke("home loan interest"))) == 1
