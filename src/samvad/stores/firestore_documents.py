"""What Firestore's documents hold: records to fields and back.

JSON that callers gave, and messages, stand in fields of bytes that are exempt from indexing; what queries ask
for stands in fields of its own. Times are integers, milliseconds since 1970 UTC.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from samvad import limits
from samvad.clock import parse_rfc3339, rfc3339
from samvad.records import (
    StoredInterruption,
    StoredMessage,
    StoredReceipt,
    StoredSession,
    StoredState,
    UserKey,
    lost_message,
    made_id,
    seq_of_made_id,
    stored_message,
)
from samvad.stores.firestore_client import Document, Write
from samvad.stores.firestore_names import EPOCH_BITS, place

Fields = dict[str, Any]
SEQ_MAX: Final = (1 << EPOCH_BITS) - 1

_pack = msgspec.msgpack.encode
_unpack_message = msgspec.msgpack.Decoder(tuple[int, int, bool, bytes]).decode
_unpack_messages = msgspec.msgpack.Decoder(list[tuple[int, int, bool, bytes]]).decode


# --- values ------------------------------------------------------------------------------------------------


class Timestamp(int):
    """Milliseconds since 1970 that are to stand in a document as Firestore's own type, for its TTL."""


def to_value(plain: Any, value: Any) -> None:
    """Fill a protobuf Value."""
    if plain is None:
        value.null_value = 0
    elif isinstance(plain, bool):
        value.boolean_value = plain
    elif isinstance(plain, Timestamp):
        value.timestamp_value.FromMilliseconds(plain)
    elif isinstance(plain, int):
        value.integer_value = plain
    elif isinstance(plain, float):
        value.double_value = plain
    elif isinstance(plain, bytes):
        value.bytes_value = plain
    elif isinstance(plain, str):
        value.string_value = plain
    elif isinstance(plain, dict):
        value.map_value.SetInParent()
        for name, each in plain.items():
            to_value(each, value.map_value.fields[name])
    else:
        value.array_value.SetInParent()
        for each in plain:
            to_value(each, value.array_value.values.add())


def from_value(value: Any) -> Any:
    """What a protobuf Value holds; timestamps as RFC 3339 text, other types of Google's as None."""
    kind = value.WhichOneof("value_type")
    if kind == "map_value":
        return {name: from_value(each) for name, each in value.map_value.fields.items()}
    if kind == "array_value":
        return [from_value(each) for each in value.array_value.values]
    if kind == "timestamp_value":
        return rfc3339(value.timestamp_value.ToMilliseconds())
    if kind == "double_value":
        return value.double_value if math.isfinite(value.double_value) else None
    if kind in ("integer_value", "bytes_value", "string_value", "boolean_value"):
        return getattr(value, kind)
    return None


def fields_of(document: Any) -> Fields:
    """A document's fields."""
    return {name: from_value(value) for name, value in document.fields.items()}


# --- writes ------------------------------------------------------------------------------------------------


def stamped_write(write: Any) -> Any:
    """The same write, which also sets `changedAt` to the moment of the commit, as Firestore's clock has it."""
    transform = write.update_transforms.add(field_path="changedAt")
    transform.set_to_server_value = 1  # REQUEST_TIME
    return write


def set_write(name: str, fields: Fields, mask: Sequence[str] | None = None) -> Any:
    """Write a document, or of one that is there only the fields in `mask` (those without a value are removed)."""
    write = Write(update=Document(name=name))
    for field, plain in fields.items():
        to_value(plain, write.update.fields[field])
    if mask is not None:
        write.update_mask.field_paths.extend(mask)
    return write


def at_least_write(name: str, field: str, value: int) -> Any:
    """Make a field of a document at least this; of one that is not there, the only one."""
    write = Write(update=Document(name=name))
    write.update_mask.SetInParent()
    write.update_transforms.add(field_path=field).maximum.integer_value = value
    return write


def delete_write(name: str) -> Any:
    """Delete a document; one that is not there is no error."""
    return Write(delete=name)


def only_if_absent(write: Any) -> Any:
    """The write, on condition that there is no such document."""
    write.current_document.exists = False
    return write


def only_if_unchanged(write: Any, update_time: Any) -> Any:
    """The write, on condition that the document is the one that was read."""
    write.current_document.update_time.CopyFrom(update_time)
    return write


# --- messages ----------------------------------------------------------------------------------------------


def packed_message(message: StoredMessage) -> bytes:
    """A message as bytes."""
    return _pack((message.seq, message.at_ms, message.given, message.body))


def unpacked_message(seq: int, packed: bytes) -> StoredMessage:
    """A message from its bytes; what stands for one that is damaged, where these are none."""
    try:
        return stored_message(*_unpack_message(packed))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return lost_message(seq)


def segment_name(messages: Sequence[StoredMessage], packed: bytes) -> str:
    """What the head knows a segment by: its first seq, and a hash, so that writing it twice is harmless."""
    return f"{messages[0].seq}-{hashlib.sha256(packed).hexdigest()[:12]}"


def first_seq(segment: str) -> int:
    """The seq of the first message of a segment, from its name."""
    return int(segment.split("-", 1)[0])


def packed_messages(messages: Sequence[StoredMessage]) -> bytes:
    """A run of messages as bytes."""
    return _pack([(m.seq, m.at_ms, m.given, m.body) for m in messages])


def segment_content(epoch: int, packed: bytes) -> Fields:
    """What a segment holds. Without its place it is not part of the history yet."""
    return {"epoch": epoch, "messages": packed}


def segment_place(epoch: int, messages: Sequence[StoredMessage]) -> Fields:
    """What makes a segment part of the history: where it stands, and the ids to be found in it.

    An id that was made here names its seq, so that it is listed only where the message ended up elsewhere.
    """
    ids = [m.id for m in messages if m.given or seq_of_made_id(m.id) != m.seq]
    return {
        "place": place(epoch, messages[0].seq),
        "end": place(epoch, messages[-1].seq),
        "ids": [listed_id(epoch, message_id) for message_id in ids],
    }


def listed_id(epoch: int, message_id: str) -> str:
    """A message's id as a segment lists it: of this life only."""
    return f"{epoch}:{message_id}"


def segment_messages(document: Any) -> list[StoredMessage]:
    """The messages of a segment; what stands for them where they are damaged."""
    packed = document.fields["messages"].bytes_value
    try:
        return [stored_message(*parts) for parts in _unpack_messages(packed)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        first, last = (int(document.fields[name].integer_value) & SEQ_MAX for name in ("place", "end"))
        return [lost_message(seq) for seq in range(first, last + 1)]


# --- state, sessions, interruptions, receipts --------------------------------------------------------------


def state_fields(user: UserKey, epoch: int, state: StoredState) -> Fields:
    """The document of a state."""
    return {
        "tenant": user.tenant,
        "userId": user.user_id,
        "epoch": epoch,
        "body": state.body,
        "updatedMs": state.updated_ms,
        "version": state.version,
    }


def state_from(document: Any) -> StoredState:
    """A state from its document."""
    fields = document.fields
    return StoredState(
        fields["body"].bytes_value, fields["updatedMs"].integer_value, fields["version"].integer_value
    )


def session_fields(user: UserKey, life: str, session: StoredSession) -> Fields:
    """The document of a session."""
    return {
        "tenant": user.tenant,
        "userId": user.user_id,
        "sessionId": session.id,
        "life": life,
        "open": session.ended_ms is None,
        "body": session.body,
        "createdMs": session.created_ms,
        "activeMs": session.active_ms,
        "endedMs": session.ended_ms,
    }


def session_from(document: Any) -> StoredSession:
    """A session from its document."""
    fields = document.fields
    ended = fields["endedMs"]
    return StoredSession(
        fields["sessionId"].string_value,
        fields["userId"].string_value,
        fields["body"].bytes_value,
        fields["createdMs"].integer_value,
        fields["activeMs"].integer_value,
        ended.integer_value if ended.HasField("integer_value") else None,
    )


def session_place(life: str, session_id: str) -> str:
    """Where the interruptions of a session stand: in one session of one life."""
    return f"{life}/{session_id}"


def interruption_fields(user: UserKey, life: str, kept: StoredInterruption) -> Fields:
    """The document of an interruption."""
    return {
        "tenant": user.tenant,
        "life": life,
        "place": session_place(life, kept.session_id),
        "sessionId": kept.session_id,
        "id": kept.id,
        "atMs": kept.at_ms,
        "body": kept.body,
    }


def interruption_from(document: Any) -> StoredInterruption:
    """An interruption from its document."""
    fields = document.fields
    return StoredInterruption(
        fields["id"].string_value,
        fields["sessionId"].string_value,
        fields["atMs"].integer_value,
        fields["body"].bytes_value,
    )


def receipt_fields(hashed_life: str, receipt: StoredReceipt) -> Fields:
    """The document of a receipt; Firestore's TTL may remove it once it is of no use."""
    return {
        "life": hashed_life,
        "fingerprint": receipt.fingerprint,
        "atMs": receipt.at_ms,
        "answer": receipt.answer,
        "answered": receipt.answer is not None,
        "expireAt": Timestamp(receipt.at_ms + limits.IDEMPOTENCY_TTL_S * 1000),
    }


def receipt_from(key: bytes, document: Any) -> StoredReceipt:
    """A receipt from its document."""
    fields = document.fields
    answer = fields["answer"]
    return StoredReceipt(
        key,
        fields["fingerprint"].bytes_value,
        fields["atMs"].integer_value,
        answer.bytes_value if answer.HasField("bytes_value") else None,
    )


# --- the older layout --------------------------------------------------------------------------------------

_STATE_FIELDS: Final = ("userId", "updatedAt", "isActive", "version")
# Numbered and named anew; that layout knew nothing of tools.
_OURS: Final = ("seq", "id", "role", "content", "timestamp", "toolCalls", "toolCallId")


def older_time_ms(plain: Any) -> int | None:
    """A time of the older layout: a timestamp (by now text), RFC 3339 text, or milliseconds."""
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        return int(plain)
    if isinstance(plain, str):
        try:
            return parse_rfc3339(plain)
        except ValueError:
            return None
    return None


def older_state(document: Any) -> StoredState | None:
    """The state of a document that this layout did not write: its fields are the state."""
    fields = fields_of(document)
    if "body" in fields and "version" in fields and isinstance(fields["body"], bytes):
        return None
    updated_ms = older_time_ms(fields.get("updatedAt")) or 0
    kept = {name: value for name, value in fields.items() if name not in _STATE_FIELDS}
    return StoredState(as_json(kept), updated_ms, 1)


def older_messages(user: UserKey, history: Any, created_ms: int) -> tuple[StoredMessage, ...]:
    """The messages of one `conversationHistory` array, numbered from 1, with ids that are always the same."""
    messages: list[StoredMessage] = []
    at_ms = created_ms
    for entry in history if isinstance(history, list) else []:
        if not isinstance(entry, dict):
            continue
        seq = len(messages) + 1
        at_ms = older_time_ms(entry.get("timestamp")) or at_ms
        role = entry.get("role")
        content = entry.get("content")
        digest = hashlib.sha256(f"{user.tenant}\0{user.user_id}\0{seq}\0{content}".encode()).hexdigest()
        message_id = made_id(seq, digest[:20])
        fields = {
            "seq": seq,
            "id": message_id,
            "role": role if isinstance(role, str) else "user",
            "content": content if isinstance(content, str) else as_json(content).decode(),
            "timestamp": rfc3339(at_ms),
        }
        fields |= {name: value for name, value in entry.items() if name not in _OURS}
        messages.append(stored_message(seq, at_ms, False, as_json(fields)))
    return tuple(messages)


def as_json(plain: Any) -> bytes:
    """JSON of what a document held; bytes, which JSON does not know, as text."""
    return json.dumps(plain, ensure_ascii=False, default=lambda b: b.decode("utf-8", "replace")).encode()
