"""Gemini Live as a provider, by Vertex AI or with an API key, through Google's own client (google-genai)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from samvad.errors import ProviderUnavailable, SetupError
from samvad.live.providers.base import Capabilities, Context
from samvad.live.providers.gemini_line import SETUP_S_MAX, GeminiDialer
from samvad.live.providers.line import Redial
from samvad.live.providers.line_session import STALL_S, LineSession
from samvad.live.providers.registry import ProviderOptions, missing_package

VERTEX_MODEL: Final = "gemini-live-2.5-flash-native-audio"
GEMINI_MODEL: Final = "gemini-3.8-live"
LOCATION: Final = "us-central1"
API_VERSIONS: Final[Mapping[str, str]] = {"vertex": "v1beta1", "gemini": "v1beta"}


class VertexAILiveService:
    """Gemini Live: speech and text in, speech with its transcript out.

    In mode `vertex` it needs a project, and credentials as Google's clients find them; in mode `gemini` an API key.
    The client is made at the first conversation, and shared by all. `http_options` are those of Google's client:
    `base_url`, `headers`, `async_client_args`.
    """

    capabilities = Capabilities(
        audio_in=True, audio_out=True, server_activity=True, tools=True, announces=True, resumes=True
    )

    def __init__(
        self,
        *,
        mode: Literal["vertex", "gemini"] = "vertex",
        model: str | None = None,
        project: str | None = None,
        location: str = LOCATION,
        api_key: str | None = None,
        credentials: Any = None,
        http_options: Mapping[str, Any] | None = None,
        setup_s: float = SETUP_S_MAX,
        stall_s: float = STALL_S,
        redial: Callable[..., Redial] = Redial,
    ) -> None:
        self.name = mode
        self.model = model or (VERTEX_MODEL if mode == "vertex" else GEMINI_MODEL)
        self._vertex = mode == "vertex"
        self._who: dict[str, Any] = (
            {"vertexai": True, "project": project, "location": location, "credentials": credentials}
            if self._vertex
            else {"vertexai": False, "api_key": api_key}
        )
        self._http_options = {"api_version": API_VERSIONS[mode], **(http_options or {})}
        self._setup_s = setup_s
        self._stall_s = stall_s
        self._redial = redial
        self._dialer: GeminiDialer | None = None
        self._making = asyncio.Lock()

    async def open(self, context: Context) -> LineSession:
        """Begin a conversation, or go on with one; ProviderUnavailable where that cannot be."""
        dialer = await self._shared_dialer()
        return await LineSession(dialer, context, self._redial, self._stall_s).start()

    async def close(self) -> None:
        """Let the client go."""
        dialer, self._dialer = self._dialer, None
        if dialer is not None:
            await dialer.close()

    async def _shared_dialer(self) -> GeminiDialer:
        async with self._making:
            if self._dialer is None:
                client = await asyncio.to_thread(self._make_client)  # to import it takes a second
                self._dialer = GeminiDialer(client, self.model, vertex=self._vertex, setup_s=self._setup_s)
            return self._dialer

    def _make_client(self) -> Any:
        try:
            from google import genai
        except ModuleNotFoundError as error:
            raise missing_package(self.name, "gemini") from error
        socket = {"max_size": None, "ping_interval": None, "close_timeout": 1.0}
        given = self._http_options.get("async_client_args") or {}
        options: Any = {**self._http_options, "async_client_args": {**socket, **given}}
        try:
            return genai.Client(**self._who, http_options=options)
        except (ValueError, OSError) as error:
            raise ProviderUnavailable(f"Google's client cannot be made: {error}") from error


def make_vertex(options: ProviderOptions) -> VertexAILiveService:
    """From the settings: PROJECT_ID and LOCATION, or what Google's own tools call them."""
    project = options.project_id or options.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        raise SetupError(
            "The live provider 'vertex' needs a project: set PROJECT_ID or GOOGLE_CLOUD_PROJECT."
        )
    _needs_client("vertex")
    location = options.location or options.environ.get("GOOGLE_CLOUD_LOCATION") or LOCATION
    return VertexAILiveService(mode="vertex", model=options.model, project=project, location=location)


def make_gemini(options: ProviderOptions) -> VertexAILiveService:
    """From the settings: the key in GEMINI_API_KEY or GOOGLE_API_KEY."""
    key = options.environ.get("GEMINI_API_KEY") or options.environ.get("GOOGLE_API_KEY")
    if not key:
        raise SetupError("The live provider 'gemini' needs a key: set GEMINI_API_KEY.")
    _needs_client("gemini")
    return VertexAILiveService(mode="gemini", model=options.model, api_key=key)


def _needs_client(name: str) -> None:
    """An operator learns at the start that the package is missing; it is not imported for that."""
    from importlib.util import find_spec

    try:
        found = find_spec("google.genai")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise missing_package(name, "gemini")
