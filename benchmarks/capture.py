"""Capture: every block's last token of 320 chat prompts, beside a plain forward pass and two peers.

The peers get their batches rendered, tokenised and padded before the clock starts; ours pays for everything, from the messages
on. All work on one loaded module, in bf16, and are first shown to give the same states: none may be further from the states of
the same module in fp32 than one and a half times what bf16's rounding puts the plain pass away from them.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

import strandscope as ss
from common import Line, Results, Size, Table, main, messages_of, paired

BATCH = 32
SEED = 20
Batch = dict[str, Tensor]


def prompts(count: int) -> ss.Examples:
    """The pinned set: chats of 5 to 40 words from three of our packs, drawn by a fixed seed, in the order drawn."""
    rows = []
    for pack in ("harm", "neutral", "spanish"):
        for row in ss.concept(pack).rows:
            messages = messages_of(row)
            if 5 <= len(messages[0]["content"].split()) <= 40:
                rows.append({"messages": messages, "id": row.id})
    order = np.random.default_rng(SEED).permutation(len(rows))[:count]
    return ss.Examples.from_rows([rows[i] for i in order], "prompts")


def batches(subject: ss.Subject, examples: ss.Examples, side: str, longest: int | None) -> list[Batch]:
    """Batches of 32 in the given order, padded to their own longest row, or to `longest`."""
    tokenizer = subject.tokenizer
    assert tokenizer is not None
    texts = [subject.render(messages_of(row)) for row in examples.rows]
    padding: dict[str, Any] = {"padding": True} if longest is None else {"padding": "max_length", "max_length": longest}
    return [
        dict(tokenizer(texts[i : i + BATCH], return_tensors="pt", add_special_tokens=False, padding_side=side, **padding))
        for i in range(0, len(texts), BATCH)
    ]


def plain(module: torch.nn.Module, given: list[Batch]) -> None:
    """Nothing but the forward pass."""
    with torch.no_grad():
        for batch in given:
            module(**batch)


def hidden_states(module: torch.nn.Module, given: list[Batch]) -> Tensor:
    """(rows, blocks, d), the reference implementation's way: padding on the left to the longest of all, the last token taken."""
    found = []
    with torch.no_grad():
        for batch in given:
            states = module(**batch, output_hidden_states=True).hidden_states
            found.append(torch.stack([state[:, -1] for state in states[1:]], 1))
    return torch.cat(found)


def traced(model: Any, given: list[Batch]) -> Tensor:
    """(rows, blocks, d) with an nnsight trace that saves every block's last token."""
    import nnsight

    found = []
    for batch in given:
        rows, last = torch.arange(len(batch["input_ids"])), batch["attention_mask"].sum(1) - 1
        with torch.no_grad(), model.trace(**batch):
            saved = nnsight.save([])
            for layer in model.model.layers:
                saved.append(layer.output[rows, last])
        found.append(torch.stack(list(saved), 1))
    return torch.cat(found)


def hooked(module: Any, given: list[Batch]) -> Tensor:
    """(rows, blocks, d) of the plain pass itself, by plain hooks: what the others are held to."""
    found = []
    for batch in given:
        rows, last = torch.arange(len(batch["input_ids"])), batch["attention_mask"].sum(1) - 1
        taken: list[Tensor] = []
        keep = [
            layer.register_forward_hook(lambda _, __, output, taken=taken, rows=rows, last=last: taken.append(output[rows, last]))
            for layer in module.model.layers
        ]
        with torch.no_grad():
            module(**batch)
        for handle in keep:
            handle.remove()
        found.append(torch.stack(taken, 1))
    return torch.cat(found)


def distance(states: Tensor, reference: Tensor) -> float:
    """The largest over blocks of the median over rows of the relative difference."""
    wide, other = states.double(), reference.double()
    return float(((wide - other).norm(dim=-1) / other.norm(dim=-1)).median(0).values.max())


def check(module: Any, right: list[Batch], ways: dict[str, Tensor]) -> list[tuple[str, float]]:
    """Each way's relative difference from the fp32 states; raises if one is much further off than bf16's rounding."""
    exact = hooked(copy.deepcopy(module).float(), right)
    rounding = distance(hooked(module, right), exact)
    rows = [("plain forward pass (rounding alone)", rounding)]
    for name, states in ways.items():
        # transformers gives the last entry of `hidden_states` after the final norm, so the last block is left out there.
        blocks = slice(0, -1) if name == "output_hidden_states" else slice(None)
        rows.append((name, distance(states[:, blocks], exact[:, blocks])))
        if rows[-1][1] > 1.5 * rounding:
            raise SystemExit(
                f"{name} is {rows[-1][1]:.3g} from the fp32 states, the plain pass {rounding:.3g}: not the same states"
            )
    return rows


def run(size: Size) -> Results:
    from nnsight import NNsight

    subject = ss.load("smollm2")
    module: Any = subject.module
    examples = prompts(size.of(320, 6))
    right = batches(subject, examples, "right", None)
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in right])
    left = batches(subject, examples, "left", int(lengths.max()))
    model = NNsight(module)

    def ours() -> ss.Activations:
        return ss.capture(subject, examples, at="resid:*", positions="last")

    def peer_hidden() -> Tensor:
        return hidden_states(module, left)

    def peer_traced() -> Tensor:
        return traced(model, right)

    states = ours()
    mine = torch.stack([states.at(site) for site in states.sites], 1)
    checked = check(module, right, {"ours": mine, "output_hidden_states": peer_hidden(), "nnsight trace": peer_traced()})
    pairs = size.of(7, 1)
    return Results(
        f"{len(examples)} chat prompts of 5 to 40 words, SmolLM2-135M-Instruct, bf16, batches of {BATCH} in the given order; "
        "time of ours as a share of the other's, which gets its batches ready-made.",
        (
            paired(ours, lambda: plain(module, right), pairs).line("capture / plain forward pass", 0.40),
            paired(ours, peer_traced, pairs).line("capture / nnsight trace", 0.40),
            paired(ours, peer_hidden, pairs).line("capture / output_hidden_states", 0.30),
            Line("distance of our states from fp32 / that of the plain pass", checked[1][1] / checked[0][1], most=1.5),
        ),
        (
            Table(
                "The same states: relative distance from the fp32 states (worst block, median row)",
                ("way", "difference"),
                tuple((a, f"{b:.2e}") for a, b in checked),
            ),
            Table("Token lengths, template included", ("quantile", "tokens"), _quantiles(lengths)),
        ),
        {"prompts (SHA-256)": examples.digest, "tokens in all": int(lengths.sum())},
    )


def _quantiles(lengths: Tensor) -> tuple[tuple[str, str], ...]:
    shares = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    return tuple((f"{share:.0%}", f"{lengths.double().quantile(share):.0f}") for share in shares)


if __name__ == "__main__":
    main("capture", run, __doc__ or "")
