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
from common import Line, Results, Size, Table, main, messages_of, paired, repeng
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


def share(what: str, plain: Generate, edited: Generate, pairs: int, least: float | None) -> Line:
    """Tokens per second of the edited as a share of plain ones', pair by pair."""
    both = paired(plain, edited, pairs)
    shares = both.ratios
    note = f"median seconds {statistics.median(both.first):.2f} plain, {statistics.median(both.second):.2f} edited"
    return Line(what, statistics.median(shares), min(shares), max(shares), len(shares), least=least, note=note)


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
    tokens, pairs, middle = size.of(TOKENS, 16), size.of(7, 1), subject.blocks // 2
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
        lines += [
            share(f"{at}: tokens/s with an addition at one site / plain", ways.plain, ours, pairs, 0.98),
            share(f"{at}: with three additions at each of 30 sites / plain", ways.plain, ways.ours(added), pairs, 0.93),
            share(f"{at}: with addition, erasure and clamp at each of 30 / plain", ways.plain, ways.ours(mixed), pairs, 0.93),
            paired(ours, theirs, pairs).line(f"{at}: seconds of ours / repeng, one site", 1.0),
            paired(ours_many, theirs_many, pairs).line(f"{at}: seconds of ours / repeng, all 30 sites", 1.0),
            paired(ours, traced_one, pairs).line(f"{at}: seconds of ours / nnsight, one site", 1.0),
        ]
    return Results(
        f"{TOKENS} new tokens of SmolLM2-135M-Instruct in bf16, greedy, batches of 1 and 8 chats padded on the left.",
        tuple(lines),
        (Table("The same tokens under the same addition", ("batch", "way", "tokens"), tuple(rows)),),
    )


if __name__ == "__main__":
    main("hold", run, __doc__ or "")
