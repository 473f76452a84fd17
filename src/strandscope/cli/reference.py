"""docs/cli.md, made of the commands' own help; a test holds the file to it.

Write it again with: python -c "from strandscope.cli.reference import reference; print(reference(), end='')" > docs/cli.md
"""

from __future__ import annotations

import click

from .main import cli

_OPENING = "# Command line\n\nMade from `--help`; see `strandscope COMMAND --help`."


def reference() -> str:
    top = click.Context(cli, info_name="strandscope", **cli.context_settings)
    parts = [_OPENING, _section("strandscope", cli.get_help(top))]
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None  # it was listed a line above
        inner = click.Context(command, info_name=name, parent=top, **cli.context_settings)
        parts.append(_section(f"strandscope {name}", command.get_help(inner)))
    return "\n\n".join(parts) + "\n"


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```"
