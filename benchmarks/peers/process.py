"""Each engine in a process of its own, so that none pays for another's imports, threads or heap.

The processes wait while another one is measured: they take turns, and a turn of each makes a round.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measure import Unavailable, describe_error
from benchmarks.peers.engine import create, version
from benchmarks.peers.workloads import WORKLOADS

ANSWER_S_MAX = 180.0
"""How long one workload may take, filling included, before the engine is given up."""


class EngineFailed(Exception):
    """A workload raised or took too long; the text says what happened."""


class EngineProcess:
    """One engine in its process. Use it as a context manager; :meth:`ask` runs a workload there."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name.replace(" ", "-")
        self.version = ""
        self.note = ""

    def __enter__(self) -> EngineProcess:
        """Start the process and wait until the engine is imported; :class:`Unavailable` when it is not there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.name, self.directory), daemon=True)
        self._process.start()
        theirs.close()
        try:
            about = self._answer()
        except EngineFailed as error:
            self._stop()
            raise Unavailable(str(error)) from error
        self.version, self.note = about["version"], about["note"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._stop()

    def ask(self, workload: str, **arguments: Any) -> dict[str, Any]:
        """Run a workload there and wait for what it found; :class:`EngineFailed` when it did not go well."""
        try:
            self._pipe.send((workload, arguments))
        except OSError as error:
            raise EngineFailed(f"{self.name}: its process is gone") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        if not self._pipe.poll(ANSWER_S_MAX):
            self._stop()
            raise EngineFailed(f"{self.name}: no answer within {ANSWER_S_MAX:.0f} s")
        try:
            good, found = self._pipe.recv()
        except EOFError as error:
            raise EngineFailed(f"{self.name}: its process died") from error
        if not good:
            raise EngineFailed(found)
        return dict(found)

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, name: str, directory: Path) -> None:
    """Import the engine, then run one workload after another until the pipe closes. Runs in the new process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    try:
        engine = create(name)
    except Unavailable as error:
        pipe.send((False, str(error)))
        return
    pipe.send((True, {"version": version(engine), "note": engine.note}))
    while True:
        try:
            workload, arguments = pipe.recv()
        except EOFError:
            return
        try:
            found = asyncio.run(WORKLOADS[workload](name, directory, **arguments))
        except Exception as error:  # the process's top: told to the parent, which reports it
            pipe.send((False, f"{name}: {workload} failed: {describe_error(error)}"))
        else:
            pipe.send((True, found))
