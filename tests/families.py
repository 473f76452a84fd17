"""Tiny random networks, one per family, built from configs: what the selfcheck is proved on, and what other tests run on.

Weights are drawn larger than transformers draws them, so that context matters and an error in masks or caches shows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import strandscope as ss

_TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8}


def _draw(module: nn.Module) -> nn.Module:
    """Fresh weights, from a generator of its own: matrices of gain near 1, the rest moved a little off where it is."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1 or "A_log" in name or "time_" in name:
                weight += 0.1 * noise.to(weight.dtype)
            else:
                weight.copy_(noise * (weight[0].numel() ** -0.5))
    return module.eval()


def _transformers(config: str, model: str, **options: object) -> nn.Module:
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(7)
        return _draw(getattr(transformers, model)(getattr(transformers, config)(**options)))


def llama() -> nn.Module:
    return _transformers("LlamaConfig", "LlamaForCausalLM", **_GROUPED)


def mistral() -> nn.Module:
    return _transformers("MistralConfig", "MistralForCausalLM", **_GROUPED, sliding_window=4)


def qwen3() -> nn.Module:
    return _transformers("Qwen3Config", "Qwen3ForCausalLM", **_GROUPED)


def gemma3() -> nn.Module:
    return _transformers("Gemma3TextConfig", "Gemma3ForCausalLM", **_GROUPED, sliding_window=4, query_pre_attn_scalar=8)


def gpt2() -> nn.Module:
    return _transformers(
        "GPT2Config",
        "GPT2LMHeadModel",
        vocab_size=64,
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
    )


def gpt_neox() -> nn.Module:
    return _transformers("GPTNeoXConfig", "GPTNeoXForCausalLM", **_TEXT)


def mixtral() -> nn.Module:
    return _transformers("MixtralConfig", "MixtralForCausalLM", **_GROUPED, num_local_experts=4, num_experts_per_tok=2)


def rwkv() -> nn.Module:
    """Rescaled every two blocks, as trained ones are every six: weights change in the first pass, states are halved."""
    return _transformers(
        "RwkvConfig", "RwkvForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=4, context_length=128, rescale_every=2
    )


def mamba() -> nn.Module:
    return _transformers("MambaConfig", "MambaForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=4, state_size=8)


def vit() -> nn.Module:
    shape = {"image_size": 16, "patch_size": 4, "num_channels": 3, "num_labels": 5}
    return _transformers(
        "ViTConfig",
        "ViTForImageClassification",
        **shape,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
    )


def convnext() -> nn.Module:
    return _transformers(
        "ConvNextConfig",
        "ConvNextForImageClassification",
        image_size=32,
        num_channels=3,
        num_labels=5,
        patch_size=2,
        num_stages=3,
        hidden_sizes=[8, 16, 24],
        depths=[2, 2, 1],
        layer_scale_init_value=1.0,
    )


def mlp() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layers = (nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    return _draw(nn.Sequential(*layers))


def vectors(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"input": torch.stack(list(rows))}


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "Llama": llama,
    "Mistral": mistral,
    "Qwen3": qwen3,
    "Gemma 3": gemma3,
    "GPT-2": gpt2,
    "GPT-NeoX": gpt_neox,
    "Mixtral": mixtral,
    "RWKV": rwkv,
    "Mamba": mamba,
    "ViT": vit,
    "ConvNeXt": convnext,
    "plain MLP": mlp,
}


def subject(family: str, check: str = "none") -> ss.Subject:
    """The family's tiny network, opened as a subject."""
    module = FAMILIES[family]()
    return ss.load(module, batch=vectors if family == "plain MLP" else None, check=check)  # type: ignore[arg-type]
