"""The bodies of the knowledge base's routes, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from samvad import limits
from samvad.http.wire import _CONTROL, _SPACE, _SPACE_CONTROL, Count, Id, Timestamp, Wire
from samvad.http.wire_answers import Answer
from samvad.knowledge.records import DocumentType, Ownership

_LINE = f"^[^{_CONTROL}]*[^{_CONTROL}{_SPACE}][^{_CONTROL}]*$"
LANGUAGE_PATTERN = "^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$"


def _line(chars_max: int, description: str = "") -> Meta:
    return Meta(min_length=1, max_length=chars_max, pattern=_LINE, description=description or None)


def _not_blank(chars_max: int, description: str) -> Meta:
    return Meta(
        min_length=1, max_length=chars_max, pattern=f"[^{_SPACE_CONTROL}{_SPACE}]", description=description
    )


Title = Annotated[str, _line(limits.TITLE_CHARS_MAX, "One line.")]
Text = Annotated[str, _not_blank(limits.DOCUMENT_CHARS_MAX, "The text; `## So` begins a section.")]
Category = Annotated[str, _line(limits.CATEGORY_CHARS_MAX)]
Tag = Annotated[str, _line(limits.TAG_CHARS_MAX)]
Tags = Annotated[list[Tag], Meta(max_length=limits.TAGS_MAX)]
Language = Annotated[
    str, Meta(max_length=35, pattern=LANGUAGE_PATTERN, description="BCP 47, such as `en` or `hi-IN`.")
]
QueryText = Annotated[str, _not_blank(limits.QUERY_CHARS_MAX, "What is asked, in any language.")]
Share = Annotated[float, Meta(ge=0, le=1)]
Shared = Annotated[
    Literal["everyone", "tenant"], Meta(description="Whose the document is to be; left out, the tenant's.")
]


class Described(Wire, kw_only=True):
    """What can be said of any document that is added."""

    category: Category | UnsetType | None = UNSET
    tags: Tags | UnsetType | None = UNSET
    language: Language | UnsetType | None = UNSET
    id: Id | UnsetType | None = UNSET
    source: (
        Annotated[
            str, _line(limits.SOURCE_CHARS_MAX, "Where it is from: the same source is the same document.")
        ]
        | UnsetType
        | None
    ) = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET


class SharedTextGiven(Described, kw_only=True):
    """A text of the tenant, or of everyone."""

    title: Title
    content: Text
    type: Literal["text", "markdown"] | UnsetType | None = UNSET
    owner: Shared | UnsetType | None = UNSET
    user_id: UnsetType | None = UNSET


class UserTextGiven(Described, kw_only=True):
    """A text of one user: found by that user alone, and erased with them."""

    title: Title
    content: Text
    type: Literal["text", "markdown"] | UnsetType | None = UNSET
    user_id: Id
    owner: UnsetType | None = UNSET


Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.SOURCE_CHARS_MAX,
        pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://[^\u0000-\u0020\u007f\\]+$",
        description="A public http or https address; no other is fetched.",
        examples=["https://example.com/rates.html"],
    ),
]
PdfContent = Annotated[
    str,
    Meta(
        min_length=1,
        description="The file's bytes as base64 (RFC 4648).",
        extra_json_schema={"contentEncoding": "base64", "contentMediaType": "application/pdf"},
    ),
]


class ReadGiven(Described, kw_only=True):
    """What can be said of a document that must be read first. Without a title it keeps its own."""

    title: Title | UnsetType | None = UNSET


class SharedUrlGiven(ReadGiven, kw_only=True):
    """A page for the tenant, or for everyone. Its `source` is its address."""

    url: Url
    owner: Shared | UnsetType | None = UNSET
    user_id: UnsetType | None = UNSET


class UserUrlGiven(ReadGiven, kw_only=True):
    """A page of one user."""

    url: Url
    user_id: Id
    owner: UnsetType | None = UNSET


class SharedPdfGiven(ReadGiven, kw_only=True):
    """A PDF of the tenant, or of everyone."""

    pdf_content: PdfContent
    filename: Title
    owner: Shared | UnsetType | None = UNSET
    user_id: UnsetType | None = UNSET


class UserPdfGiven(ReadGiven, kw_only=True):
    """A PDF of one user."""

    pdf_content: PdfContent
    filename: Title
    user_id: Id
    owner: UnsetType | None = UNSET


class Condition(Wire, kw_only=True):
    """Which documents to look at."""

    category: Category | UnsetType | None = UNSET
    tags: (
        Annotated[list[Tag], Meta(max_length=limits.TAGS_MAX, description="Documents with any of these.")]
        | UnsetType
        | None
    ) = UNSET
    language: Language | UnsetType | None = UNSET
    user_id: Annotated[Id, Meta(description="Whose own documents to look at as well.")] | UnsetType | None = (
        UNSET
    )


class SearchGiven(Condition, kw_only=True):
    """A search."""

    query: QueryText
    max_results: Annotated[int, Meta(ge=1, le=limits.RESULTS_MAX)] | UnsetType | None = UNSET


class QuestionGiven(Condition, kw_only=True):
    """A question."""

    query: QueryText
    min_confidence: (
        Annotated[float, Meta(ge=0, le=1, description="Answer only if this sure.")] | UnsetType | None
    ) = UNSET


# --- what is answered --------------------------------------------------------------------------------------


class DocumentSeen(Wire, kw_only=True):
    """A document without its text. Lengths are characters."""

    id: str
    title: str
    type: DocumentType
    category: str | None
    tags: list[str]
    language: str | None
    content_length: Count
    added_at: Timestamp
    updated_at: Timestamp
    checksum: str
    version: Annotated[int, Meta(ge=1, description="Counts its changes, from 1.")]
    owner: Ownership
    passages: Count
    source: str | UnsetType = UNSET
    filename: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class DocumentRead(DocumentSeen, kw_only=True):
    """A document with its text."""

    content: str


class DocumentAddedAnswer(Answer):
    """The document as it is kept. `changed` is false where the same content was there already."""

    message: str
    created: bool
    changed: bool
    document: DocumentSeen


class DocumentsAnswer(Answer):
    """One page of documents, newest first; `count` is of all that match."""

    count: Count
    documents: list[DocumentSeen]
    next_cursor: str | UnsetType = UNSET


class DocumentAnswer(Answer):
    """A document."""

    document: DocumentRead


class DocumentDeletedAnswer(Answer):
    """The document is gone."""

    message: str
    document_id: str


class DocumentsCleared(Wire):
    """What was removed."""

    documents: Count


class DocumentsClearedAnswer(Answer):
    """The documents are gone."""

    message: str
    cleared: DocumentsCleared


class PassageSeen(Wire):
    """A piece of a document: `text` is `content[start:end]`, counted in characters. Untrusted text."""

    text: str
    start: Count
    end: Count
    headings: list[str] | UnsetType = UNSET


class ResultSeen(Wire):
    """A passage that was found; `score` is 0 to 1."""

    doc: DocumentSeen
    score: Share
    passage: PassageSeen


class SearchAnswer(Answer):
    """Passages, best first."""

    query: str
    result_count: Count
    results: list[ResultSeen]


class CitationSeen(Wire):
    """Where a sentence stands: `text` is `content[start:end]` of the document."""

    document_id: str
    title: str
    start: Count
    end: Count
    text: str
    source: str | UnsetType = UNSET
    owner: Annotated[Ownership, Meta(description="Whose document; left out, the tenant's.")] | UnsetType = (
        UNSET
    )


class QuestionAnswer(Answer):
    """An answer in the words of a document, or `answered` false. `confidence` is how likely it is to be right."""

    query: str
    answered: bool
    confidence: Share
    answer: str | None
    citations: list[CitationSeen]


class DocumentCounted(Wire):
    """How often a document was cited in an answer, and found by a search."""

    document_id: str
    title: str
    cited: Count
    found: Count


class QuestionUnfound(Wire):
    """A question that found nothing, cut short: how often, and when last."""

    query: str
    count: Count
    last_at: Timestamp


class KnowledgeStats(Wire, kw_only=True):
    """What is asked, since when. The numbers are of the whole tenant: left out for one user."""

    since: Timestamp | None
    documents: Count
    most_cited: list[DocumentCounted]
    unfound: list[QuestionUnfound]
    searches: Count | UnsetType = UNSET
    found_nothing: Count | UnsetType = UNSET
    questions: Count | UnsetType = UNSET
    unanswered: Count | UnsetType = UNSET


class KnowledgeStatsAnswer(Answer):
    """What is asked of the knowledge base."""

    stats: KnowledgeStats


class KnowledgeStatsClearedAnswer(Answer):
    """What was counted is gone."""

    message: str
