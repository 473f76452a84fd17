"""docs/cli.md, made of the commands' own help; a test holds the file to it.

Write it again with: python -c "from strandscope.cli.reference import reference; print(reference(), end='')" > docs/cli.md
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from .main import cli

_OPENING = "# Command line\n\nMade from `--help`; see `strandscope COMMAND --help`."


def reference() -> str:
    parts = [_OPENING, *_sections(cli, click.Context(cli, info_name="strandscope", **cli.context_settings))]
    return "\n\n".join(parts) + "\n"


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """A command's own, then those of the commands below it."""
    yield _section(context.command_path, command.get_help(context))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.commands[name]
            yield from _sections(below, click.Context(below, info_name=name, parent=context, **cli.context_settings))


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```"
