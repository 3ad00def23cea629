"""Speech to speech over OpenAI's Realtime protocol, with OpenAI or any endpoint that speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from samvad.live.providers.base import Capabilities, Context
from samvad.live.providers.line import Redial
from samvad.live.providers.line_session import STALL_S, LineSession
from samvad.live.providers.openai import endpoint, import_openai
from samvad.live.providers.realtime_line import SETUP_S_MAX, RealtimeDialer
from samvad.live.providers.registry import ProviderOptions

MODEL: Final = "gpt-realtime"


class OpenAIRealtime:
    """Speech and text in, speech with its transcript out; what was not heard is cut from the model's memory."""

    name = "openai_realtime"
    capabilities = Capabilities(
        audio_in=True, audio_out=True, server_activity=True, truncates=True, tools=True, announces=True
    )

    def __init__(
        self,
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        setup_s: float = SETUP_S_MAX,
        stall_s: float = STALL_S,
        redial: Callable[..., Redial] = Redial,
    ) -> None:
        self.model = model or MODEL
        self._where = {"base_url": base_url, "api_key": api_key or "none"}
        self._setup_s = setup_s
        self._stall_s = stall_s
        self._redial = redial
        self._client: Any = None
        self._making = asyncio.Lock()

    async def open(self, context: Context) -> LineSession:
        """Begin a conversation; ProviderUnavailable where that cannot be."""
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make_client)  # to import it takes a second
        dialer = RealtimeDialer(self._client, self.model, setup_s=self._setup_s)
        return await LineSession(dialer, context, self._redial, self._stall_s).start()

    async def close(self) -> None:
        """Let the client go."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _make_client(self) -> Any:
        return import_openai(self.name).AsyncOpenAI(**self._where)


def make_openai_realtime(options: ProviderOptions) -> OpenAIRealtime:
    """From the settings: SAMVAD_OPENAI_BASE_URL, SAMVAD_OPENAI_API_KEY, SAMVAD_LIVE_MODEL."""
    base_url, api_key = endpoint(options, "openai_realtime")
    return OpenAIRealtime(model=options.model, base_url=base_url, api_key=api_key)
