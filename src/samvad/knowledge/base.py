"""KnowledgeBase: the verbs over documents, searches and answers. Acts for one principal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from samvad import limits
from samvad.clock import Clock, random_hex, rfc3339
from samvad.errors import Forbidden, InvalidId, InvalidRequest, NotFound
from samvad.knowledge import taking
from samvad.knowledge.chat import for_prompt
from samvad.knowledge.fetching import Fetcher
from samvad.knowledge.languages import language_of
from samvad.knowledge.passages import markdown_headings
from samvad.knowledge.records import (
    EVERYONE,
    Document,
    DocumentPage,
    HeadingAt,
    Hit,
    KnowledgeAnswer,
    Ownership,
    Scope,
    StoredDocument,
)
from samvad.knowledge.shelf import Shelf
from samvad.knowledge.sources import Read, Uploads, kind_of_file, name_of_file, read_document
from samvad.knowledge.statistics import Statistics, scope_of, told
from samvad.types import DEFAULT_TENANT, Principal

_log = logging.getLogger(__name__)


class Added(NamedTuple):
    """What became of an added document. `changed` is false where the same content was there already."""

    document: Document
    created: bool
    changed: bool


class KnowledgeCore(NamedTuple):
    """What the knowledge bases of all principals share."""

    shelf: Shelf
    clock: Clock
    writing: asyncio.Lock
    fetcher: Fetcher
    uploads: Uploads
    statistics: Statistics


class KnowledgeBase:
    """Documents, and what is found in them, for one principal.

    A principal of a user sees that user's documents, the tenant's and everyone's, and changes the user's alone. One
    without a user acts for the tenant: it changes the tenant's documents, and with `user_id` that user's.
    """

    def __init__(self, core: KnowledgeCore, principal: Principal) -> None:
        self.core = core
        self.principal = principal

    @property
    def person(self) -> tuple[str, str] | None:
        """The person it acts for, by tenant and name; None for a program."""
        tenant, user, _, _ = self.principal
        return None if user is None else (tenant, user)

    def acting_as(self, principal: Principal) -> KnowledgeBase:
        """The same knowledge base for another principal."""
        return KnowledgeBase(self.core, principal)

    # --- adding ----------------------------------------------------------------------------------------

    async def add_text(
        self,
        title: str,
        content: str,
        *,
        category: str | None = None,
        tags: Sequence[str] = (),
        language: str | None = None,
        type: str = "text",
        source: str | None = None,
        filename: str | None = None,
        headings: Sequence[HeadingAt] | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
        user_id: str | None = None,
        owner: Ownership | None = None,
    ) -> Added:
        """Add a document, or change the one of this `id` or `source`; the same content again changes nothing.

        `headings` are those of the content; left out, lines such as `## So` are taken for headings. `language` is
        told from the script where it is left out. Raises InvalidRequest (MissingFields, InvalidId) for what cannot
        be, TooLarge past 4 million characters, Forbidden where the principal may not, StoreUnavailable.
        """
        scope = self._own(user_id, owner)
        taking.required(title=title, content=content)
        text = taking.content(content)
        if headings is None:
            headings = markdown_headings(text)
        now = rfc3339(self.core.clock.now_ms())
        document = Document(
            id=taking.document_id(id) if id is not None else "",
            title=taking.line(title, "title", limits.TITLE_CHARS_MAX),
            type=taking.document_type(type),
            content_length=len(text),
            added_at=now,
            updated_at=now,
            checksum=taking.checksum(text, headings),
            category=None if category is None else taking.category(category),
            tags=taking.tags(tags),
            language=language_of(text) if language is None else taking.language(language),
            source=None if source is None else taking.line(source, "source", limits.SOURCE_CHARS_MAX),
            filename=None if filename is None else taking.line(filename, "filename", limits.TITLE_CHARS_MAX),
            owner=scope.ownership,
            user_id=scope.user,
            metadata=None if metadata is None else taking.metadata(metadata),
        )
        return await self._add(
            StoredDocument(scope=scope, document=document, text=text, headings=tuple(headings))
        )

    async def add_file(
        self,
        data: bytes,
        filename: str,
        *,
        kind: str | None = None,
        title: str | None = None,
        **described: Any,
    ) -> Added:
        """Add a file (text, Markdown, HTML, PDF), read in a process of its own with bounds on time and memory.

        `kind` is told from the name and the first bytes where it is left out; `described` is as for `add_text`.
        Raises UnreadableDocument where there is no text in it (encrypted, pictures only, damaged), TooLarge, and what
        `add_text` raises.
        """
        taking.line(filename, "filename", limits.TITLE_CHARS_MAX)
        self._check_described(title, described)
        told = kind_of_file(filename, data, kind)
        read = await read_document(data, told, name=name_of_file(filename))
        return await self._add_read(read, title, {"type": told, "filename": filename, **described})

    async def add_url(self, url: str, *, title: str | None = None, **described: Any) -> Added:
        """Fetch a page from the public internet and add it; the same address again changes it in place.

        `described` is as for `add_text`, without `source`: that is the address. Raises UrlRefused for an address that
        is not fetched, UrlFailed where nothing came of it in time, TooLarge, and what `add_file` raises.
        """
        source = self.core.fetcher.checked(taking.text(url, "url")).url
        self._check_described(title, {**described, "source": source})
        fetched = await self.core.fetcher.fetch(source, self.person)
        read = await read_document(fetched.data, fetched.kind, name=source, charset=fetched.charset)
        return await self._add_read(read, title, {"type": "url", "source": source, **described})

    def _check_described(self, title: str | None, described: Mapping[str, Any]) -> None:
        """Refuse what `add_text` would, before anything is fetched or read for it."""
        self._own(described.get("user_id"), described.get("owner"))
        if title is not None:
            taking.line(title, "title", limits.TITLE_CHARS_MAX)
        taking.condition(described.get("category"), described.get("tags"), described.get("language"))
        if described.get("source") is not None:
            taking.line(described["source"], "source", limits.SOURCE_CHARS_MAX)
        if described.get("id") is not None:
            taking.document_id(described["id"])
        if described.get("metadata") is not None:
            taking.metadata(described["metadata"])

    async def _add_read(self, read: Read, title: str | None, described: dict[str, Any]) -> Added:
        if described.get("language") is None:
            described["language"] = read.language if taking.is_language(read.language) else None
        named = read.title[: limits.TITLE_CHARS_MAX] if title is None else title
        return await self.add_text(named, read.text, headings=read.headings, **described)

    async def _add(self, stored: StoredDocument) -> Added:
        shelf, scope = self.core.shelf, stored.scope
        await shelf.open()
        async with self.core.writing:
            document = stored.document
            if document.id:
                known = await shelf.known(scope, document.id)
            else:
                known = await shelf.store.same(scope, document)
            if known is not None:
                document = msgspec.structs.replace(
                    document, id=known.id, added_at=known.added_at, version=known.version
                )
                if (
                    msgspec.structs.replace(document, updated_at=known.updated_at, passages=known.passages)
                    == known
                ):
                    return Added(known, created=False, changed=False)
                document = msgspec.structs.replace(document, version=known.version + 1)
            elif not document.id:
                document = msgspec.structs.replace(document, id=f"kb_{random_hex()}")
            kept = await shelf.put(msgspec.structs.replace(stored, document=document))
            return Added(kept, created=known is None, changed=True)

    # --- looking ---------------------------------------------------------------------------------------

    async def get(self, document_id: str, *, user_id: str | None = None) -> StoredDocument:
        """A document with its text; NotFound where the principal sees none of that id, Unreadable if it is damaged."""
        taking.document_id(document_id)
        await self.core.shelf.open()
        for scope in self._seen(user_id):
            stored = await self.core.shelf.store.get(scope, document_id)
            if stored is not None:
                return stored
        raise NotFound(f"There is no document {document_id!r}.")

    async def list_documents(
        self,
        *,
        category: str | None = None,
        tags: Sequence[str] = (),
        language: str | None = None,
        limit: int = limits.PAGE_DOCUMENTS,
        cursor: str | None = None,
        user_id: str | None = None,
    ) -> DocumentPage:
        """Documents, newest first; the next page with `cursor`."""
        taking.count(limit, "limit", limits.PAGE_DOCUMENTS_MAX)
        condition = taking.condition(category, tags, language)
        await self.core.shelf.open()
        return await self.core.shelf.store.list(self._seen(user_id), condition, limit=limit, cursor=cursor)

    async def search(
        self,
        query: str,
        *,
        max_results: int = limits.RESULTS,
        category: str | None = None,
        tags: Sequence[str] = (),
        language: str | None = None,
        user_id: str | None = None,
    ) -> list[Hit]:
        """The passages that fit a query best, best first. What is found is untrusted text."""
        taking.required(query=query)
        text = taking.query(query)
        max_results = taking.count(max_results, "maxResults", limits.RESULTS_MAX)
        condition = taking.condition(category, tags, language)
        scopes = self._seen(user_id)
        hits = await self.core.shelf.search(text, scopes, condition, max_results)
        self.core.statistics.searched(self._asker(user_id), text, hits)
        return hits

    async def answer(
        self,
        query: str,
        *,
        category: str | None = None,
        tags: Sequence[str] = (),
        language: str | None = None,
        min_confidence: float = limits.ANSWER_CONFIDENCE_MIN,
        user_id: str | None = None,
    ) -> KnowledgeAnswer:
        """The sentence that answers a question, with where it stands; `answered` is false where none is likely to."""
        taking.required(query=query)
        text = taking.query(query)
        if not 0.0 <= min_confidence <= 1.0:
            raise InvalidRequest("minConfidence must be 0 to 1.")
        condition = taking.condition(category, tags, language)
        found = await self.core.shelf.answer(text, self._seen(user_id), condition, min_confidence)
        asker = self._asker(user_id)
        self.core.statistics.answered(
            asker,
            text,
            [(scope_of(each.owner, asker), each.document_id, each.title) for each in found.citations],
        )
        return found

    async def for_chat(
        self,
        query: str,
        *,
        chars_max: int = limits.CHAT_CHARS,
        category: str | None = None,
        tags: Sequence[str] = (),
        language: str | None = None,
        user_id: str | None = None,
    ) -> str:
        """The best passages as one text for a model's prompt, at most `chars_max` characters; empty if none fit.

        They stand between marks that no document can forge, and are announced as data, not instructions.
        """
        hits = await self.search(
            query, max_results=8, category=category, tags=tags, language=language, user_id=user_id
        )
        return for_prompt(hits, chars_max)

    # --- removing --------------------------------------------------------------------------------------

    async def delete(self, document_id: str, *, user_id: str | None = None) -> None:
        """Remove a document; NotFound where there is none, Forbidden where it is not the principal's to remove."""
        taking.document_id(document_id)
        scope = await self.core.shelf.place(self._seen(user_id), document_id)
        if scope is None:
            raise NotFound(f"There is no document {document_id!r}.")
        if self.principal.user is not None and scope != Scope(*self.principal[:2]):
            raise Forbidden
        if scope == EVERYONE and self.principal.tenant != DEFAULT_TENANT:
            raise Forbidden
        async with self.core.writing:
            await self.core.shelf.remove(scope, document_id)
            await self.core.statistics.forget_document(scope, document_id)

    async def clear(self, *, user_id: str | None = None, owner: Ownership | None = None) -> int:
        """Remove all documents of one owner: the tenant's, with `user_id` that user's; how many there were."""
        scope = self._own(user_id, owner)
        await self.core.shelf.open()
        async with self.core.writing:
            self.core.statistics.forget(scope)
            return await self.core.shelf.erase(scope)

    def forget_user(self, tenant: str, user_id: str) -> None:
        """Drop what memory holds of a user's questions: called when they were erased, here or elsewhere."""
        scope = Scope(tenant, user_id)
        self.core.statistics.forget(scope)
        self.core.shelf.forget(scope)

    async def erase_user(self, tenant: str, user_id: str) -> None:
        """Remove everything of a user's, for good: called when the user is erased."""
        async with self.core.writing:
            self.core.statistics.forget(Scope(tenant, user_id))
            await self.core.shelf.erase(Scope(tenant, user_id))

    # --- what is asked ---------------------------------------------------------------------------------

    async def stats(self, *, user_id: str | None = None, limit: int = limits.STATISTICS) -> dict[str, Any]:
        """Which documents are cited most, which questions found nothing: the tenant's, with `user_id` that user's.

        What a user asked is told with their `user_id` alone, and to that user: it is theirs.
        """
        asker = self._asker(user_id)
        taking.count(limit, "limit", limits.UNFOUND_MAX)
        counts = await self.core.statistics.of(asker)
        if asker.user is None and asker.tenant == DEFAULT_TENANT:
            counts.documents |= (await self.core.statistics.of(EVERYONE)).documents
        page = await self.core.shelf.store.list(
            [asker], taking.condition(None, (), None), limit=1, cursor=None
        )
        found = {"documents": page.count, **told(counts, limit)}
        if asker.user is None:
            found |= {
                "searches": counts.searches,
                "foundNothing": counts.found_nothing,
                "questions": counts.questions,
                "unanswered": counts.unanswered,
            }
        return found

    async def clear_stats(self, *, user_id: str | None = None) -> None:
        """Forget what was asked by a user, or else what was counted of the tenant."""
        async with self.core.writing:
            await self.core.statistics.clear(self._asker(user_id))

    async def reindex(self, *, user_id: str | None = None) -> int:
        """Make the indexes that the principal sees anew, and vectors that are missing; how many documents there are.

        Raises EmbedderFailed where the embedder does: what is indexed until then stays.
        """
        async with self.core.writing:
            return sum([await self.core.shelf.reindex(scope) for scope in self._seen(user_id)])

    async def embed(
        self, *, user_id: str | None = None, tell: Callable[[int, int], None] = lambda done, total: None
    ) -> int:
        """Make the vectors that documents lack now, not in the background; how many documents got some.

        0 without an embedder; EmbedderFailed where it fails. `tell` is called with how many of how many are done.
        """
        work = self.core.shelf.embedding
        await self.core.shelf.open()
        return 0 if work is None else sum([await work.make(scope, tell) for scope in self._seen(user_id)])

    # --- who sees and owns what ------------------------------------------------------------------------

    def _seen(self, user_id: str | None) -> list[Scope]:
        """The scopes whose documents the principal sees, its own first."""
        tenant, user = self._asking()
        if user_id is not None:
            self._check_user(user_id)
        wanted = user if user is not None else user_id
        scopes = [] if wanted is None else [Scope(tenant, wanted)]
        return [*scopes, Scope(tenant), EVERYONE]

    def _asker(self, user_id: str | None) -> Scope:
        """The scope that a question is asked from."""
        tenant, user = self._asking()
        if user_id is not None:
            self._check_user(user_id)
        return Scope(tenant, user if user is not None else user_id)

    def _own(self, user_id: str | None, owner: Ownership | None) -> Scope:
        """The scope whose documents are to be changed."""
        tenant, user = self._asking()
        if user_id is not None:
            self._check_user(user_id)
        wanted = user if user is not None else user_id
        if owner not in (None, "everyone", "tenant", "user"):
            raise InvalidRequest("owner must be everyone, tenant or user.")
        if owner == "user" and wanted is None:
            raise InvalidRequest("With owner 'user', say whose in userId.")
        if owner in ("everyone", "tenant") and user_id is not None:
            raise InvalidRequest("userId is for a document of one user; leave out either it or owner.")
        if owner in ("everyone", "tenant") and user is not None:
            raise Forbidden
        if owner == "everyone":
            if tenant != DEFAULT_TENANT:
                raise Forbidden
            return EVERYONE
        return Scope(tenant, wanted)

    def check(self) -> None:
        """Forbidden where who is asking may not see any documents."""
        self._asking()

    def _asking(self) -> tuple[str, str | None]:
        """Tenant and user of who is asking; Forbidden where they may not see any documents."""
        tenant, user, _, session = self.principal
        if session is not None or (user is None and not self.principal.may("knowledge")):
            raise Forbidden
        return tenant, user

    def _check_user(self, user_id: object) -> None:
        if not isinstance(user_id, str):
            raise InvalidId("userId must be a string.")
        taking.user_id(user_id)
        if self.principal.user is not None and self.principal.user != user_id:
            raise Forbidden


__all__ = ["Added", "KnowledgeBase", "KnowledgeCore"]
