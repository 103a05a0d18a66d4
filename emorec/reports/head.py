"""The head of the report: when, how and with what a run was made."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Head", "head_html"]


@dataclass(frozen=True)
class Head:
    """How a run was made.

    Attributes:
        facts: Short facts by name, such as the date and versions.
        command: The command line; empty if it was not a command.
        preset: The preset that settings differ from.
        settings: Settings that differ from it, with their values.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    preset: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def head_html(head: Head) -> str:
    """The head as HTML, everything escaped."""
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in head.facts.items()
    )
    command = f"<pre>{html.escape(head.command)}</pre>" if head.command else ""
    found = f"<h3>Settings that differ from the preset {html.escape(head.preset)}</h3>"
    if head.settings:
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in head.settings.items()
        )
        found += f'<div class="scroll"><table class="settings"><tbody>{rows}</tbody></table></div>'
    else:
        found += '<p class="note">None.</p>'
    return (f'<dl class="run">{facts}</dl>' if facts else "") + command + found
