"""What long work tells while it runs: (stage, done, of); with `of` 0 the stage is a remark. To raise from it stops the work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
