"""Docstrings of this Python's standard library as texts for a census: prose that is always at hand and that none of us wrote.

python docs/make_docstrings.py docstrings.jsonl
strandscope census smollm2 --texts docstrings.jsonl --contexts 200 --sites resid:5,resid:15,resid:25 --probes 16

Of 60 to 250 words, at most two a file, grouped by file. A network has probably read them in training.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from pathlib import Path

LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
SHORTEST, LONGEST, MOST = 60, 250, 2


def docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # the library holds files that are wrong on purpose
        return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    texts = [text for text in map(ast.get_docstring, nodes) if text and SHORTEST <= len(text.split()) <= LONGEST]
    return sorted(texts)[:MOST]


def main(out: Path) -> None:
    root, seen, lines = Path(sysconfig.get_paths()["stdlib"]), set(), []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if LEFT_OUT.isdisjoint(name.parts):
            fresh = [text for text in dict.fromkeys(docstrings(path)) if text not in seen]
            seen.update(fresh)
            lines += [json.dumps({"text": text, "group": str(name)}) for text in fresh]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stderr.write(f"{len(lines)} docstrings in {out}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("wanted the file to write: python docs/make_docstrings.py docstrings.jsonl")
    main(Path(sys.argv[1]))
