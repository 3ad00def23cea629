"""Frameworks call from where they are: with an event loop, with another one, or with none."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any


async def awaited(knowledge: Any, verb: str, *arguments: Any, **named: Any) -> Any:
    """The outcome of a knowledge base's verb, for a caller on any event loop.

    `knowledge` is that of `async with open_samvad(…)`, or of a plain `with`.
    """
    method = getattr(knowledge, verb)
    if not inspect.iscoroutinefunction(method):
        return await asyncio.to_thread(method, *arguments, **named)
    loop = knowledge.core.shelf.loop
    if loop is None or loop is asyncio.get_running_loop():
        return await method(*arguments, **named)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(method(*arguments, **named), loop))


def waited(knowledge: Any, verb: str, *arguments: Any, **named: Any) -> Any:
    """As `awaited`, for a caller without an event loop, or on another than the knowledge base's: it waits.

    RuntimeError on the knowledge base's own loop, which would wait for itself.
    """
    method = getattr(knowledge, verb)
    if not inspect.iscoroutinefunction(method):
        return method(*arguments, **named)
    loop = knowledge.core.shelf.loop
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if loop is None or here is loop or not loop.is_running():
        raise RuntimeError(
            "The knowledge base answers on the event loop that opened it: use the asynchronous method there, or open "
            "it with a plain `with open_samvad(…)`."
        )
    return asyncio.run_coroutine_threadsafe(method(*arguments, **named), loop).result()


__all__ = ["awaited", "waited"]
