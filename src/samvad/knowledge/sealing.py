"""Documents as they are kept where encryption is on: all that is content is sealed, what a store must find is not.

A sealed document is still a document: it has its id, its times, its lengths and whose it is, so that every store and
every backup takes it as any other. The rest of its record is one seal, in its metadata; its headings and its text are
another, in the place of the text. A search for its source or its words is for a hash of them that needs the key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final, NamedTuple

import msgspec

from samvad.errors import Unreadable
from samvad.knowledge.records import Document, HeadingAt, Scope, StoredDocument, Vectors
from samvad.records import UserKey, user_hash
from samvad.stores.data_keys import KEY_ID_BYTES, DataKey
from samvad.stores.master_keys import NONCE_BYTES
from samvad.stores.sealing import MEMBER, Keys, opened_bytes, sealed_bytes

_KIND: Final = "knowledge"
_SEAL_NAME_BYTES: Final = 1 + KEY_ID_BYTES + NONCE_BYTES  # how a seal begins: no two begin alike
_replace = msgspec.structs.replace
_json = msgspec.json.encode
_pack = msgspec.msgpack.encode


class _Head(msgspec.Struct, array_like=True):
    record: bytes  # the document as JSON
    text: bytes  # how the seal of its text begins


class _Text(msgspec.Struct, array_like=True):
    headings: tuple[HeadingAt, ...]
    text: str


class _Vectors(msgspec.Struct, array_like=True):
    checksum: str
    title: str
    spans: tuple[tuple[int, int], ...]
    data: bytes


_head = msgspec.msgpack.Decoder(_Head).decode
_text = msgspec.msgpack.Decoder(_Text).decode
_vectors = msgspec.msgpack.Decoder(_Vectors).decode
_document = msgspec.json.Decoder(Document).decode


class ScopeKey(NamedTuple):
    """The key of one owner's documents. `lookup` hashes what they are looked for by, `of_index` seals their index."""

    key: DataKey
    lookup: bytes
    of_index: bytes


def owner_of(scope: Scope) -> UserKey:
    """The name of a scope among the keys. It is no user: their tenants have names."""
    return UserKey("", "\0".join((_KIND, scope.ownership, scope.tenant or "", scope.user or "")))


def scope_of_owner(owner: UserKey) -> Scope | None:
    """The scope of that name; None where it is something else."""
    parts = owner.user_id.split("\0")
    if owner.tenant or len(parts) != 4 or parts[0] != _KIND:
        return None
    return Scope(parts[2] or None, parts[3] or None)


def hash_of(scope: Scope) -> bytes:
    """The name under which a scope's key is kept, which every seal covers."""
    return user_hash(owner_of(scope))


def is_sealed(document: Document) -> bool:
    """Whether a document is as `sealed` makes it. Callers' documents have titles."""
    return not document.title and document.metadata is not None and MEMBER in document.metadata


def in_clear(document: Document, lookup: bytes) -> Document:
    """What may be seen of a document, and what it can be found by."""
    return Document(
        id=document.id,
        title="",
        type="text",
        content_length=document.content_length,
        added_at=document.added_at,
        updated_at=document.updated_at,
        checksum=looked_for(lookup, "words", document.checksum, document.title),
        version=document.version,
        source=None if document.source is None else looked_for(lookup, "source", document.source),
        owner=document.owner,
        user_id=document.user_id,
        passages=document.passages,
    )


def looked_for(lookup: bytes, *parts: str) -> str:
    """What stands in clear for these words: the same for the same, and nothing to whoever has not the key."""
    return hmac.digest(lookup, "\0".join(parts).encode(), "sha256")[:16].hex()


def sealed(key: ScopeKey, stored: StoredDocument) -> StoredDocument:
    """A document as it is kept."""
    hashed, document = hash_of(stored.scope), stored.document
    text = sealed_bytes(key.key, hashed, ("text", document.id), _pack(_Text(stored.headings, stored.text)))
    clear = in_clear(document, key.lookup)
    head = _pack(_Head(_json(document), text[:_SEAL_NAME_BYTES]))
    token = sealed_bytes(key.key, hashed, _head_place(clear), head)
    kept = _replace(clear, metadata={MEMBER: base64.b64encode(token).decode()})
    return _replace(stored, document=kept, text=base64.b64encode(text).decode(), headings=())


def _head_place(clear: Document) -> tuple[str, bytes]:
    return "document", _json(clear)


def _opened_head(keys: Keys, scope: Scope, kept: Document) -> tuple[Document, bytes]:
    clear = _replace(kept, metadata=None)
    raw = _unbased((kept.metadata or {}).get(MEMBER))
    opened = opened_bytes(keys, hash_of(scope), _head_place(clear), raw)
    head = _head(opened)
    return _document(head.record), head.text


def opened_head(keys: Keys, scope: Scope, kept: Document) -> Document:
    """A document without its text, as it was given. KeyMissing; Unreadable where it is not what was sealed here."""
    return _opened_head(keys, scope, kept)[0]


def opened(keys: Keys, stored: StoredDocument) -> StoredDocument:
    """A document as it was given. KeyMissing; Unreadable where a part of it is not what was sealed with the other."""
    document, name = _opened_head(keys, stored.scope, stored.document)
    raw = _unbased(stored.text)
    if not hmac.compare_digest(raw[:_SEAL_NAME_BYTES], name):
        raise Unreadable
    text = _text(opened_bytes(keys, hash_of(stored.scope), ("text", document.id), raw))
    return _replace(stored, document=document, text=text.text, headings=text.headings)


def unreadable(kept: Document) -> Document:
    """What is told of a document that cannot be opened."""
    return _replace(kept, title="", metadata=None, source=None, checksum="", unreadable=True)


def _unbased(token: object) -> bytes:
    try:
        return base64.b64decode(token if isinstance(token, str) else "", validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable from None


# --- what stands beside documents --------------------------------------------------------------------------


def _vectors_place(vectors: Vectors) -> tuple[str, str, str, int]:
    return "vectors", vectors.document_id, vectors.space, vectors.dimensions


def sealed_vectors(key: ScopeKey, scope: Scope, vectors: Vectors, *, of_sealed: bool = True) -> Vectors:
    """Vectors as they are kept; `of_sealed`: the document is sealed, and found by a hash of its words."""
    plain = _pack(_Vectors(vectors.checksum, vectors.title, vectors.spans, vectors.data))
    kept = _replace(
        vectors, spans=(), data=sealed_bytes(key.key, hash_of(scope), _vectors_place(vectors), plain)
    )
    if of_sealed:
        checksum = looked_for(key.lookup, "words", vectors.checksum, vectors.title)
        kept = _replace(kept, checksum=checksum, title="")
    return kept


def vectors_are_sealed(kept: Vectors) -> bool:
    """Whether vectors are as `sealed_vectors` makes them: else they have spans."""
    return not kept.spans


def opened_vectors(keys: Keys, scope: Scope, kept: Vectors) -> Vectors:
    """Vectors as they were made. KeyMissing, Unreadable."""
    found = _vectors(opened_bytes(keys, hash_of(scope), _vectors_place(kept), kept.data))
    return _replace(kept, checksum=found.checksum, title=found.title, spans=found.spans, data=found.data)


_STATISTICS: Final = ("statistics",)


def sealed_statistics(key: ScopeKey, scope: Scope, body: bytes) -> bytes:
    """What was counted, as it is kept."""
    return sealed_bytes(key.key, hash_of(scope), _STATISTICS, body)


def opened_statistics(keys: Keys, scope: Scope, body: bytes) -> bytes:
    """What was counted. KeyMissing, Unreadable."""
    return opened_bytes(keys, hash_of(scope), _STATISTICS, body)


def statistics_are_sealed(body: bytes) -> bool:
    """Whether a body is as `sealed_statistics` makes it: others are maps of MessagePack."""
    return body[:1] == b"\x01"
