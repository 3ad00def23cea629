"""`samvad import` and `samvad export`: each message exactly once, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.cli.exporting import _complete_part
from samvad.runtime import open_samvad
from tests.carry.support import killed_above
from tests.cli.processes import run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, code: int = 0) -> str:
    """Run a command in this process; its output and errors."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    return done.output


def write_lines(path: Path, lines: list[Any]) -> None:
    """A file of JSON lines; what is a string already is written as it is."""
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def dialogue(number: int, turns: int = 4) -> dict[str, Any]:
    """A dialogue as in the shared data."""
    return {
        "dialogueId": f"1_{number:05}",
        "services": ["Banks_1"],
        "turns": [
            {"role": ("user", "assistant")[turn % 2], "content": f"turn {turn} of {number}"}
            for turn in range(turns)
        ],
    }


def histories(url: str) -> dict[str, list[tuple[int, str]]]:
    """What every user said and heard, as (seq, content)."""
    found = {}
    with open_samvad(url, readonly=True) as samvad:
        after = ""
        while users := samvad.list_users(after=after):
            for user in users:
                page = samvad.page_history(user, limit=1000)
                found[user] = [(message.seq, message.content) for message in page.messages]
            after = users[-1]
    return found


def test_dialogues_become_users_with_a_session_each(here: Path) -> None:
    """Ids, order, services and counts are those of the file; a second time changes nothing."""
    write_lines(
        here / "some.jsonl",
        [dialogue(1), "", {**dialogue(2, 250), "userId": "asha"}, {**dialogue(3), "userId": "asha"}],
    )
    told = call("import", "some.jsonl")
    assert "lines     4\n" in told
    assert "messages  258: 258 added, 0 already there" in told
    assert "the store holds 2 users and 258 messages now" in told
    assert "messages  258: 0 added, 258 already there" in call("import", "some.jsonl")
    found = histories("sqlite:///data/samvad.db")
    assert found["1_00001"] == [(turn + 1, f"turn {turn} of 1") for turn in range(4)]
    assert [content for _, content in found["asha"]] == [f"turn {turn} of 2" for turn in range(250)] + [
        f"turn {turn} of 3" for turn in range(4)
    ]
    with open_samvad("sqlite:///data/samvad.db", readonly=True) as samvad:
        session = samvad.get_session("1_00002")
        assert session is not None
        assert (session.user_id, session.metadata) == ("asha", {"services": ["Banks_1"]})
        assert (samvad.page_history("asha", limit=1)).messages[0].session_id == "1_00003"
    assert not list((here / "data").glob(".import-*"))


def test_ids_of_any_length_are_taken(here: Path) -> None:
    """An id that leaves no room for the number of a turn is fine, and is the same the next time."""
    write_lines(here / "some.jsonl", [{**dialogue(1), "dialogueId": "é" * 128}])
    assert "4 added" in call("import", "some.jsonl")
    assert "4 already there" in call("import", "some.jsonl")


def test_a_prefix_keeps_copies_apart(here: Path) -> None:
    """The same file under two prefixes makes two sets of users and sessions."""
    write_lines(here / "some.jsonl", [dialogue(1)])
    call("import", "some.jsonl", "--user-prefix", "a-")
    call("import", "some.jsonl", "--user-prefix", "b-")
    assert set(histories("sqlite:///data/samvad.db")) == {"a-1_00001", "b-1_00001"}


BAD_LINES = [
    (json.dumps(dialogue(1)), None),
    ("{", "line 2: it is not JSON"),
    ("[1]", "line 3: it is not a JSON object"),
    ('{"a":1}', "line 4: it is neither a dialogue"),
    ('{"dialogueId":"a/b","turns":[]}', "line 5: dialogueId may not hold '/'"),
    ('{"dialogueId":"d","turns":{}}', "line 6: turns must be a list"),
    (json.dumps({**dialogue(1), "userId": "another"}), "line 7: the session '1_00001' belongs to another user"),
    ('{"type":"user","userId":"u","state":{}}', "line 8: stateUpdatedAt is missing"),
    ('{"type":"samvad","version":99}', "line 9: this is an export of version 99"),
    (
        '{"dialogueId":"e","turns":[{"role":"user","content":""},{"role":"user","content":"kept"},7]}',
        "line 10: turn 1: content must not be empty",
    ),
    ("\ufeff" + json.dumps(dialogue(2)), None),
]  # fmt: skip


def test_bad_lines_are_named_and_the_rest_is_taken(here: Path) -> None:
    """Each with its number and reason; the exit code tells that something was left out."""
    write_lines(here / "some.jsonl", [line for line, _ in BAD_LINES])
    told = call("import", "some.jsonl", code=1)
    for _, problem in BAD_LINES:
        assert problem is None or problem in told
    assert "line 10: turn 3: The turn must be a JSON object." in told
    assert "messages  11: 9 added, 0 already there, 2 skipped" in told
    assert "skipped   8 lines" in told
    assert set(histories("sqlite:///data/samvad.db")) == {"1_00001", "1_00002", "e"}


def test_strict_stops_at_the_first_bad_line(here: Path) -> None:
    """Nothing behind it is taken in."""
    write_lines(here / "some.jsonl", [dialogue(1), "{", dialogue(2)])
    assert "line 2: it is not JSON" in call("import", "some.jsonl", "--strict", code=1)
    assert set(histories("sqlite:///data/samvad.db")) == {"1_00001"}


@pytest.mark.crash
def test_an_import_that_is_killed_goes_on_where_it_was(here: Path) -> None:
    """Killed twice with SIGKILL in the middle, the third run makes it complete: every message once, in order."""
    dialogues = 6_000
    write_lines(here / "many.jsonl", [dialogue(number) for number in range(dialogues)])

    def place() -> int:
        for path in (here / "data").glob(".import-*.json"):
            return int(json.loads(path.read_text())["place"]["line"])
        return 0

    first = killed_above(here, 0, place, "import", "many.jsonl")
    at_least = killed_above(here, first, place, "import", "many.jsonl")
    assert 0 < first < at_least < dialogues
    done = run(["import", "many.jsonl"], here)
    assert done.returncode == 0, done.stderr
    assert f"lines     {dialogues:,}, {at_least:,} of them done by an earlier run" in done.stdout
    assert f"messages  {dialogues * 4:,}: " in done.stdout
    assert f"{at_least * 4:,} done by an earlier run" in done.stdout
    assert f"the store holds {dialogues:,} users and {dialogues * 4:,} messages now" in done.stdout
    found = histories("sqlite:///data/samvad.db")
    assert found == {
        f"1_{number:05}": [(turn + 1, f"turn {turn} of {number}") for turn in range(4)]
        for number in range(dialogues)
    }
    assert not list((here / "data").glob(".import-*"))


def test_a_checkpoint_of_a_database_that_changed_is_not_believed(here: Path) -> None:
    """Where what an earlier run took in was erased, the import begins again instead of leaving a hole."""
    from samvad.cli.checkpoint import Checkpoint, Counts

    write_lines(here / "some.jsonl", [dialogue(number) for number in range(600)])
    call("import", "some.jsonl")
    database = here / "data" / "samvad.db"
    offset = sum(len(line) + 1 for line in (here / "some.jsonl").read_text().splitlines()[:256])
    Checkpoint(here / "some.jsonl", "", database).save(offset, 256, Counts(lines=256, messages=1024))
    call("user", "erase", "1_00300", "--yes")
    call("user", "erase", "1_00003", "--yes")
    told = call("import", "some.jsonl")
    assert "starting from the first line" in told
    assert "messages  2,400: 8 added, 2,392 already there" in told
    assert "the store holds 600 users and 2,400 messages now" in told


def make_store(url: str) -> None:
    """A store with something of everything."""
    with open_samvad(url, record_interruptions=True) as samvad:
        samvad.save_user_state("asha", {"topic": "home loans", "deep": {"n": [1, 2.5, None, "ü"]}})
        samvad.save_user_state("asha", {"step": 2})
        samvad.save_user_profile("asha", {"language": "hi", "voiceSpeed": 1.25})
        samvad.save_session("s-1", "asha", language="hi", metadata={"deviceId": "d"}, colour="blue")
        samvad.save_session("s-2", "asha")
        samvad.end_session("s-2")
        samvad.record_interruption(
            "s-1", "i-1", 1_700_000_000_123, b'{"id":"i-1","sessionId":"s-1","userId":"asha"}'
        )
        for number in range(130):
            samvad.append_many(
                "asha",
                [{"role": "user", "content": f"{number} क" * 30, "sessionId": "s-1", "mood": "good"}] * 10,
            )
        samvad.append_to_user_history(
            "asha", "assistant", "a", id="given", toolCalls=[{"id": "c", "name": "n"}]
        )
        samvad.append_to_user_history("asha", "tool", "b", toolCallId="c")
        samvad.save_user_state("only-state", {})
        samvad.save_session("s-3", "only-session")
        samvad.append_to_user_history("दीपा 🙂", "user", "Hello")
        samvad.append_to_user_history("gone", "user", "Hello")
        samvad.clear_user_data("gone")


def content(path: Path) -> list[dict[str, Any]]:
    """An export without the time at which it was made."""
    first, *rest = read_lines(path)
    assert first.pop("exportedAt")
    return [first, *rest]


def test_what_is_exported_comes_back_as_it_was(here: Path) -> None:
    """State, preferences, sessions, interruptions and history, with ids, order, versions and times."""
    make_store("sqlite:///one.db")
    call("export", "--store", "sqlite:///one.db", "-o", "one.jsonl")
    call("import", "one.jsonl", "--store", "sqlite:///two.db")
    call("export", "--store", "sqlite:///two.db", "-o", "two.jsonl")
    assert content(here / "one.jsonl") == content(here / "two.jsonl")
    assert (
        max(
            len(line.get("messages", []))
            for line in read_lines(here / "one.jsonl")
            if line["type"] == "messages"
        )
        <= 500
    )
    # Into a store that has it all, nothing is added, and nothing older wins.
    told = call("import", "one.jsonl", "--store", "sqlite:///one.db")
    assert "messages  1,303: 0 added, 1,303 already there" in told
    call("export", "--store", "sqlite:///one.db", "-o", "three.jsonl")
    assert content(here / "one.jsonl") == content(here / "three.jsonl")
    assert (here / "one.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_export_that_was_cut_off_goes_on(here: Path) -> None:
    """Cut anywhere, with --resume it becomes the same file; without, it is not overwritten."""
    make_store("sqlite:///one.db")
    call("export", "--store", "sqlite:///one.db", "-o", "one.jsonl")
    whole = (here / "one.jsonl").read_bytes()

    def cuts() -> Iterator[int]:
        yield from (0, 1, 60, len(whole) // 2, len(whole) - 1)
        end = whole.index(b'{"type":"end"')
        yield from (end, end + 20, whole.index(b"\n", end), whole.index(b"\n", end) + 1)

    for cut in cuts():
        (here / "cut.jsonl.part").write_bytes(whole[:cut])
        call("export", "--store", "sqlite:///one.db", "-o", "cut.jsonl", "--resume")
        assert content(here / "cut.jsonl") == content(here / "one.jsonl"), cut
        assert not (here / "cut.jsonl.part").exists()
    (here / "cut.jsonl.part").write_bytes(whole[:60])
    assert "add --resume" in run(["export", "--store", "sqlite:///one.db", "-o", "cut.jsonl"], here).stderr
    assert _complete_part(here / "one.jsonl", "default")[1].users == 4


def test_an_export_without_its_end_is_told(here: Path) -> None:
    """What is there is taken in, and the exit code says that it is not all."""
    make_store("sqlite:///one.db")
    call("export", "--store", "sqlite:///one.db", "-o", "one.jsonl")
    lines = (here / "one.jsonl").read_text().splitlines(keepends=True)
    (here / "part.jsonl").write_text("".join(lines[:-1]))
    assert "it is not complete" in call("import", "part.jsonl", "--store", "sqlite:///two.db", code=1)
