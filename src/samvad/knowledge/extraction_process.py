"""`python -m samvad.knowledge.extraction_process`: reads one document from standard input, within bounds.

The first line is a Task as JSON, the rest the document. The answer goes to standard output as JSON. Where a
bound is hit the process dies without one, and whoever started it knows what that means.
"""

from __future__ import annotations

import resource
import sys

import msgspec

from samvad.errors import SamvadError, UnreadableDocument
from samvad.knowledge.extracting import Answer, Task, read, type_of


def _bound(task: Task) -> None:
    """Bound processor time and memory; no core file holds what was in it."""
    bounds = (
        (resource.RLIMIT_CPU, task.cpu_s),
        (resource.RLIMIT_AS, task.memory_bytes),
        (resource.RLIMIT_CORE, 0),
    )
    for what, most in bounds:
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS knows no bound of address space
            continue


def main() -> None:
    """Read, answer, end."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    _bound(task)
    try:
        answer = Answer(read(sys.stdin.buffer.read(), type_of(task.kind), task.charset))
    except SamvadError as error:
        answer = Answer(code=error.code, message=error.message)
    except MemoryError:
        answer = Answer(
            code=UnreadableDocument.code,
            message="Reading the document takes more memory than it may; split it.",
        )
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
