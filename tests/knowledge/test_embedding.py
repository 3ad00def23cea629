"""Found by meaning as well as by words, never at the price of an answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad import limits, open_samvad
from samvad.errors import SetupError
from samvad.knowledge.embedders import EmbedderOptions, make_embedder
from samvad.knowledge.embedders.gemini import GeminiEmbedder
from samvad.knowledge.embedders.openai import OpenAIEmbedder
from samvad.knowledge.embedding import Embedder, packed
from samvad.knowledge.records import Scope
from samvad.testing.embeddings import FakeEmbeddings
from samvad.testing.gemini.credentials import TokenEndpoint
from samvad.types import Principal, trusted
from tests.firestore.support import emulator
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
# Words that mean the same; a vector counts the meanings of a text.
MEANINGS = (
    {"salary", "income", "wages", "आय", "वेतन"},
    {"loan", "credit", "mortgage", "ऋण", "कर्ज"},
    {"branch", "office", "शाखा"},
    {"fee", "charge", "शुल्क"},
)
TEXTS = {
    "income": "Proof of income is asked for. It may be three months old.",
    "branch": "The branch opens at ten. It shuts at four.",
    "fee": "A fee of one percent is taken once.",
}


def vector(text: str, dimensions: int = 8) -> list[float]:
    """Texts of one meaning have nearly one vector."""
    words = text.lower().replace(".", " ").replace("?", " ").split()
    found = [float(sum(word in meaning for word in words)) for meaning in MEANINGS]
    noise = [byte / 2_550 for byte in hashlib.sha256(text.encode()).digest()[: dimensions - len(found)]]
    return found + noise


@pytest.fixture
async def fake() -> AsyncIterator[FakeEmbeddings]:
    """An endpoint that knows what words mean."""
    async with FakeEmbeddings(vector) as found:
        yield found


def openai(fake: FakeEmbeddings, model: str = "m", **more: Any) -> OpenAIEmbedder:
    """An embedder over the endpoint."""
    return OpenAIEmbedder(base_url=fake.base_url, model=model, **{"languages": None, **more})


async def with_texts(kb: Any, **more: Any) -> None:
    """Add the texts, and wait until they have their vectors."""
    for name, text in TEXTS.items():
        await kb.add_text(name.title(), text, id=name, **more)
    await settled(kb)


async def settled(kb: Any) -> None:
    """Wait until nothing waits for its vectors, and what is there can be searched."""
    work = kb.core.shelf.embedding
    await work.settle()
    await work.loaded()
    await work.settle()


async def found(kb: Any, query: str, **more: Any) -> list[str]:
    """The documents that a query finds, in order."""
    return [hit.doc.id for hit in await kb.search(query, **more)]


def stores(database_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> str:
    """The URL of a store of this kind."""
    if kind == "firestore":
        running = emulator()
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", running.host)
        return f"firestore://{running.new_project()}"
    return "memory://" if kind == "memory" else f"sqlite:///{database_path}"


@pytest.mark.parametrize("kind", ["memory", "sqlite", "firestore"])
async def test_what_no_word_says_is_found_by_meaning(
    fake: FakeEmbeddings, kind: str, database_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every store, also across languages; vectors are kept: after a restart nothing is embedded again."""
    url = stores(database_path, monkeypatch, kind)
    async with open_samvad(url, embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        await with_texts(kb)
        assert (await found(kb, "wages"))[0] == "income"
        assert (await found(kb, "शुल्क"))[0] == "fee"
        (hit, *_) = await kb.search("wages")
        assert TEXTS["income"][hit.passage.start : hit.passage.end] == hit.passage.text
        assert 0 < hit.score <= 1
        await kb.add_text("Branch", "Our salary is paid monthly.", id="branch")
        await settled(kb)
        assert "branch" in (await found(kb, "wages"))[:2]
        await kb.delete("income")
        assert "income" not in await found(kb, "wages")
        if kind == "memory":
            return
    asked = len(fake.texts)
    async with open_samvad(url, embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        await kb.search("anything")
        await settled(kb)
        assert (await found(kb, "wages"))[0] == "branch"
    assert fake.texts[asked:] == ["wages"]


async def test_filters_and_owners_hold(fake: FakeEmbeddings) -> None:
    """What a condition or an owner excludes is not found by its meaning either."""
    async with open_samvad("memory://", embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        await with_texts(kb, tags=["t"], category="c")
        await kb.add_text("Mine", "My salary is my secret.", user_id="asha", id="mine")
        await settled(kb)
        await kb.search("wages", user_id="asha")
        await settled(kb)
        assert set(await found(kb, "wages", user_id="asha", max_results=2)) == {"mine", "income"}
        for other in (kb, kb.acting_as(Principal("default", "bala"))):
            assert "mine" not in await found(other, "wages", max_results=9)
        assert await found(kb.acting_as(trusted("elsewhere")), "wages") == []
        assert await found(kb, "wages", category="other") == []
        assert await found(kb, "wages", tags=["t"], max_results=1) == ["income"]
        assert await found(kb, "wages", user_id="asha", tags=["none"]) == []
        await kb.clear(user_id="asha")
        assert "mine" not in await found(kb, "wages", user_id="asha", max_results=9)


async def test_both_rankings_have_their_say(fake: FakeEmbeddings) -> None:
    """What is first by words and by meaning is first, with the best score there is."""
    async with open_samvad("memory://", embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        await with_texts(kb)
        hits = await kb.search("proof of income", max_results=9)
        assert (hits[0].doc.id, hits[0].score) == ("income", 1.0)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len({(hit.doc.id, hit.passage.start) for hit in hits}) == len(hits)


async def test_an_embedder_is_asked_about_its_languages_alone(fake: FakeEmbeddings) -> None:
    """One of English gets no Hindi, neither a document nor a question, nor one in Latin letters."""
    async with open_samvad("memory://", embedder=openai(fake, languages=frozenset({"en"}))) as samvad:
        kb = samvad.knowledge
        await with_texts(kb)
        await kb.add_text("ऋण", "वेतन का प्रमाण चाहिए।", id="hindi")
        await kb.add_text("Told", "Salary slip.", language="mr", id="told")
        await settled(kb)
        for query in ("वेतन", "byaj dar kya hai", "१२"):
            await kb.search(query)
        assert (await found(kb, "wages"))[0] == "income"
        assert not any("वेतन" in text or "byaj" in text or "slip" in text for text in fake.texts)
        assert fake.texts[-1] == "wages"


async def test_another_model_is_another_space(fake: FakeEmbeddings, database_path: Path) -> None:
    """Vectors of one model never answer for another; they are made anew in the background or by reindexing."""
    url = f"sqlite:///{database_path}"
    async with open_samvad(url, embedder=openai(fake, "first")) as samvad:
        await with_texts(samvad.knowledge)
    fake.vector = lambda text: vector(text, 12)
    fake.hold()
    async with open_samvad(url, embedder=openai(fake, "second")) as samvad:
        kb = samvad.knowledge
        assert (await found(kb, "branch"))[
            0
        ] == "branch"  # by words alone: nothing of the second space is there
        fake.held.set()
        await settled(kb)
        assert (await found(kb, "wages"))[0] == "income"
        assert await kb.core.shelf.store.embedded(Scope("default"), openai(fake, "first").space) == set()
    asked = len(fake.texts)
    async with open_samvad(url, embedder=openai(fake, "third")) as samvad:
        assert await samvad.knowledge.reindex() == len(TEXTS)
        assert len(fake.texts) == asked + len(TEXTS)
        await settled(samvad.knowledge)
        assert (await found(samvad.knowledge, "wages"))[0] == "income"


def test_vectors_of_another_space_are_not_compared() -> None:
    """Though they are of one length: the names of the spaces decide."""
    from samvad.knowledge.engine import Engine
    from samvad.knowledge.meaning import Meaning
    from samvad.knowledge.records import Document, Filter, QueryVector, StoredDocument, Vectors

    scope, data = Scope("default"), packed([1.0, 0.0])
    times = {"added_at": "2025-01-10T17:00:00.000Z", "updated_at": "2025-01-10T17:00:00.000Z"}
    document = Document(id="d", title="T", type="text", content_length=5, checksum="c", **times)
    engine, meaning = Engine(None), Meaning()
    engine.put([StoredDocument(scope=scope, document=document, text="Text.")])
    meaning.put(scope, [Vectors("d", "one", "c", "T", 2, ((0, 5),), data)])
    indexes = engine._indexes([scope])
    assert [each.document_id for each in meaning.nearest(QueryVector("one", data), indexes, Filter(), 5)] == [
        "d"
    ]
    assert meaning.nearest(QueryVector("other", data), indexes, Filter(), 5) == []
    engine.close()


async def test_vectors_of_another_length_are_not_compared(fake: FakeEmbeddings) -> None:
    """A service that changes its vectors under the same name is not trusted with the order."""
    async with open_samvad("memory://", embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        await with_texts(kb)
        fake.vector = lambda text: vector(text, 12)
        assert await found(kb, "wages") == []
        assert await found(kb, "proof of income") == ["income"]
        fake.vector = lambda text: [math.nan] * 8
        assert await found(kb, "wages") == []


async def test_a_service_that_fails_is_no_error(fake: FakeEmbeddings) -> None:
    """By words alone meanwhile; it is left in peace for a while, and documents get their vectors later."""
    async with open_samvad("memory://", embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        await with_texts(kb)
        fake.status = 500
        asked = len(fake.requests)
        for _ in range(5):
            assert await found(kb, "proof of income") == ["income"]
        assert len(fake.requests) == asked + 1
        assert (await kb.answer("What is taken once?")).answered
        await kb.add_text("Salary", "Salary day.", id="salary")
        assert await found(kb, "salary day") == ["salary"]


async def test_memory_of_owners_is_bounded(fake: FakeEmbeddings) -> None:
    """However many have documents: who was let go is found by meaning again, also where the service was away."""
    async with open_samvad("memory://", embedder=openai(fake, languages=["en"])) as samvad:
        kb = samvad.knowledge
        work = kb.core.shelf.embedding
        assert work is not None
        work._scopes_max = 4
        owners = [f"user_{number}" for number in range(9)]

        def held() -> int:
            parts: list[Any] = [work._known, work._loaded, work._has_any, work._waiting, work._passed]
            return max(map(len, parts))

        fake.hold()
        for owner in owners:
            await kb.add_text("Income", TEXTS["income"], id="income", user_id=owner)
            await kb.add_text("आय", "आय का प्रमाण माँगा जाता है।", id="other", language="hi", user_id=owner)
            assert held() <= 4
        fake.held.set()
        for owner in owners + owners[::-1]:
            await kb.search("wages", user_id=owner)
            await settled(kb)
            assert (await found(kb, "wages", user_id=owner))[0] == "income"
            assert held() <= 4
        await kb.delete("other", user_id=owners[0])
        await kb.add_text("Fee", TEXTS["fee"], id="fee", user_id=owners[0])
        await settled(kb)
        assert all("other" not in passed for scope, passed in work._passed.items() if scope.user == owners[0])


async def test_a_service_that_says_nothing_holds_up_nobody(
    fake: FakeEmbeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search waits for it as long as it may, and no longer; adding does not wait at all."""
    async with open_samvad("memory://", embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        await with_texts(kb)
        fake.hold()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await found(kb, "proof of income") == ["income"]
        assert loop.time() - began_s >= limits.EMBED_QUERY_S_MAX  # it was waited for: then came the answer
        await kb.add_text("Salary", "Salary day.", id="salary")
        assert await found(kb, "salary day") == ["salary"]


async def test_closing_does_not_wait_for_a_service(fake: FakeEmbeddings) -> None:
    """What lacks its vectors gets them after the next start."""
    fake.hold()
    async with open_samvad("memory://", embedder=openai(fake)) as samvad:
        await samvad.knowledge.add_text("Salary", "Salary day.")
        await wait_until_async(lambda: _true(fake.requests), "it is being embedded")


async def _true(value: object) -> object:
    return value


async def test_erasing_while_embedding_brings_nothing_back(fake: FakeEmbeddings, database_path: Path) -> None:
    """Vectors that arrive after their user was erased are thrown away."""
    async with open_samvad(f"sqlite:///{database_path}", embedder=openai(fake)) as samvad:
        kb = samvad.knowledge
        fake.hold()
        await kb.add_text("Mine", "My salary.", user_id="asha", id="mine")
        await wait_until_async(lambda: _true(fake.requests), "it is being embedded")
        await samvad.clear_user_data("asha")
        fake.held.set()
        await settled(kb)
        scope = Scope("default", "asha")
        assert await kb.core.shelf.store.embedded(scope, openai(fake).space) == set()


# --- the vendors' own clients ------------------------------------------------------------------------------------


async def test_openai_is_asked_as_its_documentation_says(fake: FakeEmbeddings) -> None:
    """Many texts in one request, dimensions where they are wanted, prefixes before the texts."""
    embedder = openai(fake, dimensions=8, query_prefix="query: ", document_prefix="passage: ")
    assert await embedder.embed_documents(["one", "two"]) == [vector("passage: one"), vector("passage: two")]
    assert await embedder.embed_query("one") == vector("query: one")
    path, body = fake.requests[0]
    assert path == "/v1/embeddings"
    assert (body["model"], body["dimensions"], body["input"]) == ("m", 8, ["passage: one", "passage: two"])
    await embedder.close()
    await embedder.close()
    assert openai(fake).space != embedder.space


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # of Google's client
async def test_gemini_is_told_what_is_a_query(fake: FakeEmbeddings) -> None:
    """By API key: all texts in one request, with their task and the length of the vectors."""
    embedder = GeminiEmbedder(api_key="x", dimensions=8, http_options={"base_url": fake.google_url})
    assert await embedder.embed_documents(["one", "two"]) == [vector("one"), vector("two")]
    assert await embedder.embed_query("three") == vector("three")
    (path, body), (_, asked) = fake.requests
    assert path.endswith("/models/gemini-embedding-001:batchEmbedContents")
    assert [each["taskType"] for each in body["requests"]] == ["RETRIEVAL_DOCUMENT"] * 2
    assert body["requests"][0]["outputDimensionality"] == 8
    assert asked["requests"][0]["taskType"] == "RETRIEVAL_QUERY"
    await embedder.close()


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
async def test_vertex_is_asked_text_by_text(
    fake: FakeEmbeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the project's credentials; the order of the answers is that of the texts."""
    tokens = TokenEndpoint()
    await tokens.start(tmp_path)
    monkeypatch.setenv(
        "GOOGLE_APPLICATION_CREDENTIALS", str(await asyncio.to_thread(lambda: tokens.credentials_file))
    )
    embedder = make_embedder(
        EmbedderOptions("vertex", project_id="demo-project", location="us-central1", dimensions=8)
    )
    assert isinstance(embedder, GeminiEmbedder)
    embedder._who = {**embedder._who, "http_options": {"base_url": fake.google_url}}
    texts = [f"text {number}" for number in range(6)]
    assert await embedder.embed_documents(texts) == [vector(text) for text in texts]
    assert sorted(fake.texts) == texts
    assert "/projects/demo-project/locations/us-central1/" in fake.requests[0][0]
    assert tokens.tokens_given
    await embedder.close()
    await tokens.stop()


def static_model(folder: Path) -> Path:
    """A tiny model, as Model2Vec keeps it: a vector a word."""
    pytest.importorskip("model2vec")
    import numpy
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit

    words = ["[UNK]", *sorted(set().union(*MEANINGS))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation()])
    weights = numpy.array(
        [[*(word in meaning for meaning in MEANINGS), 0.01] for word in words], dtype="float32"
    )
    StaticModel(weights, tokenizer, config={"normalize": True}).save_pretrained(folder)
    return folder


async def test_a_local_model_needs_no_service(tmp_path: Path) -> None:
    """A static model in a folder, loaded as any other of its kind."""
    folder = await asyncio.to_thread(static_model, tmp_path / "tiny")
    embedder = make_embedder(EmbedderOptions("local", model=str(folder), languages="en,hi"))
    async with open_samvad("memory://", embedder=embedder) as samvad:
        kb = samvad.knowledge
        await with_texts(kb)
        assert (await found(kb, "wages"))[0] == "income"
        assert (await found(kb, "शाखा"))[0] == "branch"


def refusals() -> list[tuple[EmbedderOptions, str]]:
    """Settings that cannot be, and what is said."""
    return [
        (EmbedderOptions("openai", environ={}), "SAMVAD_EMBEDDING_BASE_URL"),
        (EmbedderOptions("openai", base_url="http://x/v1", environ={}), "SAMVAD_EMBEDDING_MODEL"),
        (EmbedderOptions("openai", base_url="x", model="m", environ={}), "http://"),
        (
            EmbedderOptions("openai", base_url="http://x/v1", model="e5", environ={}),
            "SAMVAD_EMBEDDING_LANGUAGES",
        ),
        (EmbedderOptions("gemini", environ={}), "GEMINI_API_KEY"),
        (EmbedderOptions("vertex", environ={}), "PROJECT_ID"),
        (EmbedderOptions("local", environ={}), "SAMVAD_EMBEDDING_MODEL"),
        (EmbedderOptions("local", model="/nowhere", languages="en", environ={}), "config.json is missing"),
        (EmbedderOptions("nobody", environ={}), "none, openai"),
    ]


@pytest.mark.parametrize(("options", "says"), refusals(), ids=str)
def test_a_setting_that_is_missing_is_named(options: EmbedderOptions, says: str) -> None:
    """In one line, when the server starts."""
    if options.provider == "local":
        pytest.importorskip("model2vec")
    with pytest.raises(SetupError, match=says) as raised:
        make_embedder(options)
    assert "\n" not in raised.value.message


def test_known_models_need_no_languages() -> None:
    """Those of which it is known that they know all."""
    embedder: Embedder | None = make_embedder(EmbedderOptions("openai", api_key="x", environ={}))
    assert embedder is not None and embedder.languages is None
    some = make_embedder(EmbedderOptions("gemini", api_key="x", languages="en, hi-IN", environ={}))
    assert some is not None and some.languages == frozenset({"en", "hi"})
    assert make_embedder(EmbedderOptions()) is None
    assert json.dumps(some.space)
