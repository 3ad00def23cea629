"""Names, contents and reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from samvad import limits
from samvad.errors import MessageExists
from samvad.records import (
    Change,
    Commit,
    Erased,
    MessagesAdded,
    SessionSet,
    StoredSession,
    UserKey,
    UserRecord,
    Version,
)
from samvad.stores.base import Store
from samvad.testing.conformance import base as wants
from samvad.testing.conformance.base import ASHA, BALA, NEW, Suite
from samvad.testing.model import EVERYTHING, raw_message

HOSTILE_IDS: Final = (
    "x" * limits.ID_BYTES_MAX,
    "\U0001f600" * (limits.ID_BYTES_MAX // 4),
    "\u0909\u092a\u092f\u094b\u0917\u0915\u0930\u094d\u0924\u093e",  # Hindi: user
    "\u0909\u092a\u092f\u094b\u0917\u0915\u0930\u094d\u0924\u093e\u200d",  # and with a zero-width joiner
    "asha",
    "Asha",
    "ASHA",
    "\u00e9",  # NFC
    "e\u0301",  # NFD
    "\u212a",  # the Kelvin sign, which NFKC makes K
    "K",
    "k",
    "a b",
    "a.b",
    "a.b.c",
    "__x__",
    "__proto__",
    "'; DROP TABLE users; --",
    '"',
    "'",
    "`",
    "\\",
    "%",
    "%25",
    "_",
    "*",
    "?",
    "#",
    "[0]",
    "$where",
    '{"$gt": ""}',
    "null",
    "0",
    "00",
    "1e3",
    "-1",
    "\ufffd",
    "\ufeffx",
    "\u202e",
    "\U0010ffff",
)
HOSTILE_CONTENTS: Final = (
    "\0",
    "a\0b",
    "\\u0000",
    "\x01\x1b\x7f\x80",
    "\ufeff\ufffe\uffff",
    "\U0001f9d1\u200d\U0001f9d1\u200d\U0001f9d2 \U0010ffff",
    "'; DROP TABLE messages; --",
    '"}]}',
    "\r\n\u2028\u2029",
    "\u0917" * (limits.CONTENT_BYTES_MAX // 3),
    "x" * limits.CONTENT_BYTES_MAX,
)


class DataConformance(Suite):
    """What is read is what was written, whatever it looks like."""

    # --- names and contents ----------------------------------------------------------------------------------

    def test_names_are_data_whatever_they_look_like(self) -> None:
        """Each of the hostile ids is a user, a session and a message of its own."""

        async def test(store: Store) -> None:
            under_way = []
            for n, name in enumerate(HOSTILE_IDS):
                user = UserKey("default", name)
                said = MessagesAdded((raw_message(1, name, 1, str(n)),), (name,))
                changes = (said, wants.state(n + 1), wants.session(user, name, body=b'{"n":%d}' % n))
                under_way.append(store.commit(Commit(user, NEW, changes)))
            await asyncio.gather(*under_way)
            for n, name in enumerate(HOSTILE_IDS):
                user = UserKey("default", name)
                record = await wants.load(store, user)
                assert record.state == wants.state(n + 1).state
                assert [(m.id, m.body) for m in record.window] == [
                    (name, raw_message(1, name, 1, str(n)).body)
                ]
                assert list(record.sessions) == [name]
                kept = await store.session("default", name)
                assert kept is not None
                assert (kept.user_id, kept.body) == (name, b'{"n":%d}' % n)
                with pytest.raises(MessageExists):
                    twice = MessagesAdded((raw_message(2, name, 1),), (name,))
                    await wants.commit(store, user, Version(0, 1), twice)
            names = sorted(HOSTILE_IDS, key=str.encode)
            assert list(await store.users("default", after="", limit=1_000)) == names
            await wants.commit(store, UserKey("default", "%"), Version(0, 1), Erased(1))
            left = [name for name in names if name != "%"]
            assert list(await store.users("default", after="", limit=1_000)) == left

        self.run(test)

    def test_tenants_share_nothing(self) -> None:
        """The same user id and session id in two tenants are two users and two sessions."""

        async def test(store: Store) -> None:
            tenants = ("default", "Default", "de", "fault")
            for n, tenant in enumerate(tenants):
                user = UserKey(tenant, "asha")
                changes = (wants.messages(1, n + 1), wants.state(n + 1), wants.session(user, "s", n + 1))
                await wants.commit(store, user, NEW, *changes)
            for n, tenant in enumerate(tenants):
                record = await wants.load(store, UserKey(tenant, "asha"))
                assert (record.seq, record.state) == (n + 1, wants.state(n + 1).state)
                kept = await store.session(tenant, "s")
                assert kept is not None
                assert kept.active_ms == n + 1
                stats = await store.stats(tenant, active_after_ms=0, open_after_ms=0)
                assert (stats.total_users, stats.total_messages, stats.active_sessions) == (1, n + 1, 1)
            await wants.commit(store, UserKey("de", "asha"), Version(0, 1), Erased(1))
            assert list(await store.users("de", after="", limit=9)) == []
            assert list(await store.users("default", after="", limit=9)) == ["asha"]
            assert await store.session("fault", "s") is not None
            # Where the tenant ends and the user begins is not a matter of joining.
            await wants.commit(store, UserKey("a", "bc"), NEW, wants.messages(1))
            assert await wants.load(store, UserKey("ab", "c")) == UserRecord(NEW)

        self.run(test)

    def test_contents_come_back_byte_for_byte(self) -> None:
        """NUL, control and astral characters, and 64 KiB of text, are kept as they are."""

        async def test(store: Store) -> None:
            said = tuple(raw_message(n, f"m{n}", 1, text) for n, text in enumerate(HOSTILE_CONTENTS, 1))
            await wants.commit(store, ASHA, NEW, MessagesAdded(said))
            assert (await wants.load(store, ASHA)).window == said
            messages, has_more = await store.page(ASHA, after=0, before=None, limit=100, bytes_max=EVERYTHING)
            assert (tuple(messages), has_more) == (said, False)

        self.run(test)

    # --- reading ---------------------------------------------------------------------------------------------

    def test_pages(self) -> None:
        """A page holds what lies between, from the right end, within its limits; and knows if more follows."""

        async def test(store: Store) -> None:
            await wants.commit(store, ASHA, NEW, wants.messages(1, 10))
            size = len(raw_message(1, "m1", 1).body)
            pages: list[tuple[dict[str, int], tuple[Sequence[int], bool]]] = [
                ({}, (range(1, 11), False)),
                ({"limit": 10}, (range(1, 11), False)),
                ({"limit": 9}, (range(2, 11), True)),
                ({"before": 5}, (range(1, 5), False)),
                ({"before": 5, "limit": 2}, ((3, 4), True)),
                ({"before": 1}, ((), False)),
                ({"before": 0}, ((), False)),
                ({"before": 99}, (range(1, 11), False)),
                ({"after": 0}, (range(1, 11), False)),
                ({"after": 0, "limit": 3}, ((1, 2, 3), True)),
                ({"after": 7, "limit": 3}, ((8, 9, 10), False)),
                ({"after": 10}, ((), False)),
                ({"after": 99}, ((), False)),
                ({"after": 3, "before": 6}, ((4, 5), False)),
                ({"after": 3, "before": 9, "limit": 2}, ((4, 5), True)),
                ({"after": 8, "before": 3}, ((), False)),
                ({"bytes_max": 1}, ((10,), True)),  # one at least, or a reader never comes through
                ({"after": 0, "bytes_max": 1}, ((1,), True)),
                ({"after": 0, "bytes_max": 3 * size}, ((1, 2, 3), True)),
            ]
            for bounds, (seqs, has_more) in pages:
                assert await wants.page(store, ASHA, **bounds) == (list(seqs), has_more), bounds
            assert await wants.page(store, BALA) == ([], False)

        self.run(test)

    def test_sessions_and_what_is_loaded_of_them(self) -> None:
        """Newest activity first; idle and ended ones only where all are asked for; a load says if it has all."""

        async def test(store: Store) -> None:
            changes: list[Change] = [wants.session(ASHA, f"s{n}", active_ms=n % 5) for n in range(10)]
            changes.append(SessionSet(StoredSession("ended", "asha", b"{}", 0, 9, 9)))
            await wants.commit(store, ASHA, NEW, *changes)
            newest = ["s4", "s9", "s3", "s8", "s2", "s7", "s1", "s6", "s0", "s5"]
            found = await store.sessions(ASHA, open_after_ms=None)
            assert [s.id for s in found] == ["ended", *newest]
            assert [s.id for s in await store.sessions(ASHA, open_after_ms=1)] == newest[:6]
            for sessions_max, held, complete in ((5, newest[:5], False), (6, newest[:6], True)):
                record = await store.load(ASHA, window=1, open_after_ms=1, sessions_max=sessions_max)
                assert (list(record.sessions), record.sessions_complete) == (held, complete)

        self.run(test)

    def test_users_are_listed_in_pages(self) -> None:
        """All users of the tenant, in the order of their bytes, however they are asked for."""

        async def test(store: Store) -> None:
            names = ["Z", "a", "aa", "b", "\u00e9", "\u0909", "\uffee", "\U0001f600"]
            for name in reversed(names):
                await wants.commit(store, UserKey("default", name), NEW, wants.state())
            listed: list[str] = []
            while page := await store.users("default", after=listed[-1] if listed else "", limit=3):
                listed += page
            assert listed == names

        self.run(test)

    def test_old_receipts_are_forgotten(self) -> None:
        """Those older than asked for go, the others stay, and it is told how many went."""

        async def test(store: Store) -> None:
            for n, key in enumerate((b"a", b"b", b"c")):
                await wants.commit(
                    store, ASHA, Version(0, n), wants.messages(n + 1), wants.receipt(key, at_ms=n)
                )
            assert await store.expire(receipts_before_ms=2) == 2
            assert [await store.receipt(key * 32) is None for key in (b"a", b"b", b"c")] == [
                True,
                True,
                False,
            ]
            assert await store.expire(receipts_before_ms=2) == 0

        self.run(test)
