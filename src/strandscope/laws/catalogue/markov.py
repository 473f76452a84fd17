"""The order of a source: counting stops to help at the context that the source really uses, and so does a small network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...reading import Reading
from ...statistics.ngram import KneserNey, NGramCounts, clustered_mean, effective_order
from ...statistics.ngram.source import MarkovSource
from ..figure import Figure, Series
from ..law import Check, Control, Law, LawResult
from .checks import apart, bound, plotted
from .entry import Trial, entry

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SYMBOLS, MEMORY, STRENGTH = 8, 3, 0.7
ORDERS = 6  # of counting
WINDOWS = range(MEMORY + 2)  # symbols that a network sees: 0 to 4, orders 1 to 5
TRAINED, SCORED, LENGTH = 2000, 800, 500  # documents, and symbols of each
NATS = 0.01  # what the quadrigram may be above the entropy rate
WIDTH, BATCH, EPOCHS, RATE = 64, 4096, 2, 1e-2

MARKOV = Law(
    "order of a source",
    "n* = k + 1 and CE_n ≥ h, with CE_n = h_n + (S − 1) Sⁿ⁻¹ / 2N for n ≤ k + 1",
    {
        "n*": "the last order whose gain CE_{n−1} − CE_n is above .01 nats (symbols)",
        "CE_n": "cross-entropy of held-out symbols under a model that sees n − 1 symbols (nats)",
        "h_n": "H(X_n | X_1 … X_{n−1}) of the source, from its stationary distribution (nats)",
        "h": "entropy rate, h_{k+1} (nats)",
        "k": "symbols that the next one depends on (1)",
        "S": "different symbols (1)",
        "N": "symbols that the model was made from (1)",
    },
    "Markov sources whose every further symbol of context tells more than .01 nats; N far more than contexts",
    tolerance=NATS,
)


@entry(
    MARKOV,
    source="Shannon 1951 (h_n falls to the entropy rate); Chen & Goodman 1999 (the counted models)",
    control="the same symbols shuffled: n* = 4 is violated, it is 1",
    seconds=12,
)
def order(trial: Trial) -> LawResult:
    """A source whose next symbol depends on the last three is counted, orders 1 to 6 with modified Kneser–Ney smoothing, and
    learned by small networks that see 0 to 4 symbols. Its entropies are known from its stationary distribution. Both must stop
    to gain at order 4, counted losses must be what the closed form says (up to the half-parameter a token that estimating
    costs), and nothing may come below the entropy rate; that is asked of each model beside the source's own probabilities on
    the same symbols, which takes the luck of the sample out."""
    source = MarkovSource.drawn(MEMORY, SYMBOLS, trial.numpy("source"), STRENGTH)
    foretold = source.entropies(ORDERS)
    rows = source.sample(TRAINED + SCORED, LENGTH, trial.numpy("symbols"))
    train, test = rows[:TRAINED], rows[TRAINED:]
    best = -source.logprobs(test)[:, ORDERS:]
    counted_losses, learned_losses = counted(train, test), learned(train, test, trial)
    documents = np.repeat(np.arange(SCORED), best.shape[1])
    level = trial.level
    losses = [clustered_mean(loss.ravel(), documents, level) for loss in counted_losses]
    neural = [clustered_mean(loss.ravel(), documents, level) for loss in learned_losses]
    over = [clustered_mean((loss - best).ravel(), documents, level) for loss in [*counted_losses, *learned_losses]]
    checks = [
        _order("n* of counting", MEMORY + 1, counted_losses, documents, level),
        _order("n* of networks", MEMORY + 1, learned_losses, documents, level),
        apart("CE_4 above the source's own loss", estimating(MEMORY + 1), over[MEMORY], (-NATS, NATS)),
        bound("least that any model is above it", min(over, key=_end), (0.0, math.inf)),
        *(apart(f"CE_{n}", foretold[n - 1] + estimating(n), losses[n - 1], (-2 * NATS, 2 * NATS)) for n in range(1, MEMORY + 2)),
    ]
    mixed = trial.numpy("shuffled").permutation(rows.ravel()).reshape(rows.shape)
    alone = counted(mixed[:TRAINED], mixed[TRAINED:])
    none = _order("n* of counting", MEMORY + 1, alone, documents, level)
    checks.append(_order("n* of shuffled symbols", 1, alone, documents, level))
    control = Control.of("the symbols shuffled", "violated", [none], predicted=-float(MEMORY))
    figure = Figure.of(
        "Where context stops to help",
        "order n (symbols seen, and the one foretold)",
        "cross-entropy (nats/symbol)",
        (
            plotted("counted", "measured", range(1, len(losses) + 1), losses),
            plotted("network", "measured", range(1, len(neural) + 1), neural),
            Series.of("h_n", "predicted", range(1, ORDERS + 1), foretold),
            plotted(
                "shuffled", "control", range(1, ORDERS + 1), [clustered_mean(loss.ravel(), documents, level) for loss in alone]
            ),
        ),
    )
    details = {"entropies": foretold, "above_the_source": [one.value for one in over], "symbols": TRAINED * LENGTH}
    return LawResult.of(MARKOV, f"order {MEMORY}, {SYMBOLS} symbols", checks, control, figure=figure, details=details)


def estimating(n: int) -> float:
    """What making order n from the sample costs: half a nat a free parameter, over the symbols."""
    return (SYMBOLS - 1) * SYMBOLS ** (n - 1) / (2 * TRAINED * LENGTH)


def counted(train: Ints, test: Ints) -> list[Floats]:
    """Losses (documents, symbols from the seventh on) of orders 1 to 6."""
    counts = NGramCounts(SYMBOLS, ORDERS)
    for row in train:
        counts.update(row)
    found = KneserNey(counts.result()).logprobs(test)
    return [-loss.reshape(test.shape)[:, ORDERS:] for loss in found]


def learned(train: Ints, test: Ints, trial: Trial) -> list[Floats]:
    """The same of networks that see 0, 1, … symbols: one hidden layer, Adam, two passes."""
    return [_network(train, test, seen, trial.torch("network", str(seen))) for seen in WINDOWS]


def _network(train: Ints, test: Ints, seen: int, generator: torch.Generator) -> Floats:
    inputs, targets = _windows(train, seen)
    shapes = ((seen * SYMBOLS + 1, WIDTH), (WIDTH, SYMBOLS))
    weights = [torch.randn(*shape, generator=generator) * (1 / max(seen + 1, 1)) ** 0.5 for shape in shapes[:1]]
    weights.append(torch.randn(*shapes[1], generator=generator) / WIDTH)
    weights.append(torch.zeros(SYMBOLS))
    for weight in weights:
        weight.requires_grad_()
    steps = EPOCHS * (len(targets) // BATCH)
    optimiser = torch.optim.Adam(weights, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(targets), generator=generator)
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = torch.nn.functional.cross_entropy(_logits(weights, inputs[rows]), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        inputs, targets = _windows(test, seen)
        found = torch.cat(
            [
                torch.nn.functional.cross_entropy(_logits(weights, part), wanted, reduction="none")
                for part, wanted in zip(inputs.split(BATCH), targets.split(BATCH), strict=True)
            ]
        )
    return found.double().numpy().reshape(len(test), -1)


def _windows(rows: Ints, seen: int) -> tuple[Tensor, Tensor]:
    """The last `seen` symbols before each from the seventh on, as numbers of first-layer weights (with the bias's), and it."""
    past = [rows[:, ORDERS - lag : LENGTH - lag] + SYMBOLS * (lag - 1) for lag in range(1, seen + 1)]
    bias = np.full_like(rows[:, ORDERS:], seen * SYMBOLS)
    inputs = np.stack([*past, bias], axis=-1).reshape(-1, seen + 1)
    return torch.from_numpy(inputs), torch.from_numpy(rows[:, ORDERS:].ravel())


def _logits(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    first, second, bias = weights
    hidden = torch.nn.functional.embedding_bag(inputs, first, mode="sum")
    return torch.relu(hidden) @ second + bias


def _end(found: Reading) -> float:
    """The lower end: where the lowest of several is above 0, all are."""
    assert found.low is not None
    return found.low


def _order(what: str, wanted: int, losses: Sequence[Floats], documents: Ints, level: float) -> Check:
    found = effective_order([loss.ravel() for loss in losses], documents, level, least=NATS)
    return apart(what, wanted, found, (0.0, 0.0))
