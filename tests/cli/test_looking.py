"""`samvad doctor`, `stats`, `user` and `bench`: what they tell, and what they leave alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from samvad.cli import app, checks, disk
from samvad.runtime import open_samvad
from samvad.types import trusted
from tests.cli.processes import SAMVAD, environment
from tests.crash.test_disk_faults import no_rights
from tests.support import loudly_skip

URL = "sqlite:///data/samvad.db"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def talked(here: Path) -> Path:
    """A working directory with a store in which somebody has talked."""
    with open_samvad(URL) as samvad:
        samvad.save_user_state("asha", {"topic": "home loans"})
        samvad.save_session("s-1", "asha", metadata={"deviceId": "d"})
        for number in range(25):
            samvad.append_to_user_history("asha", "user", f"line {number}\x1b[31m\nof two")
    return here


def call(*arguments: str, code: int = 0, say: str | None = None) -> str:
    """Run a command in this process; its output and errors."""
    done = CliRunner().invoke(app, arguments, input=say)
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    return done.output


def test_stats_count_what_is_there(talked: Path) -> None:
    """For people with words, for programs as JSON; nothing is written."""
    before = (talked / "data" / "samvad.db").read_bytes()
    counts = json.loads(call("stats", "--json"))
    assert (counts["users"], counts["totalMessages"], counts["activeSessions"]) == (1, 25, 1)
    assert counts["databaseBytes"] == len(before)
    assert "25  messages" in call("stats")
    assert (talked / "data" / "samvad.db").read_bytes() == before


def test_a_user_is_shown_without_obeying_them(talked: Path) -> None:
    """State, sessions and the last messages, with control characters escaped and each message in a line."""
    shown = call("user", "show", "asha")
    assert "asha: 25 messages, 1 sessions, active" in shown
    assert '"topic": "home loans"' in shown
    assert "line 24\\x1b[31m\\nof two" in shown
    assert "line 14" not in shown
    assert "\x1b" not in shown


def test_all_of_a_user_is_exported_as_one_object(talked: Path) -> None:
    """State, preferences, sessions and the whole history; the file is its owner's alone."""
    call("user", "export", "asha", "--output", "asha.json")
    whole = json.loads((talked / "asha.json").read_text())
    assert whole["userId"] == "asha"
    assert whole["state"] == {"topic": "home loans"}
    assert [message["seq"] for message in whole["history"]] == list(range(1, 26))
    assert whole["sessions"][0]["fields"]["metadata"] == {"deviceId": "d"}
    assert (talked / "asha.json").stat().st_mode & 0o777 == 0o600
    assert json.loads(call("user", "export", "asha"))["history"] == whole["history"]


def test_a_user_without_history_is_valid_json_too(here: Path) -> None:
    """An empty list is a list."""
    with open_samvad(URL) as samvad:
        samvad.save_user_state("quiet", {})
    assert json.loads(call("user", "export", "quiet"))["history"] == []


def test_erasing_asks_and_tells_what_was_removed(talked: Path) -> None:
    """Without --yes and without a terminal nothing happens; afterwards nothing of the user is in the files."""
    call("user", "erase", "asha", code=1)
    assert json.loads(call("stats", "--json"))["users"] == 1
    told = call("user", "erase", "asha", "--yes")
    assert told == "removed of asha: state, profile, 25 messages, 1 sessions, 0 interruptions\n"
    assert json.loads(call("stats", "--json"))["users"] == 0
    for file in (talked / "data").iterdir():
        assert b"home loans" not in file.read_bytes()


def test_no_content_is_kept_from_now_on(talked: Path) -> None:
    """Asked for one user or all; what is there goes, the command is in the audit log, a look changes nothing."""
    (talked / "data" / "audit").mkdir()
    assert "asha: content is kept, as for everybody" in call("user", "privacy", "asha")
    call("user", "privacy", "asha", "--content", "none", code=1)  # nobody is there to be asked
    call("user", "privacy", code=1)
    done = call("user", "privacy", "--everyone", "--content", "none", "--yes")
    assert "asha: no content is kept from now on; erased 25 messages and 1 sessions" in done
    assert b"home loans" not in (talked / "data" / "samvad.db").read_bytes()
    assert "user privacy" in call("audit", "show")
    with open_samvad(URL) as samvad:
        samvad.append_to_user_history("asha", "user", "secret")
    assert "no content is kept, by this user's own wish" in call("user", "privacy", "asha")
    shown = call("user", "show", "asha")
    assert "(6 bytes, not kept)" in shown and "secret" not in shown
    exported = json.loads(call("user", "export", "asha"))
    assert exported["preferences"]["contentKept"] is False
    assert [each["content"] for each in exported["history"]] == [""]
    call("export", "--output", "all.jsonl")
    call("import", "all.jsonl", "--store", "sqlite:///other.db")
    with open_samvad("sqlite:///other.db") as samvad:
        taken = samvad.append_to_user_history("asha", "user", "secret")
        assert not taken.content_kept, "an import takes the wish over"
        assert [m.content_length for m in samvad.page_history("asha").messages] == [6, 6]
    assert "content is kept from now on" in call("user", "privacy", "asha", "--content", "keep")


def test_an_erasing_that_cannot_be_proven_is_not_begun(talked: Path) -> None:
    """The receipt has its place and its key before anything is removed."""
    call("user", "erase", "asha", "--yes", "--receipt", "missing/receipt.json", code=1)
    (talked / "data" / "erasures.key").write_bytes(b"short")
    call("user", "erase", "asha", "--yes", "--receipt", "receipt.json", code=1)
    assert json.loads(call("stats", "--json"))["users"] == 1
    assert not (talked / "receipt.json").exists()


@pytest.mark.parametrize(
    "command", [["erase", "asha"], ["privacy", "--everyone", "--content", "none"]], ids=["erase", "privacy"]
)
def test_what_was_done_is_noted_also_where_it_cannot_be_said(command: list[str], talked: Path) -> None:
    """The reader of the output goes away, as `head` does: the command ends, and the audit log has what it did."""
    (talked / "data" / "audit").mkdir()
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [*SAMVAD, "user", *command, "--yes"], cwd=talked, env=environment(), stdout=writes, check=False
    )
    os.close(writes)
    assert done.returncode == 1
    assert f"user {command[0]}" in call("audit", "show", "--user", "asha")
    assert b"home loans" not in (talked / "data" / "samvad.db").read_bytes()


def test_each_tenant_is_a_world_of_its_own(talked: Path) -> None:
    """What is said of one is not the other's: to look, to move, to decide, to erase, with its receipt and its entry."""

    async def fill() -> None:
        async with open_samvad(URL) as samvad:
            acme = samvad.acting_as(trusted("acme"))
            await acme.append_to_user_history("asha", "user", "acme speaks")
            await acme.append_to_user_history("zoya", "user", "of acme alone")

    asyncio.run(fill())
    (talked / "data" / "audit").mkdir()
    of = ("--tenant", "acme")
    assert json.loads(call("stats", "--json", *of))["users"] == 2
    assert json.loads(call("stats", "--json"))["users"] == 1
    shown = call("user", "show", "asha", *of)
    assert "acme speaks" in shown and "line 24" not in shown
    call("user", "show", "zoya", code=1)
    call("export", "--output", "acme.jsonl", *of)
    assert (talked / "acme.jsonl").read_text().count('"type":"end"') == 2
    (talked / "part.jsonl.part").write_text((talked / "acme.jsonl").read_text())
    call("export", "--output", "part.jsonl", "--resume", code=1)
    call("export", "--output", "part.jsonl", "--resume", *of)
    call("import", "acme.jsonl", "--tenant", "beta")
    assert "of acme alone" in call("user", "show", "zoya", "--tenant", "beta")
    (talked / "home.md").write_text("# Home\n\nAcme sells houses by the sea.\n")
    call("kb", "add", "home.md", *of)
    assert "houses" in call("kb", "search", "houses", *of)
    assert "nothing was found" in call("kb", "search", "houses")
    assert "zoya: content is kept" in call("user", "privacy", "zoya", *of)
    call("user", "privacy", "--everyone", "--content", "none", "--yes", *of)
    assert "by this user's own wish" in call("user", "privacy", "asha", *of)
    assert "as for everybody" in call("user", "privacy", "asha")
    call("user", "erase", "asha", "--yes", "--receipt", "receipt.json", *of)
    assert "25 messages" in call("user", "show", "asha")
    call("user", "show", "asha", *of, code=1)
    call("user", "verify-erasure", "receipt.json", "--user", "asha", *of)
    call("user", "verify-erasure", "receipt.json", "--user", "asha", code=1)
    assert "user erase" in call("audit", "show", "--user", "asha", *of)
    assert "user erase" not in call("audit", "show", "--user", "asha")
    call("user", "show", "asha", "--tenant", "a/b", code=1)


@pytest.mark.parametrize("verb", [["show"], ["export"], ["erase", "--yes"]])
def test_an_unknown_user_is_an_error(verb: list[str], talked: Path) -> None:
    """There is nothing to show, and no file is left behind."""
    call("user", *verb, "nobody", code=1)
    assert sorted(path.name for path in talked.iterdir()) == ["data"]


def test_the_doctor_finds_nothing_wrong_here(talked: Path) -> None:
    """Versions, clock, disk, lock, schema and integrity are told, and the exit code is 0."""
    told = call("doctor")
    for subject in (
        "SQLite",
        "settings",
        "clock",
        "data directory",
        "file system",
        "disk",
        "fsync",
        "schema",
    ):
        assert f"  {subject}" in told
    assert "quick_check passed" in told
    assert "by no process" in told
    assert " 0 failures" in told
    assert not list((talked / "data").glob(".samvad-sync-*"))


def test_the_doctor_works_before_the_first_start(here: Path) -> None:
    """No database yet is fine, and none is made."""
    assert " 0 failures" in call("doctor")
    assert not list(here.iterdir())


def test_the_doctor_names_a_damaged_database(talked: Path) -> None:
    """A page that was overwritten is found."""
    database = talked / "data" / "samvad.db"
    whole = bytearray(database.read_bytes())
    whole[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    database.write_bytes(whole)
    assert "fail  integrity" in call("doctor", code=1)


def test_the_doctor_names_a_foreign_file(here: Path) -> None:
    """A file that is no database of ours is told apart from a damaged one."""
    (here / "x.db").write_text("not a database, but long enough to have a header of a hundred bytes" * 10)
    assert "is not a SQLite database" in call("doctor", "--store", "sqlite:///x.db", code=1)


def test_the_doctor_names_settings_that_are_wrong_or_do_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are none fail; what is known and does nothing here is a warning."""
    monkeypatch.setenv("SAMVAD_LIVE_MODEL", "x")
    assert "SAMVAD_LIVE_MODEL does nothing" in call("doctor")
    (here / ".env").write_text("SAMVAD_PROT=1\n")
    assert "SAMVAD_PROT in .env is not a setting; did you mean SAMVAD_PORT?" in call("doctor", code=1)
    here.joinpath(".env").unlink(missing_ok=True)
    for name in ("SAMVAD_AUTH_ISSUER", "SAMVAD_LIMIT_STARTS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SAMVAD_LIMIT_PROXIES", "1")  # the audit log goes by it, too
    told = call("doctor", "--auth", "off")
    assert [f"{name} does nothing" in told for name in ("SAMVAD_AUTH_ISSUER", "SAMVAD_LIMIT_STARTS")] == [
        True,
        True,
    ]
    assert "PROXIES" not in told


def test_risks_fail_in_production_only(here: Path) -> None:
    """What is fine to try out is not fine to depend on."""
    assert "warn  durability" in call("doctor", "--store", "memory://")
    assert "fail  durability" in call("doctor", "--store", "memory://", "--production", code=1)


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("3.6.23", "ok"),
        ("3.7.0", "fail"),
        ("3.40.1", "fail"),
        ("3.51.2", "fail"),
        ("3.51.3", "ok"),
        ("3.54.1", "ok"),
    ],
)
def test_a_sqlite_with_the_wal_fault_is_named(version: str, level: str) -> None:
    """3.7.0 to 3.51.2 can corrupt a database that several connections write."""
    assert checks.sqlite_version(version).level == level


def test_a_clock_that_cannot_be_right_is_named() -> None:
    """One that was never set, and one that is behind what was written."""
    now_s = time.time()
    assert checks.clock(None).level == "ok"
    assert checks.clock(now_s - 5).level == "ok"
    assert checks.clock(now_s + 3600).level == "warn"
    assert checks.clock(None, now_s=1000.0).level == "fail"


@pytest.mark.parametrize(
    ("kind", "level"), [("ext4", "ok"), ("tmpfs", "warn"), ("overlay", "warn"), ("nfs4", "fail"), ("", "ok")]
)
def test_file_systems_that_do_not_keep_are_named(kind: str, level: str) -> None:
    """Memory and container layers lose data, networks break the log."""
    assert checks._kind(kind).level == level


def test_the_disk_is_measured(tmp_path: Path) -> None:
    """A sync takes some time, there is some room, and the kernel knows the file system."""
    assert 0 < disk.sync_ms(tmp_path, syncs=3) < 10_000
    assert disk.free_bytes(tmp_path) > 0
    assert disk.file_system(Path("/proc")) in {"proc", ""}
    assert disk.existing(tmp_path / "a" / "b") == tmp_path


def test_a_data_directory_below_a_file_fails(tmp_path: Path) -> None:
    """The doctor says so before the server does."""
    (tmp_path / "file").write_text("")
    assert [finding.level for finding in checks.directory(tmp_path / "file" / "below")] == ["fail"]


def test_bench_measures_and_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has every measurement, and the scratch directory is gone."""
    monkeypatch.setattr("samvad.cli.bench._SECONDS", 0.1)
    told = call("bench")
    for row in (
        "fsync",
        "append, 1 caller",
        "append, 50 callers",
        "load of 100 messages",
        "profile in memory",
    ):
        assert row in told
    assert not list(here.iterdir())


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_a_disk_that_became_read_only_is_read(talked: Path, closed: bool) -> None:
    """A kernel does that to a disk with errors: what is on it can still be looked at, and backed up to another."""
    if not closed:  # a log is left, and its index
        leave_log = "import os\nfrom samvad import open_samvad\n"
        leave_log += "samvad = open_samvad('sqlite:///data/samvad.db').__enter__()\n"
        leave_log += "samvad.append_to_user_history('asha', 'user', 'In the log.')\nos._exit(0)"
        subprocess.run([sys.executable, "-c", leave_log], check=True)
    script = 'mount --bind data data && mount -o remount,bind,ro data && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        loudly_skip("a read-only disk needs unshare(1) and user namespaces")

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [*prefix, *SAMVAD, *arguments], check=False, capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    messages = 25 if closed else 26
    assert json.loads(said("stats", "--json"))["totalMessages"] == messages
    assert "line 24" in said("user", "show", "asha")
    assert f"{messages} messages" in said("backup", "there.backup")


def test_a_database_of_somebody_else_is_not_called_damaged(talked: Path) -> None:
    """Whose index cannot be made here is told what to do, also by the doctor."""
    (talked / "data").chmod(0o555)
    try:
        for command, code in (("stats", 2), ("doctor", 1)):
            done = subprocess.run(
                [*no_rights(), *SAMVAD, command],
                check=False,
                capture_output=True,
                text=True,
                env=environment(),
            )
            assert done.returncode == code, (done.stdout, done.stderr)
            assert "as the server's user" in done.stdout + done.stderr
            assert "restore a backup" not in done.stdout
    finally:
        (talked / "data").chmod(0o755)
