"""The response: 64 gradients at all 30 blocks of SmolLM2, beside one forward and backward pass; and the exact metric.

The pass they are held to is one of 64 tokens, its loss the next token's log-probability at each, its gradient taken with respect
to the embedded tokens (not to the weights, which would take it longer). The context is in the cache before the clock starts: what
putting it there costs is a line of its own. Re-running the context for a site is one pass over 64 copies of it, logits at the
last token only, and its gradient at the middle block.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import strandscope as ss
from common import Line, Results, Size, Table, main, paired, seconds, timed
from strandscope.capture.passes import Prefix
from strandscope.capture.response import exact, respond
from strandscope.capture.taking import Taker
from strandscope.capture.tokens import tokenise
from strandscope.provenance import torch_generator
from strandscope.subject.attach import Scope, attach
from strandscope.subject.site import Site

DRAWS = 64
SEVEN = "resid:0,resid:5,resid:10,resid:15,resid:20,resid:25,resid:29"


def tokens_of(subject: ss.Subject, length: int) -> tuple[int, ...]:
    """So many tokens of our own sentences, one after another."""
    ids = [token for row in tokenise(subject, ss.concept("truth")).ids for token in row]
    return tuple(ids[:length])


def drawn(subject: ss.Subject, ids: tuple[int, ...]) -> tuple[Callable[[], object], Callable[[], object]]:
    """(the draws at all blocks with the context in the cache, putting it there)."""
    taker = Taker.of(subject, tuple(subject.sites("resid:*")), "last", None)
    prefix = Prefix(len(ids) - 1, taker._prefilled(ids, Prefix()))

    def draws() -> object:
        tape = taker.last_step(0, "row", ids, prefix)
        if tape is None or not tape.at_once:
            raise SystemExit("the last token was not run by itself: this would time another route")
        return tape.pull(tape.readout.draws(DRAWS, 1.0, 0, "row"))

    return draws, lambda: taker._prefilled(ids, Prefix())


def both_ways(subject: ss.Subject, row: tuple[int, ...]) -> object:
    """One forward and backward pass of these tokens."""
    ids = torch.tensor([row], device=subject.device)
    zero = torch.zeros(subject.d, dtype=subject.dtype, device=subject.device, requires_grad=True)
    with attach(subject, edits={Site("embed"): [(lambda state: state + zero, Scope())]}):
        logits = subject.module(input_ids=ids, use_cache=False).logits
    loss = logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
    return torch.autograd.grad(loss, zero)


def again(subject: ss.Subject, ids: tuple[int, ...]) -> object:
    """64 gradients at one site, the context run for it."""
    zeros: list[Tensor] = []

    def edit(state: Tensor) -> Tensor:
        zeros.append(torch.zeros(DRAWS, 1, state.shape[-1], requires_grad=True))
        return torch.cat([state[:, :-1], state[:, -1:] + zeros[-1]], 1)

    with attach(subject, edits={Site("resid", subject.blocks // 2): [(edit, Scope())]}):
        logits = subject.module(input_ids=torch.tensor([ids] * DRAWS), use_cache=False, logits_to_keep=1).logits[:, -1]
    logp = logits.log_softmax(-1)
    tokens = torch.multinomial(logp[0].detach().exp(), DRAWS, replacement=True, generator=torch_generator(0, "again"))
    return torch.autograd.grad(logp.gather(1, tokens[:, None]).sum(), zeros)


def participation(metric: Tensor) -> float:
    return float(metric.trace() ** 2 / metric.square().sum())


def run(size: Size) -> Results:
    subject = ss.load("smollm2", dtype="float32")
    texts = ss.concept("truth").subset(np.arange(size.of(6, 1)))
    pairs, lines = size.of(7, 1), []
    base = functools.partial(both_ways, subject, tokens_of(subject, DRAWS))
    per_site = 0.0
    for length, most in ((16, 1.4), (512, 2.5)):
        draws, prefill = drawn(subject, tokens_of(subject, size.of(length, 12)))
        found = paired(draws, base, pairs)
        lines.append(found.line(f"64 draws at 30 blocks, context {length} / forward and backward of 64 tokens", most))
        times = [timed(prefill) for _ in range(size.of(5, 1))]
        lines.append(Line(f"prefill of {length} tokens", statistics.median(times), min(times), max(times), len(times), "s"))
        per_site = per_site or statistics.median(found.first) / subject.blocks
    rerun = [timed(functools.partial(again, subject, tokens_of(subject, 16))) for _ in range(size.of(3, 1))]
    ratios = [one / per_site for one in rerun]
    lines.append(
        Line(
            "re-running the context for a site / draws, per site, context 16",
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            len(ratios),
            least=50,
        )
    )
    count = len(texts)
    for what, work, most in (
        ("exact metric at seven sites, per context", lambda: list(exact(subject, texts, SEVEN)), 2.0),
        ("respond: 64 draws, 64 probes, output's own metric, 30 blocks, per context", lambda: _all(subject, texts), None),
    ):
        whole = seconds(what, work, size.of(3, 1), 0.0)
        low, high = (None if end is None else end / count for end in (whole.low, whole.high))
        lines.append(Line(what, whole.value / count, low, high, whole.n, "s", most=most))
    return Results(__doc__ or "", tuple(lines), (_agreement(subject, texts),), {"contexts (SHA-256)": texts.digest})


def _all(subject: ss.Subject, texts: ss.Examples) -> object:
    return respond(subject, texts, probes=DRAWS, output=True)


def _agreement(subject: ss.Subject, texts: ss.Examples) -> Table:
    """The trace and participation ratio by pairs of 256 draws beside the exact ones."""
    sampled = respond(subject, texts, SEVEN, draws=256)
    figures: dict[Site, list[tuple[float, float]]] = {site: [] for site in sampled.sites}
    for number, one in enumerate(exact(subject, texts, SEVEN)):
        for site, metric in one.metrics.items():
            gram = sampled.at(site)[number].double() @ sampled.at(site)[number].double().mT
            norms, count = gram.diagonal(), len(gram)
            square = (gram.square().sum() - norms.square().sum()) / (count * (count - 1))
            whole = (norms.sum() ** 2 - norms.square().sum()) / (count * (count - 1))
            figures[site].append((float(norms.mean() / metric.trace()), float(whole / square / participation(metric))))
    rows = tuple(
        (str(site), *(f"{statistics.median(side):.3f}" for side in zip(*pairs, strict=True))) for site, pairs in figures.items()
    )
    return Table("256 draws / exact, median over contexts", ("site", "trace", "participation ratio"), rows)


if __name__ == "__main__":
    main("response", run, __doc__ or "")
