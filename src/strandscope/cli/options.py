"""What several commands share: how a model is named and opened, and how a result is written to stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from ..subject.subject import Subject

F = TypeVar("F", bound=Callable[..., Any])

model = click.argument("model", default="smollm2")
as_json = click.option("--json", "as_json", is_flag=True, help="Write the result to stdout as JSON.")
seed = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of folds, permutations and sampling."
)


def opening(command: F) -> F:
    """The options with which a model is opened."""
    for option in (
        click.option("--offline", is_flag=True, help="Use what is on this machine; ask the hub for nothing."),
        click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub model."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0."),
        click.option("--dtype", default="auto", show_default=True, help="auto (as stored), float32, bfloat16 or float16."),
    ):
        command = option(command)
    return command


def open_subject(
    name: str,
    *,
    dtype: str,
    device: str,
    revision: str | None,
    offline: bool,
    check: Literal["quick", "full", "none"] = "quick",
) -> Subject:
    """Open a model as the options say. The hub's client reads its environment when it is imported, so that is set before."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from .progress import note

    note(f"opening {name} …")
    from ..subject.load import load

    return load(name, dtype=dtype, device=device, revision=revision, offline=offline, check=check)


def write_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
