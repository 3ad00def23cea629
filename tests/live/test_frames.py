"""The page of the protocol and the code agree: frames, their fields, and the ways to end."""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest

from samvad.live import frames
from samvad.live.connection import CLOSE_CODES
from tests.docs.pages import page

PAGE = page("docs/reference/live.md")


def documented(kind: str) -> dict[str, str]:
    """The rows of a table: frame type to its fields."""
    tables = PAGE.text().split("## ")
    section = next(each for each in tables if each.startswith(kind))
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\|", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("title", "union"),
    [("What the client sends", frames.ClientFrame), ("What the server sends", frames.ServerFrame)],
)
def test_every_frame_is_on_the_page(title: str, union: Any) -> None:
    """With each of its fields; optional ones have a question mark."""
    code = {}
    for each in get_args(union):
        fields = [
            field.encode_name + ("" if field.required else "?") for field in msgspec.structs.fields(each)
        ]
        code[each.__struct_config__.tag] = sorted(fields)
    told = {name: sorted(re.findall(r"`(\w+)`(\??)", fields)) for name, fields in documented(title).items()}
    assert {name: sorted(a + b for a, b in fields) for name, fields in told.items()} == code


def test_every_way_to_end_is_on_the_page() -> None:
    """With its close code."""
    rows = {name: int(code) for name, code in documented("How a connection ends").items()}
    assert rows == CLOSE_CODES
