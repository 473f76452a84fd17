"""Every choice that a recursive feature machine makes, by name, and the seven ways in which they were published.

The literature ships seven RFMs under one name. They differ in what is centred, how the metric is scaled, to which power the
AGOP is taken and where the bandwidth is from, and their directions differ with them. Here each choice is a field, the published
variants are presets, and `specification_curve` shows how far an answer depends on the choice.

What a preset is not: the selection by validation or test data that some of the published code wraps around it. A grid is
chosen from by closed-form leave-one-out, and the last iterate is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Literal

from ..errors import InputError
from .kernels import Kernel

Normalise = Literal["none", "max", "spread"]
NORMALISE = ("none", "max", "spread")
BANDWIDTHS = (0.3, 1.0, 3.0, 10.0)  # of None: in units of the rows' root mean squared distance
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of None: in units of the mean of the kernel's diagonal


@dataclass(frozen=True, slots=True)
class RFMSpec:
    """One recursive feature machine, every choice explicit.

    Attributes:
        kernel: see `kernels`.
        bandwidth: L. A tuple is a grid and None a grid in units of the rows' own distances; both are chosen from by closed-form
            leave-one-out at M = I, the one metric that no label has entered, and held. Unused by inner-product kernels.
        ridge: λ on the kernel's diagonal (for Nyström, as for the dense solve, of a sum and not a mean); grids as above.
        centre_inputs: subtract the rows' mean. A radial kernel does not notice, unless `unit_rows`.
        unit_rows: divide every row by its norm (after centring).
        centre_labels: subtract the targets' mean and add it to predictions: an intercept without a penalty.
        centre_gradients: subtract each output's mean gradient. It annihilates a linear concept.
        power: s in M ← AGOP^s.
        normalise: of M after the power: "none"; "max", its greatest entry is 1; "spread", rows keep the mean squared distance
            (for inner-product kernels, norm) that they have at M = I, so that a bandwidth keeps its meaning.
        diagonal: keep the diagonal of M alone.
        iterations: updates of M; the machine is solved once more after the last.
        source: of a preset, where it is from.
    """

    kernel: Kernel = field(default_factory=Kernel)
    bandwidth: float | tuple[float, ...] | None = None
    ridge: float | tuple[float, ...] | None = None
    centre_inputs: bool = True
    unit_rows: bool = False
    centre_labels: bool = True
    centre_gradients: bool = False
    power: float = 1.0
    normalise: Normalise = "spread"
    diagonal: bool = False
    iterations: int = 3
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("bandwidth", "ridge"):
            given = getattr(self, name)
            values = () if given is None else given if isinstance(given, tuple) else (given,)
            if given == ():
                raise InputError(f"{name}: got an empty grid, wanted at least one value, or None for the default grid")
            if any(not value >= 0 or (value == 0 and name == "bandwidth") for value in values):
                raise InputError(f"{name}: got {given}, wanted numbers above 0" + (", or 0" if name == "ridge" else ""))
        if self.normalise not in NORMALISE:
            raise InputError(f"normalise: got {self.normalise!r}, wanted one of {', '.join(NORMALISE)}")
        if self.iterations < 0:
            raise InputError(f"iterations: got {self.iterations}, wanted 0 (a plain kernel machine) or more")
        if not 0 < self.power <= 4:
            raise InputError(f"power: got {self.power:g}, wanted a number above 0 and at most 4; published are 1 and 0.5")
        if self.kernel.p != 2 and not self.diagonal:
            raise InputError(f"kernel: {self.kernel} has a metric along the axes alone; set diagonal=True")

    @classmethod
    def preset(cls, name: str, **changes: object) -> RFMSpec:
        """A published variant by name, with changes by field."""
        if name not in PRESETS:
            raise InputError(f"preset: got {name!r}, wanted one of {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes) if changes else PRESETS[name]  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Every choice, whether or not it is the default."""
        told = [
            f"{item.name.replace('_', ' ')} {_said(item.name, getattr(self, item.name))}"
            for item in fields(self)
            if item.name not in ("kernel", "source")
        ]
        return f"RFM {self.kernel}: {', '.join(told)}"


def _said(name: str, value: object) -> str:
    if value is None:
        grid, unit = (BANDWIDTHS, "root mean squared distances") if name == "bandwidth" else (RIDGES, "mean diagonals")
        return f"one of {', '.join(f'{item:g}' for item in grid)} {unit}, by leave-one-out"
    if isinstance(value, tuple):
        return f"one of {', '.join(f'{item:g}' for item in value)}, by leave-one-out"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float | int) else str(value)


_PUBLISHED = RFMSpec(
    bandwidth=10.0, ridge=1e-3, centre_inputs=False, centre_labels=False, normalise="none", iterations=5
)  # what the seven mostly share

PRESETS: MappingProxyType[str, RFMSpec] = MappingProxyType(
    {
        "notebook": replace(_PUBLISHED, source="recursive_feature_machines, example notebooks: M is the plain mean"),
        "package": replace(
            _PUBLISHED, bandwidth=1.0, normalise="max", source="recursive_feature_machines, the package: L = 1, M / max"
        ),
        "tutorial": replace(
            _PUBLISHED, centre_gradients=True, source="agop_feature_learning, the Science tutorial: gradients centred"
        ),
        "grokking": replace(
            _PUBLISHED, kernel=Kernel("gaussian"), bandwidth=2.5, ridge=0.0, centre_gradients=True, power=0.5, iterations=50,
            source="rfm-grokking: Gaussian, no ridge, square root of the centred AGOP",
        ),
        "xrfm": replace(
            _PUBLISHED, normalise="max",
            source="xRFM, a leaf without its tree: its power ½ is of the rows, √M x, so 1 in d_M; centring of gradients off",
        ),
        "clas": replace(
            _PUBLISHED, bandwidth=(1.0, 10.0, 100.0), centre_inputs=True, centre_gradients=True, normalise="max", iterations=10,
            source="CLAS and attention-guided steering: inputs and gradients centred; unit rows are a choice there",
        ),
        "lin-rfm": replace(
            _PUBLISHED, kernel=Kernel("linear"), bandwidth=1.0, power=0.5, iterations=10,
            source="lin-RFM, power ½, with every entry observed: iteratively reweighted least squares",
        ),
    }
)  # fmt: skip
