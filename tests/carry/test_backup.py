"""`samvad backup` and `restore`: a file that proves itself, into any store; nobody erased since comes back."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from samvad.cli.carry.files import check
from samvad.cli.carry.totals import Totals
from samvad.cli.restore import put
from samvad.errors import SetupError
from samvad.records import UserKey, user_hash
from samvad.runtime import open_samvad
from samvad.stores.memory import MemoryStore
from tests.carry.support import GONE, NAMES, REBORN, Place, call, content, killed_above, make, many, place
from tests.cli.processes import Server
from tests.support import short_and_long

__all__ = ["place"]


def users_in(found: dict[str, Any]) -> set[str]:
    """The ids of the users."""
    return {key.user_id for key in found["users"]}


@pytest.mark.parametrize(
    ("source", "target"), [("sqlite", "sqlite"), ("sqlite", "firestore"), ("firestore", "sqlite")]
)
def test_a_backup_comes_back_as_it_was(place: Place, source: str, target: str) -> None:
    """Into either engine: users, epochs, receipts and erasures; a second time nothing is written."""
    old, new = place.url(source, "old"), place.url(target, "new")
    before = make(old)
    assert f"backed up {len(before['users'])} users, " in call("backup", "all.backup", "--store", old)
    assert Path("all.backup").stat().st_mode & 0o777 == 0o600
    users = len(before["users"])
    assert f"users      {users}: {users} added" in call("restore", "all.backup", "--store", new)
    assert content(new) == before
    assert f"0 added, {users} already there" in call("restore", "all.backup", "--store", new)
    call("backup", "again.backup", "--store", new)
    lines = [
        sorted(line for line in Path(name).read_bytes().splitlines()[1:-1] if b'"receipts"' not in line[:20])
        for name in ("all.backup", "again.backup")
    ]
    assert lines[0] == lines[1]


def test_a_backup_is_made_beside_a_running_server(place: Place) -> None:
    """Looking is free; restoring into what a server holds is refused."""
    url = place.url("sqlite", "old")
    before = make(url)
    with Server(place.folder, "--store", url):
        call("backup", "all.backup", "--store", url)
        assert "in use by process" in call("restore", "all.backup", "--store", url, code=2)
    call("restore", "all.backup", "--store", place.url("sqlite", "new"))
    assert content(place.url("sqlite", "new")) == before


def test_who_was_erased_since_does_not_come_back(place: Place) -> None:
    """The target's own records of erasing win; so does a later backup of erasures, and a list of ids."""
    url = place.url("sqlite", "one")
    before = make(url)
    call("backup", "all.backup", "--store", url)
    with open_samvad(url) as samvad:
        samvad.clear_user_data("asha")
        samvad.clear_user_data(REBORN)
        samvad.append_to_user_history(REBORN, "user", "a third life")
        samvad.clear_user_data("आशा")
    call("backup", "erasures.backup", "--store", url, "--only-erasures")
    told = call("restore", "all.backup", "--store", url, code=0)
    assert "3 erased since" in told
    after = content(url)
    assert users_in(after) == users_in(before) - {"asha", "आशा"}
    with open_samvad(url, readonly=True) as samvad:
        assert [m.content for m in samvad.page_history(REBORN).messages] == ["a third life"]

    fresh = place.url("sqlite", "fresh")
    call("restore", "all.backup", "--store", fresh, "--erased", "erasures.backup")
    assert users_in(content(fresh)) == users_in(before) - {"asha", "आशा", REBORN}
    Path("list.txt").write_text("asha\n\nआशा\nnobody\n")
    third = place.url("firestore")
    told = call("restore", "all.backup", "--store", third, "--erased", "list.txt")
    assert "2 erased since" in told
    found = content(third)
    assert users_in(found) == users_in(before) - {"asha", "आशा"}
    assert found["erasures"][user_hash(UserKey("default", "asha"))] == 1
    keys = {key: answer for key, (_, _, answer) in found["receipts"].items()}
    assert keys[b"key of 0".ljust(32, b"-")] is None, (
        "the answer to a request of an erased user is gone as well"
    )
    assert "2 erased since" in call("restore", "all.backup", "--store", third, "--erased", "list.txt")


def test_older_copies_of_erased_users_are_ended(place: Place) -> None:
    """The target holds a user alive whom the backup knows to be erased: erasing wins."""
    old, new = place.url("sqlite", "old"), place.url("sqlite", "new")
    make(old)
    call("migrate", old, new)
    with open_samvad(old) as samvad:
        samvad.clear_user_data("asha")
    call("backup", "all.backup", "--store", old)
    assert "1 of users who lived there" in call("restore", "all.backup", "--store", new)
    assert content(new) == content(old)


def damages(whole: bytes, bits: int) -> list[bytes]:
    """The file with a bit of it turned, or a part of it missing."""
    chance = random.Random(3)
    found = [whole[:cut] for cut in (0, 1, len(whole) // 2, len(whole) - 1)]
    found += [
        whole[: whole.rindex(b'{"type":"done"')],
        whole + b"{}\n",
        whole.replace(b"home loans", b"home groan", 1),
    ]
    lines = whole.splitlines(keepends=True)
    found.append(b"".join(lines[:3] + lines[4:]))
    for _ in range(bits):
        at = chance.randrange(len(whole))
        found.append(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
    return found


@pytest.mark.parametrize("bits", short_and_long(60, 400))
def test_a_damaged_backup_is_refused_before_anything_is_written(place: Place, bits: int) -> None:
    """Cut off anywhere, or any bit turned: one sentence, and not even a database is made."""
    url = place.url("sqlite", "old")
    make(url)
    call("backup", "all.backup", "--store", url)
    whole = Path("all.backup").read_bytes()
    check(Path("all.backup"))
    for number, damaged in enumerate(damages(whole, bits)):
        Path("damaged.backup").write_bytes(damaged)
        with pytest.raises(SetupError) as caught:
            check(Path("damaged.backup"))
        assert "damaged.backup" in caught.value.message, number
    told = call("restore", "damaged.backup", "--store", place.url("sqlite", "new"), code=2)
    assert "damaged.backup" in told
    assert not (place.folder / "new.db").exists()


def test_other_files_are_refused(place: Place) -> None:
    """An export, a later format, erasures alone, and nothing at all."""
    new = place.url("sqlite", "new")
    make(place.url("sqlite", "old"), ("asha",))
    call("export", "--store", place.url("sqlite", "old"), "-o", "all.jsonl")
    assert "is not a backup" in call("restore", "all.jsonl", "--store", new, code=2)
    Path("later.backup").write_text('{"type":"samvad-backup","version":2,"by":"9.0"}\n')
    assert "made by a newer Samvad (9.0, format 2)" in call("restore", "later.backup", "--store", new, code=2)
    call("backup", "erasures.backup", "--store", place.url("sqlite", "old"), "--only-erasures")
    assert "holds erasures alone" in call("restore", "erasures.backup", "--store", new, code=2)
    assert "Cannot read none.backup" in call("restore", "none.backup", "--store", new, code=2)
    Path("bad.txt").write_text("a/b\n")
    call("backup", "all.backup", "--store", place.url("sqlite", "old"))
    told = call("restore", "all.backup", "--store", new, "--erased", "bad.txt", code=2)
    assert "bad.txt, line 1: " in told


@pytest.mark.crash
def test_a_restore_that_is_killed_goes_on(place: Place) -> None:
    """Killed with SIGKILL in the middle, the next run completes it, and all is there once."""
    old, new = place.url("sqlite", "old"), place.url("sqlite", "new")
    users = 400
    asyncio.run(many(old, users, 10))
    before = content(old)
    call("backup", "all.backup", "--store", old)

    there = killed_above(
        place.folder, 10, lambda: place.users_in("new.db"), "restore", "all.backup", "--store", new
    )
    assert 10 < there < users
    assert f"users      {users:,}: " in call("restore", "all.backup", "--store", new)
    assert content(new) == before


class CutOff(Exception):
    """The process would have been killed here."""


def test_every_write_of_a_restore_may_be_the_last(place: Place) -> None:
    """Cut off behind each single write, it is completed the next time; what fails is told, and not swallowed."""
    old = place.url("sqlite", "old")
    before = make(old, ("asha", "आशा"), 1_200)
    call("backup", "all.backup", "--store", old)

    async def all_cuts() -> int:
        target = MemoryStore()
        await target.open()
        commit = target.commit
        erasures = list(check(Path("all.backup")).erasures.values())
        for cuts in range(100):
            left = 1

            def counted(each: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise CutOff
                left -= 1
                return commit(each)

            target.commit = counted  # type: ignore[method-assign]
            done = True
            try:
                await put(Path("all.backup"), target, erasures, Totals())
            except* CutOff:
                done = False
            if done:
                target.commit = commit  # type: ignore[method-assign]
                await same(target, before)
                return cuts
        raise AssertionError("it never ends")

    assert asyncio.run(all_cuts()) >= 8


async def same(target: Any, before: dict[str, Any]) -> None:
    """The store holds these users."""
    from samvad.cli.carry.reading import digest_of

    for key, end in before["users"].items():
        assert await digest_of(target, key) == end


def test_a_user_who_differs_is_left_alone(place: Place) -> None:
    """Whoever went on since the backup keeps what they have; the exit code says so."""
    url = place.url("sqlite", "one")
    make(url)
    call("backup", "all.backup", "--store", url)
    with open_samvad(url) as samvad:
        samvad.append_to_user_history("asha", "user", "after the backup")
    told = call("restore", "all.backup", "--store", url, code=1)
    assert "left alone: asha: there is more of this user than here" in told
    with open_samvad(url, readonly=True) as samvad:
        assert samvad.get_user_profile("asha").conversation_history[-1].content == "after the backup"


def test_the_file_is_what_its_page_says(place: Place) -> None:
    """JSON lines of the documented kinds, erasures last, the total of each in the last line."""
    url = place.url("sqlite", "one")
    found = make(url)
    call("backup", "all.backup", "--store", url)
    lines = [json.loads(line) for line in Path("all.backup").read_text().splitlines()]
    kinds = [line["type"] for line in lines]
    assert kinds[0] == "samvad-backup" and kinds[-1] == "done"
    assert set(kinds) == {
        "samvad-backup",
        "user",
        "sessions",
        "messages",
        "end",
        "receipts",
        "erasures",
        "done",
    }
    assert kinds.index("erasures") > max(n for n, kind in enumerate(kinds) if kind == "end")
    done = lines[-1]
    assert done["users"] == kinds.count("user") == kinds.count("end") == len(found["users"]) == len(NAMES) + 2
    assert done["erasures"] == len(found["erasures"]) == 2
    assert done["receipts"] == len(found["receipts"])
    assert GONE not in Path("all.backup").read_text()
