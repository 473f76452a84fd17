"""Small networks on data that is at hand: digits of scikit-learn, sources of Python's standard library, modular addition.

A `Task` is all that a training loop needs. Batches are drawn from the global random state, as most loops do it.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strandscope.reading import Reading
from strandscope.recorder.batch import Batch
from strandscope.recorder.quantity import Measured

HELD = 256  # rows that are measured on and never trained on
HELD_TEXTS = 64
LENGTH = 64  # bytes of a context


@dataclass(frozen=True)
class Task:
    """`draw()` gives (arguments by name or a tensor, targets); `held` is the recorder's batch, of rows not trained on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    draw: Callable[[], tuple[Any, Tensor]]
    held: tuple[Any, Tensor]
    steps: int
    watched: dict[str, Any] = field(default_factory=dict)  # settings of the recorder

    def loss(self, inputs: Any, targets: Tensor) -> Tensor:
        said = logits(self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs))
        return cross_entropy(said.flatten(0, -2), targets.flatten())


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def roots(output: Any) -> Tensor:
    """2√p, whose AGOP is the Fisher information of the next byte about the state (nats/unit²)."""
    return 2 * (output.logits.log_softmax(-1) / 2).exp()


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers on the recorder's batch: a quantity of one's own takes no more than this."""

    name: str = "accuracy"

    def settings(self) -> dict[str, object]:
        return {}

    @torch.no_grad()
    def measure(self, model: nn.Module, batch: Batch) -> Measured:
        right = (logits(batch.call(model)).argmax(-1) == batch.targets).double().reshape(batch.rows, -1).mean(1)
        share, n, z = float(right.mean()), len(right), 1.96
        middle, reach = share + z**2 / 2 / n, z * (share * (1 - share) / n + z**2 / 4 / n**2) ** 0.5
        low, high = (min(max((middle + sign * reach) / (1 + z**2 / n), 0.0), 1.0) for sign in (-1, 1))
        method = "right answers on the recorder's batch; Wilson's interval over rows"
        return Measured({self.name: Reading(share, min(low, share), max(high, share), 0.95, n, "share of answers", None, method)})


# --- digits ---


def _digits(model: nn.Module, form: Callable[[Tensor], Any], steps: int, rate: float, size: int) -> Task:
    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=torch.float32)
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, rest = order[:HELD], order[HELD:]

    def draw() -> tuple[Any, Tensor]:
        rows = rest[torch.randint(len(rest), (size,))]
        return form(x[rows]), y[rows]

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    return Task(model, optimizer, draw, (form(x[held]), y[held]), steps)


def _image(x: Tensor) -> dict[str, Tensor]:
    return {"pixel_values": x.view(-1, 1, 8, 8)}


def mlp(steps: int) -> Task:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    return _digits(model, lambda x: x, steps, 3e-5, 64)


def convnext(steps: int) -> Task:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_channels=1, patch_size=2, num_stages=2, hidden_sizes=[16, 32], depths=[2, 2], image_size=8, num_labels=10
    )
    return _digits(ConvNextForImageClassification(config), _image, steps, 5e-4, 64)


def vit(steps: int) -> Task:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        num_channels=1, image_size=8, patch_size=2, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, num_labels=10,
    )  # fmt: skip
    return _digits(ViTForImageClassification(config), _image, steps, 5e-4, 64)


# --- the standard library's sources, byte by byte ---


def _sources() -> Tensor:
    """Bytes of the standard library's top-level modules, in the order of their names."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))), dtype=torch.uint8)


def _bytes(model: nn.Module, steps: int, rate: float, size: int) -> Task:
    text = _sources().long()
    cut = len(text) * 9 // 10

    def rows(starts: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        windows = text[starts[:, None] + torch.arange(LENGTH + 1)]
        return {"input_ids": windows[:, :-1]}, windows[:, 1:]

    def draw() -> tuple[dict[str, Tensor], Tensor]:
        return rows(torch.randint(cut - LENGTH - 1, (size,)))

    apart = torch.linspace(cut, len(text) - LENGTH - 1, HELD_TEXTS).long()  # spread over files that are not trained on
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    return Task(model, optimizer, draw, rows(apart), steps, {"output": roots})


def transformer(steps: int) -> Task:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LENGTH, use_cache=False,
    )  # fmt: skip
    return _bytes(LlamaForCausalLM(config), steps, 2e-3, 16)


def rwkv(steps: int) -> Task:
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(
        vocab_size=256, context_length=LENGTH, hidden_size=64, attention_hidden_size=64, intermediate_size=128,
        num_hidden_layers=3, rescale_every=0, use_cache=False,
    )  # fmt: skip
    return _bytes(RwkvForCausalLM(config), steps, 2e-3, 16)


def mamba(steps: int) -> Task:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=256, hidden_size=64, state_size=8, num_hidden_layers=3, expand=2, use_cache=False)
    return _bytes(MambaForCausalLM(config), steps, 2e-3, 16)


# --- addition modulo 31: the rows trained on are right some time before the others ---

PRIME = 31


class Squares(nn.Module):
    """One hidden layer of squares on two one-hot numbers, without biases."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * PRIME, width, bias=False)
        self.head = nn.Linear(width, PRIME, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x).square())


def grokking(steps: int) -> Task:
    a, b = torch.cartesian_prod(torch.arange(PRIME), torch.arange(PRIME)).T
    x = torch.cat([nn.functional.one_hot(a, PRIME), nn.functional.one_hot(b, PRIME)], 1).float()
    y = (a + b) % PRIME
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    trained, rest = order[HELD:], order[:HELD]
    model = Squares()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1.0)
    held = x[rest], y[rest]
    return Task(model, optimizer, lambda: (x[trained], y[trained]), held, steps, {"sites": ["input"], "rank": 16})


STEPS = {
    "mlp": 12000, "convnext": 2000, "vit": 2000, "transformer": 1000, "rwkv": 300, "mamba": 200, "grokking": 5000,
}  # fmt: skip
TASKS: dict[str, Callable[[int], Task]] = {
    "mlp": mlp, "convnext": convnext, "vit": vit, "transformer": transformer, "rwkv": rwkv, "mamba": mamba, "grokking": grokking,
}  # fmt: skip


def task(name: str, steps: int | None = None, seed: int = 0) -> Task:
    """The task, its weights drawn from the seed; the global random state stands at the seed."""
    torch.manual_seed(seed)
    return TASKS[name](STEPS[name] if steps is None else steps)
