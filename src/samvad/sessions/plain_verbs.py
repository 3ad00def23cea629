"""The verbs of a service as plain functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


class SyncSamvad:
    """The verbs of `Samvad` as plain functions, for scripts: each call waits for its answer."""

    def __init__(self, samvad: Any, call: Callable[..., Any]) -> None:
        self._samvad = samvad
        self._call = call

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._samvad, name)
        if name == "knowledge":
            return SyncSamvad(verb, self._call)
        if not inspect.iscoroutinefunction(verb):
            return verb

        @functools.wraps(verb)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return self._call(functools.partial(verb, *args, **kwargs))

        return plain
