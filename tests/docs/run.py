"""Running the blocks of one page, in order, as a reader would who pastes them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.crash.server import Server
from tests.docs.expected import failures, json_differs, json_values, text_differs
from tests.docs.pages import Block, Page
from tests.support import wait_until

COMMAND_S_MAX = 120
_SERVE = re.compile(r"(?:make serve|samvad serve)(?: (?:ARGS=)?(.*))?")
_ASSIGNMENT = re.compile(r"^(?:export )?\w+=\S.*$", re.MULTILINE)


class Reader:
    """Somebody who pastes the blocks of a page into one terminal, starting the server in another.

    - `python`: run in this process; the blocks of a page share their names, as in one session.
    - `python file=NAME`: written to that file, for a later block to run.
    - `sh`: run with bash; what one block assigns, later ones have.
    - a block of just `make serve` or `samvad serve …`: the server of this tree, started with the same flags in
      the page's directory, so that its database is data/samvad.db there. It takes a free port, and 8080 is
      rewritten to it. `make serve` itself does the same after it has seen to the environment.
    - `sh background=PORT`: a server of the page's own; it is started, and the page goes on once the port (rewritten
      to a free one) accepts connections.
    - `json output` and `text output`: what the block before printed, `…` standing for anything.
    - `skip=REASON`: not run.
    """

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "docs"}
        self.assigned: list[str] = []
        self.printed: str | None = None
        self.checked = True
        self.server: Server | None = None
        self.background: list[subprocess.Popen[bytes]] = []
        self.rewritten: dict[str, str] = {}
        (folder / ".curlrc").write_text("silent\nshow-error\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.server is not None:
            self.server.kill()
        for process in self.background:
            process.kill()
            process.wait()

    def read(self) -> None:
        """Run the whole page."""
        for block in self.page.blocks:
            if "skip" in block.marks:
                assert len(block.marks["skip"]) > 8, self.at(block, "says skip, and not why")
            elif "output" in block.marks:
                self.compare(block)
            elif block.language == "python":
                self.start_of(block)
                if name := block.marks.get("file"):
                    (self.folder / name).write_text(self.rewrite(block.text), encoding="utf-8")
                else:
                    self.python(block)
            elif block.language == "sh":
                self.start_of(block)
                self.shell(block)
            elif block.language == "json":
                json.loads(block.text)
            else:
                assert block.language, self.at(block, "names no language")
        self.look_for_failures()

    def at(self, block: Block, what: str) -> str:
        """A message that an editor can jump from."""
        return f"{self.page.name}:{block.line}: {what}"

    def start_of(self, block: Block) -> None:
        """Before a block is run: what the one before it printed, and no page showed, must not be a failure."""
        self.look_for_failures()
        self.printed, self.checked = "", False

    def look_for_failures(self) -> None:
        """No answer that the page does not show may be a failure."""
        if not self.checked and (found := failures(self.printed or "")):
            pytest.fail(f"{self.page.name}: a request was refused, and the page does not say so: {found[0]}")

    def compare(self, block: Block) -> None:
        """What was printed is what the page says."""
        assert self.printed is not None, self.at(block, "there is no block before this output")
        if block.language == "json":
            try:
                wanted, found = json_values(block.text), json_values(self.printed)
            except ValueError as error:
                pytest.fail(self.at(block, f"not JSON ({error}):\n{self.printed}"))
            difference = json_differs(wanted, found)
        else:
            difference = text_differs(block.text, self.printed)
        assert difference is None, self.at(block, difference or "")
        self.checked = True

    def python(self, block: Block) -> None:
        """Run a block in this process, its lines numbered as on the page."""
        code = compile("\n" * (block.line - 1) + self.rewrite(block.text), self.page.name, "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, self.names)
        self.printed = printed.getvalue()

    def shell(self, block: Block) -> None:
        """Run a block with bash, or start the server."""
        command = block.text.strip()
        if "exit" not in block.marks and (found := _SERVE.fullmatch(command)):
            self.serve((found[1] or "").strip("'\"").split())
            return
        if "make " in command or "git " in command:
            pytest.fail(self.at(block, "this changes the machine: mark it skip=REASON"))
        if port := block.marks.get("background"):
            self.start(command, port)
            return
        script = self.rewrite("\n".join([*self.assigned, command]))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        wanted = int(block.marks.get("exit", "0"))
        assert done.returncode == wanted, self.at(
            block, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        self.assigned += _ASSIGNMENT.findall(command)
        self.printed = done.stdout + (done.stderr if wanted else "")
        if self.server is not None and re.search(r"\bkill\b.*samvad\.db\.lock", command):
            self.server.wait()

    def environment(self) -> dict[str, str]:
        """What commands see: this tree's `samvad` and `python`, and a home directory of their own."""
        programs = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PATH": os.pathsep.join((programs, os.environ.get("PATH", ""))),
            "HOME": str(self.folder),
            "CURL_HOME": str(self.folder),
        }

    def rewrite(self, text: str) -> str:
        """The text, with the ports of this run."""
        for port, own in self.rewritten.items():
            text = re.sub(rf"\b{port}\b", own, text)
        return text

    def serve(self, flags: list[str]) -> None:
        """Start the server on the page's data directory, or start it again: on the same port, as a reader would."""
        if self.server is not None:
            if self.server.is_running:
                self.server.stop()
            flags = ["--port", str(self.server.port), *flags]
        self.server = Server(self.folder / "data", *flags)
        self.server.start()
        self.rewritten["8080"] = str(self.server.port)

    def start(self, command: str, port: str) -> None:
        """Start a server that is not ours to watch, and wait until it accepts connections."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.rewritten[port] = str(free.getsockname()[1])
        log = self.folder / "background.log"
        with log.open("wb") as out:
            self.background.append(
                subprocess.Popen(
                    ["bash", "-c", "exec " + self.rewrite(command)],
                    cwd=self.folder,
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                )
            )

        def accepts() -> bool:
            assert self.background[-1].poll() is None, log.read_text()
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", int(self.rewritten[port])), 1),
            ):
                return True
            return False

        wait_until(accepts, f"port {port} accepts connections")
