"""The order of the house: imports only go down, hooks live in one file, and what no file may do, none does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import strandscope as ss

SOURCE = Path(__file__).parents[1] / "src" / "strandscope"
FILES = [path.relative_to(SOURCE).as_posix() for path in sorted(SOURCE.rglob("*.py"))]

# --- imports ---
# The rooms of DESIGN.md, "The house", those that are still to be built included.

GROUND = {"errors", "io", "provenance", "progress", "reading", "linalg", "engine"}
LEFT = ["subject", "capture"]  # touches networks; each may use those before it
RIGHT = ["statistics", "strand", "laws", "standards"]  # mathematics on tensors and callables
MEET = [
    "control",
    "census",
    "monitor",
    "language",
    "recorder",
    "adversary",
    "sources",
]  # where the wings meet; they never import one another
ABOVE = ["report", "audit", "serve", "cli", "__main__"]
EVERYTHING = {*GROUND, *LEFT, *RIGHT, *MEET, *ABOVE}
BELOW = dict.fromkeys(GROUND, GROUND)
for wing in (LEFT, RIGHT):
    BELOW |= {room: {*GROUND, *wing[: number + 1]} for number, room in enumerate(wing)}
BELOW |= {room: {*GROUND, *LEFT, *RIGHT, room} for room in MEET}
BELOW |= {room: {*GROUND, *LEFT, *RIGHT, *MEET, *ABOVE[: number + 1]} for number, room in enumerate(ABOVE)}
BELOW["__init__"] = EVERYTHING  # the front door


def imported(tree: ast.AST, file: str) -> Iterator[tuple[int, str]]:
    """(line, room) of each import of this package, inside functions and for types alone included."""
    package = ["strandscope", *file.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            paths = [base] if len(base) > 1 else [[*base, *_behind(alias.name)] for alias in node.names]
        else:
            continue
        for path in paths:
            if path[0] == "strandscope" and path[1:] != ["__version__"]:
                yield node.lineno, path[1] if len(path) > 1 else "__init__"


def _behind(name: str) -> list[str]:
    """Where a name that is taken through the front door really stands."""
    return [name] if name in EVERYTHING else ss._WHERE.get(name, f".{name}").split(".")[1:]


def climbs(tree: ast.AST, file: str) -> list[str]:
    """What is wrong with a file's imports, one sentence each."""
    room = file.split("/")[0].removesuffix(".py")
    if room not in BELOW:
        return [f"{file}: {room!r} has no place in the house; give it one in tests/test_layers.py, and DESIGN.md says which"]
    wrong = [(line, other) for line, other in imported(tree, file) if other not in BELOW[room]]
    return [f"{file}:{line}: {room} imports {other}, which is not below it" for line, other in wrong]


def refused(source: str, file: str) -> list[str]:
    return climbs(ast.parse(source), file)


def parsed(file: str) -> ast.Module:
    return ast.parse((SOURCE / file).read_text(encoding="utf-8"))


def test_imports_only_go_down() -> None:
    assert [sentence for file in FILES for sentence in climbs(parsed(file), file)] == []


@pytest.mark.parametrize(
    ("file", "source", "wanted"),
    [
        ("strand/find.py", "from ..capture.examples import Examples", "strand imports capture"),
        ("strand/find.py", "if TYPE_CHECKING:\n    from ..subject import Subject", "find.py:2: strand imports subject"),
        ("subject/load.py", "def late():\n    from ..capture import record", "load.py:2: subject imports capture"),
        ("capture/record.py", "from ..statistics.detect import area", "capture imports statistics"),
        ("statistics/detect.py", "from ..strand import find", "statistics imports strand"),
        ("laws/law.py", "from ..standards import planted", "laws imports standards"),
        ("control/dose.py", "from .. import monitor", "control imports monitor"),
        ("control/dose.py", "import strandscope.report.text", "control imports report"),
        ("strand/find.py", "from .. import capture", "strand imports capture"),
        ("strand/find.py", "from .. import load", "strand imports subject"),
        ("strand/find.py", "from strandscope import Subject", "strand imports subject"),
        ("strand/find.py", "import strandscope as ss", "strand imports __init__"),
        ("report/text.py", "from ..audit import audit", "report imports audit"),
        ("audit.py", "from .cli import main", "audit imports cli"),
        ("io.py", "from .subject.site import Site", "io imports subject"),
        ("strand/deep/inner.py", "from ...capture import record", "strand imports capture"),
        ("helpers.py", "", "'helpers' has no place in the house; give it one in tests/test_layers.py"),
        ("strand/find.py", "from ..helpers import guess", "strand imports helpers"),
    ],
)
def test_an_import_that_climbs_is_named(file: str, source: str, wanted: str) -> None:
    (sentence,) = refused(source, file)
    assert wanted in sentence


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("strand/deep/inner.py", "from ..strand import Strand\nfrom ...statistics import detect"),
        ("control/dose.py", "from ..strand.strand import Strand\nfrom ..capture import record\nfrom .edit import Add"),
        ("cli/main.py", "from .. import __version__, audit\nfrom ..serve import app\nimport torch, strandscope_other"),
        ("standards/planted.py", "from ..laws.law import Law\nfrom .. import io"),
    ],
)
def test_an_import_that_goes_down_is_let_through(file: str, source: str) -> None:
    assert refused(source, file) == []


def test_nothing_is_imported_by_a_name_that_this_test_cannot_read() -> None:
    """Only the front door looks modules up by name."""
    assert [file for file in FILES if "import_module" in (text := (SOURCE / file).read_text()) or "__import__" in text] == [
        "__init__.py"
    ]


# --- what no file does, and the one file that may ---

HOOK = re.compile(r"register_\w*hook")
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MAY = {
    ("subject/attach.py", "registers a hook"),
    ("cli/main.py", "catches every exception"),  # the last line of defence: a traceback, a sentence and exit code 5
    ("engine/threads.py", "catches every exception"),  # hands it over to the thread that waits, whatever it is
}


def deeds(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that the house forbids."""
    for node in ast.walk(tree):
        for what, done in _DEEDS.items():
            if done(node):
                yield getattr(node, "lineno", 0), what


def _registers(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
    return isinstance(name, str) and bool(HOOK.fullmatch(name))


def _prints(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "print"


def _unpickles(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return bool(UNPICKLES & {alias.name.split(".")[0] for alias in node.names})
    if isinstance(node, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        return (node.module or "").split(".")[0] in UNPICKLES or (node.module == "torch" and "load" in names)
    allowed = isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    return allowed or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.jit.load"))


def _catches_all(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = [] if node.type is None else [part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)]
    return node.type is None or bool({"Exception", "BaseException"} & set(caught))


def _trusts(node: ast.AST) -> bool:
    """`trust_remote_code` is on where nobody asked: as a default, or as a constant that is passed on."""
    if isinstance(node, ast.keyword):
        return node.arg == "trust_remote_code" and ast.unparse(node.value) == "True"
    if not isinstance(node, ast.arguments):
        return False
    named = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
    defaults = [*zip(named, node.defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
    return any(a.arg == "trust_remote_code" and d is not None and ast.unparse(d) != "False" for a, d in defaults)


_DEEDS = {
    "registers a hook": _registers,
    "prints": _prints,
    "unpickles": _unpickles,
    "catches every exception": _catches_all,
    "trusts remote code unasked": _trusts,
}


def test_no_file_does_what_the_house_forbids() -> None:
    found = [(file, line, what) for file in FILES for line, what in deeds(parsed(file))]
    assert [deed for deed in found if (deed[0], deed[2]) not in MAY] == []
    assert {(file, what) for file, _, what in found} == MAY  # an exception that nobody needs any more is taken back
    assert [what for _, _, what in found].count("catches every exception") == 2  # one in each


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("block.register_forward_hook(look)", "registers a hook"),
        ("state.register_hook(look)", "registers a hook"),
        ("getattr(block, 'register_full_backward_hook')(look)", "registers a hook"),
        ("torch.nn.modules.module.register_module_forward_pre_hook(look)", "registers a hook"),
        ("print('done')", "prints"),
        ("torch.load(path, weights_only=True)", "unpickles"),
        ("from torch import load", "unpickles"),
        ("import pickle", "unpickles"),
        ("from joblib import load", "unpickles"),
        ("np.load(path, allow_pickle=True)", "unpickles"),
        ("try:\n    x\nexcept Exception:\n    pass", "catches every exception"),
        ("try:\n    x\nexcept (OSError, BaseException) as e:\n    raise", "catches every exception"),
        ("try:\n    x\nexcept:\n    pass", "catches every exception"),
        ("def load(name, trust_remote_code=True): ...", "trusts remote code unasked"),
        ("def load(name, *, trust_remote_code: bool = True): ...", "trusts remote code unasked"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trusts remote code unasked"),
    ],
)
def test_each_of_these_is_seen(source: str, wanted: str) -> None:
    assert [what for _, what in deeds(ast.parse(source))] == [wanted]


@pytest.mark.parametrize(
    "source",
    [
        "console.print(1)",
        "np.load(path, allow_pickle=False)",
        "def load(a, trust_remote_code=False, *, b=True): ...",
        "try:\n    x\nexcept (KeyError, OSError):\n    pass",
        "'''Never torch.load, never a pickle, no register_forward_hook elsewhere.'''",
        "from safetensors.torch import load",
        "load(name, trust_remote_code=asked)",
    ],
)
def test_what_only_looks_like_it_is_let_through(source: str) -> None:
    assert list(deeds(ast.parse(source))) == []


# --- what costs nothing until something is measured ---


@pytest.mark.parametrize("code", ["import strandscope; dir(strandscope)", "run_module('strandscope', run_name='__main__')"])
def test_the_front_door_and_help_load_no_heavy_package(code: str) -> None:
    program = f"""
import sys
from runpy import run_module
sys.argv = ["strandscope", "--help"]
try:
    {code}
except SystemExit as left:
    assert left.code == 0
assert "strandscope" in sys.modules
assert not (heavy := {{"torch", "transformers", "numpy"}} & set(sys.modules)), heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("Usage:" in done.stdout) == ("run_module" in code)
