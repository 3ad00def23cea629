"""`samvad user export --archive` and `samvad user import`, as an operator calls them."""

from __future__ import annotations

import asyncio
import json
import stat
import zipfile
from pathlib import Path

import pytest

from samvad.errors import StoreUnavailable
from samvad.runtime import open_samvad
from tests.archive.support import ASHA, LONG, members, populate
from tests.carry.support import call
from tests.cli.processes import Server, run
from tests.knowledge.here import engine_here

__all__ = ["engine_here"]
pytestmark = pytest.mark.usefixtures("engine_here")

KEY = "QUJD" * 10 + "QUI="


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, with a user in its database."""
    monkeypatch.chdir(tmp_path)
    make("sqlite:///data/samvad.db")
    return tmp_path


def make(url: str, **more: str) -> None:
    """A database with one user in it."""
    Path("data").mkdir(exist_ok=True)

    async def fill() -> None:
        async with open_samvad(url, record_interruptions=True, **more) as samvad:
            await populate(samvad)

    asyncio.run(fill())


def test_there_and_back(here: Path) -> None:
    """The file is its owner's alone; what is imported exports the same."""
    told = call("user", "export", ASHA, "--archive", "a.zip")
    assert told == "wrote 5 messages, 2 sessions, 1 interruptions and 1 documents of asha to a.zip\n"
    assert json.loads(members(Path("a.zip"))["manifest.json"])["complete"] is True
    assert stat.S_IMODE(Path("a.zip").stat().st_mode) == 0o600
    told = call("user", "import", "a.zip", "--data-dir", "new")
    assert told.startswith(
        "imported 5 messages, 2 sessions, 1 interruptions and 1 documents of asha\nverified"
    )
    assert call("user", "import", "a.zip", "--data-dir", "new").startswith("already there: 5 messages")
    call("user", "export", ASHA, "--archive", "b.zip", "--data-dir", "new")
    one, other = members(Path("a.zip")), members(Path("b.zip"))
    for name in ("README.md", "manifest.json", "signature.json"):
        del one[name], other[name]
    assert one == other
    assert LONG.encode() in one["history.jsonl"]


def test_another_tenant_is_another_world(here: Path) -> None:
    """What is imported into a tenant is there, and nowhere else."""
    call("user", "export", ASHA, "--archive", "a.zip")
    call("user", "import", "a.zip", "--tenant", "acme", "--data-dir", "new")
    assert "There is no user" in str(run(["user", "show", ASHA, "--data-dir", "new"], here).stderr)
    call("user", "export", ASHA, "--archive", "b.zip", "--tenant", "acme", "--data-dir", "new")
    assert json.loads(members(Path("b.zip"))["manifest.json"])["tenant"] == "acme"


def test_what_is_there_of_the_user_is_left_alone(here: Path) -> None:
    """Exit code 2 and one line; with --replace it is erased first, and not without being asked."""
    call("user", "export", ASHA, "--archive", "a.zip")
    with open_samvad("sqlite:///data/samvad.db") as samvad:
        samvad.append_to_user_history(ASHA, "user", "more")
    assert "There is other data of 'asha'" in call("user", "import", "a.zip", code=2)
    assert "say --yes" in call("user", "import", "a.zip", "--replace", code=2)
    assert call("user", "import", "a.zip", "--replace", "--yes").startswith("imported 5 messages")


def test_a_damaged_archive_is_one_line(here: Path) -> None:
    """No trace of a stack, no database made."""
    call("user", "export", ASHA, "--archive", "a.zip")
    data = Path("a.zip").read_bytes()
    Path("a.zip").write_bytes(data[:-5])
    done = run(["user", "import", "a.zip", "--data-dir", "new"], here)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("samvad: a.zip is no whole ZIP") and done.stderr.count("\n") == 1
    assert not Path("new").exists()
    assert "Cannot read no.zip" in call("user", "import", "no.zip", code=2)


def test_an_export_that_fails_leaves_what_was_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays until the new one is whole."""
    from samvad.archive.making import UserArchive

    Path("a.zip").write_text("old")

    def fails(self: UserArchive) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(UserArchive, "_manifest", fails)
    call("user", "export", ASHA, "--archive", "a.zip", code=1)
    assert Path("a.zip").read_text() == "old"
    assert [path.name for path in here.glob("a.zip*")] == ["a.zip"]


def test_beside_a_server_with_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export works while a server holds the database; import says that it has to stop. The audit log knows of both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMVAD_MASTER_KEY", KEY)
    make("sqlite:///data/samvad.db", master_key=KEY)
    with Server(tmp_path):
        call("user", "export", ASHA, "--archive", "a.zip")
        assert "stop that server first" in call("user", "import", "a.zip", code=2)
    with zipfile.ZipFile("a.zip") as opened:
        assert LONG.encode() in opened.read("history.jsonl")
        manifest = json.loads(opened.read("manifest.json"))
        assert manifest["complete"] is False and "in memory" in manifest["missing"][0]
    monkeypatch.delenv("SAMVAD_MASTER_KEY")
    assert call("user", "import", "a.zip", "--data-dir", "plain").startswith("imported 5 messages")
