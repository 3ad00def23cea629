"""Archives that are not what they say: refused in one line, before anything is written."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from samvad import limits
from samvad.archive.checking import checked_archive
from samvad.errors import SetupError
from samvad.runtime import open_samvad
from tests.archive.support import archive, members, packed, populate


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
    "length": (
        changed("history.jsonl", b'"content":"Good"', b'"content":"","contentLength":-1,"contentKept":false'),
        "content must not be empty",
    ),
    "no length": (changed("history.jsonl", b'"Good"', b'"","contentLength":4'), "content must not be empty"),
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
