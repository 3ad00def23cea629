"""Where commands write: private files, pipes and devices; what cannot be written is one line, and harms nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from samvad.cli import run
from samvad.runtime import open_samvad
from tests.cli.processes import SAMVAD, environment

WRITERS = {
    "user export": ["user", "export", "asha", "--output"],
    "archive": ["user", "export", "asha", "--archive"],
    "export": ["export", "--output"],
    "backup": ["backup"],
}
writers = pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a store in which somebody has talked."""
    monkeypatch.chdir(tmp_path)
    with open_samvad("sqlite:///data/samvad.db") as samvad:
        samvad.append_to_user_history("asha", "user", "line")
    return tmp_path


@writers
def test_what_is_no_file_is_refused_in_one_line(
    command: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory, nothing, or a place that is not there: exit code 2, and nothing is left behind."""
    (here / "folder").mkdir()
    for name in ("folder", "", "/", "missing/file"):
        assert run([*command, name]) == 2, name
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path.name for path in here.iterdir()) == ["data", "folder"]


@writers
def test_a_pipe_is_written_to_and_stays(command: list[str], here: Path) -> None:
    """Had it been replaced by a file, as root /dev/null would have been, too."""
    pipe, found = here / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    code = run([*command, str(pipe)])
    if code:
        pipe.write_bytes(b"")  # nobody wrote: let the reader go
    reader.join()
    assert code == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert found[0]


@writers
def test_a_link_is_not_followed(command: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it leads to stays as it is."""
    (here / "other").write_text("mine")
    (here / "link").symlink_to("other")
    assert run([*command, "link"]) == 2
    assert "is a link" in capsys.readouterr().err
    assert (here / "other").read_text() == "mine"


def test_what_lies_in_the_way_is_not_written_into(here: Path) -> None:
    """A file that somebody left under the name of the unfinished one, open to all, gets nothing."""
    planted = here / "mine.json.part"
    planted.touch(0o666)
    planted.chmod(0o666)
    with planted.open("rb") as watched:
        assert run(["user", "export", "asha", "--output", "mine.json"]) == 0
        assert watched.read() == b""
    assert stat.S_IMODE((here / "mine.json").stat().st_mode) == 0o600
    assert json.loads((here / "mine.json").read_bytes())["userId"] == "asha"


def test_an_export_that_goes_on_is_private_too(here: Path) -> None:
    """The part that is there may have been copied with other rights."""
    (here / "all.jsonl.part").touch()
    (here / "all.jsonl.part").chmod(0o644)
    assert run(["export", "--output", "all.jsonl", "--resume"]) == 0
    assert stat.S_IMODE((here / "all.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("command", [["user", "export", "asha"], ["stats"], ["backup", "-"]])
def test_a_full_disk_is_one_line(command: list[str], here: Path) -> None:
    """No traceback, exit code 1."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*SAMVAD, *command], cwd=here, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"samvad: It was not finished: No space left on device.\n")


def test_complaints_obey_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """What is named in one may hold what a terminal would obey."""
    assert run(["user", "verify-erasure", "\x1b]0;owned\x07"]) == 2
    assert "\x1b" not in capsys.readouterr().err
