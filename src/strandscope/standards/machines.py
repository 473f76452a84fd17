"""Standards of kernel machines: their AGOP against loops in numpy, the artefact of iterating, and how many directions count."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..strand import kernels, relevant, rfm_solve
from ..strand.kernels import Kernel
from ..strand.relevant import relevant_directions
from ..strand.rfm import fit
from ..strand.rfm_spec import RFMSpec
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

Floats = NDArray[np.float64]
PERMUTATIONS = 19  # with which p ≤ .05 has exactly the level


def laplace_machine(x: Floats, y: Floats, bandwidth: float, ridge: float) -> tuple[Floats, Floats]:
    """Weights of exp(−‖x − z‖/L) ridge regression, and (n, d) gradients at its own rows, by loops."""
    n, d = x.shape
    kernel = np.exp(-np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)) / bandwidth)
    alpha = np.linalg.solve(kernel + ridge * np.eye(n), y)
    gradient = np.zeros((n, d))
    for j in range(n):
        for i in range(n):
            apart = x[j] - x[i]
            length = np.sqrt(apart @ apart)
            if length > 0:
                gradient[j] -= alpha[i] * np.exp(-length / bandwidth) / bandwidth * apart / length
    return alpha, gradient


PLAIN = RFMSpec(
    bandwidth=3.0, ridge=0.1, centre_inputs=False, centre_labels=False, normalise="none", iterations=0
)  # one machine at M = I, nothing chosen


@case(
    "AGOP of a kernel machine",
    "strand.rfm.fit",
    "Σ∇f∇fᵀ/n",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("the point's own part forgotten", kernels.gradients, "if kernel.radial:", "if False:"),
    Mutation("a factor of the bandwidth lost", kernels._of_squared, "values / (distance * -bandwidth)", "values / -distance"),
    source="loops in numpy, float64",
    unit="of the largest entry",
)
def machine(draw: Draw) -> Outcome:
    """Laplace ridge regression on 30 rows in 4 dimensions, M = I."""
    x, y = draw.normal(30, 4), draw.normal(30)
    _, gradient = laplace_machine(x.numpy(), y.numpy(), 3.0, 0.1)
    return Outcome.farthest(fit(PLAIN, x, y).agop().dense(), gradient.T @ gradient / 30)


@case(
    "AGOP through the Gram matrix",
    "strand.rfm.fit",
    "Σ∇f∇fᵀ/n",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation("one cross term forgotten", kernels._through_gram, "inner - cross - cross.mT", "inner - 2 * cross"),
    source="loops in numpy, float64",
    unit="of the largest entry",
)
def gram(draw: Draw) -> Outcome:
    """The same with 20 outputs on 25 rows of unequal length, so that n × n is smaller than outputs × d."""
    x, y = draw.normal(25, 5) * (1 + draw.normal(25, 1).abs()), draw.normal(25, 20)
    found = [laplace_machine(x.numpy(), y[:, k].numpy(), 3.0, 0.1)[1] for k in range(20)]
    return Outcome.farthest(fit(PLAIN, x, y).agop().dense(), sum(g.T @ g for g in found) / 25)


@case(
    "leave-one-out in closed form",
    "strand.rfm_solve.left_out",
    "mean squared error of n refits",
    Bands(error=1e-9),
    (2, 5, 20),
    Mutation(
        "training residuals in their place",
        rfm_solve.left_out,
        "(inverse @ wanted) / inverse.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)",
        "ridge * (inverse @ wanted)",
    ),
    source="n refits in numpy, float64",
    unit="relative",
)
def refits(draw: Draw) -> Outcome:
    """Gaussian kernel ridge regression on 25 rows, ridge .2."""
    x, y = draw.normal(25, 3), draw.normal(25, 2)
    kernel = torch.exp(-(torch.cdist(x, x) ** 2) / 4)
    k, wanted, errors = kernel.numpy(), y.numpy(), []
    for row in range(25):
        others = np.delete(np.arange(25), row)
        alpha = np.linalg.solve(k[np.ix_(others, others)] + 0.2 * np.eye(24), wanted[others])
        errors.append(k[row, others] @ alpha - wanted[row])
    truth = float(np.square(errors).mean())
    return Outcome(float(rfm_solve.left_out(kernel, torch.tensor(0.2, dtype=torch.float64), y)), truth, truth)


@case(
    "centred gradients of a linear machine",
    "strand.rfm.fit",
    "0: centring annihilates a linear concept; ββᵀ without",
    Bands(error=1e-10),
    (2, 5, 20),
    Mutation("uncentred", kernels.outer_products, "found = found - found.mean(-2, keepdim=True)", "found = found - 0"),
    unit="of ‖β‖²",
)
def centred(draw: Draw) -> Outcome:
    """A linear kernel on y = βᵀx in 6 dimensions: the AGOP with and without centred gradients."""
    x, beta = draw.normal(40, 6), draw.normal(6)
    spec = RFMSpec(Kernel("linear"), ridge=1e-9, centre_inputs=False, centre_labels=False, normalise="none", iterations=0)
    kept = fit(spec, x, x @ beta).agop().dense()
    gone = fit(RFMSpec(Kernel("linear"), ridge=1e-9, centre_inputs=False, centre_labels=False, normalise="none",
                       centre_gradients=True, iterations=0), x, x @ beta).agop().dense()  # fmt: skip
    off = (kept - beta[:, None] * beta[None]).abs().max() / 100 + gone.abs().max()  # the ridge moves β by 1e-10 or so
    return Outcome(float(off / beta.square().sum()))


@case(
    "rank collapse of iterated RFM",
    "strand.rfm.fit, strand.relevant.relevant_directions",
    "two directions; iterated, the spectrum says one",
    Bands(error=0.25),
    (1, 3, 10),
    Mutation(
        "off by one: the first that fails is counted", relevant_directions, "sum(p <= ALPHA for p in p_values)", "len(p_values)"
    ),
    source="AGOP diag(1, ¼, 0, …); with ridge, M_j ← (M_j/(M_j + λ/n))² b_j²",
    unit="distance from 1 and from 2 dimensions",
)
def collapse(draw: Draw) -> Outcome:
    """Two outputs, x₀ and x₁/2, with noise .1, on 120 rows in 6 dimensions: participation of M after 6 updates of a linear
    machine whose ridge is n, and the directions counted at M = I."""
    x = draw.normal(120, 6)
    y = torch.stack([x[:, 0], x[:, 1] / 2], dim=1) + 0.1 * draw.normal(120, 2)
    spec = RFMSpec(Kernel("linear"), ridge=120.0, normalise="max", iterations=6)
    last = fit(spec, x, y).spectra[-1]
    iterated = float(last.sum() ** 2 / last.square().sum())
    counted = relevant_directions(x, y, permutations=39, most=3, seed=draw.number).dimension.value or 0.0
    return Outcome(max(iterated - 1, abs(counted - 2)))


@case(
    "pure noise, relevant dimension",
    "strand.relevant.relevant_directions",
    "0, more in 5 % at most",
    Bands(level=0.05),
    (80, 150, 2000),
    Mutation("the null's smallest eigenvalue for its largest", relevant_directions, "[:, -1 - step]", "[:, step]"),
    source="exchangeability of rows",
)
def nothing(draw: Draw) -> Outcome:
    """Targets that have nothing to do with 50 rows in 5 dimensions."""
    found = relevant_directions(draw.normal(50, 5), draw.normal(50), permutations=PERMUTATIONS, most=1, folds=4, seed=draw.number)
    return Outcome(alarm=bool(found.dimension.value))


@case(
    "single index, relevant dimension",
    "strand.relevant.relevant_directions",
    "1, more in 5 % at most",
    Bands(level=0.05),
    (60, 150, 2000),
    Mutation("every eigenvalue against permuted labels", relevant._draws, "if k == 0:", "if True:"),
    source="f(x) = g(w·x)",
)
def single(draw: Draw) -> Outcome:
    """sin(1.5 w·x) with noise .2, 80 rows in 4 dimensions: λ₂ is tested against refits that depend on one direction."""
    x, w = draw.normal(80, 4), draw.normal(4)
    y = torch.sin(1.5 * (x @ (w / w.norm()))) + 0.2 * draw.normal(80)
    found = relevant_directions(x, y, permutations=PERMUTATIONS, most=2, folds=4, seed=draw.number).dimension.value or 0.0
    return Outcome(alarm=found > 1)


STANDARDS = (machine, gram, refits, centred, collapse, nothing, single)
