"""What leaves, run by those it leaves for: repeng reads our control vectors and we read its; PEFT loads our adapters.

The control vectors: tensors identical bit for bit in both directions, and 64 greedy tokens under the same additions identical, in
bf16. The adapters and folders: logits in fp32 beside those of the network with our hooks, over twelve chats.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import strandscope as ss
from common import Line, Results, Size, Table, main, messages_of, repeng
from strandscope.control.edit import Add
from strandscope.control.leave.adapter import write_adapter
from strandscope.control.leave.folder import bake
from strandscope.control.leave.gguf_vector import ControlVector, read_control_vector, write_control_vector
from strandscope.control.leave.plan import ablation
from strandscope.subject.attach import Edits, Scope, attach
from strandscope.subject.site import Site

TOKENS = 64
PROMPTS = 12
ROUNDING = 1e-5  # relative distance of fp32 logits
BLOCKS = (9, 15, 21)
LENGTH = 12.0  # of each push, in the states' units


def pushes(width: int) -> dict[int, Tensor]:
    """Random directions; repeng multiplies in fp32 before it rounds, so those are taken that lose nothing in bf16."""
    made = {}
    for k in BLOCKS:
        drawn = torch.randn(width, generator=torch.Generator().manual_seed(k))
        made[k] = (LENGTH * drawn / drawn.norm()).bfloat16().float()
    return made


def texts(subject: ss.Subject) -> list[str]:
    return [subject.render(messages_of(row)) for row in ss.concept("neutral").rows[:PROMPTS]]


def tokens(subject: ss.Subject, text: str) -> dict[str, Tensor]:
    tokenizer: Any = subject.tokenizer
    return dict(tokenizer(text, return_tensors="pt", add_special_tokens=False))


def written(subject: ss.Subject, module: Any, count: int) -> list[Tensor]:
    """The new tokens after each prompt, greedily."""
    found = []
    for text in texts(subject)[:3]:
        given = tokens(subject, text)
        with torch.no_grad():
            made = module.generate(**given, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        found.append(made[0, given["input_ids"].shape[1] :])
    return found


def shared(module: Any) -> Any:
    """A copy that may be wrapped, on the same weights."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def vectors(subject: ss.Subject, folder: Path, count: int) -> tuple[list[Line], list[tuple[str, str]]]:
    peer = repeng()
    ours = {Site("resid", k): push for k, push in pushes(subject.d).items()}
    write_control_vector(folder / "ours.gguf", ControlVector(ours, subject.anatomy.family))
    theirs = peer.ControlVector.import_gguf(folder / "ours.gguf")
    theirs.export_gguf(folder / "theirs.gguf")
    back = read_control_vector(folder / "theirs.gguf")
    kept = [torch.equal(torch.tensor(theirs.directions[site.index]), push) for site, push in ours.items()]
    returned = [torch.equal(back.pushes[site], push) for site, push in ours.items()]
    if len(theirs.directions) != len(ours) or len(back.pushes) != len(ours):
        raise SystemExit(f"got {sorted(theirs.directions)} and {list(back.pushes)}, wanted blocks {BLOCKS}")
    edits: Edits = {site: [(Add(push, 1.0), Scope())] for site, push in back.pushes.items()}
    plain = written(subject, subject.module, count)
    with attach(subject, edits=edits):
        with_hooks = written(subject, subject.module, count)
    wrapped = peer.ControlModel(shared(subject.module), list(BLOCKS))
    wrapped.set_control(theirs, 1.0)
    with_repeng = written(subject, wrapped, count)
    same = [float((one == other).double().mean()) for one, other in zip(with_hooks, with_repeng, strict=True)]
    changed = [float((one != other).double().mean()) for one, other in zip(with_hooks, plain, strict=True)]
    lines = [
        Line("directions that repeng reads as we wrote them, bit for bit", sum(kept) / len(kept), n=len(kept), least=1.0),
        Line(
            "directions that come back from repeng's file, bit for bit", sum(returned) / len(returned), n=len(returned), least=1.0
        ),
        Line(f"greedy tokens of {count} that hooks and repeng agree on (least of 3 chats)", min(same), least=1.0),
        Line("greedy tokens that the addition changes (least of 3 chats)", min(changed), least=0.1),
    ]
    hint = theirs.model_type, back.model_hint
    return lines, [("model_hint, ours to repeng and back", " and ".join(hint)), ("blocks", str(sorted(theirs.directions)))]


def logits(subject: ss.Subject, module: Callable[..., Any]) -> list[Tensor]:
    with torch.no_grad():
        return [module(**tokens(subject, text)).logits.double() for text in texts(subject)]


def far(some: list[Tensor], others: list[Tensor]) -> float:
    return max(float((one - other).norm() / other.norm()) for one, other in zip(some, others, strict=True))


def formats(subject: ss.Subject, folder: Path) -> list[Line]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    basis = torch.linalg.qr(torch.stack([push.double() for push in pushes(subject.d).values()], 1)).Q
    wishes: dict[str, Edits] = {
        "additions at three blocks": {Site("resid", k): [(Add(push, 1.0), Scope())] for k, push in pushes(subject.d).items()},
        "an ablation of rank 3": ablation(subject, basis),
    }
    plain, lines = logits(subject, subject.module), []
    for number, (name, edits) in enumerate(wishes.items()):
        with attach(subject, edits=edits):
            wanted = logits(subject, subject.module)
        write_adapter(subject, edits, folder / f"adapter{number}")
        bake(subject, edits, folder / f"folder{number}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT: that an adapter with a bias cannot be merged where the layer has none
            adapted = PeftModel.from_pretrained(shared(subject.module), folder / f"adapter{number}").eval()
        opened = AutoModelForCausalLM.from_pretrained(folder / f"folder{number}", dtype=torch.float32).eval()
        for way, module in (("PEFT adapter", adapted), ("folder, opened by transformers", opened)):
            distance = far(logits(subject, module), wanted)
            note = f"{distance:.1e}; the edit moves them by {far(plain, wanted):.2g}"
            lines.append(Line(f"{name}: logits of the {way} beside hooks", distance, most=ROUNDING, note=note))
    return lines


def run(size: Size) -> Results:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lines, rows = vectors(ss.load("smollm2"), folder, size.of(TOKENS, 8))
        lines += formats(ss.load("smollm2", dtype="float32"), folder)
    return Results(
        f"SmolLM2-135M-Instruct; additions of length {LENGTH:g} at blocks {', '.join(map(str, BLOCKS))}; relative "
        f"distances, the largest over {PROMPTS} chats.",
        tuple(lines),
        (Table("Control vectors", ("what", "found"), tuple(rows)),),
    )


if __name__ == "__main__":
    main("interop", run, __doc__ or "")
