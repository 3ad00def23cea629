"""Where the SQLite store keeps what was said: lately, and before; and a database of the schema before that."""

from __future__ import annotations

import asyncio
from importlib import resources
from pathlib import Path

import apsw
import msgspec
import pytest

from samvad.errors import MessageExists, SamvadError, SetupError
from samvad.records import (
    Commit,
    Erased,
    MessagesAdded,
    StoredMessage,
    Trimmed,
    UserKey,
    Version,
    lost_message,
    made_id,
)
from samvad.stores.sqlite import APPLICATION_ID, SQLiteStore
from samvad.testing.model import raw_message

pytestmark = pytest.mark.anyio

ASHA = UserKey("default", "asha")
BALA = UserKey("default", "bala")


def said(first: int, count: int, content: str = "x") -> tuple[StoredMessage, ...]:
    """Some messages that follow each other; every third has an id that was made here."""
    messages = []
    for seq in range(first, first + count):
        made = seq % 3 == 0
        message = raw_message(
            seq, made_id(seq, f"{seq:020x}") if made else f"given {seq}", 1_000 + seq, content
        )
        messages.append(msgspec.structs.replace(message, given=not made))
    return tuple(messages)


async def opened(path: Path, recent_bytes_max: int) -> SQLiteStore:
    """A store over a file."""
    store = SQLiteStore(path, recent_bytes_max=recent_bytes_max)
    await store.open()
    return store


def rows(path: Path) -> tuple[int, int]:
    """How many rows `recent` and `history` have."""
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as connection:
        recent: int = connection.execute("SELECT count(*) FROM recent").get
        history: int = connection.execute("SELECT count(*) FROM history").get
    return recent, history


async def check_all(store: SQLiteStore, user: UserKey, messages: tuple[StoredMessage, ...]) -> None:
    """Every window and every page of a user's history is what was said."""
    record = await store.load(user, window=7, open_after_ms=0, sessions_max=9)
    assert record.window == messages[-7:]
    assert record.seq == len(messages)
    for after in (0, 1, 4, 5, len(messages) - 1, len(messages)):
        for before in (1, 2, 6, len(messages), len(messages) + 1, None):
            for limit in (1, 3, 1_000):
                end = len(messages) + 1 if before is None else before
                wanted = [m for m in messages if after < m.seq < end]
                page, more = await store.page(
                    user, after=after, before=before, limit=limit, bytes_max=1 << 30
                )
                assert (page, more) == (wanted[:limit], len(wanted) > limit), (after, before, limit)
                if after == 0:
                    wanted = [m for m in messages if m.seq < end]
                    page, more = await store.page(
                        user, after=None, before=before, limit=limit, bytes_max=1 << 30
                    )
                    assert (page, more) == (wanted[-limit:], len(wanted) > limit), (before, limit)


@pytest.mark.parametrize("recent_bytes_max", [0, 700, 1 << 20])
async def test_all_that_was_said_is_read_wherever_it_is(database_path: Path, recent_bytes_max: int) -> None:
    """Lately said, gathered, or some of each: the same windows, pages, heads and counts, also after a restart."""
    store = await opened(database_path, recent_bytes_max)
    messages = said(1, 41)
    for revision, first in enumerate(range(0, 41, 3)):
        run = messages[first : first + 3]
        await store.commit(Commit(ASHA, Version(0, revision), (MessagesAdded(run),)))
        if revision < 2:
            await store.commit(Commit(BALA, Version(0, revision), (MessagesAdded(run),)))
    await check_all(store, ASHA, messages)
    await check_all(store, BALA, messages[:6])
    await store.close()
    recent, history = rows(database_path)
    assert (recent > 0) == (recent_bytes_max > 0)
    assert (history > 0) == (recent_bytes_max < 1 << 20)
    store = await opened(database_path, recent_bytes_max)
    await check_all(store, ASHA, messages)
    assert (await store.stats("default", active_after_ms=0, open_after_ms=0)).total_messages == 47
    following = said(42, 2)
    committed = await store.commit(Commit(ASHA, Version(0, 14), (MessagesAdded(following),)))
    assert (committed.version, committed.seq) == (Version(0, 15), 43)
    await check_all(store, ASHA, messages + following)
    erased = await store.commit(Commit(ASHA, Version(0, 15), (Erased(1),)))
    assert erased.removed.messages == 43
    assert (await store.load(ASHA, window=7, open_after_ms=0, sessions_max=9)).version == Version(1, 0)
    await check_all(store, BALA, messages[:6])
    await store.close()


@pytest.mark.parametrize("recent_bytes_max", [0, 1 << 20])
async def test_a_message_is_found_by_its_id_wherever_it_is(
    database_path: Path, recent_bytes_max: int
) -> None:
    """Ids that were given and ids that were made, in the same group and after it."""
    store = await opened(database_path, recent_bytes_max)
    messages = said(1, 6)
    first = store.commit(Commit(ASHA, Version(0, 0), (MessagesAdded(messages),)))
    for message in (messages[0], messages[2], messages[5]):
        again = raw_message(7, message.id, 2_000)
        with pytest.raises(MessageExists) as refused:
            await store.commit(Commit(ASHA, Version(0, 1), (MessagesAdded((again,), (again.id,)),)))
        assert refused.value.seq == message.seq
    await first
    new = raw_message(7, "new", 2_000)
    await store.commit(Commit(ASHA, Version(0, 1), (MessagesAdded((new,), (new.id,)),)))
    await store.close()


async def test_runs_are_bounded(database_path: Path) -> None:
    """What one user said is gathered in rows of about 16 KiB; what one commit said is never parted."""
    store = await opened(database_path, 400_000)
    messages = said(1, 240, "x" * 1_500)
    for revision in range(120):
        run = messages[2 * revision : 2 * revision + 2]
        await store.commit(Commit(ASHA, Version(0, revision), (MessagesAdded(run),)))
    big = said(241, 30, "y" * 2_000)
    await store.commit(Commit(ASHA, Version(0, 120), (MessagesAdded(big),)))
    await store.close()
    assert rows(database_path)[0] == 0
    with apsw.Connection(str(database_path)) as connection:
        sizes = [
            size for (size,) in connection.execute("SELECT length(body) FROM history ORDER BY first_seq")
        ]
    assert max(sizes[:-1]) <= 16 * 1024
    assert len(sizes) < 40
    store = await opened(database_path, 400_000)
    await check_all(store, ASHA, messages + big)
    await store.close()


async def test_a_database_of_an_older_schema_is_carried_over(database_path: Path) -> None:
    """One that the first releases wrote, a row a message: everything is there, found by id, counted and goes on."""
    messages = said(1, 11) + (
        raw_message(12, made_id(12, "0" * 20), 1_012),
    )  # given, though it looks as if made
    folder = resources.files("samvad.stores.sqlite_migrations")
    with apsw.Connection(str(database_path)) as old:
        for name in ("0001_first.sql", "0002_who_erased.sql"):
            old.execute((folder / name).read_text())
        old.pragma("application_id", APPLICATION_ID)
        old.pragma("user_version", 2)
        old.execute(
            "INSERT INTO users (tenant, user_id, epoch, revision, seq, preferences, profile_created_ms,"
            " profile_updated_ms) VALUES ('default', 'asha', 0, 5, 12, '{}', 1001, 1012)"
        )
        old.executemany(
            "INSERT INTO messages (user_no, seq, at_ms, given_id, body) VALUES (1, ?, ?, ?, ?)",
            [(m.seq, m.at_ms, m.id if m.given else None, m.body) for m in messages],
        )
    old.close()
    looking = SQLiteStore(database_path, readonly=True)
    with pytest.raises(SetupError, match="older Samvad"):
        await looking.open()
    await looking.close()
    store = await opened(database_path, 1 << 20)
    await check_all(store, ASHA, messages)
    for message in messages[:3]:
        again = raw_message(13, message.id, 2_000)
        with pytest.raises(MessageExists):
            await store.commit(Commit(ASHA, Version(0, 5), (MessagesAdded((again,), (again.id,)),)))
    following = said(13, 2)
    await store.commit(Commit(ASHA, Version(0, 5), (MessagesAdded(following),)))
    await check_all(store, ASHA, messages + following)
    await store.close()


async def test_a_row_of_another_kind_takes_nobody_along(database_path: Path) -> None:
    """Somebody wrote text where bytes were: it is gathered and trimmed like all else, and the store goes on."""
    store = await opened(database_path, 1 << 20)
    for user in (ASHA, BALA):
        await store.commit(Commit(user, Version(0, 0), (MessagesAdded(said(1, 4)),)))
    with apsw.Connection(str(database_path)) as connection:
        connection.execute("UPDATE recent SET body = CAST(body AS TEXT)")
    await store.close()
    store = await opened(database_path, 300)
    async with asyncio.timeout(20):
        await store.commit(Commit(BALA, Version(0, 1), (MessagesAdded(said(5, 4)),)))
        await store.commit(Commit(BALA, Version(0, 2), (MessagesAdded(said(9, 1)),)))
        await check_all(store, BALA, said(1, 9))
        await check_all(store, ASHA, said(1, 4))
        with apsw.Connection(str(database_path)) as connection:
            connection.execute("UPDATE history SET body = CAST(body AS TEXT)")
        await store.commit(Commit(ASHA, Version(0, 1), (Trimmed(3),)))
        messages, _ = await store.page(ASHA, after=0, before=None, limit=9, bytes_max=1 << 20)
        assert tuple(messages) == said(1, 4)[2:]
        await store.close()


async def test_a_fault_of_ours_does_not_end_the_writer(database_path: Path) -> None:
    """Whoever asked for it is told, and what others write is written."""
    store = await opened(database_path, 300)
    async with asyncio.timeout(20):
        with pytest.raises(SamvadError, match="ZeroDivisionError"):
            await store._on_writer(lambda connection: 1 / 0)
        await store.commit(Commit(ASHA, Version(0, 0), (MessagesAdded(said(1, 4)),)))
        await store.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"T00:00", b"T", id="no time"),
        pytest.param(b'Z"', b'"', id="a time of nowhere"),
        pytest.param(b'"role"', b'"toolCalls":[{}],"role"', id="a call without an id"),
        pytest.param(b'"role"', b'"toolCalls":[{"id":5}],"role"', id="a number for an id"),
    ],
)
async def test_a_damaged_message_is_read_as_such(database_path: Path, old: bytes, new: bytes) -> None:
    """The others are read, and the user can be erased."""
    store = await opened(database_path, 1 << 20)
    await store.commit(Commit(ASHA, Version(0, 0), (MessagesAdded(said(1, 4)),)))
    await store.close()
    with apsw.Connection(str(database_path)) as connection:
        lines = connection.execute("SELECT body FROM recent").get.split(b"\n")
        assert old in lines[1]
        lines[1] = lines[1].replace(old, new)
        connection.execute("UPDATE recent SET body = ?", (b"\n".join(lines),))
    store = await opened(database_path, 1 << 20)
    record = await store.load(ASHA, window=7, open_after_ms=0, sessions_max=9)
    assert record.window[1] == lost_message(2)
    assert (record.window[0], *record.window[2:]) == (said(1, 1)[0], *said(3, 2))
    await store.commit(Commit(ASHA, record.version, (Erased(5_000),)))
    await store.close()
