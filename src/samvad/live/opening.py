"""Live conversations over a service: as the settings want them, or plain."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samvad.live.documents import read_folder
from samvad.live.knowledge_answers import KnowledgeAnswers, knowledge_tool
from samvad.live.parts import LiveOptions
from samvad.live.providers.base import Provider
from samvad.live.providers.registry import ProviderOptions, make_provider
from samvad.live.service import LiveService
from samvad.live.tools import ToolRegistry
from samvad.runtime import Samvad
from samvad.settings import Settings


def plain_live(samvad: Samvad) -> LiveService:
    """The default provider over the knowledge base; nothing is kept beside the store."""
    options = ProviderOptions(parts={"knowledge": KnowledgeAnswers(samvad)})
    return LiveService(samvad, lambda name: make_provider(name, options), tools=_tools(samvad))


def _tools(samvad: Samvad) -> ToolRegistry:
    tools = ToolRegistry()
    tools.register(knowledge_tool(samvad))
    return tools


def live_of_settings(samvad: Samvad, settings: Settings) -> LiveService:
    """What `samvad serve` runs. SetupError where the provider or the documents cannot be had."""
    folder = None
    if settings.live_documents is not None:
        folder = read_folder(Path(settings.live_documents).expanduser())
    parts = {"knowledge": KnowledgeAnswers(samvad, also=folder)}
    options = ProviderOptions(
        model=settings.live_model,
        project_id=settings.project_id,
        location=settings.location,
        openai_base_url=settings.openai_base_url,
        openai_api_key=settings.openai_api_key,
        environ=os.environ,
        parts=parts,
    )
    made: dict[str, Provider] = {settings.live_provider: make_provider(settings.live_provider, options)}

    def make(name: str) -> Provider:
        return made.get(name) or make_provider(name, options)

    keeps = settings.durability != "memory" and not settings.store_url().startswith("memory:")
    live = LiveService(
        samvad,
        make,
        provider=settings.live_provider,
        tools=_tools(samvad),
        options=LiveOptions(idle_s=settings.live_idle_s, duration_s=settings.live_duration_s),
        directory=settings.data_path() if keeps else None,
        secret=settings.live_token_secret,
    )
    if keeps:
        _recover_when_open(samvad, live)
    return live


def _recover_when_open(samvad: Samvad, live: LiveService) -> None:
    """Turns that a killed server left are brought to their end as soon as the service is open."""

    async def recover() -> None:
        await live.recover()

    hooks: list[Callable[[], Any]] = samvad.after_open
    hooks.append(recover)
