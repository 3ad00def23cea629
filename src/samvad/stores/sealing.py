"""Records as they are kept where encryption is on: what a caller gave is sealed, ids, times and lengths are not.

A sealed body is still a JSON object, so that every engine, journal and backup takes it as any other. Its last member is
the seal: base64 of version 1, the key's id (8 bytes), a random nonce (12), AES-256-GCM ciphertext and tag. Beside it
stands in clear what engines must find: a message's id, role and time, and the ids of tool calls. The tag covers those,
and whose it is (tenant, user, epoch) and where it stands (kind, and seq or id) too: nothing sealed is believed at
another place.
"""

from __future__ import annotations

import base64
import binascii
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from samvad import limits
from samvad.clock import rfc3339
from samvad.errors import Unreadable
from samvad.records import (
    UNREADABLE,
    Change,
    InterruptionAdded,
    MessagesAdded,
    ProfileSet,
    ReceiptKept,
    SessionSet,
    StateSet,
    StoredInterruption,
    StoredMessage,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    unreadable_message,
)
from samvad.stores.data_keys import KEY_ID_BYTES, DataKey
from samvad.stores.master_keys import NONCE_BYTES, aead_of, opened_with, sealed_with

MEMBER: Final = limits.RESERVED_MEMBER
_OPENING: Final = b'"samvad.sealed":"'
_NONCE: Final = f"{NONCE_BYTES}s"
_VERSION: Final = b"\x01"
_TOKEN_CHARS_MIN: Final = (1 + KEY_ID_BYTES + NONCE_BYTES + 16) * 4 // 3
GONE: Final = UNREADABLE
_replace = msgspec.structs.replace
_parts = msgspec.structs.astuple
_pack = msgspec.msgpack.encode
_json = msgspec.json.encode

Keys = Mapping[int, DataKey]


class KeyMissing(Exception):
    """What is sealed with this key cannot be opened here: it was destroyed, or others have just made it."""


def throwaway() -> DataKey:
    """A key that nobody keeps, for what is erased in the very write that brings it."""
    return DataKey(bytes(KEY_ID_BYTES), -1, aead_of(os.urandom(32)))


def nonces(count: int) -> list[bytes]:
    """So many nonces, drawn at once: for what is sealed in one go.

    None is kept for later: a fork or a copy of the process would use it again.
    """
    return list(struct.unpack(_NONCE * count, os.urandom(NONCE_BYTES * count)))


def _whose(hashed: bytes, epoch: int) -> bytes:
    return b"samvad/1" + hashed + epoch.to_bytes(8, "big", signed=True)


def _context(hashed: bytes, epoch: int, place: tuple[Any, ...]) -> bytes:
    return _whose(hashed, epoch) + _pack(place)


def sealed_bytes(key: DataKey, hashed: bytes, place: tuple[Any, ...], plain: bytes) -> bytes:
    """What is given as it is kept at this place: the seal as bytes, which begins with `key.key_id` and a nonce."""
    return _VERSION + key.key_id + sealed_with(key.aead, plain, _context(hashed, key.epoch, place))


def _token(key: DataKey, hashed: bytes, place: tuple[Any, ...], plain: bytes) -> str:
    return binascii.b2a_base64(sealed_bytes(key, hashed, place, plain), newline=False).decode()


def _end_of(body: bytes) -> bytes | None:
    """What stands where the seal of a body would: all of it, or with a quotation mark in it, which no seal has."""
    at = body.rfind(_OPENING)
    if at < 0 or not body.endswith(b'"}'):
        return None
    return body[at + len(_OPENING) : -2]


def token_of(body: bytes) -> bytes | None:
    """The seal in a body, if it is one that was sealed: within JSON text, no quotation mark stands unescaped.

    It is the last member of the whole: what callers gave may have one of that name further in, which is none.
    """
    token = _end_of(body)
    return None if token is None or b'"' in token else token


def is_sealed(body: bytes) -> bool:
    """Whether a body has the form of one that was sealed."""
    token = token_of(body) if isinstance(body, bytes) else None
    return token is not None and len(token) > _TOKEN_CHARS_MIN and token.startswith(b"A")


def is_sealed_message(body: bytes) -> bool:
    """Whether a message has the form of one that was sealed, which no caller can give to one that was not."""
    if not is_sealed(body):
        return False
    try:
        return "content" not in msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def fits(keys: Keys, body: bytes) -> bool:
    """Whether the key that sealed a body is among these (true of what is not sealed)."""
    token = token_of(body)
    try:
        raw = base64.b64decode(token[:16], validate=True) if token else b""
    except (binascii.Error, ValueError):
        return True
    return not raw or any(key.key_id == raw[1 : 1 + KEY_ID_BYTES] for key in keys.values())


def _opened(keys: Keys, hashed: bytes, place: tuple[Any, ...], body: bytes, strict: bool) -> bytes:
    """What a body holds. KeyMissing, or Unreadable where it is not what was sealed for this place."""
    token = _end_of(body)
    try:
        raw = None if token is None else base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        if token_of(body) is not None:
            raise Unreadable from None
        raw = None
    if raw is not None:
        return opened_bytes(keys, hashed, place, raw)
    if strict:
        raise Unreadable("Something is stored here that is not sealed, and is not believed.")
    return body  # from before encryption was on


def opened_bytes(keys: Keys, hashed: bytes, place: tuple[Any, ...], raw: bytes) -> bytes:
    """What `sealed_bytes` sealed for this place. KeyMissing, or Unreadable where one bit is another."""
    start = 1 + KEY_ID_BYTES
    if raw[:1] != _VERSION or len(raw) < start + NONCE_BYTES:
        raise Unreadable
    for key in keys.values():
        if key.key_id == raw[1:start]:
            opened = opened_with(key.aead, raw[start:], _context(hashed, key.epoch, place))
            if opened is None:
                raise Unreadable
            return opened
    raise KeyMissing


# --- messages ----------------------------------------------------------------------------------------------


def _message_place(m: StoredMessage) -> tuple[Any, ...]:
    return "message", m.seq, m.id, m.role, m.at_ms, m.calls, m.answers, m.given


class _SealedMessage(msgspec.Struct, omit_defaults=True, gc=False):
    """What stands in clear of a message, and its seal behind it. Bytes are base64 in JSON."""

    seq: int
    id: str
    role: str
    timestamp: str
    calls: list[dict[str, str]] | None = msgspec.field(default=None, name="toolCalls")
    answers: str | None = msgspec.field(default=None, name="toolCallId")
    seal: bytes = msgspec.field(default=b"", name=MEMBER)


def seal_messages(
    key: DataKey, hashed: bytes, messages: Iterable[StoredMessage], drawn: list[bytes]
) -> tuple[StoredMessage, ...]:
    """Messages as they are kept. They take the nonces they need from `drawn`, and draw what is missing there."""
    key_id, epoch, aead = key
    whose, begins = _whose(hashed, epoch), _VERSION + key_id
    sealed: list[StoredMessage] = []
    for message in messages:
        seq, message_id, role, at_ms, body, calls, answers, given = _parts(message)
        place = "message", seq, message_id, role, at_ms, calls, answers, given  # that of `_message_place`
        nonce = drawn.pop() if drawn else os.urandom(NONCE_BYTES)
        seal = begins + sealed_with(aead, body, whose + _pack(place), nonce)
        told = [{"id": call} for call in calls] if calls else None
        kept = _json(_SealedMessage(seq, message_id, role, rfc3339(at_ms), told, answers, seal))
        sealed.append(StoredMessage(seq, message_id, role, at_ms, kept, calls, answers, given))
    return tuple(sealed)


def open_message(keys: Keys, hashed: bytes, m: StoredMessage, strict: bool) -> StoredMessage:
    """A message as callers gave it; `body` is opened, all else is what the seal covers."""
    body = _opened(keys, hashed, _message_place(m), m.body, strict)
    return StoredMessage(m.seq, m.id, m.role, m.at_ms, body, m.calls, m.answers, m.given)


def gone_message(m: StoredMessage) -> StoredMessage:
    """A message of which the key is destroyed, or that is not what was sealed."""
    return _replace(m, body=unreadable_message(m.seq, m.id, m.role, m.at_ms).body)


# --- all else ----------------------------------------------------------------------------------------------


def _sealed_body(key: DataKey, hashed: bytes, place: tuple[Any, ...], plain: bytes) -> bytes:
    return _json({MEMBER: _token(key, hashed, place, plain)})


def _state_place(state: StoredState) -> tuple[Any, ...]:
    return "state", state.version, state.updated_ms


def open_state(keys: Keys, hashed: bytes, state: StoredState, strict: bool) -> StoredState:
    """A state as callers gave it."""
    return _replace(state, body=_or_gone(keys, hashed, _state_place(state), state.body, strict))


def open_profile(keys: Keys, hashed: bytes, profile: StoredProfile, strict: bool) -> StoredProfile:
    """Preferences as callers gave them."""
    place = ("profile", profile.created_ms)
    return _replace(profile, preferences=_or_gone(keys, hashed, place, profile.preferences, strict))


def open_session(keys: Keys, hashed: bytes, session: StoredSession, strict: bool) -> StoredSession:
    """A session as callers gave it."""
    place = ("session", session.id, session.created_ms)
    return _replace(session, body=_or_gone(keys, hashed, place, session.body, strict))


def _or_gone(keys: Keys, hashed: bytes, place: tuple[Any, ...], body: bytes, strict: bool) -> bytes:
    try:
        return _opened(keys, hashed, place, body, strict)
    except KeyMissing:
        return GONE


def open_interruption(
    keys: Keys, hashed: bytes, kept: StoredInterruption, strict: bool
) -> StoredInterruption:
    """An interruption as it was recorded; KeyMissing where its key is destroyed."""
    place = ("interruption", kept.session_id, kept.id, kept.at_ms)
    return _replace(kept, body=_opened(keys, hashed, place, kept.body, strict))


def open_receipt(keys: Keys, hashed: bytes, kept: StoredReceipt) -> StoredReceipt:
    """An answer as it was given, or none where its key is destroyed: then its user was erased."""
    assert kept.answer is not None
    place = ("receipt", kept.key, kept.fingerprint)
    try:
        return _replace(kept, answer=_opened(keys, hashed, place, kept.answer, strict=False))
    except KeyMissing:
        return _replace(kept, answer=None)


class _Of(msgspec.Struct):
    of: bytes


_of = msgspec.json.Decoder(_Of).decode


def user_of(body: bytes) -> bytes | None:
    """The hash of the user whose key sealed an interruption or a receipt; None if it is not sealed."""
    if token_of(body) is None:
        return None
    try:
        return _of(body).of
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unreadable from None


def _with_user(key: DataKey, hashed: bytes, place: tuple[Any, ...], plain: bytes) -> bytes:
    return _json({"of": hashed, MEMBER: _token(key, hashed, place, plain)})


def holds_content(change: Change) -> bool:
    """Whether a change brings something that is to be sealed."""
    if isinstance(change, ReceiptKept):
        return bool(change.receipt.answer)
    return type(change) is MessagesAdded or type(change) in _SEALS


def seal(key: DataKey, hashed: bytes, change: Change, drawn: list[bytes] | None = None) -> Change:
    """A change as the store is to have it; messages take their nonces from `drawn`, each for once."""
    if type(change) is MessagesAdded:
        return MessagesAdded(seal_messages(key, hashed, change.messages, drawn or []), change.unproven)
    sealing = _SEALS.get(type(change))
    return change if sealing is None else sealing(key, hashed, change)


def _seal_state(key: DataKey, hashed: bytes, change: Any) -> Change:
    state = change.state
    return StateSet(_replace(state, body=_sealed_body(key, hashed, _state_place(state), state.body)))


def _seal_profile(key: DataKey, hashed: bytes, change: Any) -> Change:
    profile = change.profile
    place = ("profile", profile.created_ms)
    return ProfileSet(_replace(profile, preferences=_sealed_body(key, hashed, place, profile.preferences)))


def _seal_session(key: DataKey, hashed: bytes, change: Any) -> Change:
    session = change.session
    place = ("session", session.id, session.created_ms)
    return SessionSet(_replace(session, body=_sealed_body(key, hashed, place, session.body)))


def _seal_interruption(key: DataKey, hashed: bytes, change: Any) -> Change:
    kept = change.interruption
    place = ("interruption", kept.session_id, kept.id, kept.at_ms)
    return InterruptionAdded(_replace(kept, body=_with_user(key, hashed, place, kept.body)))


def _seal_receipt(key: DataKey, hashed: bytes, change: Any) -> Change:
    kept = change.receipt
    if not kept.answer:  # the store is to say what it removed: counts, which are no content
        return ReceiptKept(kept)
    place = ("receipt", kept.key, kept.fingerprint)
    return ReceiptKept(_replace(kept, answer=_with_user(key, hashed, place, kept.answer)))


_SEALS: Final[dict[type, Callable[[DataKey, bytes, Any], Change]]] = {
    StateSet: _seal_state,
    ProfileSet: _seal_profile,
    SessionSet: _seal_session,
    InterruptionAdded: _seal_interruption,
    ReceiptKept: _seal_receipt,
}
