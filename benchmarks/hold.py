"""Steering while 64 tokens are generated: beside plain `generate`, and beside repeng and nnsight doing the same addition.

One loaded network in bf16; repeng wraps the layers of copies that share its weights, only those that it pushes. All get prompts
that are rendered, tokenised and padded on the left; greedy decoding, no stop before 64 tokens. The peers' tokens are first shown
to be ours. repeng adds at all 30 blocks here, block 0 included, which its own vectors never name.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import strandscope as ss
from common import Line, Pairs, Results, Size, Table, main, messages_of, repeng, timed
from strandscope.control.edit import Add
from strandscope.control.hold import Clamp, Erase
from strandscope.subject.attach import Edits, Scope, attach
from strandscope.subject.site import Site

TOKENS = 64
BATCHES = (1, 8)
LENGTH = 32.0  # of a push, in the states' units: about a fifth of a state in the middle blocks
Generate = Callable[[], Tensor]


def direction(number: int, width: int) -> Tensor:
    """(d,) a push at random, such that rounding it to bf16 changes nothing."""
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(number))
    return (LENGTH * drawn / drawn.norm()).bfloat16().float()


def prompts(subject: ss.Subject, count: int) -> dict[str, Tensor]:
    """Chats of our neutral pack, in its order, padded on the left."""
    texts = [subject.render(messages_of(row)) for row in ss.concept("neutral").rows[:count]]
    tokenizer: Any = copy.deepcopy(subject.tokenizer)
    tokenizer.padding_side = "left"
    return dict(tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False))


class Ways:
    """The same generation by each way, on one batch."""

    def __init__(self, subject: ss.Subject, batch: dict[str, Tensor], tokens: int, traced: Any) -> None:
        self.subject, self.batch, self.tokens, self.traced = subject, batch, tokens, traced
        pad = subject.tokenizer.pad_token_id if subject.tokenizer is not None else None
        self.options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": pad}

    def plain(self) -> Tensor:
        module: Any = self.subject.module
        with torch.no_grad():
            return module.generate(**self.batch, **self.options)

    def ours(self, edits: Edits) -> Generate:
        def generate() -> Tensor:
            with attach(self.subject, edits=edits):
                return self.plain()

        return generate

    def repeng(self, pushes: dict[int, Tensor]) -> Generate:
        module = self.subject.module
        shared: Any = copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
        wrapped = repeng().ControlModel(shared, list(pushes))
        wrapped.set_raw_control({k: push.to(self.subject.dtype) for k, push in pushes.items()})

        def generate() -> Tensor:
            with torch.no_grad():
                return wrapped.generate(**self.batch, **self.options)

        return generate

    def nnsight(self, pushes: dict[int, Tensor]) -> Generate:
        held = {k: push.to(self.subject.dtype) for k, push in pushes.items()}
        model = self.traced

        def generate() -> Tensor:
            with torch.no_grad(), model.generate(self.batch, **self.options) as tracer:
                for _ in tracer.iter[: self.tokens]:  # of an open loop it never reaches the end
                    for k, push in held.items():
                        model.model.layers[k].output[:] += push
                made = tracer.result.save()
            return made

        return generate


def rounds(ways: dict[str, Generate], count: int) -> dict[str, tuple[float, ...]]:
    """Seconds of each way: all once to warm up, then round after round, each beginning one way later."""
    for way in ways.values():
        way()
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken[name].append(timed(ways[name]))
    return {name: tuple(seconds) for name, seconds in taken.items()}


def ratio(what: str, taken: dict[str, tuple[float, ...]], first: str, second: str, **bound: float) -> Line:
    """Seconds of the first way over the second's, round by round."""
    pairs = Pairs(taken[first], taken[second])
    note = f"median seconds {statistics.median(pairs.first):.2f} and {statistics.median(pairs.second):.2f}"
    return Line(
        what, statistics.median(pairs.ratios), min(pairs.ratios), max(pairs.ratios), len(pairs.ratios), note=note, **bound
    )


def same(ways: Sequence[tuple[str, Tensor]]) -> list[tuple[str, str]]:
    """Raises if a way's tokens are not the first one's."""
    (first, wanted), *others = ways
    for name, got in others:
        if not torch.equal(got, wanted):
            raise SystemExit(f"{name}: other tokens than {first}")
    return [(name, "identical") for name, _ in ways]


def run(size: Size) -> Results:
    from nnsight import LanguageModel

    subject = ss.load("smollm2")
    tokens, middle = size.of(TOKENS, 16), subject.blocks // 2
    everywhere = subject.sites("resid:*")
    pushes = {k: direction(k, subject.d) / len(everywhere) for k in range(subject.blocks)}
    one: Edits = {Site("resid", middle): [(Add(direction(middle, subject.d), 1.0), Scope())]}
    thirty: Edits = {site: [(Add(pushes[site.index], 1.0), Scope())] for site in everywhere}
    added: Edits = {site: [(Add(direction(k, subject.d), 0.01), Scope()) for k in range(3)] for site in everywhere}
    basis = torch.linalg.qr(torch.stack([direction(k, subject.d) for k in (1, 2)], 1)).Q
    kinds = (Add(pushes[0], 1.0), Erase(basis[:, :1], basis[:, :1], torch.zeros(subject.d)), Clamp(basis[:, 1:], -1.0, 1.0))
    mixed: Edits = {site: [(edit, Scope()) for edit in kinds] for site in everywhere}

    traced = LanguageModel(subject.module, tokenizer=subject.tokenizer)
    lines, rows = [], []
    for count in BATCHES:
        ways = Ways(subject, prompts(subject, count), tokens, traced)
        at = f"batch {count}"
        ours, ours_many = ways.ours(one), ways.ours(thirty)
        theirs, theirs_many = ways.repeng({middle: direction(middle, subject.d)}), ways.repeng(pushes)
        traced_one = ways.nnsight({middle: direction(middle, subject.d)})
        rows += [(at, *row) for row in same([("ours", ours()), ("repeng", theirs()), ("nnsight", traced_one())])]
        rows += [(at, *row) for row in same([("ours, 30 sites", ours_many()), ("repeng, 30 sites", theirs_many())])]
        if any(torch.equal(ways.plain(), way()) for way in (ours, ours_many)):
            raise SystemExit(f"{at}: the addition changes no token, so that peers agree says nothing")
        taken = rounds(
            {
                "plain": ways.plain,
                "one": ours,
                "repeng": theirs,
                "nnsight": traced_one,
                "three": ways.ours(added),
                "plain again": ways.plain,
                "kinds": ways.ours(mixed),
                "thirty": ours_many,
                "repeng thirty": theirs_many,
            },
            size.of(5, 1),
        )
        lines += [
            ratio(f"{at}: tokens/s with an addition at one site / plain", taken, "plain", "one", least=0.98),
            ratio(f"{at}: with three additions at each of 30 sites / plain", taken, "plain", "three", least=0.93),
            ratio(f"{at}: with addition, erasure and clamp at each of 30 / plain", taken, "plain", "kinds", least=0.93),
            ratio(f"{at}: plain again / plain, what the machine alone does", taken, "plain", "plain again"),
            ratio(f"{at}: seconds of ours / repeng, one site", taken, "one", "repeng", most=1.0),
            ratio(f"{at}: seconds of ours / repeng, all 30 sites", taken, "thirty", "repeng thirty", most=1.0),
            ratio(f"{at}: seconds of ours / nnsight, one site", taken, "one", "nnsight", most=1.0),
        ]
    return Results(
        f"{TOKENS} new tokens of SmolLM2-135M-Instruct in bf16, greedy, batches of 1 and 8 chats padded on the left.",
        tuple(lines),
        (Table("The same tokens under the same addition", ("batch", "way", "tokens"), tuple(rows)),),
    )


if __name__ == "__main__":
    main("hold", run, __doc__ or "")
