"""Run every benchmark, each in a fresh process, and write one table of them all: results/README.md.

`scale` needs a GPU and runs where there is one. With `--only NAME …` the others are taken from their last results, each with its
own date and machine. A benchmark that fails is named in the table; the others still run. The exit code is 1 if one failed to run,
not if a figure fell short.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from common import HERE, command_line, figures, machine_sentence, settings

ORDER = (
    "program",
    "capture",
    "response",
    "hold",
    "serve",
    "page",
    "watch",
    "erase",
    "curvature",
    "dimension",
    "ngram",
    "leakage",
    "agop",
    "recorder",
    "rfm",
    "many",
    "find",
    "level",
    "others",
    "interop",
    "effect",
    "scale",
)  # timings first
HERE_TOO = tuple(name for name in ORDER if name not in ("effect", "scale") or torch.cuda.is_available())  # which needs a GPU


def execute(name: str, out: Path, options: list[str]) -> bool:
    """Run one benchmark; whether it ended well."""
    print(f"== {name}", file=sys.stderr, flush=True)
    (out / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{name}.py"), *options, "--out", str(out)]
    return subprocess.run(command, check=False).returncode == 0


def last(name: str, out: Path) -> dict[str, Any] | None:
    file = out / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def page(reports: dict[str, dict[str, Any] | None]) -> str:
    parts = [
        "# Measured",
        "Written by `python benchmarks/run.py`. Each benchmark's own page says how it was measured; ratios are medians over "
        "alternating pairs, and what falls short says by how much.",
    ]
    for name, report in reports.items():
        if report is None:
            parts.append(f"## {name}\n\nNo figures: it failed to run, or was not run yet.")
            continue
        trial = "" if report["full"] else " **A trial at a tiny size: these figures mean nothing.**"
        parts += [f"## [{name}]({name}.md)", report["about"] + trial, figures(report["lines"])]
        parts.append(f"{report['date']}, {report['seconds']:.0f} s. {machine_sentence(report['machine'])}")
    return "\n\n".join(parts) + "\n"


def run() -> int:
    parser = command_line(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=HERE_TOO, default=HERE_TOO, metavar="NAME", help=f"of {', '.join(HERE_TOO)}")
    given = parser.parse_args()
    size, out = settings(given)
    options = ["--data", str(size.data), *([] if size.full else ["--quick"])]
    done = [execute(name, out, options) for name in given.only]
    text = page({name: last(name, out) for name in ORDER})
    (out / "README.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(run())
