"""Strandscope: a measuring instrument for trained networks.

The front door. Names are looked up when first used, so that `import strandscope` costs nothing until something is measured.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "load": ".subject.load",
    "Subject": ".subject.subject",
    "Site": ".subject.site",
    "selfcheck": ".subject.selfcheck",
    "Examples": ".capture.examples",
    "concept": ".capture.examples",
    "capture": ".capture.record",
    "Activations": ".capture.record",
    "find": ".strand.find",
    "Found": ".strand.find",
    "Strand": ".strand.strand",
    "census": ".census.census",
    "steer": ".control.steer",
    "hold": ".control.holding",
    "Held": ".control.holding",
    "Monitor": ".monitor.monitor",
    "Recorder": ".recorder.recorder",
    "Dose": ".control.dose",
    "Reading": ".reading",
    "audit": ".audit",
    "Finding": ".report.finding",
    "Report": ".report.finding",
    "law": ".laws.catalogue.registry",
}

__all__ = [
    "Activations",
    "Dose",
    "Examples",
    "Finding",
    "Found",
    "Held",
    "Monitor",
    "Reading",
    "Recorder",
    "Report",
    "Site",
    "Strand",
    "Subject",
    "__version__",
    "audit",
    "capture",
    "census",
    "concept",
    "find",
    "hold",
    "law",
    "load",
    "selfcheck",
    "steer",
]

if TYPE_CHECKING:
    from .audit import audit as audit
    from .capture.examples import Examples as Examples
    from .capture.examples import concept as concept
    from .capture.record import Activations as Activations
    from .capture.record import capture as capture
    from .census.census import census as census
    from .control.dose import Dose as Dose
    from .control.holding import Held as Held
    from .control.holding import hold as hold
    from .control.steer import steer as steer
    from .laws.catalogue.registry import law as law
    from .monitor.monitor import Monitor as Monitor
    from .reading import Reading as Reading
    from .recorder.recorder import Recorder as Recorder
    from .report.finding import Finding as Finding
    from .report.finding import Report as Report
    from .strand.find import Found as Found
    from .strand.find import find as find
    from .strand.strand import Strand as Strand
    from .subject.load import load as load
    from .subject.selfcheck import selfcheck as selfcheck
    from .subject.site import Site as Site
    from .subject.subject import Subject as Subject


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'strandscope' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
