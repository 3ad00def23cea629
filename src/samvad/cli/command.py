"""The commands of the command line: typer's, without what typer would import to turn text into text."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


def _keep_plain(parameter: Any) -> None:
    """Have a parameter's value handed over as it is, where it is a text, a switch or nothing.

    typer converts every value through pydantic, also where there is nothing to convert; importing it takes
    0.16 s and 12 MiB, which would be a quarter of the server's start-up time. Whatever else a value may be
    still goes typer's way.
    """
    if "process_value" in vars(parameter):
        return
    convert = parameter.process_value

    def process_value(ctx: Any, value: Any) -> Any:
        if isinstance(value, str | bool) or (value is None and not parameter.required):
            return value if parameter.callback is None else parameter.callback(ctx, parameter, value)
        return convert(ctx, value)

    parameter.process_value = process_value


class PlainCommand(TyperCommand):
    """A command whose values are texts and switches."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, the one for help included."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            _keep_plain(parameter)
        return parameters


class PlainGroup(TyperGroup):
    """A group of commands, with nothing but switches of its own."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, the one for help included."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            _keep_plain(parameter)
        return parameters


def verbs(text: str | None = None) -> typer.Typer:
    """Where the commands of one module are registered."""
    return typer.Typer(
        cls=PlainGroup,
        help=text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
    )
