"""What a server holds beside its network: strands, erasers and monitors by name, and expressions made ready once and kept.

A folder is read file by file: what is broken, of another network, or of a name and site that is there already is left out and
reported with the sentence that says why, and the rest is served.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..control.expression import Expression
from ..control.holding import Benches, Held, prepare
from ..control.library import check_fits
from ..errors import InputError, MissingError, StrandscopeError
from ..io import load_tensors
from ..monitor import file as monitor_file
from ..monitor.monitor import Monitor
from ..progress import Progress
from ..strand import erase, strand
from ..strand.erase import Eraser
from ..strand.strand import Strand
from .row import Alarm

if TYPE_CHECKING:
    from ..subject.subject import Subject

KEPT = 128  # expressions
PROMPTS = 100  # that doses and costs are measured on


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that is not served, and why."""

    file: str
    sentence: str


class Shelf:
    """Strands, erasers and monitors of one network.

    Args:
        subject: on which doses are measured; a tree of modules that nobody else runs meanwhile.
        folders: or files, with strands, erasers and monitors.
        force: serve those of another network too; every answer that uses one says so.

    Raises:
        MissingError: a folder or file that was named is not there.
    """

    def __init__(
        self,
        subject: Subject,
        folders: Sequence[Path] = (),
        monitors: Sequence[Path] = (),
        *,
        prompts: int = PROMPTS,
        force: bool = False,
    ) -> None:
        self.subject, self.force = subject, force
        self.folders, self._files = tuple(folders), tuple(monitors)
        self.prompts = prompts
        self._benches = Benches(subject, prompts=prompts, replies=max(8, prompts // 4))
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._loads = 0
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self.load()

    def load(self) -> None:
        """Read the folders again; expressions that were ready are forgotten."""
        with self._loading:  # of two, the later reads what the earlier's caller wrote
            self._load()

    def _load(self) -> None:
        files: dict[str, Strand | Eraser] = {}
        monitors: dict[str, Monitor] = {}
        broken: list[Broken] = []
        for path in (*self.folders, *self._files):
            if not path.exists():
                raise MissingError(
                    f"{path}: is not there; name a folder of strands, such as audit/strands, or a .safetensors file"
                )
            for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
                try:
                    self._take(file, files, monitors)
                except StrandscopeError as error:
                    broken.append(Broken(file.name, str(error)))
        with self._lock:
            self.files, self.monitors, self.broken = files, monitors, tuple(broken)
            self._held.clear()
            self._loads += 1

    def _take(self, file: Path, files: dict[str, Strand | Eraser], monitors: dict[str, Monitor]) -> None:
        _, manifest = load_tensors(file)
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if schema == monitor_file.SCHEMA:
            monitor = Monitor.load(file)
            monitor.check(self.subject.fingerprint, force=self.force)
            if file.stem in monitors:
                raise InputError(f"{file.name}: there is a monitor {file.stem!r} already; give it another name")
            monitors[file.stem] = monitor
            return
        kind = {strand.SCHEMA: Strand, erase.SCHEMA: Eraser}.get(str(schema))
        if kind is None:
            raise InputError(f"{file.name}: holds {str(schema)[:80]!r}, wanted a strand, an eraser or a monitor")
        one = kind.load(file)
        if file.name in files:
            raise InputError(f"{file.name}: another folder has a file of that name, which is served; rename one")
        one.check(self.subject.fingerprint, force=self.force)
        check_fits(one, self.subject)
        for name, other in files.items():
            if type(other) is type(one) and (other.name, other.site) == (one.name, one.site):
                raise InputError(f"{file.name}: {name} holds {one.name!r} at {one.site} already; give it another name")
        files[file.name] = one

    @property
    def strands(self) -> list[Strand]:
        return [one for one in self.files.values() if isinstance(one, Strand)]

    def alarms_in(self, expression: Expression) -> set[str]:
        """Monitors that its gates wait for."""
        conditions = [term.where.condition for term in expression.terms]
        return {asked.name for asked in conditions if asked is not None and asked.side is None}

    def ready(self, text: str) -> Held | None:
        """What `prepare` made of this expression before, if it did."""
        with self._lock:
            held = self._held.get(text)
            if held is not None:
                self._held.move_to_end(text)
            return held

    def taken(self, name: str, path: Path) -> str | None:
        """What a new strand of this name in this file would overwrite, or change the meaning of; None if nothing."""
        if path.exists() or path.name in self.files:
            return f"there is a file {path.name} already"
        same = next((file for file, one in self.files.items() if one.name == name), None)
        if same is not None:
            return f"{same} holds {name!r} already"
        return f"there is a monitor {name!r} already" if name in self.monitors else None

    def check(self, expression: Expression) -> None:
        """Raise InputError at once for a name that is not there, before anything takes long."""
        names = {one.name for one in self.files.values()}
        for name in expression.names:
            if name not in names | set(self.monitors):
                there = ", ".join(sorted(names)) or "none"
                raise InputError(f"edits: there is no strand of the name {name!r}; there are {there}")

    def prepare(self, expression: Expression, progress: Progress | None = None) -> Held:
        """The expression with its doses found and its cost measured: seconds the first time, at once afterwards.

        Raises:
            InputError, TrustError: as `control.holding.prepare`.
        """
        text = str(expression)
        held = self.ready(text)
        if held is None:
            with self._lock:
                loads, library, gates = self._loads, list(self.files.values()), {name: Alarm(name) for name in self.monitors}
            given = {"gates": gates, "benches": self._benches, "force": self.force, "progress": progress}
            held = prepare(self.subject, expression, library, **given)
            with self._lock:
                if self._loads == loads:  # else the files that it was made of are not those that there are
                    self._held[text] = held
                while len(self._held) > KEPT:
                    self._held.popitem(last=False)
        return held
