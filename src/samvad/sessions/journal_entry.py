"""What one entry of the journal holds: a commit, as what was asked for."""

from __future__ import annotations

from typing import Final

import msgspec

from samvad.errors import SetupError
from samvad.records import Change, Commit, Origin
from samvad.sessions.operations import AnyOperation


class JournalEntry(msgspec.Struct, array_like=True):
    """One commit as the journal keeps it: the intent, or where there is none, what it changes."""

    tenant: str
    user_id: str
    epoch: int
    steps: int
    operation: AnyOperation | None
    changes: tuple[Change, ...] = ()
    revision: int = -1
    origin: Origin | None = None


SEALED: Final = b"\xc1SJ"  # how a sealed entry begins; neither MessagePack nor JSON does
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(JournalEntry).decode
_decode_json = msgspec.json.Decoder(JournalEntry).decode


def decode_entry(payload: bytes) -> JournalEntry:
    """What an entry of the journal holds; SetupError where a newer version wrote it, or it is sealed."""
    if payload.startswith(SEALED):
        raise SetupError("The journal is encrypted; give the master key in SAMVAD_MASTER_KEY.")
    try:
        return (_decode_json if payload.startswith(b"[") else _decode)(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"The journal holds an entry that this version cannot read: {error}.") from error


def encode_entry(commit: Commit, epoch: int) -> bytes:
    """A commit as an entry of the journal."""
    if not commit.changes:
        return b""
    kept = JournalEntry(
        commit.user.tenant,
        commit.user.user_id,
        epoch,
        commit.steps,
        commit.operation,
        () if commit.operation is not None else commit.changes,
        commit.expected.revision,
        commit.origin,
    )
    try:
        return _encode(kept)
    except OverflowError:  # an integer of more than 64 bits, which MessagePack does not have
        return msgspec.json.encode(kept)
