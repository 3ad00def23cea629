"""The search engine's process, as the server sees it: started when it is first needed, started again if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from samvad.errors import ShuttingDown, StoreUnavailable
from samvad.knowledge.left_indexes import remove_files_of
from samvad.knowledge.worker import ANSWERS, HEADER, Answer, Request
from samvad.meters import Histogram

_log = logging.getLogger(__name__)
_ENDS_S_MAX = 2.0
_SEALS_S_MAX = 6.0  # while it writes sealed copies of its indexes; what is not written is made anew
_NICE = 10  # an append goes first, where there is one core for both


class EngineFault(StoreUnavailable):
    """The search engine failed; try again soon."""


class RemoteEngine:
    """Sends requests to the process, one at a time, and gives their answers. `on_started`: it begins empty-handed."""

    def __init__(self, directory: Path | None, *, readonly: bool = False, sealed: bool = False) -> None:
        self._directory = directory
        self._readonly = readonly
        self._sealed = sealed
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self.starts = 0  # who keeps account of what the process holds in memory looks whether this has grown
        self.faults = 0
        self.seconds: dict[str, Histogram] = {}  # that requests took, by kind; waiting for their turn counts

    @property
    def is_up(self) -> bool:
        """Whether the process runs, or was not needed yet."""
        return self._process is None or self._process.returncode is None

    def remove_files_of(self, user_hash: bytes) -> None:
        """Remove the index of a user that was left by an earlier process: its name says so much. Blocks."""
        if self._directory is not None and not self._readonly:
            remove_files_of(self._directory, user_hash)

    async def ask(self, request: Request) -> Any:
        """The answer to a request; EngineFault where there is none."""
        began_s = perf_counter()
        answer = await asyncio.shield(asyncio.ensure_future(self._exchange(request)))
        seconds = self.seconds.setdefault(type(request).__name__.lower(), Histogram())
        seconds.add(perf_counter() - began_s)
        if answer.error is not None:
            self.faults += 1
            _log.error("the search engine failed", extra={"error": answer.error})
            raise EngineFault
        kind = ANSWERS[type(request)]
        return None if kind is None else msgspec.msgpack.decode(answer.result, type=kind)

    async def _exchange(self, request: Request) -> Answer:
        async with self._turn:
            process = await self._started()
            assert process.stdin is not None and process.stdout is not None
            body = msgspec.msgpack.encode(request)
            try:
                process.stdin.write(HEADER.pack(len(body)) + body)
                await process.stdin.drain()
                (size,) = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
                return msgspec.msgpack.decode(await process.stdout.readexactly(size), type=Answer)
            except (OSError, asyncio.IncompleteReadError, RuntimeError) as error:  # uvloop's of a closed pipe
                await self._end()
                self.faults += 1
                _log.warning("the search engine's process has died; it is started again when it is needed")
                raise EngineFault from error

    async def start(self) -> None:
        """Start the process if it does not run."""
        async with self._turn:
            await self._started()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._closed:
            raise ShuttingDown
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._end()
        arguments = [str(self._directory)] if self._directory is not None else []
        if self._readonly and arguments:
            arguments.append("--readonly")
        if self._sealed and arguments:
            arguments.append("--sealed")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        if (
            self._sealed
        ):  # an index in memory is read all over: with small pages, a third more time at the p99
            tunables = (environment.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1")
            environment["GLIBC_TUNABLES"] = ":".join(filter(None, tunables))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "samvad.knowledge.worker",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=1024 * 1024,
        )
        _stand_back(self._process.pid)
        self.starts += 1
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(OSError):
                await process.stdin.wait_closed()
        try:
            await asyncio.wait_for(process.wait(), _SEALS_S_MAX if self._sealed else _ENDS_S_MAX)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def close(self) -> None:
        """End the process, after the request under way."""
        self._closed = True
        async with self._turn:
            await self._end()


def _stand_back(pid: int) -> None:
    """Let a process go behind the server where both want a core, and never take one from it by waking up."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
