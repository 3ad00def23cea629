"""The command line itself: quick, quiet about what is not its own, and clear about mistakes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from samvad import __version__
from samvad.cli import VERBS
from tests.cli.processes import SAMVAD, environment, refusal, run

HEAVY = [
    "rich",
    "pydantic",
    "starlette",
    "uvicorn",
    "apsw",
    "asyncio",
    "structlog",
    "prometheus_client",
    "msgspec",
]


def imported(arguments: list[str], cwd: Path) -> set[str]:
    """Which of the heavy packages a command imports."""
    script = (
        "import sys; from samvad.cli import run; run(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(eval(done.stderr.splitlines()[-1]))


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`samvad --help` and `--version` are there at once because they load next to nothing."""
    assert imported(["--help"], tmp_path) == set()
    assert imported(["--version"], tmp_path) == set()


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, tmp_path: Path) -> None:
    """The help of a verb needs neither a server nor a store."""
    assert not imported([verb, "--help"], tmp_path) & {"rich", "pydantic", "starlette", "uvicorn"}
    done = run([verb, "--help"], tmp_path)
    assert done.returncode == 0
    assert f"Usage: samvad {verb}" in done.stdout


def test_serving_does_without_what_only_people_need(tmp_path: Path) -> None:
    """Flags are read without pydantic, which typer would load to turn text into text."""
    assert not imported(["serve", "--port", "none"], tmp_path) & {"rich", "pydantic"}


def test_help_takes_little_time(tmp_path: Path) -> None:
    """At best under 0.2 s of processor time (what else the machine does must not count)."""

    def spent_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(["--help"], tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)

    assert min(spent_s() for _ in range(5)) < 0.2


def test_version_and_help_list_what_there_is(tmp_path: Path) -> None:
    """The version in one line; every verb in the help."""
    assert run(["--version"], tmp_path).stdout == f"samvad {__version__}\n"
    shown = run(["--help"], tmp_path).stdout
    assert all(f"\n  {verb} " in shown for verb in VERBS)
    bare = run([], tmp_path)
    assert bare.returncode == 2
    assert "Commands:" in bare.stdout


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """No usage text of many lines for a slip of the finger."""
    assert "serv" in refusal(["serv"], tmp_path)
    assert "--nothing" in refusal(["stats", "--nothing"], tmp_path)
    assert "samvad user show --help" in refusal(["user", "show"], tmp_path)
    assert "There is no database at" in refusal(["stats"], tmp_path)
    assert "memory store" in refusal(["stats", "--store", "memory://"], tmp_path)


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`samvad … | head` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*SAMVAD, "--help"],
        cwd=tmp_path,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1
