"""Writing the archive of one user out of a service that is in use, piece by piece and with bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import msgspec

from samvad import __version__, limits
from samvad.archive import form
from samvad.archive.audit_facts import AuditFacts, has_log
from samvad.archive.conversation import Conversation, document_page
from samvad.archive.form import Counts, Kept, Manifest
from samvad.archive.reading import head_of, history_pages, session_fields, user_fields
from samvad.archive.readme import readme
from samvad.archive.signing import signed
from samvad.archive.zipping import Part, StreamedZip
from samvad.auth.erasure_receipts import ErasureSigner
from samvad.clock import parse_rfc3339, rfc3339
from samvad.errors import Conflict, NotFound, StoreUnavailable
from samvad.knowledge.carrying import checksum
from samvad.knowledge.opening import has_documents
from samvad.knowledge.records import Scope, StoredDocument
from samvad.knowledge.store import KnowledgeStore
from samvad.records import (
    StoredInterruption,
    StoredMessage,
    StoredSession,
    UserKey,
    UserRecord,
    Version,
    line_of_message,
)
from samvad.runtime import Samvad
from samvad.stores.encrypting import data_keys_around
from samvad.types import trusted

_MESSAGES_PER_PIECE: Final = 500
_BYTES_PER_PIECE: Final = 256 * 1024
_LARGE_BYTES: Final = 1 << 31  # from which on a member needs the longer form of ZIP
_MESSAGE_BYTES_MAX: Final = 8 * (
    limits.CONTENT_BYTES_MAX + limits.MESSAGE_FIELDS_BYTES_MAX
)  # written as Markdown


class UserArchive:
    """The archive of one user, of the moment at which it was begun.

    `begin` looks at everything that may be refused or not be there, so that a caller can still say so; `pieces` are
    the bytes of the ZIP. Where the user is erased meanwhile, or the store fails, `pieces` raises and the ZIP has no
    end: no program takes it for a whole one. `signer` signs it, where there is one.
    """

    def __init__(
        self,
        samvad: Samvad,
        user: UserKey,
        *,
        missing: Iterable[str] = (),
        signer: ErasureSigner | None = None,
    ) -> None:
        self._samvad = samvad
        self._signer = signer
        self._store = samvad.store
        self._user = user
        self._missing = list(missing)
        self._at_ms = samvad.core.clock.now_ms()
        self._head = UserRecord(Version(0, 0))
        self._sessions: list[StoredSession] = []
        self._documents: KnowledgeStore | None = None
        self._document_ids: list[str] = []
        self.counts = Counts()

    async def begin(self) -> None:
        """Look who it is. NotFound where nothing is kept of them, StoreUnavailable where that cannot be known.

        SetupError where the key that is to sign it cannot be read.
        """
        if self._signer is not None:
            await asyncio.to_thread(lambda: self._signer and self._signer.public_key)
        await self._samvad.core.lanes.settled(self._user)  # what was only acknowledged is in the store now
        self._head = await head_of(self._store, self._user)
        if self._head.partial:
            raise StoreUnavailable
        sessions = await self._store.sessions(self._user, open_after_ms=None)
        self._sessions = sorted(sessions, key=lambda session: session.id)
        if self._samvad.knowledge_is_open or has_documents(self._store):
            shelf = self._samvad.knowledge.core.shelf
            await shelf.open()
            self._documents = shelf.store
            self._document_ids = sorted(await self._documents.revisions(self._scope))
        if self._head.version.revision == 0 and not self._document_ids:
            raise NotFound(f"There is no user {self._user.user_id!r}.")
        async for _ in self._history():
            break  # the store gives its first page

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the ZIP. Conflict where the user was erased, or old messages removed, while it was made."""
        zip_ = StreamedZip(self._at_ms)
        large = self._head.seq * _MESSAGE_BYTES_MAX > _LARGE_BYTES
        conversation = Conversation(self._user.user_id)
        members: list[tuple[str, AsyncIterator[Part], bool]] = [
            (form.USER, self._user_part(), False),
            (form.SESSIONS, self._session_parts(), False),
            (form.HISTORY, self._history_parts(_history_lines, count=True), large),
            (
                form.CONVERSATION,
                self._history_parts(conversation.written, head=conversation.head()),
                large,
            ),
            *self._document_members(),
            (form.QUESTIONS, self._questions(), False),
            (form.AUDIT, self._audit(), False),
        ]
        for name, parts, is_large in members:
            async for piece in zip_.add(name, parts, large=is_large):
                yield piece
        now = await head_of(self._store, self._user)
        if now.version.epoch != self._head.version.epoch:
            raise Conflict("The user was erased while the archive was made; there is nothing to give.")
        if now.trimmed != self._head.trimmed:
            raise Conflict("Old messages were removed while the archive was made; make it again.")
        manifest = self._manifest()
        async for piece in zip_.add(form.README, _one(readme(manifest, signed=self._signer is not None))):
            yield piece
        manifest.members = zip_.members.copy()
        written = form.pretty(manifest)
        async for piece in zip_.add(form.MANIFEST, _one(written)):
            yield piece
        if (signer := self._signer) is not None:
            async for piece in zip_.add(form.SIGNATURE, _one(lambda: (signed(written, signer),))):
                yield piece
        yield zip_.end()

    # --- members ---------------------------------------------------------------------------------------

    async def _user_part(self) -> AsyncIterator[Part]:
        fields = user_fields(self._user.user_id, self._head)
        yield lambda: (form.pretty(fields),)

    async def _session_parts(self) -> AsyncIterator[Part]:
        before = b"["
        for session in self._sessions:
            fields = await session_fields(self._store, self._user.tenant, session, self._held(session.id))
            kept = fields.get("interruptions", [])
            kept.sort(key=lambda each: each["id"])
            self.counts.sessions += 1
            self.counts.interruptions += len(kept)
            yield before + b"\n" + msgspec.json.encode(fields)
            before = b","
        yield b"[]\n" if before == b"[" else b"\n]\n"

    def _held(self, session_id: str) -> list[StoredInterruption]:
        """What memory holds of the session's interruptions."""
        return [
            StoredInterruption(each.id, session_id, parse_rfc3339(each.at), msgspec.json.encode(each))
            for each in self._samvad.interruptions.list(session_id, tenant=self._user.tenant)
            if each.user_id == self._user.user_id
        ]

    def _history(self) -> AsyncIterator[list[StoredMessage]]:
        return history_pages(
            self._store,
            self._user,
            self._head.seq,
            messages_max=_MESSAGES_PER_PIECE,
            bytes_max=_BYTES_PER_PIECE,
        )

    async def _history_parts(
        self,
        write: Callable[[list[StoredMessage]], Iterable[bytes]],
        *,
        head: bytes = b"",
        count: bool = False,
    ) -> AsyncIterator[Part]:
        if head:
            yield head
        async for messages in self._history():
            self.counts.messages += len(messages) if count else 0
            yield lambda page=messages: write(page)  # type: ignore[misc]

    def _document_members(self) -> list[tuple[str, AsyncIterator[Part], bool]]:
        return [
            (form.document_name(number, kind), self._document(name, write, kind), False)
            for number, name in enumerate(self._document_ids, 1)
            for kind, write in (("json", _document_json), ("md", document_page))
        ]

    async def _document(
        self, name: str, write: Callable[[StoredDocument], Iterable[bytes]], kind: str
    ) -> AsyncIterator[Part]:
        assert self._documents is not None
        stored = await self._documents.get(self._scope, name)
        if stored is None:
            raise Conflict("A document was removed while the archive was made; make it again.")
        self.counts.documents += kind == "json"
        yield lambda: write(stored)

    async def _questions(self) -> AsyncIterator[Part]:
        told: dict[str, Any] = {}
        if self._documents is not None:
            knowledge = self._samvad.knowledge.acting_as(trusted(self._user.tenant))
            told = await knowledge.stats(user_id=self._user.user_id, limit=limits.UNFOUND_MAX)
        yield form.pretty(told)

    async def _audit(self) -> AsyncIterator[Part]:
        place = self._samvad.data_dir
        if place is None or not has_log(place):
            return
        sessions = [session.id for session in self._sessions]
        facts = AuditFacts(place, self._user, sessions, self._document_ids)
        while (lines := await asyncio.to_thread(facts.some)) is not None:
            yield lines
        self.counts.audit_entries = facts.found

    # --- the manifest ----------------------------------------------------------------------------------

    def _manifest(self) -> Manifest:
        return Manifest(
            format=form.FORMAT,
            version=form.VERSION,
            exported_at=rfc3339(self._at_ms),
            by=__version__,
            engine=self._store.name,
            tenant=self._user.tenant,
            user_id=self._user.user_id,
            epoch=self._head.version.epoch,
            counts=self.counts,
            trimmed=self._head.trimmed,
            complete=not self._missing,
            missing=self._missing,
            also_kept=also_kept(self._store, erased_before=self._head.version.epoch > 0),
            members=[],
        )

    @property
    def _scope(self) -> Scope:
        return Scope(*self._user)


async def _one(part: Part) -> AsyncIterator[Part]:
    yield part


def _history_lines(messages: list[StoredMessage]) -> Iterable[bytes]:
    for message in messages:
        yield line_of_message(message).replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"


def _document_json(stored: StoredDocument) -> Iterable[bytes]:
    yield msgspec.json.encode(
        {
            "document": stored.document,
            "headings": [(each.start, each.end, each.level, each.text) for each in stored.headings],
            "text": stored.text,
            "sha256": checksum(stored),
        }
    )


def also_kept(store: Any, *, erased_before: bool) -> list[Kept]:
    """What is kept about somebody without being in their archive: kinds of data, and no content of anybody's."""
    kept = [
        Kept("the search index and vectors of your documents", "beside the documents", "as long as they are"),
        Kept(
            "answers to requests that may be repeated (Idempotency-Key), under a hash of the key",
            "the store",
            "for 24 hours",
        ),
        Kept("a hash of your id", "the operator's logs", "as long as the operator keeps logs"),
    ]
    if data_keys_around(store) is not None:
        kept.append(
            Kept(
                "the key that your data is encrypted with",
                "the store, itself encrypted",
                "until you are erased",
            )
        )
    if hasattr(store, "journal"):
        kept.append(
            Kept(
                "what you said last, on its way to the store",
                "the journal of the server",
                "until it is there",
            )
        )
    if erased_before:
        kept.append(
            Kept(
                "that everything was erased before, under a hash of your id, with the time",
                "the store",
                "for good, so that nothing erased can come back",
            )
        )
    return kept
