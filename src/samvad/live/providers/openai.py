"""Any endpoint that speaks OpenAI's chat protocol as a provider: OpenAI, Ollama, vLLM, llama.cpp. Text only.

Of the endpoint nothing is taken for granted: chunks without choices, answers without usage, an error or a stall in
mid-stream, tool calls in any number of pieces. A stream that nobody wants is closed at once, which frees its slot.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any, Final

from samvad import limits
from samvad.errors import ProviderUnavailable, SetupError
from samvad.live.providers.base import Capabilities, Context
from samvad.live.providers.chat_session import ChatSession
from samvad.live.providers.registry import ProviderOptions, missing_package

CONNECT_S_MAX: Final = limits.LIVE_CHAT_CONNECT_S_MAX
FIRST_CHUNK_S_MAX: Final = limits.LIVE_CHAT_FIRST_CHUNK_S_MAX
NEXT_CHUNK_S_MAX: Final = limits.LIVE_CHAT_NEXT_CHUNK_S_MAX
# Of a request that has not been answered yet; the client waits 0.5 to 8 s.
RETRIES_MAX: Final = limits.LIVE_CHAT_RETRIES_MAX


class OpenAIChat:
    """A chat endpoint. Without a model it takes the first one that the endpoint names.

    `client` takes the place of the one that is made of `base_url` and `api_key`.
    """

    name = "openai"
    capabilities = Capabilities(truncates=True, tools=True)

    def __init__(
        self,
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        first_chunk_s: float = FIRST_CHUNK_S_MAX,
        next_chunk_s: float = NEXT_CHUNK_S_MAX,
        retries: int = RETRIES_MAX,
        client: Any = None,
    ) -> None:
        self.model = model
        self._where = {"base_url": base_url, "api_key": api_key or "none"}
        self.first_chunk_s = first_chunk_s
        self.next_chunk_s = next_chunk_s
        self._retries = retries
        self._client = client
        self._making = asyncio.Lock()
        self.asks_for_usage = True  # until the endpoint refuses to be asked

    async def open(self, context: Context) -> ChatSession:
        """Begin a conversation; ProviderUnavailable where the endpoint has to be asked for its model, and is silent."""
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._make_client)  # to import it takes a second
            if self.model is None:
                self.model = await self._first_model()
        return ChatSession(self, self._client, context)

    async def close(self) -> None:
        """Let the client go."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _first_model(self) -> str:
        try:
            async with asyncio.timeout(CONNECT_S_MAX * (1 + self._retries)):
                models = await self._client.models.list()
        except Exception as error:  # the top of the vendor's code: whatever it raises, there is no model
            raise ProviderUnavailable(
                f"The endpoint does not say its models ({type(error).__name__})."
            ) from error
        if not models.data:
            raise ProviderUnavailable("The endpoint has no model; set SAMVAD_LIVE_MODEL.")
        return str(models.data[0].id)

    def _make_client(self) -> Any:
        openai = import_openai(self.name)
        timeout = openai.Timeout(self.first_chunk_s, connect=CONNECT_S_MAX)
        more = (
            {}
            if find_spec("aiohttp") is None
            else {"http_client": openai.DefaultAioHttpClient(timeout=timeout)}
        )
        return openai.AsyncOpenAI(**self._where, timeout=timeout, max_retries=self._retries, **more)


def make_openai(options: ProviderOptions) -> OpenAIChat:
    """From the settings: SAMVAD_OPENAI_BASE_URL, SAMVAD_OPENAI_API_KEY, SAMVAD_LIVE_MODEL."""
    base_url, api_key = endpoint(options, "openai")
    if options.model is None and base_url is None:
        raise SetupError("The live provider 'openai' needs a model: set SAMVAD_LIVE_MODEL.")
    return OpenAIChat(model=options.model, base_url=base_url, api_key=api_key)


def endpoint(options: ProviderOptions, name: str) -> tuple[str | None, str | None]:
    """The base URL (None: OpenAI's own) and the key, from the settings or from OpenAI's own variables."""
    needs_client(name)
    base_url = options.openai_base_url or options.environ.get("OPENAI_BASE_URL")
    api_key = options.openai_api_key or options.environ.get("OPENAI_API_KEY")
    if base_url is None and api_key is None:
        raise SetupError(
            f"The live provider {name!r} needs an address or a key: set SAMVAD_OPENAI_BASE_URL "
            "or SAMVAD_OPENAI_API_KEY."
        )
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise SetupError(
            f"SAMVAD_OPENAI_BASE_URL must begin with http:// or https://, not {base_url[:60]!r}."
        )
    return base_url, api_key


def needs_client(name: str) -> None:
    """An operator learns at the start that the package is missing; it is not imported for that."""
    if find_spec("openai") is None:
        raise missing_package(name, "openai")


def import_openai(name: str) -> Any:
    """OpenAI's client; SetupError where it is not installed."""
    try:
        import openai
    except ModuleNotFoundError as error:
        raise missing_package(name, "openai") from error
    return openai
