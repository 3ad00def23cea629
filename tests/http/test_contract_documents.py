"""The contract, section 5: pages and PDFs as documents, and what is said where there is none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from samvad import limits, open_samvad
from samvad.knowledge import extracting
from samvad.knowledge.fetching import Fetcher
from samvad.knowledge.sources import Uploads
from tests.auth.world import ASHA, BALA, bearing, world
from tests.http.support import Answer, Api
from tests.knowledge.test_extracting import DATA, HELLO, bomb, pdf
from tests.knowledge.test_fetching import INSIDE, fetcher, page, redirect, web
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
BASE = "/api/knowledge"
TITLE = b"<html lang=hi><title>\xe0\xa4\x8b\xe0\xa4\xa3</title><h1>Loan</h1><p>The zebra rate is fixed.</p></html>"


@pytest.fixture(params=["memory", "sqlite"])
async def kb(request: pytest.FixtureRequest, database_path: Path) -> AsyncIterator[Api]:
    """The API over each store; what it may fetch from is 127.0.0.2, which plays the public internet."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{database_path}"
    async with open_samvad(url) as samvad:
        yield Api(samvad)


@pytest.fixture
async def plain() -> AsyncIterator[Api]:
    """The API over the memory store alone."""
    async with open_samvad("memory://") as samvad:
        yield Api(samvad)


def may_fetch(api: Api, *ports: int, fetching: Fetcher | None = None) -> None:
    """Let the API fetch from these ports of the public internet."""
    base = api.samvad.knowledge
    base.core = base.core._replace(fetcher=fetching or fetcher(*ports))


def encoded(data: bytes) -> str:
    """A file as it is sent."""
    return base64.b64encode(data).decode()


async def add_pdf(api: Api, data: bytes, **fields: Any) -> Any:
    """Send a PDF."""
    return await api.post(BASE + "/add-pdf", {"pdfContent": encoded(data), "filename": "terms.pdf", **fields})


async def test_a_page_is_added_found_and_changed_in_place(kb: Api) -> None:
    """Its title and language are its own, its source is its address; the same page again changes nothing."""
    async with web() as site:
        may_fetch(kb, site.port)
        site.answer = page(TITLE)
        url = f"{site.url}/rates?of=loans#now"
        first = await kb.ok("POST", BASE + "/add-url", {"url": url, "category": "loans", "tags": ["home"]})
        document = first["document"]
        assert {"id", "title", "type", "category", "contentLength", "addedAt"} <= set(document)
        assert (document["title"], document["type"], document["language"]) == ("ऋण", "url", "hi")
        assert (document["source"], document["category"]) == (url.partition("#")[0], "loans")
        found = await kb.ok("POST", BASE + "/search", {"query": "zebra", "category": "loans"})
        assert found["results"][0]["doc"]["id"] == document["id"]
        assert found["results"][0]["passage"]["headings"] == ["Loan"]
        again = await kb.ok("POST", BASE + "/add-url", {"url": url, "category": "loans", "tags": ["home"]})
        assert (again["changed"], again["document"]) == (False, document)
        site.answer = page(TITLE.replace(b"zebra", b"quagga"))
        changed = await kb.ok("POST", BASE + "/add-url", {"url": url, "title": "Mine"})
        assert (changed["created"], changed["document"]["version"]) == (False, 2)
        assert (changed["document"]["id"], changed["document"]["title"]) == (document["id"], "Mine")
        assert (await kb.ok("POST", BASE + "/search", {"query": "zebra"}))["results"] == []


async def test_a_pdf_is_added_and_found(kb: Api) -> None:
    """With its own title or the one that is given; its file's name is kept."""
    answer = await add_pdf(kb, (DATA / "hindi.pdf").read_bytes(), tags=["ऋण"])
    document = answer.json["document"]
    assert (document["title"], document["type"], document["filename"]) == (
        "गृह ऋण की शर्तें",
        "pdf",
        "terms.pdf",
    )
    found = await kb.ok("POST", BASE + "/answer", {"query": "ब्याज दर कितनी है?"})
    assert "8.5 प्रतिशत" in found["answer"]
    again = await add_pdf(kb, (DATA / "hindi.pdf").read_bytes(), tags=["ऋण"])
    assert (again.json["created"], again.json["changed"]) == (False, False)
    named = await add_pdf(kb, pdf(HELLO), title="Rates", id="rates")
    assert (named.json["document"]["title"], named.json["document"]["id"]) == ("Rates", "rates")
    untitled = await add_pdf(kb, pdf(HELLO))
    assert untitled.json["document"]["title"] == "terms"


async def test_a_users_pages_and_files_are_that_users(kb: Api) -> None:
    """Others find nothing of them; erasing the user removes them."""
    async with web() as site:
        may_fetch(kb, site.port)
        site.answer = page(TITLE)
        await kb.ok("POST", BASE + "/add-url", {"url": site.url, "userId": "asha"})
    await add_pdf(kb, pdf(HELLO), userId="asha")
    for query in ("zebra", "rate"):
        assert (await kb.ok("POST", BASE + "/search", {"query": query}))["results"] == []
        mine = await kb.ok("POST", BASE + "/search", {"query": query, "userId": "asha"})
        assert mine["results"][0]["doc"]["owner"] == "user"
    assert (await kb.ok("GET", BASE + "/list"))["count"] == 0
    await kb.ok("POST", "/api/session/refresh", {"userId": "asha"})
    assert (await kb.ok("GET", BASE + "/list", query="userId=asha"))["count"] == 0


async def test_a_key_makes_both_safe_to_repeat(plain: Api) -> None:
    """The page is not fetched again, nor a file read again; another body with the key is refused."""
    key = {"Idempotency-Key": "once"}
    async with web() as site:
        may_fetch(plain, site.port)
        site.answer = page(TITLE)
        body = {"url": site.url}
        first = await plain.ok("POST", BASE + "/add-url", body, headers=key)
        site.answer = page(TITLE + b"<p>More.</p>")
        assert await plain.ok("POST", BASE + "/add-url", body, headers=key) == first
        assert site.connections == 1
    sent = {"pdfContent": encoded(pdf(HELLO)), "filename": "a.pdf"}
    await plain.refused(422, "idempotency_key_reused", "POST", BASE + "/add-pdf", sent, headers=key)
    other = {"Idempotency-Key": "other"}
    first = await plain.ok("POST", BASE + "/add-pdf", sent, headers=other)
    assert await plain.ok("POST", BASE + "/add-pdf", sent, headers=other) == first
    sent["filename"] = "b.pdf"
    await plain.refused(422, "idempotency_key_reused", "POST", BASE + "/add-pdf", sent, headers=other)


@pytest.mark.parametrize(
    "url", INSIDE[::6] + ["http://169.254.169.254/latest/meta-data/", "file:///etc/passwd"]
)
async def test_no_address_of_the_inside_is_asked(plain: Api, url: str) -> None:
    """Neither straight nor by a redirect, through the route itself; no document comes of it."""
    async with web("127.0.0.1") as inside, web() as outside:
        may_fetch(plain, inside.port, outside.port)
        target = url.format(port=inside.port)
        answer = await plain.post(BASE + "/add-url", {"url": target})
        assert answer.status == 400 and answer.json["code"] in ("url_refused", "url_failed"), answer.body
        outside.answer = redirect(target.encode().decode("latin-1"))
        answer = await plain.post(BASE + "/add-url", {"url": outside.url})
        assert answer.json["code"] in ("url_refused", "url_failed"), answer.body
    assert inside.connections == 0
    assert (await plain.ok("GET", BASE + "/list"))["count"] == 0


async def test_by_default_only_public_addresses_are_fetched(plain: Api) -> None:
    """The service as it is opened reaches no server of this machine."""
    async with web("127.0.0.1") as inside:
        answer = await plain.post(BASE + "/add-url", {"url": f"http://127.0.0.1:{inside.port}/"})
        assert answer.json["code"] == "url_refused"
        may_fetch(plain, fetching=Fetcher(ports=[inside.port]))
        await plain.refused(400, "url_refused", "POST", BASE + "/add-url", {"url": inside.url})
    assert inside.connections == 0


def unreadable() -> Iterator[tuple[str, bytes, bytes, str]]:
    """Answers of a page that give no document: what they are, kind, body, and what is said."""
    yield "a picture", b"image/png", b"\x89PNG", "url_failed"
    yield "no words", b"text/html", b"<p>!</p>", "unreadable_document"
    yield "scripts alone", b"text/html", b"<script>steal()</script>", "unreadable_document"
    yield "a false PDF", b"application/pdf", b"not a PDF", "unreadable_document"
    yield "a locked character set", b"text/plain; charset=nonsense", b"words", "unreadable_document"


@pytest.mark.parametrize("case", [*unreadable()], ids=lambda case: case[0])
async def test_a_page_without_a_document_is_one_sentence(
    plain: Api, case: tuple[str, bytes, bytes, str]
) -> None:
    """400 with a code to switch on."""
    _, kind, body, code = case
    async with web() as site:
        may_fetch(plain, site.port)
        site.answer = page(body, kind=kind)
        await plain.refused(400, code, "POST", BASE + "/add-url", {"url": site.url})


async def test_what_does_not_come_in_time_or_at_all_is_told(plain: Api) -> None:
    """A host that is not there, one that says nothing, one that never ends, one that is missing the page."""
    async with web() as site:
        port = site.port

        async def silence(head: bytes, writer: Any) -> None:
            await writer.drain()
            await site.released.wait()  # type: ignore[attr-defined]

        site.released = asyncio.Event()  # type: ignore[attr-defined]
        site.answer = silence
        may_fetch(plain, fetching=fetcher(port, seconds_max=0.2))
        answer = await plain.refused(400, "url_failed", "POST", BASE + "/add-url", {"url": site.url})
        assert "0.2 s" in answer.json["error"]
        site.released.set()  # type: ignore[attr-defined]
        may_fetch(plain, fetching=fetcher(port, bytes_max=1_000))
        site.answer = page(b"word " * 1_000)
        await plain.refused(413, "too_large", "POST", BASE + "/add-url", {"url": site.url})
        site.answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        await plain.refused(400, "url_failed", "POST", BASE + "/add-url", {"url": site.url})
    await plain.refused(400, "url_failed", "POST", BASE + "/add-url", {"url": f"http://127.0.0.2:{port}/"})


def locked() -> bytes:
    """A PDF with a password."""
    lock = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >>" % (b"41" * 32, b"42" * 32)
    ids = b"<%b>" % (b"43" * 16)
    return pdf(HELLO, extra=[lock], trailer=b"/Encrypt 7 0 R /ID [%b %b]" % (ids, ids))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (locked(), "password"),
        (pdf(b"0.5 g 10 10 500 700 re f"), "OCR"),
        (b"%PDF-1.7 cut", "damaged"),
        (b"PK\x03\x04 an office document", "ZIP"),
        (b"Just some words.", "not a PDF"),
    ],
    ids=["encrypted", "scanned", "damaged", "another kind", "no PDF"],
)
async def test_a_pdf_without_text_says_why(plain: Api, data: bytes, says: str) -> None:
    """400 with what to do about it."""
    answer = await add_pdf(plain, data)
    assert (answer.status, answer.json["code"]) == (400, "unreadable_document")
    assert says in answer.json["error"]


async def test_a_bomb_is_an_error_within_bounds(plain: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to gigabytes: one sentence, and the server goes on."""
    monkeypatch.setattr(extracting, "EXTRACTION_MEMORY_BYTES_MAX", 300 * 1024 * 1024)
    monkeypatch.setattr(extracting, "EXTRACTION_S_MAX", 3.0)
    answer = await add_pdf(plain, bomb())
    assert (answer.status, answer.json["code"]) == (400, "unreadable_document")
    assert (await add_pdf(plain, pdf(HELLO))).status == 200


@pytest.mark.parametrize(
    "content",
    [
        "%%%",
        "AAAA====AAAA",
        "a" * 5,
        "",
        "data:application/pdf,abc",
        "हिन्दी",
        "QQ==QQ==",
        7,
        None,
        ["a"],
        {"a": 1},
    ],
    ids=repr,
)
async def test_malformed_base64_is_refused(plain: Api, content: object) -> None:
    """400, whatever stands there."""
    answer = await plain.post(BASE + "/add-pdf", {"pdfContent": content, "filename": "a.pdf"})
    assert answer.status == 400
    assert answer.json["code"] == ("missing_fields" if content is None else "invalid_request")


async def test_base64_in_json_is_taken_as_people_write_it(plain: Api) -> None:
    """With line breaks, as a data: URL, with '/' escaped."""
    data = pdf(HELLO + b" %" + bytes(range(60, 256)))
    text = encoded(data)
    assert "/" in text
    lines = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for content in (json.dumps(lines), json.dumps("data:application/pdf;base64," + text)):
        body = f'{{"pdfContent": {content}, "filename": "a.pdf"}}'
        assert (await plain.post(BASE + "/add-pdf", content=body.encode())).status == 200
    body = f'{{"pdfContent": "{text}", "filename": "a.pdf"}}'.replace("/", "\\/")
    assert (await plain.post(BASE + "/add-pdf", content=body.encode())).status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"url": "https://example.com/", "tags": "one"},
        {"url": "https://example.com/", "title": "two\nlines"},
        {"url": "https://example.com/", "owner": "nobody"},
        {"url": "https://example.com/", "language": "?"},
        {"url": "https://example.com/", "metadata": []},
        {"url": "https://example.com/", "userId": "a/b"},
        {"url": ["https://example.com/"]},
        {"title": "no address"},
    ],
    ids=repr,
)
async def test_nothing_is_fetched_for_what_is_refused_anyway(plain: Api, body: dict[str, Any]) -> None:
    """What is said of a page is judged before the page is asked for."""

    async def nobody(host: str, port: int) -> Any:
        raise AssertionError(host)

    may_fetch(plain, fetching=Fetcher(resolve_host=nobody))
    assert (await plain.post(BASE + "/add-url", body)).status == 400


async def test_fifty_megabytes_are_read_or_refused_within_bounds(plain: Api) -> None:
    """A PDF of 50 MB is read; a body over the bound is 413 before it is read, also when it is sent in pieces."""
    ballast = b"<< /Length 50000000 >> stream\n%b\nendstream" % (b"x" * 50_000_000)
    answer = await add_pdf(plain, pdf(HELLO, extra=[ballast]))
    assert answer.json["document"]["contentLength"] == len("The rate is fixed.")
    head = {"content-length": str(limits.PDF_BODY_BYTES_MAX + 1)}
    await plain.refused(413, "too_large", "POST", BASE + "/add-pdf", content=b"{", headers=head)
    many = b'"metadata":{"a":[' + b",".join([b"[]"] * 400_000) + b"]}"
    sent = b'{"filename":"a.pdf","pdfContent":"%b",' % base64.b64encode(pdf(HELLO)) + many + b"}"
    answer = await plain.refused(413, "too_large", "POST", BASE + "/add-pdf", content=sent)
    assert "beside pdfContent" in answer.json["error"]
    pieces = [b'{"pdfContent": "'] + [b"A" * (1 << 20)] * 72
    await plain.refused(413, "too_large", "POST", BASE + "/add-pdf", content=pieces)
    long = {"content-length": str(limits.BODY_BYTES_MAX + 1)}
    await plain.refused(413, "too_large", "POST", BASE + "/add-url", content=b"{", headers=long)


async def test_where_too_much_is_in_memory_another_waits(plain: Api) -> None:
    """503 with Retry-After; once there is room, it is taken."""
    base = plain.samvad.knowledge
    sent = {"pdfContent": encoded(pdf(HELLO)), "filename": "a.pdf"}
    base.core = base.core._replace(uploads=Uploads(10_000))
    with base.core.uploads.room(9_990):
        answer = await plain.refused(503, "overloaded", "POST", BASE + "/add-pdf", sent)
        assert answer.headers["retry-after"]
    assert (await plain.post(BASE + "/add-pdf", sent)).status == 200
    assert (await plain.post(BASE + "/add-pdf", {**sent, "pdfContent": "%"})).status == 400
    with base.core.uploads.room(10_000):
        pass


async def test_a_type_that_is_no_word_is_refused() -> None:
    """Also one that cannot be hashed."""
    from samvad.errors import InvalidRequest

    async with open_samvad("memory://") as samvad:
        for kind in (["text"], {}, 7, "docx"):
            with pytest.raises(InvalidRequest):
                await samvad.knowledge.add_text("T", "Text.", type=kind)  # type: ignore[arg-type]


async def test_nobody_has_all_the_places() -> None:
    """Of one person four pages are fetched and four files read at once; then it is 503 for them and nobody else."""
    async with world() as here, web() as site:
        released = asyncio.Event()

        async def late(head: bytes, writer: Any) -> None:
            await released.wait()
            writer.write(page(TITLE, kind=b"text/html"))
            await writer.drain()

        site.answer = late
        may_fetch(here.api, site.port)

        async def add(user: str, name: str) -> Answer:
            body = {"url": f"{site.url}/{name}"}
            return await here.api.post(BASE + "/add-url", body, headers=bearing(here.token(user)))

        async def fetched(number: int) -> None:
            async def there() -> bool:
                return site.connections == number

            await wait_until_async(there, f"{number} pages are asked for")

        most = limits.DOCUMENTS_READ_EACH_MAX
        mine = [asyncio.create_task(add(ASHA, str(number))) for number in range(most)]
        await fetched(most)
        assert (await add(ASHA, "more")).status == 503
        theirs = asyncio.create_task(add(BALA, "0"))
        await fetched(most + 1)
        released.set()
        assert [(await each).status for each in (*mine, theirs)] == [200] * (most + 1)
        assert (await add(ASHA, "more")).status == 200

        uploads = here.samvad.knowledge.core.uploads
        sent = {"pdfContent": encoded(pdf(HELLO)), "filename": "a.pdf"}
        with contextlib.ExitStack() as held:
            for _ in range(most):
                held.enter_context(uploads.room(1, ("default", ASHA)))
            for user, status in ((ASHA, 503), (BALA, 200)):
                answer = await here.api.post(BASE + "/add-pdf", sent, headers=bearing(here.token(user)))
                assert answer.status == status
