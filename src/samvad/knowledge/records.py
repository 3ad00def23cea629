"""The records of the knowledge base: documents, and what a search or a question finds in them.

Offsets count characters (Unicode code points) of the document's text, so that `text[start:end]` is the passage.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from samvad.records import UserKey, user_hash

DocumentType = Literal["text", "markdown", "html", "pdf", "url"]
Ownership = Literal["everyone", "tenant", "user"]


class Scope(NamedTuple):
    """Whose documents: with both None everyone's, with a tenant that tenant's, with both one user's."""

    tenant: str | None = None
    user: str | None = None

    @property
    def ownership(self) -> Ownership:
        """Who owns what is in this scope."""
        return "everyone" if self.tenant is None else "tenant" if self.user is None else "user"


EVERYONE = Scope()


def is_of(scope: Scope, hashed: bytes) -> bool:
    """Whether a scope is that of a user with this `user_hash`."""
    return scope.user is not None and user_hash(UserKey(scope.tenant or "", scope.user)) == hashed


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One document, without its text. `version` counts its changes from 1, `checksum` is of text and headings.

    `unreadable`: what is kept of it was damaged or altered, or its key is gone. It is listed without its title, found
    by no search, and can be removed or added again.
    """

    id: str
    title: str
    type: DocumentType
    content_length: int
    added_at: str
    updated_at: str
    checksum: str
    version: int = 1
    category: str | None = None
    tags: tuple[str, ...] = ()
    language: str | None = None
    source: str | None = None
    filename: str | None = None
    owner: Ownership = "tenant"
    user_id: str | None = None
    passages: int = 0
    metadata: dict[str, Any] | None = None
    unreadable: bool = False


class HeadingAt(msgspec.Struct, frozen=True, array_like=True):
    """A heading of the text: where its line stands, how deep it is (1 to 6), and its words."""

    start: int
    end: int
    level: int
    text: str


class StoredDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document as a store keeps it. `revision` grows with every change in the store, `scope` says whose it is."""

    scope: Scope
    document: Document
    text: str
    headings: tuple[HeadingAt, ...] = ()
    revision: int = 0


class Vectors(msgspec.Struct, frozen=True, array_like=True):
    """The vectors of a document's passages: `data` is a row of 32-bit floats (little-endian) for each of `spans`.

    `space` names the model and its settings: vectors of two spaces are never compared. They are those of the document
    while its `checksum` and `title` are these.
    """

    document_id: str
    space: str
    checksum: str
    title: str
    dimensions: int
    spans: tuple[tuple[int, int], ...]
    data: bytes


class QueryVector(msgspec.Struct, frozen=True, array_like=True):
    """A query's place in a vector space: 32-bit floats, little-endian."""

    space: str
    data: bytes


class PassageFound(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A piece of a document: `text` is `content[start:end]`."""

    text: str
    start: int
    end: int
    headings: tuple[str, ...] = ()


class Hit(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One passage that a search found. `score` is 0 to 1, comparable within one answer and between queries."""

    doc: Document
    score: Annotated[float, Meta(ge=0, le=1)]
    passage: PassageFound


class Citation(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where an answer's sentence stands: `text` is `content[start:end]` of the document."""

    document_id: str
    title: str
    start: int
    end: int
    text: str
    source: str | None = None
    owner: Ownership = "tenant"


class KnowledgeAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An extractive answer. `confidence` is 0 to 1; where it is too low, `answered` is false and nothing is cited."""

    query: str
    answered: bool
    confidence: float
    answer: str | None = None
    citations: tuple[Citation, ...] = ()
    language: str | None = None


class DocumentPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Documents, newest first; `count` of all that match, `next_cursor` where more follow."""

    documents: tuple[Document, ...]
    count: int
    next_cursor: str | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which documents a search looks at: all conditions must hold, of `tags` any one."""

    category: str | None = None
    tags: tuple[str, ...] = ()
    language: str | None = None

    def admits(self, document: Document) -> bool:
        """Whether a document meets the conditions."""
        return (
            (self.category is None or document.category == self.category)
            and (not self.tags or not set(self.tags).isdisjoint(document.tags))
            and (self.language is None or same_language(document.language, self.language))
        )


def same_language(one: str | None, other: str | None) -> bool:
    """Whether two language tags name the same language (`hi-IN` and `hi`)."""
    return (one or "").partition("-")[0].lower() == (other or "").partition("-")[0].lower()
