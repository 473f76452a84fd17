"""A tiny random Llama with a character tokenizer and a chat template, saved as a folder, and data that it can and cannot tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import families

_CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-\"\n"
_TEMPLATE = "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"


def save_model(folder: Path, chat: bool = True, vocabulary: int = 64) -> Path:
    """Write the model folder; without `chat` the tokenizer has no template."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {token: code for code, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "<", ">", *_CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.chat_template = _TEMPLATE if chat else None
    options = {**families._GROUPED, "vocab_size": vocabulary, "max_position_embeddings": 1024}
    module = families._transformers("LlamaConfig", "LlamaForCausalLM", **options)
    module.save_pretrained(folder)  # type: ignore[operator]
    wrapped.save_pretrained(folder)
    return folder


def rows(n: int = 80, groups: int = 16, seed: int = 0, told: bool = True, chat: bool = False) -> list[dict]:
    """Short texts of random letters; where `told`, a positive one ends in an exclamation mark, else the label is by chance."""
    draw = np.random.default_rng(seed)
    made = []
    for i in range(n):
        label = i % 2
        text = "".join(draw.choice(list("abcdefgh "), size=12)).strip() + " x" + (("!" if label else ".") if told else "")
        row = {"id": f"r{i}", "label": label, "group": f"g{(i // 2) % groups}"}
        made.append(row | ({"messages": [{"role": "user", "content": text}]} if chat else {"text": text}))
    return made


def write_jsonl(path: Path, made: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path
