"""`strandscope law context`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options
from .progress import note, progress


@click.command(short_help="How many tokens of context a model uses, beside n-grams.")
@options.model
@click.option(
    "--texts", multiple=True, metavar="FILE", help="Documents of your own: a file each, or a row each of a .jsonl or .csv file."
)
@click.option("--documents", type=click.IntRange(min=2), default=28, show_default=True, metavar="N", help="Of each source.")
@click.option("--longest", type=click.IntRange(min=2), default=1024, show_default=True, metavar="K", help="Tokens of context.")
@click.option("--quick", is_flag=True, help="12 documents of each source and 256 tokens of context.")
@click.option("--out", default="context", show_default=True, metavar="DIR", help="Where context.json and context.md are written.")
@options.seed
@options.as_json
@options.opening_in("bfloat16")
def context(
    model: str,
    texts: tuple[str, ...],
    documents: int,
    longest: int,
    quick: bool,
    out: str,
    seed: int,
    as_json: bool,
    **opening: Any,
) -> None:
    """MODEL's loss given the last 1, 2, 4, … tokens, beside n-grams of orders 1 to 8 and of no bound: at which order does
    counting stop, and how many tokens of context does the model still use?

    Measured on the sources of Python's standard library, which it has probably read, on Strandscope's own sources and passages,
    which it has not, or on --texts. The n-grams are counted in a part of the library that is not scored. Writes context.json
    and context.md to --out. Takes about eight minutes on one core for smollm2, with --quick three.

    \b
    Examples:
      strandscope law context smollm2
      strandscope law context smollm2 --quick --json
      strandscope law context ./my-model --texts book.txt --texts notes.md --longest 512
    """
    from ..io import check_writable, write_json, write_text

    folder = Path(out)
    check_writable(folder / "context.json")
    from ..language.page import lines, markdown
    from ..language.texts import from_files

    if texts:
        from_files(texts)  # so that a bad file is told before the model is opened
    subject = options.open_subject(model, **opening)
    from ..language.law import study

    with progress() as report:
        done = study(subject, texts, documents=documents, longest=longest, quick=quick, seed=seed, progress=report)
    write_json(folder / "context.json", done.to_dict())
    write_text(folder / "context.md", markdown(done))
    if as_json:
        options.write_json(done.to_dict())
    else:
        click.echo("\n".join(lines(done)))
    note(f"\ncontext.json and context.md are in {out}")
