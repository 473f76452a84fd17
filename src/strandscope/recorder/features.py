"""The features of a network at a step: at each site the AGOP of its answer with respect to the state there.

With u of independent signs, one for each number of the answer, g = Jᵀu has E ggᵀ = E JᵀJ: one backward pass gives a row for each
row of the batch and position, at all sites at once. The signs and the positions that are looked at (at most four a row) are drawn
once, from the seed and the row's number, so that two records differ by what the network did and not by the draw.

What is kept at each site: the 4r leading pairs of M = ⟨ggᵀ⟩, r of which count as the features, and its trace; the same without
each of eight blocks of rows of the batch, from which intervals are made (jackknife: they speak of other rows from where these
came, not of other seeds of training); and the relevant dimension (tr M)²/tr M² from pairs of different rows of the batch (one
position each). r is chosen beforehand. On several ranks the sums of each block are merged before anything is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from ..errors import InputError
from ..linalg import Spectrum
from ..provenance import torch_generator
from ..reading import Reading
from ..statistics.accumulators import outer_products
from ..statistics.spectrum import participation, trace
from . import ranks
from .batch import Batch, Output
from .leading import leading
from .quantity import Measured
from .sites import Pass, Place, passed

BLOCKS = 8
POSITIONS = 4
KEPT = 4  # times the rank: directions that are kept
MOST_ROWS = 128  # in pairs, for the dimension: its cost grows with their square


@dataclass(slots=True)
class Features:
    """AGOP of the answer at sites; a quantity. `places` come from `sites.resolve`.

    Attributes:
        rank: r, how many directions are followed at each site (fewer where the state is narrower).
        probes: signs drawn for each row; more cost a backward pass each.
        output: what of the network's output is the answer; None: its logits or the tensor that it returns.
    """

    places: dict[str, Place]
    rank: int = 4
    probes: int = 1
    output: Output | None = None
    seed: int = 0
    name: str = "features"
    _signs: list[Tensor] = field(default_factory=list)
    # positions, by rows of the batch and positions there are
    _chosen: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        widths = {name: place.width for name, place in self.places.items()}
        return {"sites": widths, "rank": self.rank, "probes": self.probes, "seed": self.seed}

    def measure(self, model: nn.Module, batch: Batch) -> Measured:
        before, rows = ranks.rows_before(batch.rows)
        with ranks.together():  # this process alone; from here on all of them
            found = self._pulled(model, batch, before)
        readings: dict[str, Reading] = {}
        tensors: dict[str, Tensor] = {}
        for name, parts in found.items():
            here = self._site(torch.stack(parts, 1) if parts else None, before, rows, self.places[name])
            readings |= {f"{name}/{what}": reading for what, reading in here.readings.items()}
            tensors |= {f"{name}/{what}": tensor for what, tensor in here.tensors.items()}
        return Measured(readings, tensors)

    def _pulled(self, model: nn.Module, batch: Batch, before: int) -> dict[str, list[Tensor]]:
        """At each site and for each probe the gradients (rows, m, d) of this process."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.places}
        with passed(model, batch, self.places, self.output) as made:
            if made.answer.grad_fn is None:
                raise InputError("output: the answer has no gradient; look for a detach, a no_grad or an argmax")
            for probe, signs in enumerate(self._drawn(made, batch, before)):
                gradients = made.pull(signs, keep=probe < self.probes - 1)
                for name, gradient in gradients.items():
                    found[name].append(self._at_positions(gradient, batch, before))
        return found

    def _drawn(self, made: Pass, batch: Batch, before: int) -> list[Tensor]:
        """The signs of each probe, (rows, …), 0 at padding; drawn once."""
        if not self._signs:
            shape = made.answer.shape[1:]
            for probe in range(self.probes):
                names = [(self.seed, "recorder signs", str(probe), str(before + row)) for row in range(batch.rows)]
                draws = [torch.randint(0, 2, shape, generator=torch_generator(*name), dtype=torch.int8) for name in names]
                signs = torch.stack(draws) * 2 - 1
                mask = batch.mask
                if mask is not None and signs.dim() > 2 and signs.shape[1] == mask.shape[1]:
                    signs = signs * mask.cpu()[(...,) + (None,) * (signs.dim() - 2)]
                self._signs.append(signs)
        if self._signs[0].shape != made.answer.shape:
            raise InputError(f"output: its shape went from {tuple(self._signs[0].shape)} to {tuple(made.answer.shape)}")
        return self._signs

    def _at_positions(self, gradient: Tensor, batch: Batch, before: int) -> Tensor:
        """(rows, m, d) in float64 at the m positions that are looked at, drawn once among those that hold content."""
        rows, positions = gradient.shape[:2]
        if positions == 1:
            return gradient.double().cpu()
        if (rows, positions) not in self._chosen:
            mask = batch.mask
            content = [torch.arange(positions)] * rows
            if mask is not None and mask.shape[1] == positions:
                content = [row.nonzero()[:, 0] for row in mask.cpu()]
            some = min(POSITIONS, *(len(places) for places in content))
            names = [(self.seed, "recorder positions", str(before + row)) for row in range(rows)]
            pairs = zip(content, names, strict=True)
            drawn = [held[torch.randperm(len(held), generator=torch_generator(*name))[:some]] for held, name in pairs]
            self._chosen[rows, positions] = torch.stack(drawn)
        chosen = self._chosen[rows, positions].to(gradient.device)
        return gradient.gather(1, chosen[..., None].expand(-1, -1, gradient.shape[2])).double().cpu()

    def _site(self, rows: Tensor | None, before: int, total: int, place: Place) -> Measured:
        """From g (rows, probes, m, d) of this process."""
        why = ""
        if rows is None:
            why = "the answer does not depend on the state here"
        elif not bool(_everywhere(rows.isfinite().all())):
            why = "a gradient is NaN or infinite: the training diverged, or the network computes in a small dtype"
        elif not sum(float(part) for part in ranks.gathered(rows.square().sum()[None])) > 0:
            why = "every gradient is zero: the answer does not depend on the state here"
        if why or rows is None:
            units = {"trace": "out²/unit²", "dimension": "dimensions", "share": "share of the trace"}
            return Measured({what: Reading.not_measured(why, unit=unit, method="AGOP") for what, unit in units.items()})
        r = min(self.rank, place.width)
        spectra, carriers = self._spectra(rows, before, total, place.width, r)
        tensors = {
            "vectors": torch.stack([one.vectors for one in spectra]).float(),
            "values": torch.stack([one.values for one in spectra]),
            "traces": torch.tensor([one.trace for one in spectra], dtype=torch.float64),
            "carriers": torch.tensor([carriers], dtype=torch.float64),
        }
        held = [float(one.values[:r].sum()) / one.trace for one in spectra]
        share = jackknifed(held, total, "share of the trace", f"top {r} eigenvalues over the trace", (0, 1))
        lead = jackknifed(
            [float(one.values[0]) for one in spectra], total, "out²/unit²", "largest eigenvalue of the AGOP", (0, None)
        )
        alone = torch.cat(ranks.gathered(rows[:, 0, 0]))[:MOST_ROWS]
        what = "relevant dimension: participation ratio of the AGOP"
        if bool((alone != 0).any()):
            dimension = participation(alone).reading(what=what, scores=False)
        else:
            dimension = Reading.not_measured("every one of these rows is zero", unit="dimensions", method=what, n=len(alone))
        size = trace(alone, unit="out²/unit²", what="trace of the AGOP")
        return Measured({"trace": size, "top": lead, "share": share, "dimension": dimension}, tensors)

    def _spectra(self, rows: Tensor, before: int, total: int, d: int, r: int) -> tuple[list[Spectrum], float]:
        """Leading pairs of M from all rows, then without each block of rows of the batch; how many rows carry the trace."""
        each = self.probes * rows.shape[2]
        most = total * each * (BLOCKS - 1) // BLOCKS - each
        if most < r:
            raise InputError(f"rank: got {self.rank}, wanted fewer than the batch has rows ({total})")
        form = "gram" if total * each < d else "dense"
        blocks = []
        for block in range(BLOCKS):
            part = outer_products(d, form, most=total * each)
            part.update(rows[(torch.arange(len(rows)) + before) % BLOCKS == block].reshape(-1, d))
            blocks.append(ranks.merged(part))
        spectra = leading(blocks, min(KEPT * r, d, most))
        squares, fourths = spectra[0].trace * sum(block.n for block in blocks), sum(block.fourth for block in blocks)
        return spectra, squares**2 / fourths


def _everywhere(good: Tensor) -> Tensor:
    return torch.stack([part[0] for part in ranks.gathered(good[None].to(torch.uint8))]).bool().all()


@cache
def _quantile(level: float, degrees: int) -> float:
    return float(student.ppf(0.5 + level / 2, degrees))


def jackknifed(
    values: list[float], n: int, unit: str, what: str, ends: tuple[float | None, float | None] = (None, None), level: float = 0.95
) -> Reading:
    """A figure of all rows, then those without each block, as a reading; no end goes beyond what the figure cannot pass."""
    value, without = values[0], torch.tensor(values[1:], dtype=torch.float64)
    blocks = len(without)
    error = float(((blocks - 1) / blocks * (without - without.mean()).square().sum()).sqrt())
    reach = _quantile(level, blocks - 1) * error
    low, high = value - reach, value + reach
    low = low if ends[0] is None else max(low, ends[0])
    high = high if ends[1] is None else min(high, ends[1])
    method = f"{what}; jackknife over {blocks} blocks of rows"
    return Reading(value, min(low, value), max(high, value), level, n, unit, None, method)
