"""The frames of the Live API: what comes is read in both casings, what goes is written in camelCase.

Google's client mixes them: `client_content`, `realtime_input`, `tool_response` and what lies in `setup` come in snake
case, `contextUpdate` and much below it in camel case.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def snake(name: str) -> str:
    """`turnComplete` as `turn_complete`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), name)


def field(mapping: Any, *path: str) -> Any:
    """What lies at a path of snake-case names, whichever casing each of them has; None where it does not."""
    for name in path:
        if not isinstance(mapping, Mapping):
            return None
        mapping = next((value for key, value in mapping.items() if snake(key) == name), None)
    return mapping


def has(mapping: Any, name: str) -> bool:
    """Whether there is a field of that name; its value may be empty."""
    return isinstance(mapping, Mapping) and any(snake(key) == name for key in mapping)


def texts(content: Any) -> list[str]:
    """The texts of a content's parts."""
    parts = field(content, "parts") or []
    return [text for part in parts if (text := field(part, "text"))]


def audio(blob: Any) -> bytes:
    """The bytes of a blob, whose base64 may be of either alphabet."""
    return base64.b64decode(str(field(blob, "data") or "").replace("-", "+").replace("_", "/"))


def server_content(**fields: Any) -> Json:
    """A frame with `serverContent`; the names are those of the wire."""
    return {"serverContent": fields}


def spoken(data: bytes) -> Json:
    """A content with a piece of the model's speech."""
    encoded = base64.b64encode(data).decode()
    return {"role": "model", "parts": [{"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": encoded}}]}


def written(text: str) -> Json:
    """A content with a piece of the model's written answer."""
    return {"role": "model", "parts": [{"text": text}]}
