"""The command line of the command that runs, as it could be typed again."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import click
from click.core import ParameterSource

__all__ = ["command_line"]


def command_line(name: str, shown: Callable[[str], str] = str) -> str:
    """The options that were given to the command that runs, quoted for a shell.

    Args:
        name: Name of the command.
        shown: How to write each value.
    """
    context = click.get_current_context()
    words = [name]
    for parameter in context.command.params:
        key = str(parameter.name)
        if context.get_parameter_source(key) is not ParameterSource.COMMANDLINE:
            continue
        value, is_flag = context.params[key], getattr(parameter, "is_flag", False)
        options = [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
        if is_flag:
            words += options
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [*options, shown(str(each))]
    return shlex.join(words)
