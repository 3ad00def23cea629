"""An archive taken in elsewhere: the same user, byte for byte; and archives that are not what they say."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samvad import limits
from samvad.archive.checking import checked_archive
from samvad.cli.archive_taking import _Import
from samvad.errors import SetupError, StoreUnavailable
from samvad.records import Commit, MessagesAdded, ProfileSet, StoredProfile, Trimmed, UserKey, Version
from samvad.runtime import open_samvad
from samvad.stores.memory import MemoryStore
from samvad.testing.model import raw_message
from tests.archive.support import ASHA, CANARY, answers, archive, members, populate
from tests.firestore.support import emulator
from tests.http.support import Api, HandClock

pytestmark = pytest.mark.anyio
KEY = "QUJD" * 10 + "QUI="  # 32 bytes


def url_of(engine: str, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new store of an engine."""
    if engine == "firestore":
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator().host)
        return f"firestore://{emulator().new_project()}"
    return "memory://" if engine == "memory" else f"sqlite:///{folder}/{name}.db"


def at(engine: str) -> tuple[str, dict[str, Any]]:
    """The engine, and the settings that it is opened with: `sealed` is encrypted SQLite."""
    return ("sqlite", {"master_key": KEY}) if engine == "sealed" else (engine, {})


async def take_in(samvad: Any, path: Path, user: str = ASHA, replace: bool = False) -> str:
    """What the command does, in this process."""
    with checked_archive(path) as found:
        return await _Import(found, UserKey("default", user), replace).run(samvad)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("memory", "sqlite"), ("sqlite", "memory"), ("sqlite", "firestore"), ("firestore", "sealed"),
        ("sealed", "sqlite"), ("sqlite", "sealed"), ("memory", "firestore"),
    ],
)  # fmt: skip
async def test_a_user_is_the_same_elsewhere(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the API says is the same, byte for byte; the second time changes nothing; what is said next follows."""
    path = tmp_path / "a.zip"
    engine, more = at(old)
    clock = HandClock()
    url = url_of(engine, tmp_path, "old", monkeypatch)
    async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
        await populate(samvad)
        await populate(samvad, "bala", mark=CANARY)
        wanted = await answers(Api(samvad))
        path.write_bytes(await archive(samvad))
    engine, more = at(new)
    url = url_of(engine, tmp_path, "new", monkeypatch)
    async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
        await populate(samvad, "other", mark="-other")
        assert await take_in(samvad, path) == "imported"
        assert await take_in(samvad, path) == "already there:"
        if engine == "memory":
            assert await answers(Api(samvad)) == wanted
    if engine != "memory":
        async with open_samvad(url, clock=clock, record_interruptions=True, **more) as samvad:
            api = Api(samvad)
            assert await answers(api) == wanted
            assert (await samvad.append_to_user_history(ASHA, "user", "next")).seq == 6
            again = members(await archive(samvad))
            assert CANARY.encode() not in b"".join(again.values())


async def test_under_another_name(tmp_path: Path) -> None:
    """Messages and documents are the other user's then; where sessions are taken, it is refused before anything."""
    path = tmp_path / "a.zip"
    async with open_samvad(f"sqlite:///{tmp_path}/a.db", record_interruptions=True) as samvad:
        await populate(samvad)
        await samvad.record_interruption("old", "i2", 5, json.dumps({"userId": ASHA}).encode())
        path.write_bytes(await archive(samvad))
        with pytest.raises(SetupError, match="belongs to another user there"):
            await take_in(samvad, path, "second")
        assert (await samvad.read_user("second")).version.revision == 0
    async with open_samvad(f"sqlite:///{tmp_path}/b.db", record_interruptions=True) as samvad:
        assert await take_in(samvad, path, "second") == "imported"
        found = members(await archive(samvad, "second"))
        assert json.loads(found["documents/00001.json"])["document"]["userId"] == "second"
        assert b'"userId":"second"' in found["sessions.json"] and ASHA.encode() not in found["sessions.json"]
        assert (await samvad.read_user(ASHA)).version.revision == 0


async def test_who_has_something_else_there_is_left_alone(tmp_path: Path) -> None:
    """One sentence says what to do; --replace erases what was there, and starts a new life."""
    path = tmp_path / "a.zip"
    async with open_samvad(f"sqlite:///{tmp_path}/a.db", record_interruptions=True) as samvad:
        await populate(samvad)
        path.write_bytes(await archive(samvad))
    others: list[Callable[[Any], Any]] = [
        lambda s: s.append_to_user_history(ASHA, "user", "mine"),
        lambda s: s.save_user_state(ASHA, {"mine": 1}),
        lambda s: s.save_session("mine", ASHA),
        lambda s: s.knowledge.add_text("Mine", "Mine.", user_id=ASHA),
        lambda s: s.knowledge.add_text("Mine", "Mine.", id=f"kb_{ASHA}", user_id=ASHA),
    ]
    for number, other in enumerate(others):
        async with open_samvad(f"sqlite:///{tmp_path}/{number}.db", record_interruptions=True) as samvad:
            await other(samvad)
            before = members(await archive(samvad))
            with pytest.raises(SetupError, match=r"There is other data of 'asha'.*--as.*--replace"):
                await take_in(samvad, path)
            after = members(await archive(samvad))
            for name in ("manifest.json", "README.md", "questions.json"):  # when, and whether anybody asked
                del before[name], after[name]
            assert before == after
            assert await take_in(samvad, path, replace=True) == "imported"
            found = members(await archive(samvad))
            assert found["history.jsonl"] == members(path)["history.jsonl"]
            assert b"Mine" not in found["conversation.md"]


async def test_what_was_cut_off_is_completed(tmp_path: Path) -> None:
    """The store fails in the middle; run again, the import is whole, and each message is there once."""
    path = tmp_path / "a.zip"
    messages = 1_200
    async with open_samvad(f"sqlite:///{tmp_path}/a.db") as samvad:
        await populate(samvad)
        version = (await samvad.read_user(ASHA)).version
        some = tuple(raw_message(n, f"m-{n}", n) for n in range(6, messages + 1))
        await samvad.store.commit(Commit(UserKey("default", ASHA), version, (MessagesAdded(some),)))
        path.write_bytes(await archive(samvad))

    class Fails(MemoryStore):
        tried = 0

        def commit(self, commit: Any) -> Any:
            self.tried += 1
            if self.tried == 3:
                raise StoreUnavailable
            return super().commit(commit)

    async with open_samvad("memory://", store=Fails()) as samvad:  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await take_in(samvad, path)
        assert 0 < (await samvad.store.load(
            UserKey("default", ASHA), window=0, open_after_ms=0, sessions_max=0
        )).seq < messages  # fmt: skip
        assert await take_in(samvad, path) == "imported"
        assert members(await archive(samvad))["history.jsonl"] == members(path)["history.jsonl"]


@pytest.mark.parametrize("left", [3, 0])
@pytest.mark.parametrize(
    ("old", "new"),
    [("sqlite", "firestore"), ("firestore", "sealed"), ("sealed", "memory"), ("memory", "sqlite")],
)
async def test_a_history_that_lost_its_beginning_keeps_its_numbers(
    left: int, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where old messages were removed by a rule, or all of them, what follows has the numbers that it had."""
    path = tmp_path / "a.zip"
    engine, more = at(old)
    url = url_of(engine, tmp_path, "old", monkeypatch)
    async with open_samvad(url, record_interruptions=True, **more) as samvad:
        await populate(samvad)
        user = UserKey("default", ASHA)
        head = await samvad.store.load(user, window=0, open_after_ms=0, sessions_max=0)
        await samvad.store.commit(Commit(user, head.version, (Trimmed(6 - left),)))
        path.write_bytes(await archive(samvad))
        assert json.loads(members(path)["manifest.json"])["trimmed"] == 5 - left
    engine, more = at(new)
    url = url_of(engine, tmp_path, "new", monkeypatch)
    async with open_samvad(url, record_interruptions=True, **more) as samvad:
        assert await take_in(samvad, path) == "imported"
        assert await take_in(samvad, path) == "already there:"
        again = members(await archive(samvad))
        assert again["history.jsonl"] == members(path)["history.jsonl"]
        page = await samvad.page_history(ASHA)
        assert [m.seq for m in page.messages] == list(range(6 - left, 6))
        assert (await samvad.append_to_user_history(ASHA, "user", "next")).seq == 6
        with pytest.raises(SetupError, match="There is other data"):
            await take_in(samvad, path)
        assert await take_in(samvad, path, replace=True) == "imported"
        assert (await samvad.append_to_user_history(ASHA, "user", "next")).seq == 6


async def test_who_wants_no_content_kept_gets_none(tmp_path: Path) -> None:
    """An archive with content is refused where the user, or the tenant, wants none; one without is taken in."""
    path, without = tmp_path / "a.zip", tmp_path / "b.zip"
    async with open_samvad("memory://") as samvad:
        await populate(samvad)
        path.write_bytes(await archive(samvad))
        await samvad.save_privacy(ASHA, content="none")
        await samvad.append_to_user_history(ASHA, "user", "My card ends in 4711.", sessionId="phone")
        with pytest.raises(SetupError, match="No content is to be kept"):
            await take_in(samvad, path, replace=True)
        without.write_bytes(await archive(samvad))
        assert "not kept: 21 characters" in members(without)["conversation.md"].decode()
    async with open_samvad(f"sqlite:///{tmp_path}/b.db", content_none_tenants="default") as samvad:
        with pytest.raises(SetupError, match="No content is to be kept"):
            await take_in(samvad, path)
        assert await take_in(samvad, without) == "imported"
        assert members(await archive(samvad))["history.jsonl"] == members(without)["history.jsonl"]
    found = members(without)
    changed = found | {"history.jsonl": found["history.jsonl"].replace(b'"content":""', b'"content":"4711"')}
    without.write_bytes(packed(changed))
    async with open_samvad(f"sqlite:///{tmp_path}/c.db") as samvad:
        with pytest.raises(SetupError, match="No content is to be kept"):
            await take_in(samvad, without)


async def test_messages_without_content_are_taken(tmp_path: Path) -> None:
    """Where only lengths are kept, the archive says so, and is imported like any other."""
    path = tmp_path / "a.zip"
    async with open_samvad("memory://") as samvad:
        user = UserKey("default", ASHA)
        message = raw_message(1, "m", 1_736_528_400_000)
        body = message.body.replace(b'"said"', b'"","contentLength":12')
        changes = (
            ProfileSet(StoredProfile(b"{}", 1, 1)),
            MessagesAdded((msgspec.structs.replace(message, body=body),)),
        )
        await samvad.store.commit(Commit(user, Version(0, 0), changes))
        path.write_bytes(await archive(samvad))
        assert "not kept: 12 bytes" in members(path)["conversation.md"].decode()
    async with open_samvad(f"sqlite:///{tmp_path}/b.db") as samvad:
        assert await take_in(samvad, path) == "imported"
        assert members(await archive(samvad))["history.jsonl"] == members(path)["history.jsonl"]


# --- hostile archives ----------------------------------------------------------------------------------------


def packed(
    found: dict[str, bytes], *, counts: dict[str, int] | None = None, keep: bool = False, **changes: Any
) -> bytes:
    """An archive of these members; its manifest is made right for them, unless `keep`."""
    manifest = json.loads(found["manifest.json"])
    if not keep:
        manifest["members"] = [
            {"name": name, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name, body in found.items()
            if name not in ("manifest.json", "signature.json")
        ]
    manifest["counts"] |= counts or {}
    manifest |= changes
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, body in found.items():
            made.writestr(name, json.dumps(manifest) if name == "manifest.json" else body)
    return out.getvalue()


def changed(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], bytes]:
    """A member changed by somebody who made the manifest right for it."""

    def change(found: dict[str, bytes]) -> bytes:
        assert old in found[name]
        return packed(found | {name: found[name].replace(old, new, 1)})

    return change


def extra(name: str) -> Callable[[dict[str, bytes]], bytes]:
    """A member that is not of an archive."""
    return lambda found: packed({**found, name: b"x"})


def twice(found: dict[str, bytes]) -> bytes:
    """Two members of the same name."""
    out = io.BytesIO(packed(found))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(out, "a") as made:
        made.writestr("user.json", b"{}")
    return out.getvalue()


def lying(found: dict[str, bytes]) -> bytes:
    """The directory says that a member is smaller than it is."""
    data = bytearray(packed(found))
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"history.jsonl"))
    data[place + 24 : place + 28] = struct.pack("<I", 10)
    return bytes(data)


def bomb(found: dict[str, bytes]) -> bytes:
    """Ten megabytes that say they would be 4 GiB each."""
    data = bytearray(packed(found | {f"documents/{n:05}.json": b"0" * 1_000_000 for n in range(1, 9)}))
    at = 0
    while (at := data.find(b"PK\x01\x02", at + 1)) > 0:
        data[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    return bytes(data)


def wide(found: dict[str, bytes]) -> bytes:
    """One line without an end."""
    return packed(found | {"history.jsonl": b" " * 30_000_000})


def encrypted(found: dict[str, bytes]) -> bytes:
    """A member that says it is encrypted."""
    data = bytearray(packed(found))
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    return bytes(data)


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "no zip": (lambda found: b"hello" * 100, "is no whole ZIP"),
    "empty": (lambda found: b"", "is no whole ZIP"),
    "cut off": (lambda found: packed(found)[:-1_000], "is no whole ZIP"),
    "one byte less": (lambda found: packed(found)[:-1], "is no whole ZIP"),
    "another zip": (lambda found: _zipped({"x": b""}), "has a member that no archive has"),
    "no manifest": (lambda found: _zipped({"user.json": b"{}"}), "has no manifest.json"),
    "newer": (lambda found: packed(found, version=2), "is of version 2, and this Samvad reads version 1"),
    "other format": (lambda found: packed(found, format="x"), "is no archive of a user"),
    "tampered": (
        lambda found: packed(
            found | {"history.jsonl": found["history.jsonl"].replace(b"Good", b"Evil")}, keep=True
        ),
        "history.jsonl was altered",
    ),
    "tampered page": (
        lambda found: packed(found | {"conversation.md": found["conversation.md"] + b"x"}, keep=True),
        "conversation.md was altered",
    ),
    "member missing": (
        lambda found: packed({n: b for n, b in found.items() if n != "audit.jsonl"}, keep=True),
        "does not have the members",
    ),
    "history missing": (
        lambda found: packed({n: b for n, b in found.items() if n != "history.jsonl"}),
        "has no history.jsonl",
    ),
    "counts": (lambda found: packed(found, counts={"messages": 4}), "does not hold as much"),
    "path up": (extra("../../etc/passwd"), "has a member that no archive has"),
    "absolute": (extra("/etc/passwd"), "has a member that no archive has"),
    "in documents": (extra("documents/../../x.json"), "has a member that no archive has"),
    "device": (extra("CON"), "has a member that no archive has"),
    "nul": (
        lambda found: packed({**found, "user.json~.exe": b"x"}).replace(b"user.json~", b"user.json\0"),
        "has a member that no archive has",
    ),
    "twice": (twice, "has two members user.json"),
    "lying": (lying, "no whole ZIP|altered"),
    "bomb": (bomb, "unpacked it would take"),
    "wide line": (wide, "has a line that is longer than any"),
    "encrypted": (encrypted, "is packed in a way that no archive is"),
    "lzma": (
        lambda found: _zipped(found, zipfile.ZIP_LZMA),
        "is packed in a way that no archive is",
    ),
    "hole": (changed("history.jsonl", b'{"seq":3,', b'{"seq":4,'), "messages are missing, or not in order"),
    "beginning": (lambda found: packed(found, trimmed=1), "messages are missing, or not in order, behind 1"),
    "numbers": (lambda found: packed(found, trimmed=1 << 48), "have higher numbers than any"),
    "role": (changed("history.jsonl", b'"role":"user"', b'"role":"root"'), "role must be one of"),
    "no json": (changed("history.jsonl", b'{"seq":3,', b'{"seq":3 '), "cannot be read"),
    "spaces": (changed("history.jsonl", b'{"seq":3,', b'{"seq":3, '), "is not as Samvad writes it"),
    "id": (changed("history.jsonl", b'"id":"given"', b'"id":"a/b"'), "may not hold '/'"),
    "time": (changed("history.jsonl", b'"timestamp":"2', b'"timestamp":"x'), "a time in it is none"),
    "future": (changed("history.jsonl", b'"timestamp":"2', b'"timestamp":"3'), "in the future"),
    "long": (changed("history.jsonl", b'"content":"Good"', b'"content":"' + b"x" * 65_537 + b'"'), "content may take"),
    "blanks": (changed("history.jsonl", b"}\n", b"}  \n"), "is not as Samvad writes it"),
    "deep": (
        changed("user.json", b'"preferences": {', b'"preferences": {"d":' + b"[" * 99 + b"]" * 99 + b","),
        "is nested more deeply",
    ),
    "very deep": (
        changed("user.json", b'"preferences": {', b'"preferences": {"d":' + b"[" * 99_999 + b"]" * 99_999 + b","),
        "cannot be read|nested",
    ),
    "state": (changed("user.json", b'"city"', b'"x": "' + b"x" * 300_000 + b'", "city"'), "is larger than any"),
    "other user": (changed("user.json", b'"userId": "asha"', b'"userId": "bala"'), "is about two users"),
    "user id": (lambda found: packed(found, userId="../x"), "userId may not hold '/'"),
    "document": (changed("documents/00001.json", b"of mine", b"of thine"), "one of its documents was altered"),
    "document of others": (
        changed("documents/00001.json", b'"owner":"user"', b'"owner":"tenant"'),
        "is somebody else's|altered",
    ),
    "session order": (changed("sessions.json", b'"id":"old"', b'"id":"zzz"'), "is not in order"),
    "session id": (changed("sessions.json", b'"id":"old"', b'"id":"create"'), "may not be 'create'"),
    "interruption": (changed("sessions.json", b'"at":"', b'"at":"x'), "a time in it is none"),
}  # fmt: skip


def _zipped(found: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, body in found.items():
            made.writestr(name, body)
    return out.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The members of an archive that is as it should be."""
    import asyncio

    async def make() -> dict[str, bytes]:
        async with open_samvad(
            f"sqlite:///{tmp_path_factory.mktemp('good')}/a.db", record_interruptions=True
        ) as samvad:
            await populate(samvad)
            return members(await archive(samvad))

    return asyncio.run(make())


def test_the_good_one_is_taken(good: dict[str, bytes], tmp_path: Path) -> None:
    """What the hostile ones are made of is no fault of theirs."""
    path = tmp_path / "a.zip"
    path.write_bytes(packed(good))
    with checked_archive(path) as found:
        assert found.manifest.counts.messages == 5
    assert limits.ARCHIVE_BYTES_MAX > 1 << 33


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(name: str, good: dict[str, bytes], tmp_path: Path) -> None:
    """In one line, before anything is written."""
    make, why = HOSTILE[name]
    path = tmp_path / "a.zip"
    path.write_bytes(make(dict(good)))
    with pytest.raises(SetupError, match=why) as refused, checked_archive(path):
        pass
    assert "\n" not in refused.value.message and refused.value.message.endswith("nothing was imported.")


def test_any_flipped_byte_is_found(good: dict[str, bytes], tmp_path: Path) -> None:
    """Of 300 changes of one byte, none is taken for the archive, unless it reads the same."""
    data, path = packed(good), tmp_path / "a.zip"
    with_same = 0
    for number in range(300):
        place = number * len(data) // 300
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << number % 8)]) + data[place + 1 :])
        with contextlib.suppress(SetupError), checked_archive(path):
            assert members(path) == members(data)
            with_same += 1
    assert with_same < 100  # times, versions and attributes in the ZIP's own headers
