"""The neural feature ansatz: does WᵀW of a layer resemble a power of the average gradient outer product (AGOP) of its input?

One name, four statistics in the originators' own code. Here it is one function whose every choice is a field of `NFASpec`, and
the four are presets. With z = Wh the layer's pre-activation, J = ∂f/∂z (outputs by k) and K = ⟨JᵀJ⟩ over inputs, the AGOP with
respect to h through this layer is WᵀKW, and

    correlation = ⟨A, B⟩/(‖A‖‖B‖),   A = VᵀV,   B = (UᵀKU)^α,   entries centred or not

V is W or what training added to it, W − W₀; so is U in one preset. Where h reaches the output by other ways as well (a residual
stream), those are not in it.

The null is the same correlation of layers with independent Gaussian entries (k, d) and this K, drawn; where W₀ is taken from V
alone, of such a V that is independent of its W. For α = 1 its mean is closed, exact in ratios of means but for the centring:

    √(PR·(d + k + 1)/(k·(d + 1 + PR)))   →   √(PR/k)  for d ≫ k,      PR = (tr K)²/tr K²

and √(k·PR/((d + k + 1)(d + 1 + PR))) of V independent of W. For other α no such form holds beyond d ≫ k (K^α in it says .77
where layers have .40, k = 256, d = 32). Either can be large: "0.9" means nothing without it. Permuted labels are another null,
which the caller makes by training again.

The law that it stands for holds where a proof says so: α = 1/L at the first layer of L balanced linear ones (Tansley, Massart &
Cartis 2025, arXiv 2510.15563). They also give nonlinear networks that fit as well as one likes, for which no α is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from ..errors import InputError
from ..linalg import eigh, finite
from ..provenance import torch_generator
from ..reading import Null, Reading
from ..statistics.paired import jackknife_variance

Entries = Literal["as they are", "centred", "centred, off the diagonal"]
Removed = Literal["none", "from W", "from both"]
ENTRIES = ("as they are", "centred", "centred, off the diagonal")
REMOVED = ("none", "from W", "from both")
BLOCKS = 20
LAYERS = 39  # drawn for the null: between the least and the largest of n lie (n − 1)/(n + 1) = 95 %


@dataclass(frozen=True, slots=True)
class NFASpec:
    """One definition of the correlation.

    Attributes:
        exponent: α on the AGOP.
        entries: correlate the matrices' entries as they are (cosine), centred (Pearson), or centred off the diagonal alone.
        init: what W₀ is taken from: nothing, V alone, or V and U.
        centre_jacobians: take each output's mean Jacobian off before K.
        source: of a preset, where it is from.
    """

    exponent: float = 0.5
    entries: Entries = "as they are"
    init: Removed = "none"
    centre_jacobians: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.exponent <= 4:
            raise InputError(f"exponent: got {self.exponent:g}, wanted a number above 0 and at most 4; published are 1 and 0.5")
        if self.entries not in ENTRIES or self.init not in REMOVED:
            raise InputError(f"entries, init: got {self.entries!r} and {self.init!r}, wanted one of {ENTRIES} and of {REMOVED}")

    @classmethod
    def preset(cls, name: str, **changes: object) -> NFASpec:
        """A published definition by name, with changes by field."""
        if name not in PRESETS:
            raise InputError(f"preset: got {name!r}, wanted one of {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes) if changes else PRESETS[name]  # type: ignore[arg-type]

    def __str__(self) -> str:
        jacobians = "centred" if self.centre_jacobians else "as they are"
        return f"NFA, exponent {self.exponent:g}, entries {self.entries}, start taken {self.init}, Jacobians {jacobians}"


PRESETS: MappingProxyType[str, NFASpec] = MappingProxyType(
    {
        "deep": NFASpec(1.0, init="from W", source="deep_neural_feature_ansatz: plain cosine, no square root, W − W₀"),
        "science": NFASpec(0.5, "centred", "from W", source="agop_feature_learning, MLPs: Pearson with the square root, W − W₀"),
        "grokking": NFASpec(0.5, "centred, off the diagonal", source="rfm-grokking: Pearson without the diagonal, W as it is"),
        "centred": NFASpec(1.0, "centred", "from both", source="centred_NFA: Pearson of ΔWᵀΔW with ΔWᵀKΔW"),
    }
)


@dataclass(frozen=True, slots=True)
class Slopes:
    """Sums of Jacobians by the layer's pre-activation, over blocks of inputs; joined, the blocks stand side by side.

    Attributes:
        counts: (blocks,) inputs; `outer`: (blocks, k, k) ΣJᵀJ; `total`: (blocks, outputs, k) ΣJ.
    """

    counts: Tensor
    outer: Tensor
    total: Tensor

    @classmethod
    def of(cls, jacobians: Tensor, blocks: int = BLOCKS, groups: Sequence[object] | None = None) -> Slopes:
        """From J (n, outputs, k) or, of one output, (n, k), in float64; whole groups in a block where there are some."""
        wide = finite(jacobians.detach().cpu(), "jacobians")
        wide = wide[:, None] if wide.ndim == 2 else wide
        if wide.ndim != 3 or 0 in wide.shape:
            raise InputError(f"jacobians: got shape {tuple(jacobians.shape)}, wanted (inputs, outputs, k)")
        names = list(map(str, groups)) if groups is not None else [str(row) for row in range(len(wide))]
        if len(names) != len(wide):
            raise InputError(f"groups: got {len(names)}, wanted one for each of {len(wide)} inputs")
        order = {name: place for place, name in enumerate(dict.fromkeys(names))}
        count = min(blocks, len(order))
        code = torch.tensor([order[name] % count for name in names])
        parts = [wide[code == block] for block in range(count)]
        outer = torch.stack([part.flatten(0, 1).T @ part.flatten(0, 1) for part in parts])
        return cls(torch.tensor([float(len(part)) for part in parts]).double(), outer, torch.stack([p.sum(0) for p in parts]))

    def merge(self, other: Slopes) -> Slopes:
        """Both side by side; neither is changed."""
        if self.total.shape[1:] != other.total.shape[1:]:
            raise InputError(
                f"merge: (outputs, k) is {tuple(self.total.shape[1:])} here and {tuple(other.total.shape[1:])} there"
            )
        return Slopes(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in ("counts", "outer", "total")))

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    def metric(self, *, centred: bool = False, without: int | None = None) -> Tensor:
        """(k, k) K = ⟨JᵀJ⟩, or ⟨(J − J̄)ᵀ(J − J̄)⟩; of all blocks, or without one."""
        kept = torch.arange(len(self.counts)) != (-1 if without is None else without)
        n, mean = self.counts[kept].sum(), self.total[kept].sum(0) / self.counts[kept].sum()
        whole = self.outer[kept].sum(0) / n
        return whole - mean.T @ mean if centred else whole


def nfa(
    weight: Tensor,
    slopes: Slopes,
    spec: NFASpec | None = None,
    *,
    start: Tensor | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Reading:
    """The correlation of one layer W (k, d), with a block-jackknife interval over inputs (Fisher's z) and that of random layers.

    Args:
        start: W₀ (k, d), where the spec takes it off.
        seed: of the 39 random layers of the null, whose band is at most of level .95.

    Raises:
        InputError: shapes that do not belong together, W₀ missing, or a matrix that is zero.
    """
    spec = spec or NFASpec()
    wide = _weight(weight, slopes, "weight")
    moved = wide
    if spec.init != "none":
        if start is None:
            raise InputError(f"start: {spec} needs the weights at the start; pass start=W₀, or a spec with init='none'")
        moved = wide - _weight(start, slopes, "start")
    through = moved if spec.init == "from both" else wide

    def correlation(without: int | None) -> float:
        return _correlation(moved, through, slopes.metric(centred=spec.centre_jacobians, without=without), spec)

    value, blocks = correlation(None), len(slopes.counts)
    how = f"{spec}; {slopes.n} inputs"
    if blocks < 4:
        return Reading.not_measured(f"{blocks} blocks of inputs; an interval needs at least 4", unit="1", method=how, n=slopes.n)
    left = np.arctanh(np.clip([correlation(block) for block in range(blocks)], -1 + 1e-15, 1 - 1e-15))
    reach = float(student.ppf(0.5 + level / 2, blocks - 1)) * math.sqrt(float(jackknife_variance(left)))
    middle = math.atanh(min(max(value, -1 + 1e-15), 1 - 1e-15))
    low, high = min(math.tanh(middle - reach), value), max(math.tanh(middle + reach), value)
    null = _random_layers(slopes.metric(centred=spec.centre_jacobians), wide.shape[1], spec, level, seed)
    return Reading(value, low, high, level, slopes.n, "1", null, f"{how}; jackknife over {blocks} blocks of them")


def _random_layers(metric: Tensor, d: int, spec: NFASpec, level: float, seed: int) -> Null:
    """The mean and the band of the correlation where W (k, d) has independent Gaussian entries and K = `metric` (k, k)."""
    random, k = torch_generator(seed, "random layers of the ansatz"), len(metric)

    def layer() -> Tensor:
        return torch.randn(k, d, generator=random, dtype=torch.float64)

    drawn = []
    for _ in range(LAYERS):
        through = layer()
        drawn.append(_correlation(layer() if spec.init == "from W" else through, through, metric, spec))
    held = min(level, (LAYERS - 1) / (LAYERS + 1))
    low, high = np.quantile(drawn, [(1 - held) / 2, (1 + held) / 2], method="weibull")
    what = f"{LAYERS} layers with independent Gaussian entries, drawn from seed {seed}"
    return Null(float(np.mean(drawn)), float(low), float(high), held, LAYERS, None, what)


def _correlation(moved: Tensor, through: Tensor, metric: Tensor, spec: NFASpec) -> float:
    return matched(moved.T @ moved, powered(through.T @ metric @ through, spec.exponent), spec.entries)


def random_layer(metric: Tensor, d: int, spec: NFASpec) -> float:
    """What the correlation is for α = 1, in the mean, where W (k, d) has independent Gaussian entries and K = `metric` (k, k).

    Centring takes about 1/d of the squares off, which is left out here.

    Raises:
        InputError: another exponent, for which there is no closed form; or K is zero.
    """
    if spec.exponent != 1:
        raise InputError(f"exponent: got {spec.exponent:g}, wanted 1; for others see the null that `nfa` draws")
    k = len(metric)
    values = eigh(metric, "metric")[0].clamp_min(0)
    if not float(values.sum()) > 0:
        raise InputError("metric: it is zero, so the output does not depend on the layer")
    spread = float(values.sum() ** 2 / values.square().sum())
    off = spec.entries == "centred, off the diagonal"
    if spec.init == "from W":  # V and W independent: what their diagonals share
        return 0.0 if off else math.sqrt(k * spread / ((d + k + 1) * (d + 1 + spread)))
    return math.sqrt(spread / k) if off else math.sqrt(spread * (d + k + 1) / (k * (d + 1 + spread)))


def matched(one: Tensor, other: Tensor, entries: Entries = "as they are") -> float:
    """Cosine or Pearson correlation of the entries of two matrices (d, d)."""
    first, second = (finite(matrix, "matrix") for matrix in (one, other))
    if entries == "centred, off the diagonal":
        off = ~torch.eye(len(first), dtype=torch.bool)
        first, second = first[off], second[off]
    if entries != "as they are":
        first, second = first - first.mean(), second - second.mean()
    size = float(first.norm() * second.norm())
    if not size > 0:
        raise InputError("matrix: one is zero (after centring), so its entries correlate with nothing")
    return float((first * second).sum()) / size


def powered(matrix: Tensor, exponent: float) -> Tensor:
    """A positive semidefinite matrix (d, d) to a power, through its eigenvalues; rounding below 0 counts as 0."""
    if exponent == 1:
        return finite(matrix, "matrix")
    values, vectors = eigh(matrix)
    return (vectors * values.clamp_min(0) ** exponent) @ vectors.T


def nfa_exponent(weight: Tensor, agop: Tensor, floor: float = 1e-6) -> float:
    """The slope of log vᵀWᵀWv against log λ over the eigenpairs (λ, v) of an AGOP (d, d) with λ above `floor` of the largest.

    It is the exponent where WᵀW = AGOP^α. Which eigenpairs enter is the AGOP's to say, never the figure that is fitted.

    Raises:
        InputError: fewer than two such eigenvalues, or all alike: nothing to fit a slope to.
    """
    values, vectors = eigh(agop, "agop")
    kept = values > floor * values[0]
    x, image = values[kept].log(), finite(weight.detach().cpu(), "weight") @ vectors[:, kept]
    y = image.square().sum(0).log()
    x = x - x.mean()
    if not float(x.square().sum()) > 1e-6 or not bool(torch.isfinite(y).all()):
        raise InputError("agop: its eigenvalues are all alike, or W is blind to one of them; there is no slope to fit")
    return float((x * y).sum() / x.square().sum())


def _weight(weight: Tensor, slopes: Slopes, name: str) -> Tensor:
    wide = finite(weight.detach().cpu(), name)
    if wide.ndim != 2 or len(wide) != slopes.outer.shape[-1]:
        raise InputError(
            f"{name}: got shape {tuple(weight.shape)}, wanted ({slopes.outer.shape[-1]}, d) as the Jacobians have it"
        )
    return wide
