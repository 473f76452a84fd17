"""Puts the built page into what is distributed: built here with Node where it is not there yet, or left out with a sentence."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = Path("src/strandscope/report/page/static")


class PageHook(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version != "editable" and not (root / BUILT / "report.js").is_file():  # for editable ones, `make` builds it
            self._build(root / "web")
        if (root / BUILT / "report.js").is_file():
            build_data["artifacts"].append(f"{BUILT.as_posix()}/*")

    def _build(self, web: Path) -> None:
        npm = shutil.which("npm")
        if npm is None or not (web / "package-lock.json").is_file():
            self.app.display_warning(
                "Node was not found, so the page's scripts are not built: report.html will have its tables and no figures. "
                "Install Node 20 or later and build again to have them."
            )
            return
        for words in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
            if subprocess.run([npm, *words], cwd=web, check=False).returncode:
                self.app.display_warning(
                    f"`npm {' '.join(words)}` failed, so the page's scripts are not built: report.html will have its tables and "
                    "no figures. Mend what it says above and build again to have them."
                )
                return
