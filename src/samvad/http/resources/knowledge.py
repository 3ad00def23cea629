"""The knowledge base: documents, searches and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from samvad import limits
from samvad.errors import InvalidRequest, SetupError, TooLarge, Unavailable
from samvad.http.access import KNOWLEDGE
from samvad.http.call import Call, Reply, encode
from samvad.http.routing import Route
from samvad.knowledge import taking
from samvad.knowledge.base import Added, KnowledgeBase
from samvad.knowledge.extracting import decode_base64
from samvad.knowledge.records import Document

_BLOCK_BYTES = 1024 * 1024
_COMMON = ("category", "tags", "language", "id", "source", "metadata", "owner")


def knowledge_of(call: Call) -> KnowledgeBase:
    """The knowledge base, for who is asking."""
    return call.knowledge


async def add_text(call: Call) -> Reply:
    """Add a text, or change the one of this `id` or `source`."""
    body = await call.object(limits.BODY_BYTES_MAX)
    taking.required(title=body.get("title"), content=body.get("content"))
    given = {name: body[name] for name in _COMMON if body.get(name) is not None}
    user_id = body.get("userId")
    kind = "text" if body.get("type") is None else body["type"]
    if kind not in ("text", "markdown"):
        raise InvalidRequest("type must be text or markdown.")

    async def act(receipt: object) -> dict[str, Any]:
        added = await knowledge_of(call).add_text(
            body["title"], body["content"], type=kind, user_id=user_id, **given
        )
        return told(added)

    return Reply(encode(await call.once(user_id, dict[str, Any], act, keep=True)))


async def add_url(call: Call) -> Reply:
    """Fetch a page and add it, or change the document of this `url`."""
    body = await call.object()
    taking.required(url=body.get("url"))
    return await _added(call, body, lambda base, given: base.add_url(body["url"], **given))


async def add_pdf(call: Call) -> Reply:
    """Add a PDF, or change the one of this `id` or `source`."""
    base = knowledge_of(call)
    base.check()  # before the body is read: it may be large
    with base.core.uploads.room(call.length(limits.PDF_BODY_BYTES_MAX), base.person):
        members = await call.members(
            limits.PDF_BODY_BYTES_MAX, "pdfContent", "filename", "title", "userId", "url", *_COMMON
        )
        content = members.pop("pdfContent", msgspec.Raw(b"null"))
        if sum([memoryview(value).nbytes for value in members.values()]) > limits.SMALL_BODY_BYTES_MAX:
            raise TooLarge(f"All beside pdfContent may take {limits.SMALL_BODY_BYTES_MAX} bytes at most.")
        body = {name: msgspec.json.decode(value) for name, value in members.items()}
        given = None if bytes(memoryview(content)[:5]) == b"null" else content
        taking.required(pdfContent=given, filename=body.get("filename"))

        async def add(base: KnowledgeBase, described: dict[str, Any]) -> Added:
            data = await asyncio.to_thread(_pdf_bytes, content)
            return await base.add_file(data, body["filename"], kind="pdf", **described)

        return await _added(call, body, add)


def _pdf_bytes(content: msgspec.Raw) -> bytes:
    """What stands in a JSON string in base64."""
    view = memoryview(content)
    if any(b"\\" in bytes(view[at : at + _BLOCK_BYTES]) for at in range(0, len(view), _BLOCK_BYTES)):
        # As some write '/'.
        return decode_base64(taking.text(msgspec.json.decode(content), "pdfContent"))
    if bytes(view[:1]) != b'"':
        raise InvalidRequest("pdfContent must be a text: the file's bytes as base64.")
    return decode_base64(view[1:-1])


async def _added(
    call: Call, body: dict[str, Any], add: Callable[[KnowledgeBase, dict[str, Any]], Awaitable[Added]]
) -> Reply:
    """Add what had to be read first; what is said of it is as for a text."""
    given = {name: body[name] for name in ("title", *_COMMON) if body.get(name) is not None}
    if "url" in body:
        given.pop("source", None)
    user_id = body.get("userId")

    async def act(receipt: object) -> dict[str, Any]:
        try:
            return told(await add(knowledge_of(call), {**given, "user_id": user_id}))
        except SetupError as error:  # an extra is missing: nothing that the caller could mend
            raise Unavailable(error.message) from None

    return Reply(encode(await call.once(user_id, dict[str, Any], act, keep=True)))


def told(added: Added) -> dict[str, Any]:
    """What is answered when a document was added."""
    message = (
        "Document added" if added.created else "Document updated" if added.changed else "Document unchanged"
    )
    return {
        "success": True,
        "message": f"{message} successfully" if added.changed else "Document was there already, unchanged",
        "created": added.created,
        "changed": added.changed,
        "document": seen(added.document),
    }


def seen(document: Document) -> dict[str, Any]:
    """A document as it is told: `category` and `language` are there also where they are null."""
    fields: dict[str, Any] = msgspec.to_builtins(document)
    return {
        "category": None,
        "language": None,
        "tags": [],
        "version": 1,
        "owner": "tenant",
        "passages": 0,
    } | fields


async def list_documents(call: Call) -> Reply:
    """The documents, newest first."""
    found = call.query("limit", "cursor", "category", "tag", "language", "userId")
    limit = call.query_int(found, "limit", 1, limits.PAGE_DOCUMENTS_MAX)
    page = await knowledge_of(call).list_documents(
        limit=limit or limits.PAGE_DOCUMENTS,
        cursor=found.get("cursor"),
        category=found.get("category"),
        tags=[found["tag"]] if "tag" in found else [],
        language=found.get("language"),
        user_id=found.get("userId"),
    )
    answer = {
        "success": True,
        "count": page.count,
        "documents": [seen(document) for document in page.documents],
    }
    if page.next_cursor is not None:
        answer["nextCursor"] = page.next_cursor
    return Reply(encode(answer))


async def get_document(call: Call) -> Reply:
    """One document, with its content."""
    found = call.query("userId")
    stored = await knowledge_of(call).get(call.params[0], user_id=found.get("userId"))
    document = seen(stored.document) | {"content": stored.text}
    return Reply(encode({"success": True, "document": document}))


async def delete_document(call: Call) -> Reply:
    """Remove a document."""
    found = call.query("userId")
    await knowledge_of(call).delete(call.params[0], user_id=found.get("userId"))
    return Reply(
        encode({"success": True, "message": "Document deleted successfully", "documentId": call.params[0]})
    )


async def stats(call: Call) -> Reply:
    """Tell which documents are cited most, and which questions found nothing."""
    found = call.query("userId", "limit")
    limit = call.query_int(found, "limit", 1, limits.UNFOUND_MAX) or limits.STATISTICS
    told = await knowledge_of(call).stats(user_id=found.get("userId"), limit=limit)
    return Reply(encode({"success": True, "stats": told}))


async def clear_stats(call: Call) -> Reply:
    """Forget what was asked: of the tenant, or of one user."""
    found = call.query("userId")
    await knowledge_of(call).clear_stats(user_id=found.get("userId"))
    return Reply(encode({"success": True, "message": "Statistics cleared successfully"}))


async def clear_documents(call: Call) -> Reply:
    """Remove all documents of the tenant, or of one other owner."""
    found = call.query("userId", "owner")
    owner: Any = found.get("owner")
    if owner not in (None, "everyone", "tenant"):  # also where it would not be looked at
        raise InvalidRequest("owner must be everyone or tenant.")
    if "userId" in found:
        owner = None
    count = await knowledge_of(call).clear(user_id=found.get("userId"), owner=owner)
    return Reply(
        encode(
            {
                "success": True,
                "message": "Knowledge base cleared successfully",
                "cleared": {"documents": count},
            }
        )
    )


async def search(call: Call) -> Reply:
    """Find the passages that fit a query best."""
    body = await call.object()
    taking.required(query=body.get("query"))

    async def act(receipt: object) -> dict[str, Any]:
        hits = await knowledge_of(call).search(
            body["query"],
            max_results=limits.RESULTS if body.get("maxResults") is None else body["maxResults"],
            **_condition(body),
        )
        results = [{"doc": seen(hit.doc), "score": hit.score, "passage": hit.passage} for hit in hits]
        return {"success": True, "query": body["query"], "resultCount": len(results), "results": results}

    return Reply(encode(await call.once(body.get("userId"), dict[str, Any], act, keep=True)))


async def answer(call: Call) -> Reply:
    """Answer a question with the sentence that says so, and where it stands; or say that none does."""
    body = await call.object()
    taking.required(query=body.get("query"))
    confidence = body.get("minConfidence")
    if confidence is None:
        confidence = limits.ANSWER_CONFIDENCE_MIN
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise InvalidRequest("minConfidence must be a number from 0 to 1.")

    async def act(receipt: object) -> dict[str, Any]:
        found = await knowledge_of(call).answer(body["query"], min_confidence=confidence, **_condition(body))
        return {
            "success": True,
            "query": body["query"],
            "answered": found.answered,
            "confidence": found.confidence,
            "answer": found.answer,
            "citations": found.citations,
        }

    return Reply(encode(await call.once(body.get("userId"), dict[str, Any], act, keep=True)))


def _condition(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "category": body.get("category"),
        "tags": body.get("tags") if body.get("tags") is not None else (),
        "language": body.get("language"),
        "user_id": body.get("userId"),
    }


_PATH = "/api/knowledge"
ROUTES = (
    Route("POST", _PATH + "/add-text", add_text, "addText", KNOWLEDGE),
    Route("POST", _PATH + "/add-url", add_url, "addUrl", KNOWLEDGE),
    Route("POST", _PATH + "/add-pdf", add_pdf, "addPdf", KNOWLEDGE),
    Route("GET", _PATH + "/list", list_documents, "listDocuments", KNOWLEDGE),
    Route("POST", _PATH + "/search", search, "searchKnowledge", KNOWLEDGE),
    Route("POST", _PATH + "/answer", answer, "answerQuestion", KNOWLEDGE),
    Route("GET", _PATH + "/stats", stats, "knowledgeStats", KNOWLEDGE),
    Route("DELETE", _PATH + "/stats", clear_stats, "clearKnowledgeStats", KNOWLEDGE),
    Route("GET", _PATH + "/{documentId}", get_document, "getDocument", KNOWLEDGE),
    Route("DELETE", _PATH + "/{documentId}", delete_document, "deleteDocument", KNOWLEDGE),
    Route("DELETE", _PATH, clear_documents, "clearDocuments", KNOWLEDGE),
)
