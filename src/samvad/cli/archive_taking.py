"""`samvad user import`: the user of an archive into a store, as they were, and read back as they are then.

Everything is looked at before anything is written. What an import that was cut off has written is completed when it is
run again; anything else that is there of the user is left alone, unless it is to be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from samvad.archive.checking import ArchiveFile, checked_archive
from samvad.archive.reading import head_of
from samvad.auth.audit import noted_by_command
from samvad.cli.archives import signer_in_words, told
from samvad.cli.carry import lines
from samvad.cli.carry.lines import Digest, MessagesLine, SessionPart, SessionsLine, UserLine, UserLines
from samvad.cli.carry.writing import UserTaker
from samvad.cli.opening import writing
from samvad.cli.output import printable
from samvad.cli.portable import BYTES_PER_LINE, MESSAGES_PER_LINE, SESSIONS_PER_LINE
from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.knowledge.carrying import checksum, kept
from samvad.knowledge.opening import has_documents
from samvad.knowledge.records import Scope, StoredDocument
from samvad.records import Change, UserKey, UserRecord, Version
from samvad.sessions import content
from samvad.sessions.validation import check_id
from samvad.settings import Settings
from samvad.types import trusted

_INSTEAD: Final = "stop that server first, as an import needs the database to itself"


def import_archive(
    settings: Settings,
    file: str,
    *,
    tenant: str,
    as_user: str | None,
    replace: bool,
    public_key: str | None = None,
    signature_required: bool = False,
) -> None:
    """Take in an archive. SetupError where it is refused, or the store has something else of this user."""
    if as_user is not None:
        check_id(as_user, "The user's id")
    with checked_archive(Path(file)) as archive:
        signed = signer_in_words(
            archive.signed_by,
            settings.data_path(),
            public_key,
            required=signature_required,
            then="; nothing was imported.",
        )
        user = UserKey(tenant, as_user or archive.manifest.user_id)
        run = _Import(archive, user, replace)
        outcome = writing(settings, run.run, instead=_INSTEAD)
        noted_by_command(settings.data_path(), SystemClock(), "user import", [("user", *user)])
        counts = archive.manifest.counts
        typer.echo(f"{outcome} {told(counts)} of {printable(user.user_id)}")
        typer.echo("verified against the manifest, and read back")
        typer.echo(signed)


class _Import:
    """One archive into one store."""

    def __init__(self, archive: ArchiveFile, user: UserKey, replace: bool) -> None:
        self._archive = archive
        self._user = user
        self._replace = replace
        self._store: Any = None

    async def run(self, samvad: Any) -> str:
        """Do it; `imported`, or `already there:`."""
        self._store = samvad.store
        await self._look_at_wishes(samvad)
        await self._look_at_sessions()
        documents = await self._documents_of(samvad)
        differs = await self._look_at_documents(documents)
        trial = await self._take(_Trial)
        if trial.outcome == "differs" or differs:
            if not self._replace:
                raise SetupError(
                    f"There is other data of {self._user.user_id!r} already ({trial.why or differs}): give another "
                    "name with --as, or have it all erased first with --replace; nothing was imported."
                )
            await samvad.acting_as(trusted(self._user.tenant)).clear_user_data(self._user.user_id)
        taker = await self._take(UserTaker)
        if taker.outcome not in ("added", "there"):
            raise SetupError(f"The import was not finished: {taker.why}; run it again.")
        added = await self._keep_documents(documents)
        return "imported" if taker.outcome == "added" or added else "already there:"

    # --- looking ---------------------------------------------------------------------------------------

    async def _look_at_wishes(self, samvad: Any) -> None:
        """Where no content is kept of the user, an archive that holds some, or would end the wish, is refused."""
        head = await head_of(self._store, self._user)
        wished = content.wishes_none(UserRecord(head.version, profile=self._archive.profile))
        keeps = content.keeps_content(head, self._user.tenant, samvad.core.rules.unkept)
        if (wished or not keeps) and self._holds_content():
            raise SetupError(
                f"No content is to be kept of {self._user.user_id!r}, and the archive holds some; nothing was imported."
            )
        if content.wishes_none(head) and not wished:
            raise SetupError(
                f"{self._user.user_id!r} wishes that no content is kept there, and the archive does not say so, which "
                "would end it: end it first, with `samvad user privacy USER --content keep`; nothing was imported."
            )

    def _holds_content(self) -> bool:
        archive = self._archive
        record = UserRecord(Version(0, 0), state=archive.state, profile=archive.profile)
        return (
            content.holds_content(record)
            or any(kept or content.session_holds_content(session) for session, kept in archive.sessions())
            or any(_says_something(msgspec.json.decode(message.body)) for message in archive.messages())
        )

    async def _look_at_sessions(self) -> None:
        for session, _ in self._archive.sessions():
            there = await self._store.session(self._user.tenant, session.id)
            if there is not None and there.user_id != self._user.user_id:
                raise SetupError(
                    f"The session {session.id!r} belongs to another user there; nothing was imported."
                )

    async def _documents_of(self, samvad: Any) -> Any:
        """Where the documents are; None where there are none on either side."""
        if not self._archive.manifest.counts.documents and not has_documents(self._store):
            return None
        shelf = samvad.knowledge.core.shelf
        await shelf.open()
        return shelf.store

    async def _look_at_documents(self, documents: Any) -> str:
        more = set() if documents is None else set(await documents.revisions(Scope(*self._user)))
        for stored in self._documents():
            there = await documents.get(stored.scope, stored.document.id)
            if there is not None and checksum(there) != checksum(stored):
                return "one of the documents is another"
            more.discard(stored.document.id)
        return "there are documents that are not here" if more else ""

    async def _keep_documents(self, documents: Any) -> int:
        added = 0
        for stored in self._documents():
            added += await documents.get(stored.scope, stored.document.id) is None
            if not await kept(documents, stored):
                raise SetupError(f"The document {stored.document.id!r} does not read back as it was.")
        return added

    def _documents(self) -> Iterator[StoredDocument]:
        """The documents, of the user as they are called there."""
        for stored in self._archive.documents():
            document = stored.document
            if document.user_id is not None:
                document = msgspec.structs.replace(document, user_id=self._user.user_id)
            yield msgspec.structs.replace(stored, scope=Scope(*self._user), document=document)

    # --- taking ----------------------------------------------------------------------------------------

    async def _take(self, kind: type[UserTaker]) -> UserTaker:
        epoch = (await head_of(self._store, self._user)).version.epoch
        taker: UserTaker | None = None
        digest = Digest()
        for line in self._lines(epoch):
            digest.add(line)
            if taker is None:
                assert isinstance(line, UserLine)
                taker = kind(self._store, line)
            await taker.take(line)
        assert taker is not None
        await taker.take(digest.end())
        return taker

    def _lines(self, epoch: int) -> Iterator[UserLines]:
        """The archive as the lines of which backups are made, but for the last."""
        archive, manifest = self._archive, self._archive.manifest
        state, profile = archive.state, archive.profile
        yield UserLine(
            self._user.tenant,
            self._user.user_id,
            epoch,
            manifest.trimmed + manifest.counts.messages,
            None if state is None else (lines.raw(state.body), state.updated_ms, state.version),
            None
            if profile is None
            else (lines.raw(profile.preferences), profile.created_ms, profile.updated_ms),
            manifest.trimmed,
        )
        for some in _pieces(self._session_parts(), SESSIONS_PER_LINE):
            yield SessionsLine(some)
        messages = ((each.seq, each.at_ms, each.given, lines.raw(each.body)) for each in archive.messages())
        for page in _pieces(messages, MESSAGES_PER_LINE):
            yield MessagesLine(page)

    def _session_parts(self) -> Iterator[SessionPart]:
        for session, interruptions in self._archive.sessions():
            kept = sorted(
                (each.id, each.at_ms, lines.raw(self._of_user(each.body))) for each in interruptions
            )
            body = lines.raw(session.body)
            yield (session.id, body, session.created_ms, session.active_ms, session.ended_ms, kept)

    def _of_user(self, body: bytes) -> bytes:
        """An interruption, which names its user, of the user as they are called there."""
        if self._user.user_id == self._archive.manifest.user_id:
            return body
        fields = msgspec.json.decode(body)
        return msgspec.json.encode(fields | {"userId": self._user.user_id}) if "userId" in fields else body


class _Trial(UserTaker):
    """Writes nothing: finds out whether what is there is a part of the archive, or something else."""

    async def _commit(self, *changes: Change) -> None:
        pass


def _says_something(fields: dict[str, Any]) -> bool:
    """Whether a message is more than who, when and how long."""
    left = content.read_back(fields)
    return left is None or not fields.keys() <= {*left, "seq", "id", "role", "content", "timestamp"}


def _pieces(parts: Iterator[Any], count_max: int) -> Iterator[list[Any]]:
    """Parts in lists of bounded number and size."""
    piece: list[Any] = []
    size = 0
    for part in parts:
        part_size = len(lines.encode(part))
        if piece and (len(piece) == count_max or size + part_size > BYTES_PER_LINE):
            yield piece
            piece, size = [], 0
        piece.append(part)
        size += part_size
    if piece:
        yield piece
