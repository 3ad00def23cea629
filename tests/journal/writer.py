"""A process that is killed: `python writer.py DIRECTORY RUN` appends and forgets, and prints what it was told.

ack NUMBER PAYLOAD      the entry is durable
forget NUMBER           it may be forgotten from now on
"""

from __future__ import annotations

import asyncio
import os
import sys

from samvad.sessions.journal import Journal

APPENDERS = 12


def tell(line: str) -> None:
    """One line, out before the next step is taken."""
    os.write(1, f"{line}\n".encode())


async def append(journal: Journal, name: str) -> None:
    """Append for ever; forget two of three."""
    for count in range(1_000_000):
        payload = f"{name}-{count}-" + "x" * (count * 37 % 900)
        number = await journal.append(payload.encode())
        tell(f"ack {number} {payload}")
        if count % 3:
            tell(f"forget {number}")
            journal.forget(number)


async def main(directory: str, run: str) -> None:
    """Open, say so, and work until killed."""
    journal = Journal(directory, segment_bytes=64 * 1024, compact_after_s=0.0)
    await journal.open()
    tell("open")
    await asyncio.gather(*(append(journal, f"{run}.{index}") for index in range(APPENDERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
