"""The command line, HTTP, the audit log, metrics, backups: what each says of retention."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad.auth import audit
from samvad.cli import app
from samvad.cli import run as run_here
from samvad.clock import SystemClock
from samvad.records import UserKey
from samvad.retention.rules import DAY_MS
from samvad.runtime import open_samvad
from samvad.testing.clock import VirtualClock
from tests.carry.support import content
from tests.cli.processes import Server, refusal, run
from tests.firestore.support import emulator
from tests.retention.support import MASTER_KEY

ONE = {"SAMVAD_RETAIN_MESSAGES": "3", "SAMVAD_RETAIN_IDLE_USERS": "30d"}


def call(*arguments: str, code: int = 0) -> str:
    """Run a command in this process; its output and errors."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    return done.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rules, and a store with one user who talks and one who has not for long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator().host)
    for name, value in ONE.items():
        monkeypatch.setenv(name, value)
    fill(f"sqlite:///{tmp_path}/data/samvad.db")
    return tmp_path


def fill(url: str) -> None:
    """Bala said something 40 days ago; asha talks."""
    with open_samvad(url, clock=VirtualClock(SystemClock().now_ms() - 40 * DAY_MS)) as samvad:
        samvad.append_many("bala", [{"role": "user", "content": "x"}] * 2)
    with open_samvad(url) as samvad:
        samvad.append_many("asha", [{"role": "user", "content": f"{n}", "id": f"a{n}"} for n in range(8)])
        samvad.save_session("s", "asha")


def test_a_dry_run_changes_nothing_and_a_sweep_does_what_it_said(here: Path) -> None:
    """Counts for people and for programs, the same before and after; then there is nothing left to do."""
    wanted = {
        "usersSeen": 2,
        "usersSkipped": 0,
        "users": 1,
        "messages": 7,
        "sessions": 0,
        "interruptions": 0,
        "documents": 0,
    }
    database = here / "data" / "samvad.db"
    before = database.read_bytes()
    assert "2 users" in call("retention", "sweep", "--dry-run")
    assert json.loads(call("retention", "sweep", "--dry-run", "--json")) == {"dryRun": True, **wanted}
    assert database.read_bytes() == before
    assert json.loads(call("retention", "sweep", "--json")) == {"dryRun": False, **wanted}
    nothing = dict.fromkeys(wanted, 0) | {"usersSeen": 1, "dryRun": False}
    assert json.loads(call("retention", "sweep", "--json")) == nothing
    shown = call("retention", "show")
    assert shown.splitlines()[:2] == [
        "messages: the last 3 of each user",
        "users: 30 days after the last write",
    ]


def test_no_rules_and_bad_rules_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    monkeypatch.chdir(tmp_path)
    fill(f"sqlite:///{tmp_path}/data/samvad.db")

    def refused(*arguments: str) -> str:
        assert run_here(arguments) == 2
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
        return told.err

    assert "There are no retention rules" in refused("retention", "sweep")
    with monkeypatch.context() as patch:
        patch.setenv("SAMVAD_RETAIN_SESSIONS", "soon")
        wanted = "SAMVAD_RETAIN_SESSIONS must be an age such as 90d, 12w or 2y, or off, not 'soon'."
        assert refused("retention", "show") == f"samvad: {wanted}\n"
    assert "Cannot read" in refusal(["serve"], tmp_path, {"SAMVAD_RETAIN_TENANTS": "none.toml"})
    assert call("retention", "show") == "everything is kept\n"


def test_beside_a_server(here: Path) -> None:
    """The dry run looks beside it, the sweep is the server's; pages say where the history begins, metrics what went."""
    call("retention", "sweep")
    with Server(here) as server:
        _, page = server.request("GET", "/api/session/asha/history")
        assert ([m["seq"] for m in page["messages"]], page["firstSeq"]) == ([6, 7, 8], 6)
        assert server.request("GET", "/api/session/nobody/history")[1]["firstSeq"] == 1
        profile = server.request("GET", "/api/session/asha/profile")[1]["profile"]
        assert (profile["historyLength"], profile["totalMessages"]) == (3, 3)
        server.request("POST", "/api/session/asha/history", {"role": "user", "content": "y"})
        assert json.loads(call("retention", "sweep", "--dry-run", "--json"))["messages"] == 1
        done = run(["retention", "sweep"], here)
        assert (done.returncode, done.stdout) == (2, "")
        assert "that server sweeps by itself" in done.stderr
        with urllib.request.urlopen(server.url + "/metrics") as answer:
            metrics = answer.read().decode()
        assert 'samvad_retention_swept_total{kind="messages"} 0.0' in metrics
        assert "samvad_retention_last_sweep_seconds 0.0" in metrics


def test_the_audit_log_names_whom_it_erased(here: Path) -> None:
    """By their hash, and without anything that was said; each sweep is an entry too."""
    (here / "data" / audit.DIRECTORY).mkdir()
    call("retention", "sweep")
    entries = list(audit.entries(here / "data" / audit.DIRECTORY))
    assert [each.did for each in entries] == ["retention erase", "retention sweep"]
    key = (here / "data" / audit.KEY_FILE).read_bytes()
    assert "bala" not in repr(entries)
    assert len(entries[0].whom) == 1
    assert key
    assert "1" in call("audit", "show", "--user", "bala")
    call("audit", "verify")


@pytest.mark.parametrize("engine", ["sqlite", "firestore"])
def test_a_trimmed_history_is_carried_as_it_is(here: Path, engine: str) -> None:
    """By backup and restore, and by migrate: it begins where it began, seq goes on, and a second run agrees."""
    old = f"sqlite:///{here}/data/samvad.db"
    if engine == "firestore":
        old = f"firestore://{emulator().new_project()}"
        fill(old)
    with open_samvad(old) as samvad:
        samvad.append_many("chitra", [{"role": "user", "content": f"{n}"} for n in range(100)])
        samvad.append_many("chitra", [{"role": "user", "content": f"{n}"} for n in range(100)])

    async def sweep(url: str, messages: int) -> None:
        async with open_samvad(url, retain_messages=messages) as samvad:
            await samvad.sweeper.sweep()

    asyncio.run(sweep(old, 130))
    call("backup", "all.backup", "--store", old)
    before = content(old)
    new = f"sqlite:///{here}/new.db"
    other = f"firestore://{emulator().new_project()}"
    for _ in range(2):
        call("restore", "all.backup", "--store", new)
        assert content(new) == before
        call("migrate", new, other)
        assert content(other) == before
    for url in (new, other):
        with open_samvad(url) as samvad:
            page = samvad.page_history("chitra", limit=100, after=0)
            assert (page.messages[0].seq, page.first_seq) == (71, 71)
            assert samvad.append_to_user_history("chitra", "user", "next").seq == 201
            record = samvad.read_user("chitra")
            assert (record.seq, record.trimmed) == (201, 70)


def test_a_backup_beside_a_sweep_is_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that is trimmed while it is read is read again, from where it begins then."""
    from samvad.cli.carry import reading

    url = f"sqlite:///{here}/data/samvad.db"
    with open_samvad(url) as samvad:
        for _ in range(7):
            samvad.append_many("chitra", [{"role": "user", "content": "x"}] * 100)
    looked: list[Any] = []
    head_of = reading.head_of

    async def trimmed_meanwhile(store: Any, user: UserKey) -> Any:
        if user.user_id == "chitra" and len(looked) < 2:
            looked.append(user)
            if len(looked) == 2:  # all pages were read
                done = await asyncio.to_thread(
                    run, ["retention", "sweep"], here, {"SAMVAD_RETAIN_MESSAGES": "300"}
                )
                assert done.returncode == 0, done.stderr
        return await head_of(store, user)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "head_of", trimmed_meanwhile)
        call("backup", "all.backup")
    assert len(looked) == 2
    call("restore", "all.backup", "--store", f"sqlite:///{here}/new.db")
    with open_samvad(f"sqlite:///{here}/new.db") as samvad:
        assert samvad.page_history("chitra", after=0, limit=1).messages[0].seq == 401


def test_a_reader_who_comes_back_is_told_of_the_gap(here: Path) -> None:
    """The event stream goes on behind what was trimmed, and says what is missing."""
    call("retention", "sweep")
    with Server(here) as server:
        request = urllib.request.Request(
            server.url + "/api/live/events?userId=asha", headers={"Last-Event-ID": "0:1"}
        )
        with urllib.request.urlopen(request) as stream:
            told: list[tuple[str, Any]] = []
            event = ""
            while len(told) < 4:
                line = stream.readline().decode()
                if line.startswith("event: "):
                    event = line[7:].strip()
                elif line.startswith("data: ") and event in ("gap", "message"):
                    told.append((event, json.loads(line[6:])))
    assert told[0] == ("gap", {"from": 2, "to": 5})
    assert [each["seq"] for _, each in told[1:]] == [6, 7, 8]


@pytest.mark.parametrize("encrypted", [False, True])
def test_documents_are_counted_beside_a_server_and_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    """A dry run opens everything for looking only; a sweep then removes as much, from the index as well."""
    monkeypatch.chdir(tmp_path)
    if encrypted:
        monkeypatch.setenv("SAMVAD_MASTER_KEY", MASTER_KEY)
    key = MASTER_KEY if encrypted else None
    url = f"sqlite:///{tmp_path}/data/samvad.db"
    old = VirtualClock(SystemClock().now_ms() - 9 * DAY_MS)
    with open_samvad(url, clock=old, master_key=key) as samvad:
        samvad.append_to_user_history("asha", "user", "x")
        samvad.knowledge.add_text("Notes", "about loans", user_id="asha")
        samvad.knowledge.add_text("Shared", "about cards")
    with open_samvad(url, master_key=key) as samvad:
        samvad.append_to_user_history("asha", "user", "x")
    monkeypatch.setenv("SAMVAD_RETAIN_DOCUMENTS", "7d")
    with Server(tmp_path):
        assert json.loads(call("retention", "sweep", "--dry-run", "--json"))["documents"] == 1
    assert json.loads(call("retention", "sweep", "--json"))["documents"] == 1
    with open_samvad(url, master_key=key) as samvad:
        assert [each.title for each in samvad.knowledge.list_documents(user_id="asha").documents] == [
            "Shared"
        ]
        assert samvad.knowledge.search("loans", user_id="asha") == []
