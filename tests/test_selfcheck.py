"""Every family passes its selfcheck; a network that would deceive its measurer is refused with the line that failed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import families
import strandscope as ss
from strandscope.errors import InputError, TrustError
from strandscope.subject.anatomy import Anatomy
from strandscope.subject.selfcheck import Check, render, selfcheck

TEXT = ["right padding", "left padding", "decoding"]
NOT_APPLICABLE = {"RWKV": ["left padding"], "ViT": TEXT, "ConvNeXt": TEXT, "plain MLP": [*TEXT, "hidden states"]}


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_passes_and_says_what_does_not_apply(family: str) -> None:
    checks = selfcheck(families.subject(family))
    assert [str(check) for check in checks if check.status == "failed"] == []
    assert [check.name for check in checks if check.status == "not applicable"] == NOT_APPLICABLE.get(family, [])


@pytest.mark.parametrize("family", ["Llama", "ConvNeXt", "plain MLP"])
def test_the_quick_form_runs_at_load(family: str) -> None:
    assert {check.status for check in families.subject(family, check="quick").checks} <= {"passed", "not applicable"}


def anatomy(family: str) -> Anatomy:
    return families.subject(family).anatomy


def test_parts_are_found_where_each_family_has_them() -> None:
    found = {family: anatomy(family) for family in families.FAMILIES}
    mixers = {family: (parts.attn[-1], parts.mlp[-1]) for family, parts in found.items()}
    ends = {family: tuple(path and path.rsplit(".", 1)[-1] for path in pair) for family, pair in mixers.items()}
    assert ends == {
        **dict.fromkeys(("Llama", "Mistral", "Qwen3", "Gemma 3", "Mixtral"), ("self_attn", "mlp")),
        "GPT-2": ("attn", "mlp"),
        "GPT-NeoX": ("attention", "mlp"),
        "RWKV": ("attention", "feed_forward"),
        "Mamba": ("mixer", None),
        "ViT": ("attention", "mlp"),
        "ConvNeXt": ("dwconv", "pwconv2"),
        "plain MLP": (None, None),
    }
    assert found["ConvNeXt"].widths == (8, 8, 16, 16, 24)
    assert found["plain MLP"].widths == (16, 12, 8) and found["plain MLP"].blocks == ("1", "3", "5")
    assert {family for family, parts in found.items() if parts.causal} == set(families.FAMILIES) - {
        "ViT",
        "ConvNeXt",
        "plain MLP",
    }
    assert {family for family, parts in found.items() if parts.causal and not parts.caches} == {"RWKV", "Mamba"}
    assert {family for family, parts in found.items() if parts.causal and not parts.left_padding} == {"RWKV"}
    assert {family for family, parts in found.items() if parts.last_state_is_normed} == {f for f, p in found.items() if p.causal}


def test_a_kind_that_a_network_lacks_is_refused_with_those_that_it_has() -> None:
    mamba = families.subject("Mamba")
    with pytest.raises(InputError, match=r"mlp:0 does not exist.*embed, resid:0 to resid:3, attn:0 to attn:3, module:PATH"):
        mamba.port("mlp:0")
    assert [str(site) for site in mamba.sites("resid:*")] == [f"resid:{index}" for index in range(4)]


def test_a_module_that_holds_no_state_or_runs_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.again = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 4)

        def forward(self, input: Tensor) -> Tensor:
            return self.again(self.again(self.body(input)))

    subject = ss.load(Twice().eval(), batch=families.vectors, check="none")
    with pytest.raises(InputError, match="runs 2 times"):
        subject.port("module:again")
    with pytest.raises(InputError, match=r"nearest are.*body\.2"):
        subject.port("module:body.9")
    llama = families.subject("Llama")
    with pytest.raises(InputError, match="returns no state"):
        llama.port("module:model.rotary_emb")


class Blocks(nn.Module):
    """A network of residual blocks to be spoilt in one way at a time."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(depth))
        self.head = nn.Linear(8, 3)

    def forward(self, input: Tensor) -> Tensor:
        h = self.first(input)
        for block in self.blocks:
            h = block(h) + 0.5
        return self.head(h)


def opened(module: nn.Module, **options: Any) -> ss.Subject:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()
    return ss.load(module.eval(), batch=families.vectors, **options)


def test_the_network_that_is_spoilt_below_is_sound() -> None:
    assert "failed" not in {check.status for check in selfcheck(opened(Blocks()))}


class IgnoresWrites(Blocks):
    """Each block's result is computed again, so what a hook put there is lost."""

    def forward(self, input: Tensor) -> Tensor:
        h = self.first(input)
        for block in self.blocks:
            block(h)
            h = (
                h + block[2].weight @ torch.tanh(block[0].weight @ h[..., None]) @ torch.ones(1)
                if h.dim() < 2
                else h @ block[0].weight
            )
        return self.head(h)


def test_a_network_that_ignores_what_is_written_is_refused() -> None:
    with pytest.raises(TrustError, match=r"writing to resid:0 .* does not change the network's answer"):
        opened(IgnoresWrites())


class Restless(Blocks):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(input), 0.5, training=True)


def test_a_network_that_draws_random_numbers_is_refused() -> None:
    with torch.random.fork_rng(), pytest.raises(TrustError, match="two passes agree: failed"):
        torch.manual_seed(0)
        opened(Restless())


class Leaves(Blocks):
    """Hangs a hook on itself in each pass and lets it stay."""

    def forward(self, input: Tensor) -> Tensor:
        self.head.register_forward_hook(lambda *_: None)
        return super().forward(input)


def test_a_network_on_which_hooks_are_left_is_refused() -> None:
    with pytest.raises(TrustError, match=r"after detaching: failed .hooks"):
        opened(Leaves())


class Drifts(Blocks):
    """Its parameters change when it runs."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            self.first.bias.nextafter_(torch.tensor(9.0)) if self.training else self.spare.add_(1)
        return super().forward(input)

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(1))


def test_a_network_whose_parameters_change_as_it_runs_is_refused_by_the_full_form() -> None:
    with pytest.raises(TrustError, match=r"after detaching: failed .its parameters"):
        opened(Drifts(), check="full")


class Leaks(Blocks):
    """Rows speak to one another."""

    def forward(self, input: Tensor) -> Tensor:
        answer = super().forward(input)
        return answer + answer.mean(0)


def test_a_network_whose_rows_speak_to_one_another_is_refused() -> None:
    with pytest.raises(TrustError, match="rows that were not written to answer differently"):
        opened(Leaks())


@pytest.mark.parametrize("lie", ["shifted", "scaled", "swapped"])
def test_a_network_whose_hidden_states_are_others_is_refused(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = families.llama()
    forward = module.forward

    def lying(**kwargs: Any) -> Any:
        output = forward(**kwargs)
        if output.hidden_states is not None:
            states = list(output.hidden_states)
            spoilt = {
                "shifted": lambda: [*states[:2], states[2].roll(1, -1), *states[3:]],
                "scaled": lambda: [*states[:2], states[2] * 3, *states[3:]],
                "swapped": lambda: [states[0], states[2], states[1], *states[3:]],
            }
            output.hidden_states = tuple(spoilt[lie]())
        return output

    module.forward = lying  # type: ignore[method-assign]
    with pytest.raises(TrustError, match="hidden states: failed"):
        ss.load(module)


def test_a_module_in_training_mode_with_dropout_is_refused() -> None:
    spoilt = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 2)).train()
    with pytest.raises(InputError, match=r"call \.eval\(\)"):
        ss.load(spoilt, batch=families.vectors)


def test_an_error_in_the_network_itself_is_not_taken_for_a_failed_property() -> None:
    subject = families.subject("plain MLP")

    def broken(rows: Any) -> Any:
        raise ZeroDivisionError

    object.__setattr__(subject, "batch", broken)
    with pytest.raises(ZeroDivisionError):
        selfcheck(subject)


def test_lines_are_rendered_one_each() -> None:
    checks = (Check("idle", "passed"), Check("left padding", "not applicable", "its inputs are not tokens"))
    assert render(checks) == ["idle          passed", "left padding  not applicable: its inputs are not tokens"]


def test_the_support_matrix_is_what_a_run_says() -> None:
    path = Path(__file__).parent.parent / "docs" / "make_support.py"
    spec = importlib.util.spec_from_file_location("make_support", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run: python docs/make_support.py"


@pytest.mark.real
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_embedded_model_passes_in_full(dtype: str) -> None:
    subject = ss.load("smollm2", dtype=dtype, check="full")
    assert {check.status for check in subject.checks} == {"passed"}
