"""What the OpenAPI document says of a route, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from samvad import errors


class Description(NamedTuple):
    """What the document says of a route beyond its path and its docstring."""

    tag: str
    answer: Any  # a wire type, a union of them, or a media type
    body: Any = None  # a wire type, a union of them, or dict: any object
    errors: tuple[type[errors.SamvadError], ...] = ()
    parameters: tuple[str, ...] = ()
    answer_headers: tuple[str, ...] = ()
    other_answers: Mapping[str, Any] = {}  # status: a wire type, or None where there is no body
    text: str = ""
    links: tuple[tuple[str, str, str], ...] = ()  # operation, its parameter, the answer's field
