"""The archive of a user: everything of theirs, nothing of anybody else, readable, and proven by its manifest."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from samvad.archive import markdown
from samvad.archive.form import FIXED, MANIFEST
from samvad.archive.making import UserArchive
from samvad.auth.audit import AuditLog
from samvad.clock import SystemClock
from samvad.errors import Conflict, NotFound, StoreUnavailable
from samvad.records import Commit, MessagesAdded, ProfileSet, StoredProfile, Trimmed, UserKey, Version
from samvad.runtime import open_samvad
from samvad.testing.model import raw_message
from tests.archive.support import ASHA, CANARY, LONG, archive, members, populate
from tests.knowledge.here import engine_here
from tests.support import short_and_long

__all__ = ["engine_here"]
pytestmark = pytest.mark.anyio


async def test_it_holds_everything_of_the_user_and_nothing_of_others(tmp_path: Path) -> None:
    """State, preferences, sessions, interruptions (stored and in memory), messages, documents: each as it was."""
    async with open_samvad(f"sqlite:///{tmp_path}/a.db", record_interruptions=True) as samvad:
        await populate(samvad)
        await populate(samvad, "bala", mark=CANARY)
        await populate(samvad, ASHA, tenant="other", mark=CANARY)
        await samvad.knowledge.add_text(f"Everybody's {CANARY}", CANARY)
        samvad.interruptions.push("phone", "bala", type="BARGE_IN", full_text=CANARY, heard_text="")
        held = samvad.interruptions.push("phone", ASHA, type="BARGE_IN", full_text="a b", heard_text="a")
        data = await archive(samvad)
        found = members(data)
        assert CANARY.encode() not in b"".join([data, *found.values()])
        assert list(found) == [
            "user.json", "sessions.json", "history.jsonl", "conversation.md", "documents/00001.json",
            "documents/00001.md", "questions.json", "audit.jsonl", "README.md", "manifest.json",
        ]  # fmt: skip
        manifest = json.loads(found[MANIFEST])
        assert manifest["counts"] == {
            "messages": 5, "sessions": 2, "interruptions": 2, "documents": 1, "auditEntries": 0,
        }  # fmt: skip
        assert (manifest["userId"], manifest["tenant"], manifest["complete"]) == (ASHA, "default", True)
        assert {each["name"]: (each["bytes"], each["sha256"]) for each in manifest["members"]} == {
            name: (len(body), hashlib.sha256(body).hexdigest())
            for name, body in found.items()
            if name != MANIFEST
        }
        page = await samvad.store.page(
            UserKey("default", ASHA), after=0, before=None, limit=10, bytes_max=1 << 30
        )
        assert found["history.jsonl"] == b"".join(message.body + b"\n" for message in page[0])
        user = json.loads(found["user.json"])
        assert user["state"]["city"] == "पुणे" and user["stateVersion"] == 2
        assert user["preferences"] == {"language": "hi", "voiceSpeed": 1.0, "mark": ""}
        old, phone = json.loads(found["sessions.json"])
        assert (old["id"], phone["id"], "endedAt" in old, "endedAt" in phone) == ("old", "phone", True, False)
        assert old["interruptions"] == [
            {"id": "i", "at": "2023-11-14T22:13:20.123Z", "fields": {"id": "i", "x": 1}}
        ]
        assert [each["id"] for each in phone["interruptions"]] == [held.id]
        assert json.loads(found["documents/00001.json"])["text"].startswith("# Loans")
        for text in ("नमस्ते", "morning", LONG[:100]):
            assert text in found["conversation.md"].decode()


async def test_nobody_is_not_found_and_who_has_documents_alone_is(tmp_path: Path) -> None:
    """Nothing kept: NotFound. A document is something."""
    async with open_samvad(f"sqlite:///{tmp_path}/a.db") as samvad:
        with pytest.raises(NotFound):
            await archive(samvad)
        await samvad.knowledge.add_text("Note", "Mine.", user_id=ASHA)
        found = members(await archive(samvad))
        assert "documents/00001.md" in found and found["history.jsonl"] == b"" == found["audit.jsonl"]
        assert json.loads(found["sessions.json"]) == []


@pytest.mark.usefixtures("engine_here")
@pytest.mark.parametrize("user", ["..\\x", "CON", "C:evil", "~", "a\u202eb", "%2e%2e", "पुणे 🙂", "x" * 256])
async def test_no_name_makes_a_path(user: str) -> None:
    """Members have fixed names, whatever people, sessions and documents are called."""
    async with open_samvad("memory://") as samvad:
        await samvad.append_to_user_history(user, "user", "hello")
        await samvad.save_session(f"s{user}"[:256], user)
        await samvad.knowledge.add_text(user, "Mine.", user_id=user)
        found = members(await archive(samvad, user))
        assert set(found) == {*FIXED, MANIFEST, "documents/00001.json", "documents/00001.md"}
        assert json.loads(found["user.json"])["userId"] == user


@pytest.mark.usefixtures("engine_here")
async def test_what_the_audit_log_says_of_them(tmp_path: Path) -> None:
    """Entries about the user, their sessions and documents, and by them; who else did it is not named."""
    async with open_samvad(f"sqlite:///{tmp_path}/a.db") as samvad:
        samvad.data_dir = tmp_path
        await populate(samvad)
        log = AuditLog(tmp_path, SystemClock())
        asha, bala = log.hashed("user", "default", ASHA), log.hashed("user", "default", "bala")
        phone = log.hashed("session", "default", "phone")
        log.note(f"token:1 {asha}", "default", "saveUserState", 200, [asha], address="192.0.2.1")
        log.note(f"jwt:i {bala}", "default", "getUserState", 403, [asha], address="192.0.2.99")
        log.note("key:abc", "default", "batch", 200, [asha, bala, phone], address="192.0.2.98")
        log.note(f"token:2 {bala}", "default", "saveUserState", 200, [bala])
        log.note("key:abc", "other", "clearUserData", 200, [log.hashed("user", "other", ASHA)])
        log.note("command:uid=1000", "default", "user erase", 200, [asha])
        log.note("nobody", "default", "getUserState", 401, [asha])
        log.stop()
        body = members(await archive(samvad))["audit.jsonl"]
        told = [json.loads(line) for line in body.splitlines()]
        assert [(each["n"], each["by"], each["about"]) for each in told] == [
            (1, "the user", ["the user"]),
            (2, "another user", ["the user"]),
            (3, "a program with an API key", ["the user", "session phone"]),
            (6, "the operator, on the command line", ["the user"]),
            (7, "somebody who was not let in", ["the user"]),
        ]
        assert told[0]["address"] == "192.0.2.1"
        for other in (b"192.0.2.99", b"192.0.2.98", b"abc", b"1000", bala.encode()):
            assert other not in body


@pytest.mark.usefixtures("engine_here")
async def test_who_is_erased_meanwhile_gets_no_archive() -> None:
    """The ZIP has no end then, and so has one of which old messages are removed while it is made."""
    async with open_samvad("memory://") as samvad:
        for add in (lambda: populate(samvad), lambda: samvad.append_to_user_history(ASHA, "user", "hello")):
            await add()
            made = UserArchive(samvad, UserKey("default", ASHA))
            await made.begin()
            await samvad.clear_user_data(ASHA)
            with pytest.raises(Conflict):
                _ = [piece async for piece in made.pieces()]
        await populate(samvad)
        made = UserArchive(samvad, UserKey("default", ASHA))
        await made.begin()
        head = await samvad.store.load(UserKey("default", ASHA), window=0, open_after_ms=0, sessions_max=0)
        await samvad.store.commit(Commit(UserKey("default", ASHA), head.version, (Trimmed(3),)))
        with pytest.raises(Conflict, match="make it again"):
            _ = [piece async for piece in made.pieces()]


async def test_a_store_that_is_down_is_not_an_empty_one(tmp_path: Path) -> None:
    """StoreUnavailable before the first byte, also where memory knows the user."""
    from samvad.stores.memory import MemoryStore
    from tests.journaled.faulty import FaultyStore

    store = FaultyStore(MemoryStore())
    async with open_samvad("memory://", store=store, journal_dir=tmp_path / "journal") as samvad:  # type: ignore[arg-type]
        await samvad.append_to_user_history(ASHA, "user", "hello")
        assert members(await archive(samvad))
        store.down = True
        await samvad.append_to_user_history(ASHA, "user", "hello")
        for user in (ASHA, "unknown"):
            with pytest.raises(StoreUnavailable):
                await archive(samvad, user)
        store.down = False


@pytest.mark.parametrize("messages", short_and_long(1_500, 100_000))
async def test_a_long_history_is_never_held_whole(messages: int, tmp_path: Path) -> None:
    """Memory is bounded, whatever the length; the event loop goes on in between; all of it is there."""
    async with open_samvad(f"sqlite:///{tmp_path}/a.db") as samvad:
        user, version = UserKey("default", ASHA), Version(0, 0)
        for start in range(1, messages, 50):
            some = tuple(
                raw_message(n, f"m-{n}", n, "x" * (6_000_000 // messages)) for n in range(start, start + 50)
            )
            more = (ProfileSet(StoredProfile(b"{}", 1, 1)),) if start == 1 else ()
            version = (await samvad.store.commit(Commit(user, version, (*more, MessagesAdded(some))))).version
        path = tmp_path / "a.zip"
        turns = 0

        async def write() -> None:
            made = UserArchive(samvad, user)
            await made.begin()
            with path.open("wb") as out:
                async for piece in made.pieces():
                    assert len(piece) < 1024 * 1024
                    out.write(piece)

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count_turns())
        await write()
        counting.cancel()
        assert turns > 40, turns  # 6 MB in pieces of 256 KiB, twice
        tracemalloc.start()
        await write()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * 1024 * 1024, peak  # half of the history
        lines = members(path)["history.jsonl"].splitlines()
        assert [json.loads(line)["seq"] for line in lines] == list(range(1, messages + 1))


# --- Markdown ------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>", "![x](http://evil/p.png)", "[a](javascript:x)", "http://evil.example/",
    "www.evil.example", "a@evil.example", "# h", "  ## h", "1. x", "12) x", "- x", "+ x", "* x", "> x", "***",
    "---", "===", "a\n===", "a\n---", "    code", "\tcode", "```\nx\n```", "~~~", "~~x~~",
    "| a | b |\n|---|---|", "<!-- x", "&lt;b&gt;", "&#60;b>", "`x`", "\\", "a\\", "a  \nb", "[x]: http://evil",
    "[^1]: x", ": x", "<http://evil>", "$x$", "{{x}}", "x\u2028# h", "x\x0b# h", "x\x85- y", "_x_ __y__",
    "\u202eabc", "a\r\n\r\n# b", "\n\n\n", "  ", "1.", "0", "", "x\x1b[31m\x00\x07", "a\n\n    b",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_content_does_nothing_in_markdown(text: str) -> None:
    """What is rendered is a quotation of plain text, the same as what was written."""
    made = "\n".join([*markdown.quoted(text), "", "after"])
    assert not any(c in made for c in "\x1b\x00\x07\x85")
    assert not re.search(r"(?<!\\)://|www\.|(?<!\\)@", made), "what looks like an address is made no link"
    parser = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    tokens = parser.parse(made)
    kinds = {token.type for token in tokens}
    kinds |= {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {
        "blockquote_open", "blockquote_close", "paragraph_open", "paragraph_close", "inline", "text", "hardbreak",
        "text_special", "softbreak",
    }, kinds  # fmt: skip
    assert tokens[-2].content == "after" and tokens[-2].level == 1, "it ended where it should"
    shown = "\n".join(
        "".join("\n" if child.type == "hardbreak" else child.content for child in token.children or ())
        for token in tokens[:-3]
        if token.type == "inline"
    )

    def plain(value: str) -> list[str]:
        lines = [line.replace("\t", "    ").replace("\xa0", " ").strip(" ") for line in value.splitlines()]
        return ["".join(c for c in line if unicodedata.category(c) != "Cc") for line in lines if line]

    pictures = shown.translate({0x2400 + c: "" for c in range(0x20)})
    assert plain(pictures) == plain(text)


def test_names_stay_in_their_line() -> None:
    """A name cannot break the line, turn it round, or be markup."""
    made = markdown.inline("a\n# b\u202e\u2028*x*\x1b")
    assert made == "\u2068a\\\\u000a# b\\\\u202e\\\\u2028\\*x\\*\\\\u001b\u2069"


def test_a_fence_cannot_be_ended_from_within() -> None:
    """It is longer than any run of backticks in it."""
    tokens = MarkdownIt().parse(markdown.fenced("a\n````\n# b", "json") + "\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
