"""The contract, section 5: documents, searches, answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from samvad import open_samvad
from tests.http.support import Api

pytestmark = pytest.mark.anyio
BASE = "/api/knowledge"
RATE = "The interest rate of a home loan is 8.5 percent a year. You need proof of income. Ask at any branch."


@pytest.fixture(params=["memory", "sqlite"])
async def kb(request: pytest.FixtureRequest, database_path: Path) -> AsyncIterator[Api]:
    """The API over each store."""
    async with open_samvad(
        "memory://" if request.param == "memory" else f"sqlite:///{database_path}"
    ) as samvad:
        yield Api(samvad)


async def add(api: Api, title: str, content: str, **fields: object) -> dict[str, object]:
    """Add a text; the document."""
    answer = await api.ok("POST", BASE + "/add-text", {"title": title, "content": content, **fields})
    document: dict[str, object] = answer["document"]
    return document


async def test_a_text_is_added_found_and_removed(kb: Api) -> None:
    """The life of a document."""
    document = await add(kb, "Home loan", RATE, category="loans", tags=["home"])
    assert {"id", "title", "type", "category", "contentLength", "addedAt"} <= set(document)
    assert (document["contentLength"], document["language"]) == (len(RATE), "en")
    found = await kb.ok("POST", BASE + "/search", {"query": "home loans' interest"})
    assert found["resultCount"] == 1
    result = found["results"][0]
    assert result["doc"]["id"] == document["id"]
    passage = result["passage"]
    assert RATE[passage["start"] : passage["end"]] == passage["text"]
    read = await kb.ok("GET", f"{BASE}/{document['id']}")
    assert read["document"]["content"] == RATE
    assert (await kb.ok("GET", BASE + "/list"))["count"] == 1
    await kb.ok("DELETE", f"{BASE}/{document['id']}")
    await kb.refused(404, "not_found", "GET", f"{BASE}/{document['id']}")
    await kb.refused(404, "not_found", "DELETE", f"{BASE}/{document['id']}")
    assert (await kb.ok("POST", BASE + "/search", {"query": "home loan"}))["results"] == []


async def test_the_same_content_again_changes_nothing(kb: Api) -> None:
    """Neither a second document nor a second version."""
    first = await kb.ok("POST", BASE + "/add-text", {"title": "Home loan", "content": RATE})
    again = await kb.ok("POST", BASE + "/add-text", {"title": "Home loan", "content": RATE})
    assert (first["created"], first["changed"]) == (True, True)
    assert (again["created"], again["changed"]) == (False, False)
    assert again["document"] == first["document"]
    other = await kb.ok(
        "POST", BASE + "/add-text", {"title": "Home loan", "content": RATE, "source": "a.txt"}
    )
    assert other["created"]


async def test_a_document_is_changed_in_place(kb: Api) -> None:
    """By its id or its source; the old words are not found any more."""
    for name in ("id", "source"):
        old = await add(kb, "Fees", "The fee is called zebra.", **{name: "fees-1"})
        new = await add(kb, "Fees", "The fee is called quagga.", **{name: "fees-1"})
        assert (new["id"], new["version"], new["addedAt"]) == (old["id"], 2, old["addedAt"])
        assert (await kb.ok("POST", BASE + "/search", {"query": "zebra"}))["results"] == []
        assert (await kb.ok("POST", BASE + "/search", {"query": "quagga"}))["resultCount"] == 1
        await kb.ok("DELETE", f"{BASE}/{new['id']}")


async def test_an_answer_cites(kb: Api) -> None:
    """The sentence, and where it stands; nothing where nothing is known."""
    document = await add(kb, "Home loan", RATE)
    found = await kb.ok("POST", BASE + "/answer", {"query": "What is the interest rate of a home loan?"})
    assert found["answered"]
    citation = found["citations"][0]
    assert citation["documentId"] == document["id"]
    assert RATE[citation["start"] : citation["end"]] == citation["text"] == found["answer"]
    assert "8.5 percent" in found["answer"]
    unknown = await kb.ok("POST", BASE + "/answer", {"query": "Who discovered the moons of Neptune?"})
    assert (unknown["answered"], unknown["answer"], unknown["citations"]) == (False, None, [])


async def test_lists_are_paged_and_filtered(kb: Api) -> None:
    """Each document once, newest first; conditions hold."""
    ids = [
        (
            await add(
                kb,
                f"Document {n}",
                f"Text number {n}.",
                category="even" if n % 2 == 0 else "odd",
                tags=[f"t{n}"],
            )
        )["id"]
        for n in range(7)
    ]
    seen, cursor = [], ""
    while True:
        page = await kb.ok("GET", BASE + "/list", query=f"limit=3{cursor}")
        seen += [document["id"] for document in page["documents"]]
        assert page["count"] == 7
        if "nextCursor" not in page:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert sorted(seen) == sorted(str(each) for each in ids)
    assert (await kb.ok("GET", BASE + "/list", query="category=odd"))["count"] == 3
    assert (await kb.ok("GET", BASE + "/list", query="tag=t3"))["count"] == 1
    assert (await kb.ok("POST", BASE + "/search", {"query": "text number", "tags": ["t3", "t4"]}))[
        "resultCount"
    ] == 2
    assert (await kb.ok("POST", BASE + "/search", {"query": "text", "category": "even", "maxResults": 9}))[
        "resultCount"
    ] == 4
    await kb.refused(404, "not_found", "GET", BASE + "/list", query="cursor=nonsense")
    assert (await kb.ok("DELETE", BASE))["cleared"] == {"documents": 7}
    assert (await kb.ok("GET", BASE + "/list"))["count"] == 0


@pytest.mark.parametrize("user", ["", "userId=asha&"])
@pytest.mark.parametrize("owner", ["", "Q", "user"])
async def test_a_wrong_owner_removes_nothing(kb: Api, user: str, owner: str) -> None:
    """Not even a user's documents, of whom the owner says nothing more."""
    await add(kb, "Mine", "My rate is fixed.", userId="asha")
    await kb.refused(400, "invalid_request", "DELETE", BASE, query=f"{user}owner={owner}")
    assert (await kb.ok("GET", BASE + "/list", query="userId=asha"))["count"] == 1
    cleared = await kb.ok("DELETE", BASE, query="userId=asha&owner=tenant")
    assert cleared["cleared"] == {"documents": 1}
