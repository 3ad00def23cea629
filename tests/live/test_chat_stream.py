"""Server-sent events out of bytes that come in any pieces, as chat endpoints send them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad import limits
from samvad.live.providers.chat_stream import EventData, decode_chunk


def events_of(*pieces: bytes) -> list[bytes]:
    """What comes out of these pieces."""
    data = EventData()
    return [event for piece in pieces for event in data.feed(piece)]


@given(
    st.lists(st.sampled_from(["a", '{"b": 1}', "", " two  words ", "पानी", "[DONE]"]), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_any_pieces_give_the_same_events(texts: list[str], end: str, cuts: list[int]) -> None:
    """Wherever the network cuts, and however lines end."""
    stream = "".join(f": comment{end}event: x{end}data: {text}{end}{end}" for text in texts) + f"id: 1{end}"
    data = stream.encode()
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    assert events_of(*pieces) == [text.strip().encode() for text in texts]


def test_an_event_of_several_lines_is_joined() -> None:
    """As the standard has it; an event without data is none, and one that is cut off by the end does not count."""
    assert events_of(b'data: {"a":\ndata: 1}\n\nevent: ping\n\ndata:x\n\ndata: cut') == [b'{"a":\n1}', b"x"]


def test_an_event_has_a_bound() -> None:
    """An endpoint that never ends a line does not fill the memory."""
    with pytest.raises(ValueError, match="too long"):
        events_of(*[b"x" * 1_000_000] * (limits.LIVE_PROVIDER_EVENT_BYTES_MAX // 1_000_000 + 1))


def test_what_an_endpoint_adds_is_left_aside() -> None:
    """Fields that nobody knows, and nulls in any place, are no error."""
    chunk = decode_chunk(
        b'{"id":null,"choices":[{"delta":{"content":null,"role":"assistant","tool_calls":null,"reasoning":"x"},'
        b'"logprobs":{"a":1}}],"usage":null,"x_groq":{"id":"1"}}'
    )
    assert chunk.choices is not None and chunk.choices[0].delta is not None
    assert (chunk.choices[0].delta.content, chunk.usage, chunk.error) == (None, None, None)
