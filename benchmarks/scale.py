"""Scale: capture and the response metric on a network of the size and shape of Llama 3.1 8B, its weights random, on one GPU.

What is held against what: capture of every block's output beside the plain forward pass over the same tokens (no hooks, the head
at each row's last token alone), and 64 gradients at all blocks beside one forward and backward pass of 64 tokens (its gradient
with respect to the embedded tokens), in pairs that alternate, the GPU waited for at both ends. Contexts are in the cache before
the clock starts; what putting them there costs is a line of its own. Memory is the most that PyTorch had allocated during a piece
of work, the weights included.

Random weights cost what trained ones do; their figures mean nothing. Each figure is told as it is measured; a part that fails is
named among the results, and the others still run. `--quick` takes a tiny network, on the CPU where there is no GPU, to see that
the program runs.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator

import torch

import strandscope as ss
from common import Line, Results, Size, Table, main, paired, timed
from response import DRAWS, both_ways, drawn
from strandscope.capture.record import stream
from strandscope.capture.response import exact, respond
from strandscope.errors import StrandscopeError
from strandscope.provenance import torch_generator

LLAMA = {  # the published configuration of Llama 3.1 8B
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False,
}
TINY = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"intermediate_size": 128, "max_position_embeddings": 1024}
ROWS, TOKENS = 32, 512
GIGA = 2**30
Work = Callable[[], object]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def opened(size: Size) -> ss.Subject:
    """The network with weights drawn where they stay: on a CPU that alone would take minutes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = torch.bfloat16 if size.full else torch.float32
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device()):
            module = LlamaForCausalLM(LlamaConfig(**(LLAMA if size.full else TINY)))  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(before)
    return ss.load(module.eval())


def ids(subject: ss.Subject, length: int, row: int = 0) -> tuple[int, ...]:
    drawn = torch.randint(subject.vocabulary or 0, (length,), generator=torch_generator(row, "scale"))
    return tuple(drawn.tolist())


def waited(work: Work) -> Work:
    """The same, over when the GPU is done with it."""

    def run() -> object:
        made = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return made

    return run


def memory(work: Work) -> tuple[float, float]:
    """(most GPU memory, over that before) in GiB while this runs."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    most = torch.cuda.max_memory_allocated()
    return most / GIGA, (most - before) / GIGA


def needed(what: str, work: Work) -> Iterator[Line]:
    if torch.cuda.is_available():
        most, over = memory(work)
        yield Line(f"GPU memory: {what}", most, unit="GB", note=f"{over:.2f} GB over what was there before")


def rate(what: str, times: tuple[float, ...], count: int, unit: str) -> Line:
    rates = sorted(count / took for took in times)
    return Line(what, statistics.median(rates), rates[0], rates[-1], len(rates), unit)


def capturing(subject: ss.Subject, size: Size) -> Iterator[Line]:
    """Capture of all blocks' outputs, beside the plain forward pass over the same tokens."""
    rows, length = size.of(ROWS, 4), size.of(TOKENS, 16)
    examples = ss.Examples.from_rows([{"tensor": torch.tensor(ids(subject, length, row))} for row in range(rows)], "random ids")
    together = torch.tensor([row.input.tolist() for row in examples.rows], device=subject.device)  # type: ignore[union-attr]

    def plain() -> object:
        with torch.no_grad():
            return subject.module(input_ids=together, use_cache=False, logits_to_keep=1).logits

    what = f"{rows} × {length} tokens"
    for name, positions, all_at_once in (
        ("last position", "last", True),
        ("mean over positions", "mean", True),
        ("all positions", "all", True),
        ("all positions, as a stream", "all", False),
    ):
        taken = functools.partial(ss.capture if all_at_once else _streamed, subject, examples, "resid:*", positions)
        work: Work = functools.partial(taken, batch_tokens=rows * length)
        found = paired(waited(work), waited(plain), size.of(3 if positions == "all" else 5, 1))
        yield found.line(f"capture, {name} / plain forward pass, {what}", None)
        yield rate(f"capture, {name}", found.first, rows * length, "tokens/s")
        if name == "last position":
            yield rate("plain forward pass", found.second, rows * length, "tokens/s")
            yield from needed("plain forward pass", plain)
        yield from needed(f"capture, {name}", work)


def _streamed(subject: ss.Subject, examples: ss.Examples, at: str, positions: str, batch_tokens: int) -> None:
    for _ in stream(subject, examples, at, positions, batch_tokens=batch_tokens):  # type: ignore[arg-type]
        pass


def responding(subject: ss.Subject, size: Size) -> Iterator[Line]:
    """64 draws at all blocks, the context in the cache, beside one forward and backward pass of 64 tokens."""
    base = waited(functools.partial(both_ways, subject, ids(subject, DRAWS)))
    for length in (16, size.of(TOKENS, 24)):
        draws, prefill = (waited(work) for work in drawn(subject, ids(subject, length)))
        found = paired(draws, base, size.of(7, 1))
        what = f"{DRAWS} draws at {subject.blocks} blocks, context {length}"
        yield found.line(f"{what} / forward and backward of {DRAWS} tokens", None)
        prefill()
        before = [timed(prefill) for _ in range(size.of(5, 1))]
        yield Line(f"prefill of {length} tokens", statistics.median(before), min(before), max(before), len(before), "s")
        whole = tuple(took + statistics.median(before) for took in found.first)
        yield rate(f"{what}, prefill included", whole, 1, "contexts/s")
        yield rate(f"{what}, prefill included", whole, length, "tokens/s")
        yield from needed(what, draws)
    yield from needed(f"forward and backward of {DRAWS} tokens", base)


def exactly(subject: ss.Subject, size: Size) -> Iterator[Line]:
    """The exact metric of one context at three blocks: as many backward rows as the output is wide, then JᵀAJ."""
    last = subject.blocks - 1
    at = [f"resid:{block}" for block in sorted({0, last // 2, last})]
    rows = ss.Examples.from_rows([{"tensor": torch.tensor(ids(subject, size.of(64, 12)))}], "random ids")
    work = waited(lambda: [one.row for one in exact(subject, rows, at)])
    work()
    times = [timed(work) for _ in range(size.of(3, 1))]
    what = f"exact metric at {len(at)} blocks ({subject.d} backward rows, vocabulary {subject.vocabulary}), a context"
    yield Line(what, statistics.median(times), min(times), max(times), len(times), "s")
    yield from needed("exact metric", work)


def agreeing(subject: ss.Subject, size: Size) -> Iterator[Line]:
    """That what was timed is what it should be: the trace of 256 draws over the exact one, at the middle block."""
    rows = ss.Examples.from_rows([{"tensor": torch.tensor(ids(subject, size.of(64, 12)))}], "random ids")
    site = f"resid:{subject.blocks // 2}"
    drawn = respond(subject, rows, site, draws=size.of(256, 64)).at(site)[0].double()
    (whole,) = exact(subject, rows, site)
    trace = float(next(iter(whole.metrics.values())).double().trace())
    yield Line(f"trace at {site}: draws / exact", float(drawn.square().sum(1).mean()) / trace, n=len(drawn))


PARTS = {"capture": capturing, "response": responding, "exact": exactly, "agreement": agreeing}


def run(size: Size) -> Results:
    if size.full and not torch.cuda.is_available():
        print("scale: the full size needs a GPU that torch can use, and there is none; --quick runs without", file=sys.stderr)
        raise SystemExit(0)
    start = time.perf_counter()
    subject = opened(size)
    _said(f"{subject}, opened and checked", start)
    lines: list[Line] = []
    failed: list[tuple[str, str]] = []
    for name, part in PARTS.items():
        start = time.perf_counter()
        try:
            for line in part(subject, size):
                lines.append(line)
                _said(f"{line.what}: {line.measured} {line.note}", start)
        except (StrandscopeError, RuntimeError, ValueError, SystemExit) as error:  # named, and the next part runs
            failed.append((name, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}"))
            _said(f"{name} failed: {failed[-1][1]}\n{traceback.format_exc(limit=-4)}", start)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    tables = (Table("What failed", ("part", "why"), tuple(failed)),) if failed else ()
    return Results(__doc__ or "", tuple(lines), tables, _facts(subject))


def _facts(subject: ss.Subject) -> dict[str, object]:
    facts: dict[str, object] = {"network": str(subject), "parameters": sum(one.numel() for one in subject.module.parameters())}
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        facts["GPU"] = f"{about.name}, {about.total_memory / GIGA:.0f} GiB, CUDA {torch.version.cuda}"
    facts["dtype"] = str(subject.dtype).removeprefix("torch.")
    facts["TF32"] = torch.backends.cuda.matmul.allow_tf32
    return facts


def _said(what: str, start: float) -> None:
    print(f"[{time.perf_counter() - start:6.1f} s] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main("scale", run, __doc__ or "")
