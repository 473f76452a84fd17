"""The network under study: module, tokenizer, anatomy, fingerprint and what its selfcheck found. It is never changed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import lens
from .anatomy import Anatomy, Port
from .scope import prompt_of
from .site import Site, parse_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .attach import Hook
    from .selfcheck import Check

Batch = Callable[[Sequence[Any]], dict[str, Tensor]]
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that `load` opened and checked.

    `batch` turns rows into the keyword arguments of the forward pass; `probe` holds the few made-up rows that checks run on.
    `hooks` are those that hung on the module when it was opened; any other is somebody's.
    """

    name: str
    module: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    anatomy: Anatomy
    fingerprint: str
    source: Mapping[str, Any]
    batch: Batch
    checks: tuple[Check, ...] = ()
    probe: tuple[Any, ...] = field(default=(), repr=False)
    hooks: frozenset[Hook] = field(default=frozenset(), repr=False)
    _ports: dict[Site, Port] = field(default_factory=dict, repr=False)

    def port(self, site: str | Site) -> Port:
        """The module and place that a site names in this network.

        Raises:
            InputError: there is no such site; the sentence lists those there are.
        """
        site = Site.parse(site)
        if site not in self._ports:
            self._ports[site] = self._resolve(site)
        return self._ports[site]

    def sites(self, pattern: str | Site | Sequence[str | Site]) -> list[Site]:
        """Every site that a pattern, or a list of them, names; `attn:*` and `mlp:*` name the blocks that have one."""
        parts = [pattern] if isinstance(pattern, str | Site) else list(pattern)
        found: list[Site] = []
        for part in parts:
            for site in [part] if isinstance(part, Site) else parse_pattern(part, self.blocks):
                if part != site and "*" in str(part) and self._lacks(site):
                    continue
                self.port(site)
                found.append(site)
        if not found:
            raise InputError(f"site pattern {pattern!r} names no site; {self._what_exists()}")
        return list(dict.fromkeys(found))

    @property
    def d(self) -> int:
        """Width of the last block's output."""
        return self.anatomy.widths[-1] if self.anatomy.widths else 0

    @property
    def blocks(self) -> int:
        return len(self.anatomy.blocks)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def context(self) -> int | None:
        """The most tokens a row may have, by the network's configuration or else its tokenizer; None where neither says."""
        config = getattr(self.module, "config", None)
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "context_length")]
        limits.append(getattr(self.tokenizer, "model_max_length", None))
        # tokenizers that know no limit say 1e30
        return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < 10**9), default=None)

    @property
    def vocabulary(self) -> int | None:
        """How many token ids there are; None where the input embedding is no table."""
        table = None if self.anatomy.embed is None else self.module.get_submodule(self.anatomy.embed)
        return table.num_embeddings if isinstance(table, nn.Embedding) else None

    @property
    def unembedding(self) -> Tensor | None:
        """Weight (vocabulary or classes, d) of the head; None in a network without one."""
        weight = None if self.anatomy.head is None else self.module.get_submodule(self.anatomy.head).weight
        return weight if isinstance(weight, Tensor) else None

    @property
    def final_norm(self) -> nn.Module | None:
        return None if self.anatomy.final_norm is None else self.module.get_submodule(self.anatomy.final_norm)

    @property
    def chats(self) -> bool:
        """Whether its tokenizer has a chat template."""
        return self.tokenizer is not None and bool(self.tokenizer.chat_template)

    def continues(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a forward pass with these arguments goes on from a cache that already holds something."""
        if kwargs.get("state") is not None:
            return True
        cache = _cache(kwargs)
        return cache is not None and (cache.get_seq_length() > 0 if self.anatomy.counts else cache.has_previous_state())

    def cached_length(self, kwargs: Mapping[str, Any]) -> int | None:
        """Positions that the cache holds, padding included; None where the network's state does not count them."""
        cache = _cache(kwargs)
        if cache is None:
            return 0 if kwargs.get("state") is None else None
        return cache.get_seq_length() if self.anatomy.counts else None

    def render(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        """The chat as text, by the tokenizer's own template."""
        if self.tokenizer is None or not self.chats:
            raise InputError(
                f'{self.name} has no chat template; give plain text: in a file rows with "text" in place of "messages", '
                "in Python generate(…, chat=False)"
            )
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(text)

    def generate(
        self,
        prompt: str | Messages,
        max_new_tokens: int = 128,
        *,
        chat: bool = True,
        do_sample: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> str:
        """The network's reply, without the prompt. `options` go to `generate` of transformers (temperature, top_p, …).

        Sampling draws from `seed` alone; the caller's random state is left as it was.

        Raises:
            InputError: it cannot generate, the prompt is empty, holds a token that the network has no row for, or is with its
                reply longer than the context.
        """
        if self.tokenizer is None or not self.anatomy.decodes:
            raise InputError(f"{self.name} cannot generate text: it has no {'tokenizer' if self.anatomy.decodes else 'decoder'}")
        text, special = (prompt, True) if isinstance(prompt, str) and not chat else (self._chat(prompt), False)
        tokens = self.tokenizer(text, return_tensors="pt", add_special_tokens=special, return_token_type_ids=False).to(
            self.device
        )
        length = tokens["input_ids"].shape[1]
        self.require_known(tokens["input_ids"][0].tolist(), "prompt")
        self.require_room(length, max_new_tokens)
        if self.tokenizer.pad_token_id is None and self.tokenizer.eos_token_id is not None:
            options.setdefault("pad_token_id", self.tokenizer.eos_token_id)
        with torch.no_grad(), prompt_of(length), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            made = self.module.generate(**tokens, max_new_tokens=max_new_tokens, do_sample=do_sample, **options)  # type: ignore[operator]
        return str(self.tokenizer.decode(made[0, length:], skip_special_tokens=True))

    def require_room(self, length: int, max_new_tokens: int) -> None:
        """Refuse a prompt of so many tokens if there is none, or if it is with its reply longer than the context."""
        if length == 0:
            raise InputError("prompt: no token is left after tokenising; write a text")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens: got {max_new_tokens}, wanted 1 or more")
        if self.context is not None and length + max_new_tokens > self.context:
            raise InputError(
                f"prompt: {length} tokens and {max_new_tokens} new ones, and the context of {self.name} holds {self.context}; "
                "shorten the prompt or ask for fewer new tokens"
            )

    def require_known(self, ids: Iterable[int], what: str) -> None:
        """Refuse a token that the input embedding has no row for: on a GPU one that gets there spoils the process for good."""
        most = self.vocabulary
        beyond = None if most is None else next((token for token in ids if token >= most), None)
        if beyond is not None:
            word = "" if self.tokenizer is None else f" of {str(self.tokenizer.decode([beyond]))[:80]!r}"
            raise InputError(
                f"{what}: its tokenizer makes token {beyond}{word}, and the table of {self.name} has {most}; leave that out"
            )

    def token_states(self, row: str | Messages, site: str | Site) -> tuple[list[str], Tensor]:
        """The tokens of a text or chat and their states (tokens, d) at a site, in fp32."""
        return lens.token_states(self, row, site)

    def vocabulary_effects(self, directions: Tensor) -> tuple[list[str], Tensor] | None:
        """Tokens and the first-order change (vocabulary, k) of logits along directions (d, k); None if no head has that width."""
        return lens.vocabulary_effects(self, directions)

    def _chat(self, prompt: str | Messages) -> str:
        return self.render([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)

    def _resolve(self, site: Site) -> Port:
        path = self._path(site)
        place = self.anatomy.modules[path]
        if place.calls != 1:
            raise InputError(f"site {site}: that module runs {place.calls} times in a pass; name one that runs exactly once")
        if place.layout is None:
            raise InputError(f"site {site}: that module returns no state (rows, positions, width); name another")
        module = self.module.get_submodule(path)
        return Port(site, module, path, place.width, place.order, place.slot, place.layout)

    def _lacks(self, site: Site) -> bool:
        """Whether this block alone lacks a mixer that others have."""
        paths = self.anatomy.paths(site.kind) if site.kind in ("attn", "mlp") else ()
        return any(paths) and paths[site.index] is None

    def _path(self, site: Site) -> str:
        if site.kind == "module":
            if site.path not in self.anatomy.modules:
                near = ", ".join(difflib.get_close_matches(site.path, list(self.anatomy.modules), n=3, cutoff=0.3))
                raise InputError(f"site {site}: {self.name} has no module of that path; the nearest are {near or 'none'}")
            return site.path
        paths = self.anatomy.paths(site.kind)
        index = 0 if site.kind == "embed" else site.index
        path = paths[index] if index < len(paths) else None
        if path is None:
            raise InputError(f"site {site} does not exist in {self.name}; {self._what_exists()}")
        return path

    def _what_exists(self) -> str:
        kinds = []
        for kind in ("embed", "resid", "attn", "mlp"):
            held = [index for index, path in enumerate(self.anatomy.paths(kind)) if path is not None]
            if held:
                kinds.append(
                    "embed" if kind == "embed" else f"{kind}:{held[0]} to {kind}:{held[-1]}" if held[1:] else f"{kind}:{held[0]}"
                )
        return f"there are {', '.join([*kinds, 'module:PATH'])}"

    def __str__(self) -> str:
        kinds = " ".join([*(kind for kind in ("embed", "resid", "attn", "mlp") if any(self.anatomy.paths(kind))), "module"])
        dtype = str(self.dtype).removeprefix("torch.")
        found = f"{self.blocks} blocks, d {self.d}" if self.blocks else "no blocks found"
        size = f"{found}, {dtype} on {self.device}"
        return f"{self.name}: {self.anatomy.family}, {size}, sites {kinds}, {self.fingerprint[:12]}"

    __repr__ = __str__


def _cache(kwargs: Mapping[str, Any]) -> Any:
    held = kwargs.get("past_key_values")
    return held if held is not None else kwargs.get("cache_params")
