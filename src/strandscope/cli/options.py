"""What several commands share: how a model is named and opened, and how a result is written to stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
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


def opening_in(dtype: str) -> Callable[[F], F]:
    """The options with which a model is opened, in this dtype where none is named."""

    def add(command: F) -> F:
        for option in (
            click.option("--offline", is_flag=True, help="Use what is on this machine; ask the hub for nothing."),
            click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub model."),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0."),
            click.option("--dtype", default=dtype, show_default=True, help="auto (as stored), float32, bfloat16 or float16."),
        ):
            command = option(command)
        return command

    return add


opening = opening_in("auto")


def opening_words(opened: Mapping[str, Any], dtype: str = "auto") -> list[str]:
    """The words that say on a command line how a model was opened, where not as by default."""
    words = ["--offline"] * bool(opened["offline"])
    for name, usual in (("dtype", dtype), ("device", "auto"), ("revision", None)):
        words += [f"--{name}", opened[name]] if opened[name] != usual else []
    return words


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
