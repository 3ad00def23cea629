"""Which providers there are, by name: those that ship with Samvad, and those that other packages bring.

A package brings one by an entry point of the group `samvad.live_providers`, whose object is called with
`ProviderOptions` and gives a `Provider`. Nothing is imported before its name is asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

from samvad.errors import SetupError
from samvad.live.providers.base import Provider

GROUP: Final = "samvad.live_providers"

# name: (module, factory, extra of the distribution that it needs)
_OWN: Final[Mapping[str, tuple[str, str, str]]] = {
    "extractive": ("samvad.live.providers.extractive", "make_extractive", ""),
    "vertex": ("samvad.live.providers.vertex", "make_vertex", "gemini"),
    "gemini": ("samvad.live.providers.vertex", "make_gemini", "gemini"),
    "openai": ("samvad.live.providers.openai", "make_openai", "openai"),
    "openai_realtime": ("samvad.live.providers.openai_realtime", "make_openai_realtime", "openai"),
}


class ProviderOptions(NamedTuple):
    """What a provider may be made of: the settings of the server, and its environment.

    `parts` holds what else the server can hand over, by name (`knowledge`: what answers from documents).
    """

    model: str | None = None
    project_id: str | None = None
    location: str | None = None
    openai_base_url: str | None = None
    openai_api_key: str | None = None
    environ: Mapping[str, str] = os.environ
    parts: Mapping[str, Any] = {}


Factory = Callable[[ProviderOptions], Provider]


def provider_names() -> list[str]:
    """Every name that `make_provider` knows, those of other packages last."""
    return [*_OWN, *(name for name in sorted(_entry_points()) if name not in _OWN)]


def make_provider(name: str, options: ProviderOptions | None = None) -> Provider:
    """The provider of that name; nothing is connected yet.

    Raises SetupError, in one line, where there is none, its package is missing, or a setting it needs is not set.
    """
    return _factory(name)(options or ProviderOptions())


def _factory(name: str) -> Factory:
    if name in _OWN:
        module, function, extra = _OWN[name]
        try:
            return cast("Factory", getattr(importlib.import_module(module), function))
        except ModuleNotFoundError as error:
            raise _missing(name, error, extra) from error
    entry_points = _entry_points()
    if name not in entry_points:
        raise SetupError(
            f"There is no live provider {name!r}; there are: {', '.join(provider_names())}. "
            f"A package adds one by an entry point of the group {GROUP}."
        )
    try:
        loaded = entry_points[name].load()
    except (ImportError, AttributeError) as error:
        raise SetupError(f"The live provider {name!r} cannot be loaded: {error}.") from error
    if not callable(loaded):
        raise SetupError(
            f"The live provider {name!r} is not a function that takes ProviderOptions: {loaded!r}."
        )
    return cast("Factory", loaded)


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def _missing(name: str, error: ModuleNotFoundError, extra: str) -> SetupError:
    if extra and not (error.name or "").startswith("samvad"):
        return missing_package(name, extra)
    return SetupError(f"The live provider {name!r} is not in this version of Samvad.")


def missing_package(name: str, extra: str) -> SetupError:
    """What to tell an operator whose installation lacks the vendor's client."""
    return SetupError(
        f"The live provider {name!r} needs another package: pip install 'samvad-sessions[{extra}]'."
    )
