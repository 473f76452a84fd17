"""The artefact: it comes back as it was written, is refused where it does not belong, and says what it means with its nulls."""

from __future__ import annotations

import errno
import json
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binom

from strandscope import io
from strandscope.errors import InputError, MissingError, TrustError
from strandscope.reading import Null, Reading
from strandscope.strand.strand import SCHEMA, Shown, Strand, orthonormal

HERE, THERE = "a1" * 32, "b2" * 32
WIDTH = 24
NULL = Null(0.5, 0.4, 0.6, 0.95, 200, 1 / 201, "permuted labels")
EVIDENCE = Reading(0.91, 0.85, 0.9375, 0.95, 240, "AUROC", NULL, "nested")
CHAT = [{"role": "user", "content": "Ünïcode – “quoted”"}]


def unit(axis):
    return torch.eye(WIDTH)[:, axis : axis + 1]


def strand(**changes):
    """A strand along axis 0 that was found in the network HERE."""
    numbers = torch.Generator().manual_seed(0)
    said = {
        "name": "joy",
        "positive": "joyful",
        "site": "resid:12",
        "position": "last",
        "basis": unit(0),
        "pattern": 2.5 * unit(0) + 0.1 * torch.randn(WIDTH, 1, generator=numbers),
        "spectrum": torch.tensor([1 / 3]),
        "offset": torch.tensor([0.1]),
        "method": "ridge (c = 1)",
        "evidence": EVIDENCE,
        "fingerprint": HERE,
        "template": {"kind": "chat"},
        "provenance": {"data": "d" * 64, "seed": 0, "versions": {"torch": "2"}},
        "shown": (Shown("r1", "a text", "joyful", 2.25, "highest"), Shown("r2", CHAT, "sad", -1 / 3, "lowest")),
    }
    return Strand(**(said | changes))


def assert_same(first, second):
    for field in fields(Strand):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one, other), field.name
        else:
            assert one == other, field.name


# Files


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evidence": replace(EVIDENCE, null=None), "shown": ()},
        {"evidence": Reading.not_measured("no labels", unit="AUROC", method="nested")},
        {
            "basis": torch.eye(WIDTH)[:, :2],
            "pattern": torch.rand(WIDTH, 2).T.contiguous().T,
            "spectrum": torch.rand(2),
            "offset": torch.rand(2).double(),
        },
    ],
    ids=["one", "no null", "not measured", "rank 2, another dtype, not contiguous"],
)
def test_a_strand_comes_back_bit_by_bit(tmp_path, changes):
    written = strand(**changes)
    written.save(tmp_path / "new" / "joy.safetensors")
    read = Strand.load(tmp_path / "new" / "joy.safetensors")
    assert_same(written, read)
    read.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "new" / "joy.safetensors").read_bytes()


def test_the_file_says_what_it_is_to_any_reader_of_safetensors(tmp_path):
    strand().save(tmp_path / "joy.safetensors")
    tensors, manifest = io.load_tensors(tmp_path / "joy.safetensors")
    assert set(tensors) == {"basis", "pattern", "spectrum", "offset"}
    assert (manifest["schema"], manifest["rank"], manifest["fingerprint"]) == (SCHEMA, 1, HERE)
    assert manifest["evidence"]["null"]["p"] == NULL.p and manifest["shown"][1]["input"] == CHAT


def torn(path, manifest, tensors):
    path.write_bytes(path.read_bytes()[:-7])


def torn_in_the_header(path, manifest, tensors):
    path.write_bytes(path.read_bytes()[:40])


def emptied(path, manifest, tensors):
    path.write_bytes(b"")


def text(path, manifest, tensors):
    path.write_text("joy\n" * 100)


def without_manifest(path, manifest, tensors):
    save_file(tensors, str(path))


def manifest_of_no_json(path, manifest, tensors):
    save_file(tensors, str(path), metadata={io.MANIFEST: json.dumps(manifest)[:-9]})


def manifest_that_is_a_list(path, manifest, tensors):
    io.save_tensors(path, tensors, [manifest])


def of_another_kind(path, manifest, tensors):
    io.save_tensors(path, tensors, manifest | {"schema": "strandscope.activations/1"})


def without_a_site(path, manifest, tensors):
    io.save_tensors(path, tensors, {key: value for key, value in manifest.items() if key != "site"})


def without_a_basis(path, manifest, tensors):
    io.save_tensors(path, {key: value for key, value in tensors.items() if key != "basis"}, manifest)


def evidence_with_a_stranger(path, manifest, tensors):
    io.save_tensors(path, tensors, manifest | {"evidence": manifest["evidence"] | {"colour": "red"}})


def evidence_off_its_interval(path, manifest, tensors):
    io.save_tensors(path, tensors, manifest | {"evidence": manifest["evidence"] | {"value": 0.2}})


def shown_that_are_no_rows(path, manifest, tensors):
    io.save_tensors(path, tensors, manifest | {"shown": ["r1"]})


def tensors_that_do_not_fit(path, manifest, tensors):
    io.save_tensors(path, tensors | {"pattern": tensors["pattern"][:5]}, manifest)


BROKEN = [
    (torn, "not a whole safetensors file"),
    (torn_in_the_header, "not a whole safetensors file"),
    (emptied, "not a whole safetensors file"),
    (text, "not a whole safetensors file"),
    (without_manifest, "without a Strandscope manifest"),
    (manifest_of_no_json, "its manifest is not JSON"),
    (manifest_that_is_a_list, "manifest|wanted a strand"),
    (of_another_kind, r"holds 'strandscope.activations/1', wanted a strand \(strandscope/strand/1\)"),
    (without_a_site, "lacks or garbles 'site'"),
    (without_a_basis, "lacks or garbles 'basis'"),
    (evidence_with_a_stranger, "lacks or garbles .*colour"),
    (evidence_off_its_interval, "lacks or garbles|interval"),
    (shown_that_are_no_rows, "lacks or garbles"),
    (tensors_that_do_not_fit, r"pattern of shape \(5, 1\), wanted \(24, 1\)"),
]


@pytest.mark.parametrize(("harm", "sentence"), BROKEN, ids=[harm.__name__ for harm, _ in BROKEN])
def test_a_file_that_holds_no_whole_strand_gets_one_sentence(tmp_path, harm, sentence):
    path = tmp_path / "joy.safetensors"
    strand().save(path)
    tensors, manifest = io.load_tensors(path)
    harm(path, manifest, tensors)
    with pytest.raises(InputError, match=sentence) as caught:
        Strand.load(path)
    assert str(caught.value).startswith("joy.safetensors: ") and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(MissingError, match="there is no such file; check the path"):
        Strand.load(tmp_path / "joy.safetensors")


@pytest.mark.parametrize("half", [b"", b"half of it"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch, half):
    path = tmp_path / "joy.safetensors"
    strand().save(path)
    before = path.read_bytes()

    def full(tensors, name, metadata):
        with open(name, "wb") as file:  # noqa: PTH123 (as safetensors does)
            file.write(half)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io, "save_file", full)
    for target in (path, tmp_path / "other.safetensors"):
        with pytest.raises(MissingError, match=r"cannot write .*: the disk is full; free some room and run") as caught:
            strand(name="sorrow").save(target)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["joy.safetensors"]
    assert_same(Strand.load(path), strand())


def test_a_manifest_never_holds_a_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        strand(provenance={"loss": float("nan")}).save(tmp_path / "joy.safetensors")
    assert not list(tmp_path.iterdir())


# Whose it is


def test_a_strand_of_another_network_is_refused_unless_forced():
    for refuse in (lambda: strand().check(THERE), lambda: strand().describe(Planted(fingerprint=THERE))):
        with pytest.raises(TrustError, match=f"'joy' was found in the network {HERE[:12]}, this one is {THERE[:12]}; find it"):
            refuse()
    strand().check(HERE)
    strand().check(THERE, force=True)
    assert shown().describe(Planted(fingerprint=THERE), force=True).strand == "joy"


# What it shows


def test_printed_it_is_one_line_with_its_evidence():
    line = str(strand())
    assert "\n" not in line
    assert line == (
        "joy at resid:12 (last), rank 1, ridge (c = 1): 0.910 [0.850, 0.938] AUROC, null 0.500 [0.400, 0.600], n = 240"
    )


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, tuple(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def parsed(page):
    tags = Tags()
    tags.feed(page)
    return tags


def test_in_a_notebook_it_is_a_table_that_no_name_can_break():
    page = strand()._repr_html_()
    for forbidden in ("script", "http", "src=", "style>", "onload"):
        assert forbidden not in page.lower()
    names = dict.fromkeys(("name", "positive", "site", "position", "method"), "<b>\"'&<script src=http://x>")
    hostile = strand(**names, fingerprint="<i>" * 20, evidence=replace(EVIDENCE, unit="<u>"))._repr_html_()
    assert "<b>" not in hostile and "&lt;b&gt;" in hostile and "<script" not in hostile
    assert parsed(hostile).seen == parsed(page).seen
    assert any(names["name"] in words for words in parsed(hostile).words)


def test_coordinates_are_taken_in_the_dtype_of_the_basis_and_from_the_boundary():
    states = torch.arange(3 * WIDTH).reshape(3, WIDTH).bfloat16()
    torch.testing.assert_close(strand().coordinates(states), states[:, :1].float() - 0.1)
    assert strand().scale.tolist() == pytest.approx([float(strand().pattern[0, 0])])


def test_an_orthonormal_basis_keeps_the_sign_of_one_direction_and_the_rank_of_several():
    direction = -3 * unit(2)
    assert torch.equal(orthonormal(direction), -unit(2))
    several = torch.cat([unit(0), unit(0) + unit(1), 2 * unit(1)], dim=1)
    basis = orthonormal(several)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2))
    torch.testing.assert_close(basis @ basis.T @ several, several)
    with pytest.raises(InputError, match="zero vector; the classes have the same mean"):
        orthonormal(0 * direction)


# What it means


WORDS = "joy tree stone river cloud lamp chair road bread window garden paper".split()
VOCABULARY = [f"token{i}" for i in range(400)]
PREFIX = ["<s>", "system"]
SINK = 500 * unit(5)[:, 0]  # the state of the first token of all texts


class Planted:
    """A network in which the word "joy" has a state far along axis 0, and `token7` is what that axis promotes."""

    def __init__(self, fingerprint=HERE, prefix=(), unembeds=True):
        generator = torch.Generator().manual_seed(0)
        self.fingerprint, self.prefix, self.asked = fingerprint, list(prefix), []
        self.states = {word: torch.randn(WIDTH, generator=generator) for word in WORDS}
        self.states["joy"] = self.states["joy"] + 6 * unit(0)[:, 0]
        self.states |= {"<s>": SINK, "system": 0.5 * SINK}
        self.unembedding = torch.randn(len(VOCABULARY), WIDTH, generator=generator)
        self.unembedding[7, 0], self.unembedding[8, 0] = 12.0, -12.0
        self.unembedding = self.unembedding if unembeds else None

    def token_states(self, row, site):
        assert site == "resid:12"
        tokens = [*self.prefix, *row.split()]
        return tokens, torch.stack([self.states[token] for token in tokens])

    def vocabulary_effects(self, directions):
        self.asked.append(directions)
        return None if self.unembedding is None else (VOCABULARY, self.unembedding @ directions)


def rows(count=8):
    """Texts of filler in random order; the upper half holds the word that carries the score."""
    generator = torch.Generator().manual_seed(1)
    for i in range(count):
        filler = [WORDS[1:][k] for k in torch.randperm(len(WORDS) - 1, generator=generator)[:6].tolist()]
        high = i < count // 2
        said = " ".join([*filler[:3], "joy", *filler[3:]] if high else filler)
        yield Shown(f"r{i}", said, "joyful" if high else "sad", 1.0 if high else -1.0, "highest" if high else "lowest")


def shown(**changes):
    return strand(**({"shown": tuple(rows()), "pattern": unit(0)} | changes))


def test_the_token_that_carries_the_score_stands_out():
    described = shown().describe(Planted())
    assert [row.id for row in described.examples] == [f"r{i}" for i in range(8)]
    for row in described.examples:
        assert row.tokens == tuple(next(r.input for r in rows() if r.id == row.id).split()[1:])
        largest = max(range(len(row.tokens)), key=lambda i: abs(row.values[i]))
        if row.label == "joyful":
            assert row.tokens[largest] == "joy" and row.values[largest] > described.bound
        assert all(abs(value) < described.bound for token, value in zip(row.tokens, row.values, strict=True) if token != "joy")
    assert "'joy' +" in str(described)


def test_token_coordinates_are_standard_deviations_over_all_tokens():
    described = shown().describe(Planted())
    values = torch.tensor([value for row in described.examples for value in row.values])
    assert float(values.mean()) == pytest.approx(0, abs=1e-5) and float(values.std()) == pytest.approx(1, abs=1e-5)
    network = Planted()
    states = torch.cat([network.token_states(row.input, "resid:12")[1][1:] for row in rows()])
    wanted = (states[:, 0] - states[:, 0].mean()) / states[:, 0].std()
    torch.testing.assert_close(values, wanted, rtol=0, atol=1e-4)


def test_the_vocabulary_that_the_pattern_promotes_and_suppresses_is_named():
    described = shown().describe(Planted())
    first, last = described.promotes[0], described.suppresses[0]
    assert (first.token, first.beyond_null, last.token, last.beyond_null) == ("token7", True, "token8", True)
    assert first.effect > described.vocabulary_bound > 0 > -described.vocabulary_bound > last.effect
    assert len(described.promotes) == len(described.suppresses) == 8
    effects = [item.effect for item in described.promotes]
    assert effects == sorted(effects, reverse=True) and not described.promotes[-1].beyond_null
    assert "'token7'," in str(described) and "(as random)" in str(described)


def test_random_directions_are_beyond_their_own_null_as_rarely_as_it_says():
    """Directions of the states' covariance; at a rate of 5 %, one in ten thousand."""
    generator, network, draws = torch.Generator().manual_seed(3), Planted(), 120
    states = torch.cat([network.token_states(row.input, "resid:12")[1][1:] for row in rows()])
    centred = states - states.mean(0)
    words = tokens = 0
    for seed in range(draws):
        direction = centred.T @ torch.randn(len(states), 1, generator=generator)
        described = shown(basis=direction / direction.norm(), pattern=direction).describe(network, seed=seed)
        words += described.promotes[0].beyond_null
        tokens += max(abs(value) for row in described.examples for value in row.values) > described.bound
    for count in (words, tokens):
        assert count <= binom.ppf(1 - 1e-4, draws, 0.05), (words, tokens)
    assert words + tokens > 0


def test_the_first_token_and_what_all_rows_begin_with_are_not_shown():
    """Two shared tokens, one, and none (then the first word of each row goes), with states that would set every scale."""
    two, one, none = (shown().describe(Planted(prefix=prefix)) for prefix in (PREFIX, PREFIX[:1], []))
    for row, other, short in zip(two.examples, one.examples, none.examples, strict=True):
        assert row.tokens == other.tokens and row.values == pytest.approx(other.values, abs=1e-4)
        assert short.tokens == row.tokens[1:]
    assert two.bound == pytest.approx(one.bound, abs=1e-4) and max(map(max, (row.values for row in two.examples))) < 5


def test_nor_do_they_set_the_null_of_the_vocabulary():
    """Otherwise all random directions are that of the attention sink, and the null is of one direction."""
    network = Planted(prefix=PREFIX)
    shown().describe(network)
    random = network.asked[-1]
    assert random.shape == (WIDTH, 200)
    assert float((random / random.norm(dim=0))[5].abs().mean()) < 0.5


def test_a_single_row_and_equal_rows_still_show_something():
    one = next(rows())
    assert shown(shown=(one,)).describe(Planted(prefix=PREFIX)).examples[0].tokens == (PREFIX[1], *one.input.split())
    for row in shown(shown=(one, one)).describe(Planted(prefix=PREFIX)).examples:
        assert row.tokens == (one.input.split()[-1],)


def test_without_an_unembedding_the_vocabulary_was_not_measured():
    described = shown().describe(Planted(unembeds=False))
    assert (described.promotes, described.suppresses, described.vocabulary_bound) == ((), (), None)
    assert len(described.examples) == 8 and "vocabulary: not measured" in str(described)


def test_without_rows_the_vocabulary_is_still_described():
    described = shown(shown=()).describe(Planted())
    assert described.examples == () and described.promotes[0].token == "token7" and described.promotes[0].beyond_null
    assert described.bound is None and str(described).startswith("joy: its rows are not texts of two classes")


def test_a_description_repeats_and_touches_no_global_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (shown().describe(Planted(), seed=seed) for seed in (0, 0, 1))
    assert first == again != other and torch.equal(before, torch.get_rng_state())
