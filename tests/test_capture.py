"""States are those of a plain pass over each row alone, whatever is shared, batched, padded or stopped on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import families
import strandscope as ss
from strandscope.capture import passes
from strandscope.capture.activations import Activations
from strandscope.capture.examples import Examples
from strandscope.capture.passes import length_batches, run_prefix
from strandscope.capture.predict import next_token_logprobs
from strandscope.capture.record import capture, stream
from strandscope.capture.tokens import tokenise
from strandscope.errors import InputError
from strandscope.subject.attach import Scope, attach, hooks
from strandscope.subject.selfcheck import selfcheck

TEXT = ["Llama", "Mistral", "Qwen3", "Gemma 3", "GPT-2", "GPT-NeoX", "Mixtral", "RWKV", "Mamba"]
SHARES = {"Llama", "Mistral", "Qwen3", "Gemma 3", "GPT-2", "GPT-NeoX", "Mixtral"}
PREFIX = 12  # longer than the sliding windows of the tiny networks
POSITIONS = ["last", "mean", "all", (-3, None), (2, 15)]


@pytest.fixture(scope="module")
def network():
    made = {}

    def subject(family):
        if family not in made:
            made[family] = families.subject(family)
        return made[family]

    return subject


def token_rows(prefix=PREFIX, lengths=(5, 9, 1, 6, 9, 3, 7)):
    """Rows of ids that share exactly so many tokens, in no order of length."""
    generator = torch.Generator().manual_seed(3)
    shared = torch.randint(3, 60, (prefix,), generator=generator)
    rests = [torch.randint(3, 60, (length,), generator=generator) for length in lengths]
    rests[0][0], rests[1][0] = 61, 62
    return Examples.from_rows(
        [{"tensor": torch.cat([shared, rest]), "label": n % 2} for n, rest in enumerate(rests)], name="tokens"
    )


def tensor_rows(subject):
    generator = torch.Generator().manual_seed(5)
    return Examples.from_rows(
        [{"tensor": torch.randn(subject.probe[0].shape, generator=generator), "label": n % 2} for n in range(70)], name="images"
    )


def alone(subject, row, sites):
    """The states (positions, d) of one row run by itself, without padding, cache or stopping."""
    states, handles = {}, []
    for site in sites:
        port = subject.port(site)
        keep = lambda _m, _a, output, port=port: states.update({port.site: port.state(output)[0].clone()})  # noqa: E731
        handles.append(port.module.register_forward_hook(keep))
    with torch.no_grad():
        subject.module(input_ids=row[None])
    for handle in handles:
        handle.remove()
    return states


def picked(states, positions):
    if positions == "mean":
        return states.mean(0, keepdim=True)
    return states[{"last": slice(-1, None), "all": slice(None)}[positions] if isinstance(positions, str) else slice(*positions)]


def assert_close(found, wanted, tolerance=1e-5):
    __tracebackhide__ = True
    if found.shape != wanted.shape:
        pytest.fail(f"shape {tuple(found.shape)}, wanted {tuple(wanted.shape)}")
    distance = float((found.double() - wanted.double()).norm() / wanted.double().norm())
    if not distance <= tolerance:
        pytest.fail(f"relative distance {distance:.2e}, wanted at most {tolerance:.0e}")


@pytest.mark.parametrize("prefix", [PREFIX, 0])
@pytest.mark.parametrize("family", TEXT)
def test_states_are_those_of_each_row_alone(network, family, prefix):
    subject, examples = network(family), token_rows(prefix, (8, 19, 4, 6, 9, 3, 7) if prefix == 0 else (5, 9, 1, 6, 9, 3, 7))
    sites = subject.sites(["embed", "resid:*", "mlp:*"] if family != "Mamba" else ["embed", "resid:*"])
    plain = [alone(subject, row.input, sites) for row in examples.rows]
    for positions in POSITIONS if prefix else ["last", "mean", "all", (1, 3)]:
        for batch_tokens in (1, 40, 4096):
            acts = capture(subject, examples, sites, positions, batch_tokens=batch_tokens)
            for site in sites:
                assert_close(acts.at(site), torch.cat([picked(states[site], positions) for states in plain]))
    assert (run_prefix(subject, [row.input.tolist() for row in examples.rows]).length == PREFIX) == (
        prefix > 0 and family in SHARES
    )


@pytest.mark.parametrize("family", ["ViT", "ConvNeXt", "plain MLP"])
def test_states_of_rows_that_are_no_tokens(network, family):
    subject = network(family)
    examples = tensor_rows(subject)
    for site in subject.sites("resid:*"):
        port, kept = subject.port(site), []
        handle = port.module.register_forward_hook(lambda _m, _a, output, port=port, kept=kept: kept.append(port.state(output)))
        with torch.no_grad():
            subject.module(**subject.batch([row.input for row in examples.rows]))
        handle.remove()
        n, positions, d = kept[0].shape
        for where, wanted in (("last", kept[0][:, -1]), ("mean", kept[0].mean(1)), ("all", kept[0].reshape(n * positions, d))):
            acts = capture(subject, examples, site, where)
            assert_close(acts.at(site), wanted)
            assert acts.rows.tolist() == sorted(acts.rows.tolist()) and acts.token.unique().tolist() == [-1]


def test_a_row_of_another_shape_is_named(network):
    subject = network("plain MLP")
    good = tensor_rows(subject).rows[0].input
    for rows in ([good, good[:-1]], [good[:-1], good[:-1]]):  # one that does not stack, and rows that the first layer refuses
        examples = Examples.from_rows([{"tensor": row} for row in rows])
        odd = f"rows:{1 + next(i for i, row in enumerate(rows) if row is not good)}"
        with pytest.raises(InputError, match=rf"^{odd}: a row of shape \({len(good) - 1},\), which .* such as those of shape"):
            capture(subject, examples, "resid:*")
        assert hooks(subject.module) == subject.hooks
    with pytest.raises(RuntimeError, match="own fault"):  # a network's own mistake stays its own
        capture(replace(subject, batch=_raises), tensor_rows(subject), "resid:*")


class Ragged(torch.nn.Module):
    """Rows of frames (positions, 4) of several lengths, each state a mix of a frame and the one before it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.into = torch.nn.Linear(4, 6)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6) for _ in range(3)])

    def forward(self, frames, attention_mask=None):
        h = self.into(frames)
        for layer in self.layers:
            h = h + torch.tanh(layer(h + h.roll(1, 1)[..., :1] * torch.arange(h.shape[1])[:, None].clamp(max=1)))
        return h


def padded(rows):
    return {"frames": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)}


def masked(rows):
    return padded(rows) | {
        "attention_mask": torch.nn.utils.rnn.pad_sequence([row[:, 0] * 0 + 1 for row in rows], batch_first=True)
    }


@pytest.mark.parametrize("batch", [padded, masked])
def test_rows_of_several_lengths_are_each_as_alone_where_the_batch_function_pads(batch):
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randn(n, 4, generator=generator) for n in (5, 2, 7, 5, 3, 2, 8, 5)]
    subject = ss.load(Ragged().eval(), batch=batch, probe=[torch.ones(3, 4)] * 3)
    examples = Examples.from_rows([{"tensor": row} for row in rows])
    for positions in ("last", "mean", "all"):
        together = capture(subject, examples, "module:layers.1", positions)
        apart = [capture(subject, examples.subset([n]), "module:layers.1", positions) for n in range(len(rows))]
        assert_close(together.at("module:layers.1"), torch.cat([acts.at("module:layers.1") for acts in apart]))
        assert together.rows.tolist() == [n for n, acts in enumerate(apart) for _ in acts.rows.tolist()]


@pytest.mark.parametrize(("frames", "passes"), [(padded, 4), (masked, 1)])
def test_texts_share_a_pass_only_where_the_batch_function_makes_a_mask(frames, passes):
    made = []

    def batch(texts):
        made.append(texts)
        return frames([torch.tensor([[ord(letter) / 100 - 1] * 4 for letter in text]) for text in texts])

    subject = ss.load(Ragged().eval(), batch=batch, probe=["abc", "cab", "bca"])
    examples = Examples.from_rows([{"text": text} for text in ("abcde", "ba", "acbdab", "c")])
    made.clear()
    together = capture(subject, examples, "module:layers.1", "last").at("module:layers.1")
    assert len(made) == 1 + passes  # the first asks whether there is a mask
    apart = [capture(subject, examples.subset([n]), "module:layers.1", "last").at("module:layers.1") for n in range(4)]
    assert_close(together, torch.cat(apart))


def test_edits_leave_padding_alone_where_the_batch_function_masks_it():
    rows = [torch.ones(5, 4), torch.ones(2, 4)]
    subject = ss.load(Ragged().eval(), batch=masked, probe=[torch.ones(3, 4)] * 3)
    site, seen = subject.sites("module:layers.0")[0], []
    for edits in ({}, {site: [(lambda h: h + 1, Scope())]}, {site: [(lambda h: h + 1, Scope(positions="last"))]}):
        with torch.no_grad(), attach(subject, reads={site: lambda h, _: seen.append(h.clone())}, edits=edits) as attached:
            attached.run(**subject.batch(rows))
    plain, everywhere, last = seen
    assert ((everywhere - plain).abs().amax(-1) > 0.5).tolist() == [[True] * 5, [True, True, False, False, False]]
    assert ((last - plain).abs().amax(-1) > 0.5).tolist() == [[False] * 4 + [True], [False, True, False, False, False]]


def _raises(_):
    raise RuntimeError("own fault")


def test_sites_of_unlike_positions_cannot_be_captured_position_by_position(network):
    subject = network("ConvNeXt")
    examples = Examples.from_rows([{"tensor": torch.randn(3, 32, 32)}])
    capture(subject, examples, ["resid:0", "resid:4"], "mean")
    with pytest.raises(InputError, match="different numbers of positions"):
        capture(subject, examples, ["resid:0", "resid:4"], "all")


def test_columns_name_row_position_and_token(network):
    examples = token_rows()
    acts = capture(network("Llama"), examples, "resid:1", (-2, None), batch_tokens=30)
    ids = [row.input.tolist() for row in examples.rows]
    assert acts.rows.tolist() == [row for row in range(7) for _ in range(2)]
    assert acts.position.tolist() == [place for row in ids for place in (len(row) - 2, len(row) - 1)]
    assert acts.token.tolist() == [token for row in ids for token in row[-2:]]
    assert acts.labels.tolist() == [n % 2 for n in acts.rows.tolist()] and acts.ids[3] == "tokens:2"


def test_a_stream_holds_one_batch_at_a_time_and_sums_to_the_capture(network):
    subject, examples = network("Mistral"), token_rows()
    batches = list(stream(subject, examples, "resid:*", "all", batch_tokens=10))
    assert len(batches) > 3
    whole = capture(subject, examples, "resid:*", "all")
    for batch in batches:
        for row in batch.rows.unique().tolist():
            for site in whole.sites:
                assert_close(batch.states[site][batch.rows == row], whole.at(site)[whole.rows == row])
    assert sorted(torch.cat([batch.rows for batch in batches]).tolist()) == whole.rows.tolist()


def test_no_batch_is_larger_than_asked(network):
    lengths = [3, 50, 7, 7, 8, 1, 30]
    batches = length_batches(network("Llama"), lengths, 40)
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 40 for batch in batches)


def test_nothing_after_the_deepest_site_is_run_and_the_prefix_only_once(network):
    subject, examples, ran = network("Llama"), token_rows(), []
    parts = {"block 3": subject.anatomy.blocks[3], "head": subject.anatomy.head, "block 0": subject.anatomy.blocks[0]}
    handles = [
        subject.module.get_submodule(path).register_forward_hook(
            lambda _m, args, out, name=name: ran.append((name, args[0].shape))
        )
        for name, path in parts.items()
    ]
    capture(replace(subject, hooks=hooks(subject.module)), examples, "resid:0-2", batch_tokens=4096)
    for handle in handles:
        handle.remove()
    rests = max(len(row.input) for row in examples.rows) - PREFIX
    assert [shape for name, shape in ran if name == "block 0"] == [(1, PREFIX, 32), (7, rests, 32)]
    assert [shape for name, shape in ran if name != "block 0"] == [(1, PREFIX, 32), (1, 1, 32)], "only the prefix's one pass"


@pytest.mark.parametrize("family", sorted(SHARES))
def test_a_pass_leaves_the_prefix_as_it_was(network, family):
    subject, ids = network(family), [row.input.tolist() for row in token_rows().rows]
    prefix = run_prefix(subject, ids)
    before = [(layer.keys.clone(), layer.values.clone(), layer.get_seq_length()) for layer in prefix.cache.layers]
    with torch.no_grad():
        first = subject.module(**prefix.inputs(subject, ids)).logits
        second = subject.module(**prefix.inputs(subject, ids)).logits
    assert torch.equal(first, second)
    for layer, (keys, values, length) in zip(prefix.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values) and layer.get_seq_length() == length


def test_the_network_is_left_as_it_was_found(network):
    subject, state = network("Llama"), torch.random.get_rng_state()
    before = hooks(subject.module)
    unfinished = stream(subject, token_rows(), "resid:*", batch_tokens=1)
    next(unfinished)
    assert hooks(subject.module) == before and torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


def push(state):
    return state + 0.5 * state.flip(-1)


@pytest.mark.parametrize("positions", ["all", "last", (0, 3, PREFIX + 1)])
@pytest.mark.parametrize("family", TEXT)
def test_states_under_an_edit_are_those_of_each_row_alone_under_it(network, family, positions):
    subject, examples = network(family), token_rows()
    edits = {subject.sites("resid:1")[0]: [(push, Scope(positions=positions))]}
    site = subject.sites("resid:3")[0]
    with attach(subject, edits=edits):
        plain = torch.stack([alone(subject, row.input, [site])[site][-1] for row in examples.rows])
        found = capture(subject, examples, site).at(site)
    assert_close(found, plain)
    assert float((found - capture(subject, examples, site).at(site)).norm()) > 0.01


@pytest.mark.parametrize("family", TEXT)
def test_next_token_logprobs_are_those_of_each_row_alone(network, family):
    subject, examples = network(family), token_rows()
    site, rows = subject.sites("resid:1")[0], tokenise(subject, examples)
    scopes = [None, Scope(), Scope(positions="last"), Scope(positions=(0, 3, PREFIX + 1)), Scope(rows=(1, 4))]
    plain = None
    for scope in scopes:
        wanted = []
        for number, row in enumerate(examples.rows):
            mine = None if scope is None or (scope.rows and number not in scope.rows) else replace(scope, rows=None)
            with torch.no_grad(), attach(subject, edits={site: [(push, mine)]} if mine else {}):
                wanted.append(subject.module(input_ids=row.input[None]).logits[0, -1].log_softmax(-1))
        for batch_tokens in (1, 25, 4096):
            edits = {site: [(push, scope)]} if scope else None
            found = next_token_logprobs(subject, rows, edits, batch_tokens=batch_tokens)
            assert found.dtype == torch.float32
            assert_close(found, torch.stack(wanted), 2e-5)
        plain = found if plain is None else plain
        assert scope is None or float((found - plain).abs().max()) > 0.01
    assert torch.equal(next_token_logprobs(subject, examples), next_token_logprobs(subject, rows))


def test_without_a_cache_or_with_another_network_nothing_is_shared(network, monkeypatch):
    subject, ids = network("Llama"), [row.input.tolist() for row in token_rows().rows]
    assert run_prefix(replace(subject, anatomy=replace(subject.anatomy, caches=False)), ids).length == 0
    assert run_prefix(replace(subject, anatomy=replace(subject.anatomy, causal=False)), ids).length == 0
    assert run_prefix(subject, ids[:1]).length == 0
    assert run_prefix(subject, [ids[0], ids[0]]).length == len(ids[0]) - 1, "each row keeps a token of its own"
    monkeypatch.setattr(passes, "_SHORTEST_PREFIX", PREFIX + 1)
    assert run_prefix(subject, ids).length == 0


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_under_somebodys_hooks_every_row_is_run_whole(network, kind):
    subject, examples, lengths = network("Llama"), token_rows(), []
    block = subject.module.get_submodule(subject.anatomy.blocks[1])
    handle = getattr(block, kind)(lambda _m, args, *_: lengths.append(args[0].shape[1]))
    whole = capture(subject, examples, "resid:2", batch_tokens=1).at("resid:2")
    handle.remove()
    assert sorted(lengths) == sorted(len(row.input) for row in examples.rows)
    assert_close(capture(subject, examples, "resid:2").at("resid:2"), whole)
    assert run_prefix(subject, [row.input.tolist() for row in examples.rows]).length == PREFIX


def test_states_captured_under_edits_say_so(network, tmp_path):
    subject, examples, site = network("Llama"), token_rows(), network("Llama").sites("resid:1")[0]
    with attach(subject, reads={site: lambda *_: None}):
        assert not capture(subject, examples, "resid:2").edited
    with attach(subject, edits={site: [(push, Scope())]}), attach(subject):
        made = capture(replace(subject), examples, "resid:2")
    assert made.edited and repr(made).endswith("under edits") and not capture(subject, examples, "resid:2").edited
    made.save(tmp_path / "a.safetensors")
    assert Activations.load(tmp_path / "a.safetensors").edited


@pytest.mark.parametrize("kind", ["tokens", "images"])
def test_every_batch_says_whether_it_was_captured_under_edits(network, kind):
    subject = network("Llama" if kind == "tokens" else "ViT")
    examples = token_rows() if kind == "tokens" else tensor_rows(subject)
    site, batches = subject.sites("resid:1")[0], stream(subject, examples, "resid:1", batch_tokens=1)
    assert not next(batches).edited
    with attach(subject, edits={site: [(push, Scope())]}):
        assert next(batches).edited


@pytest.mark.parametrize("kind", ["tokens", "images"])
def test_activations_are_saved_and_read_whole(network, tmp_path, kind):
    if kind == "tokens":
        acts = capture(network("GPT-2"), token_rows(), "resid:*", (-2, None))
    else:
        rows = [{"tensor": torch.randn(3, 16, 16), "label": n % 2, "source": "drawn"} for n in range(4)]
        acts = capture(network("ViT"), Examples.from_rows(rows), "resid:*", "mean")
    acts.save(tmp_path / "a.safetensors")
    read = Activations.load(tmp_path / "a.safetensors")
    assert all(torch.equal(read.at(site), acts.at(site)) for site in acts.sites) and read.sites == acts.sites
    assert all(torch.equal(getattr(read, name), getattr(acts, name)) for name in ("rows", "position", "token"))
    assert (read.positions, read.fingerprint, read.template) == (acts.positions, acts.fingerprint, acts.template)
    assert read.examples.digest == acts.examples.digest and read.ids == acts.ids
    assert (read.labels == acts.labels).all() and (read.groups == acts.groups).all()
    with pytest.raises(InputError, match="was not captured; there are resid:0"):
        read.at("mlp:0")


def test_progress_counts_rows_to_the_end(network):
    seen = []
    capture(
        network("Llama"), token_rows(), "resid:0", "all", batch_tokens=20, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (7, 7) and seen == sorted(seen) and len(seen) > 2


# --- text, chat and what is refused ---

WORDS = [
    "[PAD]",
    "[BOS]",
    "[UNK]",
    "user",
    "assistant",
    ":",
    "|",
    "how",
    "are",
    "you",
    "fine",
    "thanks",
    "the",
    "sea",
    "is",
    "blue",
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' | ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


@pytest.fixture(scope="module")
def speaker():
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="[BOS]", unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.chat_template = TEMPLATE
    return ss.load(families.llama(), tokenizer=tokenizer, check="none")


def words_of(rows, number):
    return [WORDS[token] for token in rows.ids[number]]


def test_raw_text_gets_the_tokenizers_own_special_tokens(speaker):
    rows = tokenise(speaker, Examples.from_rows([{"text": "the sea is blue"}]))
    assert words_of(rows, 0) == ["[BOS]", "the", "sea", "is", "blue"] and rows.content == ((1, 5),)
    assert rows.template["format"] == "text"


def test_chat_is_rendered_up_to_the_answer_or_with_it(speaker):
    ask, answer = {"role": "user", "content": "how are you"}, {"role": "assistant", "content": "fine thanks"}
    rows = tokenise(speaker, Examples.from_rows([{"messages": [ask]}, {"messages": [ask, answer]}]))
    assert words_of(rows, 0) == ["user", ":", "how", "are", "you", "|", "assistant", ":"]
    assert words_of(rows, 1) == ["user", ":", "how", "are", "you", "|", "assistant", ":", "fine", "thanks", "|"]
    assert rows.content == ((2, 5), (8, 10))
    other = speaker.tokenizer.chat_template
    speaker.tokenizer.chat_template = TEMPLATE + " "
    changed = tokenise(speaker, Examples.from_rows([{"messages": [ask]}])).template
    speaker.tokenizer.chat_template = other
    assert rows.template["format"] == "chat" and changed["sha256"] != rows.template["sha256"]


def test_mean_is_over_the_content_of_the_last_message(speaker):
    examples = Examples.from_rows([{"messages": [{"role": "user", "content": text}]} for text in ("how are you", "the sea")])
    every, mean = (capture(speaker, examples, "resid:2", positions) for positions in ("all", "mean"))
    assert_close(mean.at("resid:2")[0], every.at("resid:2")[every.rows == 0][2:5].mean(0))
    assert every.token_texts[:3] == ("user", ":", "how") and mean.token_texts == ("", "")


def test_tensor_rows_of_a_language_model_are_token_ids(network):
    subject = network("Llama")
    size = subject.vocabulary
    assert size == subject.module.get_input_embeddings().num_embeddings
    for wrong, said in (
        (torch.rand(5) * 100, "is a vector of token ids"),
        (torch.ones(1, 5, dtype=torch.long), "is a vector of token ids"),
        (torch.tensor([1, size]), f"a token id outside 0 to {size - 1}"),
        (torch.tensor([1, -1]), f"a token id outside 0 to {size - 1}"),
    ):
        with pytest.raises(InputError, match=said):
            capture(subject, Examples.from_rows([{"tensor": wrong}]))
    assert network("ViT").vocabulary is None


def test_arguments_of_another_kind_are_told_in_a_sentence(network):
    subject, examples = network("Llama"), token_rows()
    for given, said in (
        ((subject, "truth"), "examples: got a str, wanted Examples"),
        ((examples, subject), "subject: got a Examples, wanted a Subject; ss.load"),
        ((subject.module, examples), "wanted a Subject; ss.load"),
        ((subject, examples, "resid:1", -1), "positions -1 are not understood"),
        ((subject, examples, "resid:1", None), "positions None are not understood"),
        ((subject, examples, "resid:1", [0, 1]), "positions .0, 1. are not understood"),
    ):
        with pytest.raises(InputError, match=said):
            capture(*given)
    with pytest.raises(InputError, match=r"^subject: got a LlamaForCausalLM, wanted a Subject; ss\.load opens one$"):
        selfcheck(subject.module)


def test_a_chat_without_a_template_and_text_without_a_tokenizer_are_refused(speaker, network):
    chat = Examples.from_rows([{"messages": [{"role": "user", "content": "how"}]}])
    with pytest.raises(InputError, match="no tokenizer for chat rows"):
        capture(network("Llama"), chat)
    speaker.tokenizer.chat_template, kept = None, speaker.tokenizer.chat_template
    with pytest.raises(InputError, match="no chat template"):
        capture(speaker, chat)
    speaker.tokenizer.chat_template = kept
    with pytest.raises(InputError, match="takes no text rows"):
        capture(network("ViT"), Examples.from_rows([{"text": "how"}]))


def test_bad_rows_and_positions_get_a_sentence(speaker, network):
    subject = network("Llama")
    long = Examples.from_rows([{"text": "how", "id": "short"}, {"text": "the sea " * 80, "id": "long one"}], name="mine")
    with pytest.raises(InputError, match=r"^row long one of mine: 161 tokens, and the context holds 128; shorten the text$"):
        capture(speaker, long)
    with pytest.raises(InputError, match="no token is left"):
        capture(subject, Examples.from_rows([{"tensor": torch.zeros(0, dtype=torch.long)}]))
    with pytest.raises(InputError, match=r"positions \(40, 50\): row tokens:1 has 17 tokens and none of them"):
        capture(subject, token_rows(), positions=(40, 50))
    for positions in ("first", (1, 2, 3), ("a", 2)):
        with pytest.raises(InputError, match="are not understood"):
            capture(subject, token_rows(), positions=positions)
    with pytest.raises(InputError, match="resid:9"):
        capture(subject, token_rows(), "resid:9")
    with pytest.raises(InputError, match="predicts no next token"):
        next_token_logprobs(network("ViT"), token_rows())


def test_the_package_is_the_verb_too(speaker):
    examples = Examples.from_rows([{"text": "the sea"}])
    assert torch.equal(
        ss.capture(speaker, examples, at="resid:1").at("resid:1"), capture(speaker, examples, "resid:1").at("resid:1")
    )


# --- the embedded network ---


@pytest.mark.real
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_smollm2_states_and_predictions_are_those_of_each_row_alone(dtype, tolerance):
    subject = ss.load("smollm2", dtype=dtype, check="none")
    examples = ss.concept("harm").subset([0, 7, 30, 111, 8, 200])
    rows = tokenise(subject, examples)
    assert run_prefix(subject, rows.ids).length > 20
    sites = subject.sites(["embed", "resid:*"])
    acts = [capture(subject, examples, sites, batch_tokens=tokens) for tokens in (1, 64, 4096)]
    logprobs = next_token_logprobs(subject, rows)
    for number, ids in enumerate(rows.ids):
        row = torch.tensor(ids)
        assert subject.tokenizer.decode(row[slice(*rows.content[number])]) == examples.texts()[number]
        plain = alone(subject, row, sites)
        for site in sites:
            for found in acts:
                assert_close(found.at(site)[number], plain[site][-1], tolerance)
        with torch.no_grad():
            logits = subject.module(input_ids=row[None]).logits[0, -1].float()
        assert_close(logprobs[number], logits.log_softmax(-1), tolerance)
