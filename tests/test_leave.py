"""What leaves computes what hooks compute: folders over the families, what weights cannot express, and what is left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoTokenizer

import families
import strandscope as ss
import tiny_chat
from strandscope.control.edit import Ablate, Add, Then
from strandscope.control.hold import Clamp, Erase
from strandscope.control.leave import folder as folders
from strandscope.control.leave.affine import Affine
from strandscope.control.leave.folder import bake
from strandscope.control.leave.plan import ablation, changes
from strandscope.control.leave.writers import stream
from strandscope.errors import InputError, TrustError
from strandscope.subject.attach import Scope, attach, hooks
from strandscope.subject.port import scores
from strandscope.subject.site import Site

EXACT = 3e-6  # relative distance of fp32 logits: what four blocks round to


def vectors(k: int, seed: int = 0, d: int = 32) -> Tensor:
    return torch.randn(d, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vector(seed: int) -> Tensor:
    return vectors(1, seed)[:, 0]


def everywhere(subject: ss.Subject, *edits: Any) -> dict[Site, list[tuple[Any, Scope]]]:
    return {site: [(edit, Scope()) for edit in edits] for site in stream(subject)}


def answers(subject: ss.Subject, module: Any, edits: Any = None) -> list[Tensor]:
    with torch.no_grad(), attach(subject, edits=edits or {}):
        return [scores(module(**subject.batch([row]))).double() for row in subject.probe]


def far(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max(float((one - other).norm() / other.norm()) for one, other in zip(some, others, strict=True))


def opened(path: Path) -> Any:
    kind = AutoModelForImageClassification if "image_size" in (path / "config.json").read_text() else AutoModelForCausalLM
    return kind.from_pretrained(path, dtype=torch.float32).eval()


def note(path: Path) -> dict[str, Any]:
    return json.loads((path / "strandscope.json").read_text())


def agrees(subject: ss.Subject, edits: Any, path: Path) -> None:
    """The folder, opened by transformers alone, computes what hooks compute; and these do change the network."""
    reading = bake(subject, edits, path)
    hooked = answers(subject, subject.module, edits)
    assert far(answers(subject, opened(path)), hooked) < EXACT
    assert far(answers(subject, subject.module), hooked) > 1e-2
    assert reading.value is not None and reading.value < EXACT


# --- folders over the families ---


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen3", "GPT-2", "GPT-NeoX", "Mixtral", "Mamba"])
def test_a_folder_lacks_directions_as_the_network_with_hooks_does(family: str, tmp_path: Path) -> None:
    subject = families.subject(family)
    agrees(subject, ablation(subject, vectors(2)), tmp_path / "baked")


@pytest.mark.parametrize(
    ("family", "switch"), [("Llama", "mlp_bias"), ("Mamba", "use_bias"), ("GPT-2", None), ("GPT-NeoX", None), ("ViT", None)]
)
def test_a_folder_adds_as_the_network_with_hooks_does(family: str, switch: str | None, tmp_path: Path) -> None:
    subject = families.subject(family)
    edits = {Site("resid", k): [(Add(vector(k), 0.5), Scope())] for k in (1, 2)}
    agrees(subject, edits, tmp_path / "baked")
    assert note(tmp_path / "baked")["switched_on"] == ([switch] if switch else [])


@pytest.mark.parametrize("family", ["Mistral", "Qwen3", "Mixtral"])
def test_an_addition_is_refused_where_blocks_end_without_a_bias(family: str, tmp_path: Path) -> None:
    subject = families.subject(family)
    with pytest.raises(InputError, match="has none there nor a switch for one; export it as gguf or peft"):
        bake(subject, {Site("resid", 1): [(Add(vector(1), 0.5), Scope())]}, tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("Gemma 3", "block 0 does not add what its mixers write"),
        ("RWKV", "does not add what its mixers write|not what one weight in it writes"),
        ("ViT", "not what one weight in it writes"),
        ("ConvNeXt", "no blocks that write into one stream"),
        ("plain MLP", "no blocks that write into one stream"),
    ],
)
def test_networks_whose_weights_cannot_hold_an_ablation_are_refused(family: str, told: str, tmp_path: Path) -> None:
    subject = families.subject(family)
    with pytest.raises(InputError, match=told):
        bake(subject, ablation(subject, vectors(1, d=subject.anatomy.widths[0])), tmp_path / "baked")


# --- which edits weights can hold ---


@pytest.fixture(scope="module")
def llama() -> ss.Subject:
    return families.subject("Llama")


def test_nothing_writes_along_an_ablated_direction(llama: ss.Subject, tmp_path: Path) -> None:
    v = vectors(2)
    bake(llama, ablation(llama, v), tmp_path / "baked")
    state = opened(tmp_path / "baked").state_dict()
    basis = torch.linalg.qr(v).Q
    assert float((state["model.embed_tokens.weight"].double() @ basis).abs().max()) < 1e-6
    for k in range(4):
        for writer in ("self_attn.o_proj", "mlp.down_proj"):
            assert float((basis.T @ state[f"model.layers.{k}.{writer}.weight"].double()).abs().max()) < 1e-6
    plain = llama.module.state_dict()
    same = [name for name in plain if torch.equal(plain[name], state[name])]
    assert len(plain) - len(same) == 9 == len(note(tmp_path / "baked")["changed"])


def test_an_ablation_to_a_mean_and_an_affine_erasure_everywhere(tmp_path: Path) -> None:
    subject = families.subject("GPT-NeoX")
    agrees(subject, everywhere(subject, Ablate(vector(3), mean=1.5)), tmp_path / "mean")
    read, write = vectors(2, 4), vectors(2, 5)
    write = write @ torch.linalg.inv(read.T @ write)  # readᵀ write = 1: an oblique projection
    agrees(subject, everywhere(subject, Erase(read, write, vector(6))), tmp_path / "affine")


def test_a_mean_in_blocks_that_read_what_they_write(llama: ss.Subject, tmp_path: Path) -> None:
    agrees(llama, everywhere(llama, Ablate(vector(3), mean=1.5)), tmp_path / "baked")  # the mean twice, until the block's end
    assert note(tmp_path / "baked")["switched_on"] == ["attention_bias", "mlp_bias"]


@pytest.mark.parametrize("order", [1, -1])
def test_additions_and_ablations_in_either_order(order: int, tmp_path: Path) -> None:
    subject = families.subject("GPT-2")
    edits = everywhere(subject, Ablate(vector(3)))
    for k in (1, 2):
        edits[Site("resid", k)] = [*edits[Site("resid", k)], (Add(vector(7), 0.5), Scope())][::order]
    agrees(subject, edits, tmp_path / "baked")


def test_an_ablation_up_to_a_block(llama: ss.Subject, tmp_path: Path) -> None:
    edits = {site: given for site, given in ablation(llama, vectors(1)).items() if site.index < 2}
    agrees(llama, edits, tmp_path / "baked")


def test_edits_of_single_mixers(tmp_path: Path) -> None:
    subject = families.subject("GPT-2")
    edits = {
        Site("attn", 1): [(Ablate(vector(3), 0.7), Scope())],
        Site("mlp", 2): [(Then(Add(vector(4), 0.5), Ablate(vector(3))), Scope())],
    }
    agrees(subject, edits, tmp_path / "baked")


@pytest.mark.parametrize(
    ("sites", "told"),
    [
        (["resid:1"], "edits at resid:1: take out what was written before that block"),
        (["embed", "resid:1"], "edits at resid:1: take out what was written before"),
        (
            ["embed", "resid:0", "resid:1"],
            "edits at resid:0: take out what attn:0 writes after the rest of the block has read it",
        ),
        (["attn:0", "resid:0"], "edits at resid:0: take out what was written before"),
        (["module:model.norm"], "edits at module:model.norm: weights hold edits of embed, resid:N"),
    ],
)
def test_an_erasure_at_some_sites_alone_is_refused_with_the_reason(llama: ss.Subject, sites: list[str], told: str) -> None:
    edits = {Site.parse(site): [(Erase(vectors(1), vectors(1) / vector(0).square().sum(), vector(2)), Scope())] for site in sites}
    with pytest.raises(InputError, match=told):
        changes(llama, edits)


def test_two_directions_that_are_not_square_leave_as_one_span_or_not_at_all(llama: ss.Subject, tmp_path: Path) -> None:
    one_by_one = everywhere(llama, Ablate(vector(1)), Ablate(vector(2)))  # the second puts some of the first back
    with pytest.raises(InputError, match="take out what"):
        changes(llama, one_by_one)
    agrees(llama, ablation(llama, torch.stack([vector(1), vector(2)], 1)), tmp_path / "baked")


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({Site("resid", 1): [(Clamp(vectors(1), -1, 1), Scope())]}, "resid:1: got Clamp, wanted Add, Ablate or Erase"),
        ({Site("resid", 1): [(Add(vector(1), 1.0), Scope(positions="last"))]}, "wanted every position of every row"),
        ({Site("resid", 1): [(Add(vector(1), 0.0), Scope())]}, "got none that changes a state"),
        ({}, "got none that changes a state"),
    ],
)
def test_what_no_weight_computes_is_refused_by_name(llama: ss.Subject, edits: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        changes(llama, edits)


def test_maps_compose_as_edits_do() -> None:
    read, write = vectors(2, 4), vectors(2, 5)
    edits = [Add(vector(1), 0.3), Ablate(vector(2), 1.2), Erase(read, write, vector(3)), Add(vector(4), -2.0), Ablate(vector(5))]
    states = vectors(7, 9).T
    made = Affine.of([(Then(*edits[:2]), Scope()), *((edit, Scope()) for edit in edits[2:])], 32, "here")
    torch.testing.assert_close(made.linear(states) + made.constant, Then(*edits)(states))


# --- what is left alone ---


@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_tied_embeddings_are_untied_and_the_unembedding_stays(family: str, tmp_path: Path) -> None:
    options = {**families._GROUPED, "tie_word_embeddings": True}
    module = families._transformers("LlamaConfig", "LlamaForCausalLM", **options) if family == "Llama" else families.gpt2()
    subject = ss.load(module, check="none")
    head = subject.unembedding
    assert head is not None and head is module.get_input_embeddings().weight  # type: ignore[operator]
    agrees(subject, ablation(subject, vectors(1)), tmp_path / "ablated")
    made = opened(tmp_path / "ablated")
    assert torch.equal(made.get_output_embeddings().weight, head)
    assert not torch.equal(made.get_input_embeddings().weight, head)
    assert made.config.tie_word_embeddings is False and note(tmp_path / "ablated")["untied"] is True
    bake(subject, {Site("resid", 1): [(Add(vector(1), 0.5), Scope())]}, tmp_path / "added")
    kept = opened(tmp_path / "added")
    assert kept.get_output_embeddings().weight is kept.get_input_embeddings().weight  # an addition unties nothing
    assert module.config.tie_word_embeddings is True  # type: ignore[union-attr]


def test_the_network_itself_is_not_changed(tmp_path: Path) -> None:
    subject = families.subject("Llama")
    weights = {name: weight.clone() for name, weight in subject.module.state_dict().items()}
    config, hung = subject.module.config.to_dict(), hooks(subject.module)  # type: ignore[operator,union-attr]
    bake(subject, ablation(subject, vectors(1)), tmp_path / "ablated")
    bake(subject, {Site("resid", 1): [(Add(vector(1), 0.5), Scope())]}, tmp_path / "added")
    after = subject.module.state_dict()
    assert weights.keys() == after.keys() and all(torch.equal(weights[name], after[name]) for name in weights)
    assert subject.module.config.to_dict() == config and hooks(subject.module) == hung  # type: ignore[operator,union-attr]


def test_a_folder_opens_as_any_other(tmp_path: Path) -> None:
    model = tiny_chat.save_model(tmp_path / "model")
    subject = ss.load(model, check="none")
    edits = {Site("resid", 2): [(Add(vector(1), 0.5), Scope())]}
    bake(subject, edits, tmp_path / "baked")
    again = ss.load(tmp_path / "baked")
    assert again.fingerprint != subject.fingerprint
    with attach(subject, edits=edits):
        wanted = subject.generate("hello", 12)
    assert again.generate("hello", 12) == wanted != subject.generate("hello", 12)
    assert AutoTokenizer.from_pretrained(tmp_path / "baked").chat_template == subject.tokenizer.chat_template  # type: ignore[union-attr]
    files = {path.name for path in (tmp_path / "baked").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "strandscope.json"} <= files
    assert not any(name.endswith((".py", ".bin", ".pt")) for name in files)
    told = note(tmp_path / "baked")
    assert told["schema"] == "strandscope/baked/1" and told["network"]["fingerprint"] == subject.fingerprint
    assert told["edits"] == [
        {"site": "resid:2", "edits": ["Add"], "takes_out": 0, "adds": pytest.approx(0.5 * float(vector(1).norm()))}
    ]
    assert told["changed"] == ["model.layers.2.mlp.down_proj.bias"]


# --- what must not pass ---


def test_a_folder_that_computes_something_else_is_not_kept(
    llama: ss.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "changes", lambda *given: changes(*given)[:-1])  # one writer is forgotten
    with pytest.raises(TrustError, match=r"logits are .* from those of the network with hooks"):
        bake(llama, ablation(llama, vectors(1)), tmp_path / "baked")
    assert list((tmp_path / "baked").iterdir()) == []


def test_in_bfloat16_a_forgotten_writer_shows_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = ss.load(families.llama().bfloat16(), check="none")
    reading = bake(subject, ablation(subject, vectors(1)), tmp_path / "baked")
    assert reading.value is not None and 0 < reading.value < 0.05
    monkeypatch.setattr(folders, "changes", lambda *given: changes(*given)[:1])
    with pytest.raises(TrustError, match="rounding explains"):
        bake(subject, ablation(subject, vectors(1)), tmp_path / "half")


def test_a_folder_that_holds_something_is_refused(llama: ss.Subject, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("somebody's")
    with pytest.raises(InputError, match="is there already, wanted a new or an empty folder"):
        bake(llama, ablation(llama, vectors(1)), tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "somebody's"


def test_a_quantised_network_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subject = families.subject("Llama")
    short = {name: weight.to(torch.int8) for name, weight in subject.module.state_dict().items()}
    monkeypatch.setattr(subject.module, "state_dict", lambda: short)
    with pytest.raises(InputError, match=r"model\.embed_tokens\.weight is quantised"):
        bake(subject, ablation(subject, vectors(1)), tmp_path / "baked")
