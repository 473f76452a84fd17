"""A network of the same make that has learned nothing, or has lost what it learned: what a dimension is compared with.

"random": fresh weights from the same configuration, as training would begin with them. "scrambled": the trained network with the
entries of every weight matrix inside its blocks shuffled, matrix by matrix: the distribution of weights stays, what they computed
does not; norms, biases, embeddings and head are kept.

The original is never changed and the caller's random state is left as it was; the same seed gives the same weights (random ones,
in the same versions of torch and transformers). A twin is a subject of its own: its name says what it is and of what, and its
fingerprint is of its own weights. Its sites are those of the original, and that writing there acts, that it is causal and that
its cache holds is tested on it anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import nn

from ..errors import InputError, TrustError
from ..provenance import stream_seed, torch_generator
from .attach import hooks
from .fingerprint import module_fingerprint
from .quiet import quiet
from .subject import Subject
from .trace import accepts, trace
from .verify import verify

Kind = Literal["random", "scrambled"]


def twin(subject: Subject, kind: Kind, seed: int) -> Subject:
    """The subject's twin of this kind, in its dtype and on its device.

    Raises:
        InputError: an unknown kind, a network on several devices or under somebody's hooks, or one whose weights cannot be drawn
            afresh. TrustError: the twin does not take writes, or does not cache, as the original does.
    """
    if kind not in get_args(Kind):
        raise InputError(f"kind: got {kind!r}, wanted 'random' or 'scrambled'")
    module = subject.module
    if len({weight.device for weight in module.parameters()}) > 1:
        raise InputError(f"{subject.name} lies on several devices; load it on one to make its twin")
    if hooks(module) - subject.hooks:
        raise InputError(f"{subject.name} carries hooks that were not there when it was opened; take them off to make its twin")
    made = _random(subject, seed) if kind == "random" else _scrambled(subject, seed)
    words = "random weights" if kind == "random" else "scrambled blocks"
    other = Subject(
        name=f"{subject.name} ({words}, seed {seed})",
        module=made,
        tokenizer=subject.tokenizer,
        anatomy=subject.anatomy,
        fingerprint=module_fingerprint(made, subject.tokenizer),
        source={**subject.source, "twin": kind, "seed": seed, "of": subject.fingerprint},
        batch=subject.batch,
        probe=subject.probe,
    )
    return _examined(subject, other)


def _random(subject: Subject, seed: int) -> nn.Module:
    from transformers import PreTrainedModel

    module, weight = subject.module, next(subject.module.parameters())
    with _seeded(stream_seed(seed, "random twin")), quiet():
        if isinstance(module, PreTrainedModel):
            made: nn.Module = type(module)(copy.deepcopy(module.config))
        else:
            made = copy.deepcopy(module)
            _reset(subject.name, made)
    for name, kept in made.named_parameters():
        kept.requires_grad_(module.get_parameter(name).requires_grad)
    return nn.Module.to(made, weight.device, weight.dtype).train(module.training)


def _reset(name: str, module: nn.Module) -> None:
    """Fresh weights in every part, by its own rule."""
    for path, part in module.named_modules():
        if next(part.parameters(recurse=False), None) is None:
            continue
        rule = getattr(part, "reset_parameters", None)
        if rule is None:
            raise InputError(
                f"{name}: {path or 'the network'} ({type(part).__name__}) has weights and no reset_parameters, so it cannot be "
                'drawn afresh; give it that method, or use the "scrambled" twin'
            )
        rule()


def _scrambled(subject: Subject, seed: int) -> nn.Module:
    made = copy.deepcopy(subject.module)
    kept = {weight for path in _outside(subject) for weight in made.get_submodule(path).parameters()}
    shuffled = 0
    with torch.no_grad():
        for path in subject.anatomy.blocks:
            for name, weight in made.get_submodule(path).named_parameters():
                if weight.dim() < 2 or weight in kept:
                    continue
                order = torch.randperm(weight.numel(), generator=torch_generator(seed, "scrambled twin", path, name))
                weight.copy_(weight.reshape(-1)[order.to(weight.device)].view_as(weight))
                shuffled += 1
    if not shuffled:
        raise InputError(f'{subject.name}: its blocks hold no weight matrix, so nothing can be scrambled; use the "random" twin')
    return made


def _outside(subject: Subject) -> list[str]:
    """Embedding and head, which may be tied to something inside a block."""
    return [path for path in (subject.anatomy.embed, subject.anatomy.head) if path is not None and not _inside(subject, path)]


def _inside(subject: Subject, path: str) -> bool:
    return any(path == block or path.startswith(f"{block}.") for block in subject.anatomy.blocks)


def _examined(original: Subject, other: Subject) -> Subject:
    """The twin with what its original can do verified on it."""
    more = {"use_cache": False} if accepts(other.module, "use_cache") else {}
    with quiet():
        found = verify(other, trace(other.module, {**other.batch([other.probe[0]] * 2), **more}))
    for what in ("causal", "steps"):
        if getattr(found, what) != getattr(original.anatomy, what):
            raise TrustError(f"{other.name}: {what!r} is {getattr(found, what)}, and it is not in the original; try another seed")
    return replace(other, anatomy=found, hooks=hooks(other.module), _ports={})


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initialisers draw from the global random state: it is lent to them and put back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
