"""Functions that the model may call: plain Python functions with annotated arguments.

The JSON Schema of the arguments is made from the annotations, and what the model sends is checked against them. A
call has a time limit and can be cancelled; a function that is not `async` runs in a thread.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from samvad import limits
from samvad.errors import SamvadError, SetupError
from samvad.live.providers.base import ToolSpec

_log = logging.getLogger(__name__)
RESULT_BYTES_MAX: Final = limits.LIVE_TOOL_RESULT_BYTES_MAX


class ToolContext(NamedTuple):
    """For whom a tool is called; a parameter annotated with it is filled in, and not shown to the model."""

    tenant: str
    user_id: str
    session_id: str
    language: str | None


class ToolFailed(Exception):
    """A tool gave no result; the message is for the model."""


class _Tool(NamedTuple):
    spec: ToolSpec
    function: Callable[..., Any]
    arguments: type[msgspec.Struct]
    context_name: str | None
    timeout_s: float


class ToolRegistry:
    """The tools of a server, by name."""

    def __init__(self) -> None:
        self._tools: dict[str, _Tool] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """All tools, as providers offer them to models."""
        return tuple([tool.spec for tool in self._tools.values()])

    def register(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float = limits.LIVE_TOOL_S_MAX,
    ) -> None:
        """Offer a function; its docstring is the description. SetupError where its arguments are not annotated."""
        name = name or function.__name__
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        context_name = None
        hints = typing.get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise SetupError(f"The tool {name!r} takes {parameter}; its arguments must have names.")
            if parameter.name not in hints:
                raise SetupError(f"The argument {parameter.name!r} of the tool {name!r} needs an annotation.")
            if hints[parameter.name] is ToolContext:
                context_name = parameter.name
            elif parameter.default is parameter.empty:
                fields.append((parameter.name, hints[parameter.name]))
            else:
                fields.append((parameter.name, hints[parameter.name], parameter.default))
        arguments = msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
        spec = ToolSpec(
            name=name,
            description=description or inspect.getdoc(function) or name,
            parameters=_schema(arguments),
        )
        self._tools[name] = _Tool(spec, function, arguments, context_name, timeout_s)

    async def call(self, name: str, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """The result of a call, as plain JSON values. Raises ToolFailed with a reason that the model can read."""
        tool = self._tools.get(name)
        if tool is None:
            raise ToolFailed(f"There is no tool {name!r}; there are: {', '.join(self._tools) or 'none'}.")
        try:
            given = msgspec.structs.asdict(msgspec.convert(dict(arguments), tool.arguments, strict=False))
        except msgspec.ValidationError as error:
            raise ToolFailed(f"The arguments do not fit: {error}.") from None
        if tool.context_name is not None:
            given[tool.context_name] = context
        try:
            async with asyncio.timeout(tool.timeout_s):
                if inspect.iscoroutinefunction(tool.function):
                    result = await tool.function(**given)
                else:
                    result = await asyncio.to_thread(tool.function, **given)
        except TimeoutError:
            raise ToolFailed(f"The tool took longer than {tool.timeout_s:g} seconds.") from None
        except ToolFailed:
            raise
        except SamvadError as error:
            raise ToolFailed(error.message) from None
        except Exception as error:  # somebody else's code: whatever it raises, the conversation goes on
            _log.error("a tool failed", extra={"tool": name, "fault": type(error).__name__})
            raise ToolFailed("The tool failed.") from None
        return _plain(name, result)


def _schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    (top,), definitions = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    schema = dict(definitions.pop(top["$ref"].rpartition("/")[2])) if "$ref" in top else dict(top)
    schema.pop("title", None)
    if definitions:
        schema["$defs"] = definitions
    return schema


def _plain(name: str, result: Any) -> Any:
    try:
        encoded = msgspec.json.encode(result)
    except (TypeError, ValueError, msgspec.EncodeError):
        raise ToolFailed("The tool gave a result that is not JSON.") from None
    if len(encoded) > RESULT_BYTES_MAX:
        _log.warning("a tool's result is too large", extra={"tool": name, "bytes": len(encoded)})
        raise ToolFailed(f"The result is larger than {RESULT_BYTES_MAX} bytes.")
    return msgspec.json.decode(encoded)
