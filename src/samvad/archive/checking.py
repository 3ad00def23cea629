"""Reading an archive of which nothing is believed: looked through to its end before any of it is used.

Refused, in one sentence each: what is no ZIP or not a whole one, what is not as its manifest says, what has members
beside those of an archive, what would be larger than anything that was exported, what a newer Samvad wrote, and what
Samvad itself would not have taken from a caller. Nothing is ever written under a name from the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import msgspec

from samvad import limits
from samvad.archive import form
from samvad.archive.form import Counts, DocumentPart, Manifest, SessionPart, UserPart
from samvad.archive.reading import INTERRUPTIONS_MAX
from samvad.archive.signing import signer_of
from samvad.clock import SystemClock, parse_rfc3339
from samvad.errors import SamvadError, SetupError
from samvad.knowledge.carrying import checksum
from samvad.knowledge.records import Document, HeadingAt, Scope, StoredDocument
from samvad.records import (
    StoredInterruption,
    StoredMessage,
    StoredProfile,
    StoredSession,
    StoredState,
    message_of_line,
)
from samvad.sessions.content import read_back
from samvad.sessions.validation import check_id, check_object, new_message
from samvad.types import ROLES

_T = TypeVar("_T")
_CHUNK_BYTES: Final = 256 * 1024
_MEMBERS: Final = {*form.FIXED, form.MANIFEST, form.SIGNATURE}
_MANIFEST_BYTES_MAX: Final = 16 * 1024 * 1024
_SIGNATURE_BYTES_MAX: Final = 4096
_LINE_BYTES_MAX: Final = 2 * 1024 * 1024
_SESSION_LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_INTERRUPTION_BYTES_MAX: Final = 1024 * 1024
_DIRECTORY_BYTES_MAX: Final = 16 * 1024 * 1024
_UNREADABLE: Final = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError, struct.error,
    OverflowError,
)  # fmt: skip
_CLOCKS_DIFFER_MS: Final = (
    24 * 3600 * 1000
)  # a message from later would hold back the time of all that follow
_SEQ_MAX: Final = 1 << 48  # of what is taken in: there is room behind it
_decode = msgspec.json.decode


class ArchiveFile:
    """An archive on the disk; `check` before anything of it is used. Blocks. SetupError where it is refused.

    `signed_by` is the public key that signed it, None where nobody did: one with a wrong signature is refused. `then`
    is what a refusal ends with. Messages, sessions and documents are read anew each time that they are asked for, in
    pieces of bounded size.
    """

    def __init__(self, file: IO[bytes], name: str, now_ms: int, then: str) -> None:
        self._file = file
        self._name = name
        self._then = then
        self._latest_ms = now_ms + _CLOCKS_DIFFER_MS
        self.manifest: Manifest
        self.signed_by: str | None = None
        self.state: StoredState | None = None
        self.profile: StoredProfile | None = None
        self._zip: zipfile.ZipFile
        self._infos: dict[str, zipfile.ZipInfo] = {}

    def check(self) -> None:
        """Look through all of it."""
        with self._refusing():
            self._open()
            self.manifest = self._read_manifest()
            for member in self.manifest.members:
                self._check_member(member)
            self._check_user()
            counts = Counts(audit_entries=self.manifest.counts.audit_entries)
            for _, interruptions in self.sessions():
                counts.sessions += 1
                counts.interruptions += len(interruptions)
            for _ in self.messages(checked=False):
                counts.messages += 1
            counts.documents = sum(1 for _ in self.documents())
            if counts != self.manifest.counts:
                raise Refused("it does not hold as much as its manifest says")
            if counts.messages and self.profile is None:
                raise Refused("it has messages, and no preferences")

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except Refused as refused:
            raise SetupError(f"{self._name}: {refused}{self._then}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SetupError(f"{self._name}: something in it cannot be read ({error}){self._then}") from None
        except SetupError:
            raise
        except SamvadError as error:
            raise SetupError(f"{self._name}: {error.message.rstrip('.')}{self._then}") from None
        except _UNREADABLE as error:
            raise SetupError(
                f"{self._name} is no whole ZIP: cut off or damaged ({error}){self._then}"
            ) from None

    # --- the ZIP ---------------------------------------------------------------------------------------

    def _open(self) -> None:
        size = self._file.seek(0, 2)
        self._check_directory(size)
        self._zip = zipfile.ZipFile(self._file)
        packed = unpacked = 0
        for info in self._zip.infolist():
            name = info.orig_filename
            if name not in _MEMBERS and not form.DOCUMENT.fullmatch(name):
                raise Refused("it has a member that no archive has")
            if name in self._infos:
                raise Refused(f"it has two members {name}")
            if info.flag_bits & 0x41 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Refused(f"its member {name} is packed in a way that no archive is")
            packed += info.compress_size
            unpacked += info.file_size
            self._infos[name] = info
        if unpacked > limits.ARCHIVE_BYTES_MAX:
            raise Refused(
                f"unpacked it would take {unpacked:,} bytes, and {limits.ARCHIVE_BYTES_MAX:,} are allowed"
            )
        if packed > size:
            raise Refused("its members overlap")

    def _check_directory(self, size: int) -> None:
        """Look at the end of the file before the directory is read into memory, where it may be of any size."""
        self._file.seek(max(0, size - 98))
        tail = self._file.read()
        if len(tail) < 22 or tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
            raise zipfile.BadZipFile("its directory is missing")
        (directory_bytes,) = struct.unpack("<I", tail[-10:-6])
        if tail[-42:-38] == b"PK\x06\x07":
            if tail[-98:-94] != b"PK\x06\x06":
                raise zipfile.BadZipFile("its directory is missing")
            (directory_bytes,) = struct.unpack("<Q", tail[-58:-50])
        if directory_bytes > _DIRECTORY_BYTES_MAX:
            raise Refused("it has more members than any archive")

    def _read_manifest(self) -> Manifest:
        data = self._whole(form.MANIFEST, _MANIFEST_BYTES_MAX)
        head = _decode(data)
        if not isinstance(head, dict) or head.get("format") != form.FORMAT:
            raise Refused("it is no archive of a user")
        if head.get("version") != form.VERSION:
            raise Refused(
                f"it is of version {head.get('version')!r}, and this Samvad reads version {form.VERSION}: update it"
            )
        manifest = _decode(data, type=Manifest)
        named = [member.name for member in manifest.members]
        if len(set(named)) != len(named) or {*named, form.MANIFEST} != set(self._infos) - {form.SIGNATURE}:
            raise Refused("it does not have the members that its manifest names")
        if form.SIGNATURE in self._infos:
            self.signed_by = signer_of(data, self._whole(form.SIGNATURE, _SIGNATURE_BYTES_MAX))
            if self.signed_by is None:
                raise Refused("it was altered since it was signed")
        if missing := {form.USER, form.SESSIONS, form.HISTORY} - set(named):
            raise Refused(f"it has no {min(missing)}")
        check_id(manifest.user_id, "userId")
        if manifest.trimmed + manifest.counts.messages > _SEQ_MAX:
            raise Refused("its messages have higher numbers than any")
        return manifest

    def _check_member(self, member: form.Member) -> None:
        digest, size = hashlib.sha256(), 0
        for chunk in self._chunks(member.name):
            digest.update(chunk)
            size += len(chunk)
        if size != member.bytes or digest.hexdigest() != member.sha256:
            raise Refused(f"{member.name} was altered: it does not have its own checksum")

    def _chunks(self, name: str) -> Iterator[bytes]:
        info = self._infos.get(name)
        if info is None:
            raise Refused(f"it has no {name}")
        with self._zip.open(info) as member:
            while chunk := member.read(_CHUNK_BYTES):
                yield chunk

    def _whole(self, name: str, bytes_max: int) -> bytes:
        found = bytearray()
        for chunk in self._chunks(name):
            found += chunk
            if len(found) > bytes_max:
                raise Refused(f"{name} is longer than any")
        return bytes(found)

    def _lines(self, name: str, bytes_max: int) -> Iterator[bytes]:
        rest = b""
        for chunk in self._chunks(name):
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > bytes_max or any(len(line) > bytes_max for line in whole):
                raise Refused(f"{name} has a line that is longer than any")
            yield from whole
        if rest:
            raise Refused(f"{name} is cut off")

    # --- what is in it ---------------------------------------------------------------------------------

    def _check_user(self) -> None:
        most = 8 * (limits.STATE_BYTES_MAX + limits.PREFERENCES_BYTES_MAX)
        part = _decode(self._whole(form.USER, most), type=UserPart)
        if part.user_id != self.manifest.user_id:
            raise Refused("it is about two users")
        if bytes(part.state):
            version = part.state_version
            if version is None or not 1 <= version < 1 << 53:
                raise Refused("the state has no version")
            body = _object(part.state, limits.STATE_BYTES_MAX, "The state")
            self.state = StoredState(body, self._time(part.state_updated_at), version)
        if bytes(part.preferences):
            body = _object(part.preferences, limits.PREFERENCES_BYTES_MAX, "The preferences")
            self.profile = StoredProfile(body, self._time(part.created_at), self._time(part.last_updated))

    def sessions(self) -> Iterator[tuple[StoredSession, list[StoredInterruption]]]:
        """The sessions in the order of their ids, with their interruptions in theirs."""
        last = ""
        for number, line in enumerate(self._lines(form.SESSIONS, _SESSION_LINE_BYTES_MAX)):
            if number == 0 or line == b"]":
                if line not in (b"[", b"[]", b"]"):
                    raise Refused(f"{form.SESSIONS} is not as Samvad writes it")
                continue
            part = _decode(line.removesuffix(b","), type=SessionPart)
            check_id(part.id, "The id of a session")
            if part.id <= last:
                raise Refused(f"{form.SESSIONS} is not in order")
            last = part.id
            yield self._session(part)

    def _session(self, part: SessionPart) -> tuple[StoredSession, list[StoredInterruption]]:
        body = _object(part.fields, limits.SESSION_BYTES_MAX, "A session")
        ended_ms = None if part.ended_at is None else self._time(part.ended_at)
        created_ms, active_ms = self._time(part.created_at), self._time(part.last_activity)
        session = StoredSession(part.id, self.manifest.user_id, body, created_ms, active_ms, ended_ms)
        kept: list[StoredInterruption] = []
        for each in part.interruptions:
            check_id(each.id, "The id of an interruption")
            if kept and each.id <= kept[-1].id:
                raise Refused("the interruptions of a session are not in order")
            fields = _object(each.fields, _INTERRUPTION_BYTES_MAX, "An interruption")
            kept.append(StoredInterruption(each.id, part.id, self._time(each.at), fields))
        if len(kept) > INTERRUPTIONS_MAX:
            raise Refused("a session has more interruptions than any")
        return session, kept

    def messages(self, *, checked: bool = True) -> Iterator[StoredMessage]:
        """The messages in order, numbered as they are in the archive; `checked`: they were looked at before."""
        ids: set[str] = set()
        for seq, line in enumerate(self._lines(form.HISTORY, _LINE_BYTES_MAX), self.manifest.trimmed + 1):
            if checked:
                yield message_of_line(seq, line)
                continue
            fields = _decode(line)
            found = fields.get("seq") if isinstance(fields, dict) else None
            if not isinstance(found, int) or isinstance(found, bool):
                raise Refused("a message has no seq")
            if found != seq:
                raise Refused(f"messages are missing, or not in order, behind {seq - 1}")
            yield self._checked(seq, line, fields, ids)

    def _checked(self, seq: int, line: bytes, fields: dict[str, Any], ids: set[str]) -> StoredMessage:
        self._time(fields.get("timestamp"))
        check_id(fields.get("id"), "The id of a message")
        without = read_back(fields) is not None  # kept without what was said
        if without or (fields.get("content") == "" and fields.get("unreadable") is True):
            check_object(fields, "A message")
            if fields.get("role") not in ROLES:
                raise Refused("a message has no role")
        else:
            new_message(fields)
        body = form.compact(line)
        if line not in (body, body + b" "):  # see `records.line_of_message`
            raise Refused("a message is not as Samvad writes it")
        message = message_of_line(seq, line)
        if message.given:
            if message.id in ids:
                raise Refused("two messages have the same id")
            ids.add(message.id)
        return message

    def documents(self) -> Iterator[StoredDocument]:
        """The documents of the user, one at a time."""
        names = sorted(
            name for name in self._infos if name.endswith(".json") and form.DOCUMENT.fullmatch(name)
        )
        ids: set[str] = set()
        for name in names:
            part = _decode(self._whole(name, 8 * limits.DOCUMENT_CHARS_MAX), type=DocumentPart)
            document = _decode(part.document, type=Document)
            check_id(document.id, "The id of a document")
            if document.id in ids:
                raise Refused("two documents have the same id")
            ids.add(document.id)
            user = self.manifest.user_id
            if document.owner != "user" or document.user_id not in (None, user):
                raise Refused("one of its documents is somebody else's")
            if len(part.text) > limits.DOCUMENT_CHARS_MAX:
                raise Refused("one of its documents is longer than any")
            stored = StoredDocument(
                scope=Scope(self.manifest.tenant, user),
                document=document,
                text=part.text,
                headings=tuple([HeadingAt(*each) for each in part.headings]),
            )
            if checksum(stored) != part.sha256:
                raise Refused("one of its documents was altered: it does not have its own checksum")
            yield stored

    def _time(self, value: object) -> int:
        """The milliseconds since 1970 of a timestamp."""
        try:
            found = parse_rfc3339(value)  # type: ignore[arg-type]
        except (ValueError, TypeError, OverflowError, AttributeError):
            raise Refused("a time in it is none") from None
        if not 0 <= found <= self._latest_ms:
            raise Refused("a time in it is before 1970, or in the future")
        return found


class Refused(Exception):
    """The archive is not taken, for the reason given."""


@contextlib.contextmanager
def checked_archive(path: Path, *, then: str = "; nothing was imported.") -> Iterator[ArchiveFile]:
    """An archive that was looked through; SetupError, which ends with `then`, where it is refused."""
    try:
        opened = path.open("rb")
    except OSError as error:
        raise SetupError(f"Cannot read {path}: {error.strerror}.") from error
    with opened:
        archive = ArchiveFile(opened, str(path), SystemClock().now_ms(), then)
        archive.check()
        yield archive


def _object(value: msgspec.Raw, bytes_max: int, what: str) -> bytes:
    body = form.compact(value)
    check_object(_decode(body), what)
    if len(body) > bytes_max:
        raise Refused(f"{what[0].lower()}{what[1:]} in it is larger than any")
    return body
