"""`samvad chat` as a person uses it, in a real pseudo-terminal, and with pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import SAMVAD, WAIT_S, Server, environment, refusal, run

LOANS = """# Home loans

For a home loan you need an identity card. You also need proof of income for the last six months. The interest rate is
8.5 percent a year, and it is fixed for five years. A home loan runs for up to thirty years. You may pay it back
earlier without a fee.
"""
QUESTION = "What do I need for a home loan?"
END = "(Source: Home loans)"


@pytest.fixture(autouse=True)
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the assistant answers from."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "loans.md").write_text(LOANS, encoding="utf-8")
    monkeypatch.setenv("SAMVAD_LIVE_DOCUMENTS", str(folder))


class Screen:
    """`samvad chat` in a terminal of its own: what a person would type and see."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [*SAMVAD, "chat", *arguments],
            cwd=cwd,
            env=environment({"TERM": "xterm"}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509
            close_fds=True,
        )
        os.close(slave)  # the terminal is the program's own: Ctrl-C typed there reaches it
        self.seen = ""
        self._at = 0

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def until(self, text: str) -> str:
        """Wait until this is shown (after what was waited for before); all that came with it."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.seen[self._at :]:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self.seen[self._at :]!r}"
            if not select.select([self._master], [], [], left)[0]:
                continue
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux: nobody has the other end open any more
                data = b""
            assert data, f"{text!r} did not come before the end: {self.seen[self._at :]!r}"
            self.seen += re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", data.decode(errors="replace")).replace(
                "\r\n", "\n"
            )
        end = self.seen.index(text, self._at) + len(text)
        found, self._at = self.seen[self._at : end], end
        return found

    def exit_code(self) -> int:
        """Wait for the end."""
        with contextlib.suppress(OSError):
            while os.read(self._master, 65536):
                pass
        return self.process.wait(WAIT_S)


@contextlib.contextmanager
def screen(cwd: Path, *arguments: str) -> Iterator[Screen]:
    """A terminal with `samvad chat`, gone at the end."""
    shown = Screen(cwd, *arguments)
    try:
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown._master)


def history(server: Server) -> list[dict[str, Any]]:
    """What is kept of asha."""
    messages: list[dict[str, Any]] = server.request("GET", "/api/session/asha/history")[1]["messages"]
    return messages


def test_a_person_talks_interrupts_and_goes_on(tmp_path: Path) -> None:
    """Streaming, Ctrl-C, /resume, /language, /history and /quit; what was read is kept as heard."""
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
        with screen(tmp_path, server.url, "--user", "asha") as shown:
            shown.until("› ")
            shown.type(f"{QUESTION}\n")
            shown.until("identity card. You also")
            shown.type("\x03")
            shown.until("(interrupted; /resume goes on with it)")
            shown.until("› ")
            user, assistant = history(server)
            assert user["content"] == QUESTION
            assert assistant["interrupted"] is True and assistant["unheardText"].endswith(END)
            assert assistant["content"].startswith("For a home loan you need an identity card.")
            shown.type("/resume\n")
            went_on = shown.until(END)
            assert "identity card" not in went_on and "five years" in went_on
            shown.until("› ")
            shown.type("/language hi\n")
            shown.until("(language: hi)")
            shown.until("› ")
            shown.type("धन्यवाद\n")
            shown.until("स्वागत")
            shown.until("› ")
            shown.type("/history\n")
            assert "asha: " + QUESTION in shown.until("asha: धन्यवाद")
            shown.type("\x03")
            shown.until("Ctrl-C again")
            shown.type("/quit\n")
            assert shown.exit_code() == 0
        assert [each["role"] for each in history(server)] == [
            "user",
            "assistant",
            "assistant",
            "user",
            "assistant",
        ]


def test_it_reconnects_and_goes_on_after_a_killed_server(tmp_path: Path) -> None:
    """The server dies in mid-answer; once there is one again, the answer comes to its end, without a key pressed."""
    arguments = ["--data-dir", str(tmp_path / "data")]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *arguments))
        shown = stack.enter_context(screen(tmp_path, server.url, "--user", "asha"))
        shown.until("› ")
        shown.type(f"{QUESTION}\n")
        shown.until("identity card. You also need")
        server.process.kill()
        server.process.wait()
        shown.until("(the connection was lost; trying again …)")
        again = stack.enter_context(Server(tmp_path, *arguments, "--port", str(server.address[1])))
        shown.until(END)
        shown.until("› ")
        shown.type("\x04")
        assert shown.exit_code() == 0
        kept = history(again)
        assert [each["content"] for each in kept if each["role"] == "user"] == [QUESTION]
        assert kept[-1]["content"].endswith(END)


def test_it_starts_a_server_of_its_own_and_works_in_a_pipe(tmp_path: Path) -> None:
    """Without a URL there is a server while it takes; a pipe gets the answers and nothing else."""
    done = subprocess.run(
        [*SAMVAD, "chat", "--user", "asha", "--data-dir", str(tmp_path / "data")],
        cwd=tmp_path,
        env=environment(),
        input=f"{QUESTION}\nthanks",
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("For a home loan") and first.endswith(END)
    assert second
    exported = run(["user", "export", "asha", "--data-dir", str(tmp_path / "data")], tmp_path)
    assert exported.returncode == 0 and QUESTION in exported.stdout


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """A bad address, flags that contradict, a database in use."""
    assert "looks like http://" in refusal(["chat", "localhost"], tmp_path)
    assert "--data-dir" in refusal(["chat", "http://127.0.0.1:1", "--data-dir", "x"], tmp_path)
    with Server(tmp_path, "--data-dir", str(tmp_path / "data")):
        refusal(["chat", "--data-dir", str(tmp_path / "data")], tmp_path)
