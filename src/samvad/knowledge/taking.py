"""What may be put into the knowledge base, and asked of it: every refusal says what to do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from samvad import limits
from samvad.errors import InvalidId, InvalidRequest, MissingFields, TooLarge
from samvad.knowledge.records import DocumentType, Filter, HeadingAt

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TYPES = frozenset(get_args(DocumentType))
RESERVED = limits.RESERVED_IDS | {"add-text", "add-url", "add-pdf", "list", "search", "answer"}


def required(**given: object) -> None:
    """MissingFields where one of these is None."""
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise MissingFields(*missing)


def line(value: object, what: str, chars_max: int) -> str:
    """A text of one line that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"{what} must be a text that is not blank.")
    _encodable(value, what)
    if _CONTROL.search(value):
        raise InvalidRequest(f"{what} may not hold line breaks or other control characters.")
    if len(value) > chars_max:
        raise InvalidRequest(f"{what} may have {chars_max} characters at most.")
    return value


def content(value: object) -> str:
    """The text of a document."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest("content must be a text that is not blank.")
    if len(value) > limits.DOCUMENT_CHARS_MAX:
        raise TooLarge(f"A document may have {limits.DOCUMENT_CHARS_MAX} characters; split this one.")
    _encodable(value, "content")
    return value


def query(value: object) -> str:
    """What is asked."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest("query must be a text that is not blank.")
    if len(value) > limits.QUERY_CHARS_MAX:
        raise InvalidRequest(f"query may have {limits.QUERY_CHARS_MAX} characters at most.")
    _encodable(value, "query")
    return value


def _encodable(value: str, what: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} is not valid Unicode.") from None


def tags(value: object) -> tuple[str, ...]:
    """Tags, each once, in the order given."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidRequest("tags must be a list of texts.")
    if len(value) > limits.TAGS_MAX:
        raise InvalidRequest(f"A document may have {limits.TAGS_MAX} tags at most.")
    return tuple(dict.fromkeys(line(tag, "A tag", limits.TAG_CHARS_MAX) for tag in value))


def category(value: object) -> str:
    """A category."""
    return line(value, "category", limits.CATEGORY_CHARS_MAX)


def language(value: object) -> str:
    """A language tag (BCP 47)."""
    if not isinstance(value, str) or len(value) > 35 or not _LANGUAGE.fullmatch(value):
        raise InvalidRequest("language must be a language tag such as en or hi-IN.")
    return value


def is_language(value: object) -> bool:
    """Whether this is a language tag: what a document says of itself may be anything."""
    return isinstance(value, str) and len(value) <= 35 and _LANGUAGE.fullmatch(value) is not None


def text(value: object, what: str) -> str:
    """A text, whatever it holds."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} must be a text.")
    return value


def document_id(value: object) -> str:
    """An id of a document: as other ids, and none of the words that stand in its place in a path."""
    if not isinstance(value, str):
        raise InvalidId("id must be a string.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidId("id is not valid Unicode.") from None
    if not 1 <= size <= limits.ID_BYTES_MAX:
        raise InvalidId(f"id must be 1 to {limits.ID_BYTES_MAX} bytes of UTF-8; this one has {size}.")
    if "/" in value or _CONTROL.search(value) or value.strip() != value or value in (".", ".."):
        raise InvalidId(
            "id may not hold '/' or control characters, start or end with white space, or be '.' or '..'."
        )
    if value in RESERVED:
        raise InvalidId(f"id may not be {value!r}: the word is reserved.")
    return value


def document_type(value: object) -> DocumentType:
    """A type of document."""
    if not isinstance(value, str) or value not in _TYPES:
        raise InvalidRequest(f"type must be one of {', '.join(sorted(_TYPES))}.")
    return value  # type: ignore[return-value]


def condition(wanted_category: object, wanted_tags: object, wanted_language: object) -> Filter:
    """Which documents to look at."""
    return Filter(
        category=None if wanted_category is None else category(wanted_category),
        tags=() if wanted_tags is None else tags(wanted_tags),
        language=None if wanted_language is None else language(wanted_language),
    )


def count(value: object, what: str, most: int) -> int:
    """A number of results. In JSON, 3.0 is a whole number too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidRequest(f"{what} must be a whole number from 1 to {most}.")
    return value


def metadata(value: object) -> dict[str, Any]:
    """What else to keep with a document."""
    if not isinstance(value, Mapping):
        raise InvalidRequest("metadata must be a JSON object.")
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError):
        raise InvalidRequest("metadata cannot be written as JSON.") from None
    if len(encoded) > limits.DOCUMENT_METADATA_BYTES_MAX:
        raise TooLarge(f"metadata may take {limits.DOCUMENT_METADATA_BYTES_MAX} bytes at most.")
    return dict(value)


def checksum(text: str, headings: Sequence[HeadingAt]) -> str:
    """Names a document's content: SHA-256 over its text and headings, in hexadecimal."""
    digest = hashlib.sha256(text.encode())
    digest.update(msgspec.json.encode(list(headings)))
    return digest.hexdigest()


def user_id(value: str) -> str:
    """A user's id, as everywhere: InvalidId where it cannot be one."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidId("userId is not valid Unicode.") from None
    if not 1 <= size <= limits.ID_BYTES_MAX:
        raise InvalidId(f"userId must be 1 to {limits.ID_BYTES_MAX} bytes of UTF-8; this one has {size}.")
    if "/" in value or _CONTROL.search(value) or value.strip() != value or value in (".", ".."):
        raise InvalidId(
            "userId may not hold '/' or control characters, start or end with white space, or be '.' or '..'."
        )
    if value in limits.RESERVED_IDS:
        raise InvalidId(f"userId may not be {value!r}: the word is reserved.")
    return value
