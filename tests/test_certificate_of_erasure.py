"""Certificates of erasure: what their verdicts say where the truth is known, and that they look at rows that nothing has seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

import strandscope as ss
import tiny_chat
from strandscope.cli.main import main
from strandscope.control import erase as network
from strandscope.control.erase import Erasure, certify, damage, edit_of
from strandscope.errors import InputError, TrustError
from strandscope.reading import Reading
from strandscope.report.erasure import ErasureEntry, erasure_entry, lines, section, sentence
from strandscope.report.record import as_json, from_json
from strandscope.strand.erase import Eraser, Metric, fit_eraser
from strandscope.strand.leakage import KINDS, Judging, Leak, closed_form, overall, parted, rows_needed
from strandscope.subject.attach import Scope, attach
from strandscope.subject.site import Site

Rows = tuple[Tensor, np.ndarray, np.ndarray]


def drawn(n: int, seed: int, d: int = 12, apart: float = 2.0, classes: int = 2, curved: bool = False) -> Rows:
    """Normal states with classes apart along the first coordinate, or (`curved`) in the spread of the first two alone; groups of
    ten."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    states = random.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.3
    if curved:
        states[:, :2] *= np.where(labels == 1, 3.0, 1.0)[:, None]
    else:
        states[:, 0] += apart * labels
    return torch.as_tensor(states), labels, np.arange(n) // 10


def judging(rows: Rows, permutations: int = 19, lines: int = 5, pairs: np.ndarray | None = None) -> Judging:
    return Judging.of(rows[1], rows[2], pairs, permutations, lines, np.random.default_rng(0))


# --- verdicts where the truth is known ---


def test_a_concept_erased_from_many_rows_is_erased_for_a_linear_probe_and_from_few_it_leaks() -> None:
    fresh = drawn(4000, 1, d=8)
    judge = judging(fresh)
    for n, wanted in ((4000, "erased"), (16, "leaks")):
        states, labels, _ = drawn(n, 2, d=8)
        eraser = fit_eraser(states, labels, shrinkages=())
        leak = judge.leak("linear", fresh[0], eraser(fresh[0]))
        assert leak.verdict == wanted and leak.before.low is not None and leak.before.low > 0.85
        assert leak.after.null is not None and leak.after.null.n == 19 and abs(leak.after.null.value - 0.5) < 0.03


def test_what_a_linear_eraser_leaves_of_a_curved_concept_is_seen_by_the_curved_probes_alone() -> None:
    """Classes with the same mean and another spread: nothing for a linear probe, before or after, so it cannot tell."""
    states, labels, _ = drawn(600, 3, curved=True)
    eraser, fresh = fit_eraser(states, labels, shrinkages=()), drawn(400, 4, curved=True)
    judge = judging(fresh, permutations=1)
    found = {kind: judge.leak(kind, fresh[0], eraser(fresh[0])) for kind in KINDS}
    assert found["linear"].verdict == "cannot tell" and "does not read the classes before" in found["linear"].reason
    assert {found[kind].verdict for kind in ("quadratic", "RBF", "k-NN", "MLP")} == {"leaks"}
    assert min(found[kind].after.value or 0 for kind in ("quadratic", "RBF", "MLP")) > 0.7


def test_of_few_rows_nothing_is_certified_however_well_it_was_erased() -> None:
    fresh = drawn(60, 5, d=4)
    states, labels, _ = drawn(4000, 6, d=4)
    leak = judging(fresh).leak("linear", fresh[0], fit_eraser(states, labels, shrinkages=())(fresh[0]))
    assert leak.verdict == "cannot tell" and "the interval is too wide; about" in leak.reason


def test_on_the_rows_of_the_fit_a_probe_falls_below_half_and_that_is_no_erasure() -> None:
    """The trap that the split is for: read in-sample .0 to .4, on fresh rows .5 or more."""
    inside, outside = [], []
    for seed in range(4):
        rows, fresh = drawn(80, seed, d=30), drawn(80, seed + 100, d=30)
        eraser = fit_eraser(rows[0], rows[1], shrinkages=())
        for found, (states, labels, groups) in ((inside, rows), (outside, fresh)):
            found.append(judging((states, labels, groups), 1).leak("linear", states, eraser(states)))
    assert np.mean([leak.after.value for leak in inside]) < 0.35 and np.mean([leak.after.value for leak in outside]) > 0.55
    assert all(leak.verdict == "cannot tell" for leak in inside) and any("wholly below .5" in leak.reason for leak in inside)


def test_probes_never_test_a_group_that_they_were_trained_on() -> None:
    """Groups with a mark of their own and labels by chance, one label a group: a probe that saw them would read them at once."""
    random = np.random.default_rng(0)
    groups = np.arange(200) // 5
    labels = (random.permutation(40) % 2)[groups]
    states = torch.as_tensor(3 * random.standard_normal((40, 30))[groups] + 0.1 * random.standard_normal((200, 30)))
    judge = Judging.of(labels, groups, None, 1, 5, np.random.default_rng(0))
    assert all(len(np.unique(judge.folds[groups == group])) == 1 for group in range(40)) and len(np.unique(judge.folds)) == 5
    for kind in ("linear", "k-NN", "RBF"):
        value = judge.leak(kind, states, states).after.value
        assert value is not None and value < 0.75, kind


def test_permutations_exchange_labels_inside_pairs() -> None:
    states, labels, groups = drawn(80, 0)
    judge = judging((states, labels, groups), permutations=30, pairs=np.arange(80) // 2)
    assert all((column.reshape(-1, 2).sum(1) == 1).all() for column in judge.columns)
    assert (judge.columns[0] == labels).all() and len(judge.columns) == 31


def test_the_test_for_a_leak_holds_its_level_where_nothing_is_read() -> None:
    """Twenty-four sets of noise, five lines each: at a family level of 5 % more than four alarms would be a broken level."""
    alarms = 0
    for seed in range(24):
        states, labels, groups = drawn(80, seed, d=20, apart=0)
        judge = judging((states, labels, groups), 1)
        strong = states.clone()
        strong[:, 0] += 4 * torch.as_tensor(labels)
        alarms += any(judge.leak(kind, strong, states).verdict == "leaks" for kind in ("linear", "RBF", "k-NN"))
    assert alarms <= 4


def test_classes_are_judged_one_against_the_rest() -> None:
    states, labels, groups = drawn(300, 0, classes=3)
    eraser = fit_eraser(*drawn(3000, 1, classes=3)[:2], shrinkages=())
    for kind in KINDS:
        leak = judging((states, labels, groups), 1).leak(kind, states, eraser(states))
        assert leak.before.value is not None and leak.after.value is not None
        assert leak.before.value > 0.75 and abs(leak.after.value - 0.5) < 0.12, kind
    needed = rows_needed(eraser, Metric.of(states, labels), states, labels, np.arange(300) // 60)
    assert needed.status == "not measured" and needed.reason == "the law is of two classes"


def leak_of(verdict: str) -> Leak:
    none = Reading.not_measured("made up", unit="AUROC", method="none")
    return Leak("linear", none, none, verdict, "")  # type: ignore[arg-type]


def test_a_whole_is_erased_only_where_every_line_is() -> None:
    assert overall([leak_of("erased"), leak_of("erased")]) == "erased"
    assert overall([leak_of("erased"), leak_of("cannot tell")]) == "cannot tell"
    assert overall([leak_of("erased"), leak_of("cannot tell"), leak_of("leaks")]) == "leaks"


# --- rows needed ---


def test_rows_needed_is_what_the_law_says_and_makes_a_certificate_pass() -> None:
    """LEACE of n rows leaves d′² = 4d/n: the estimate from unseen rows agrees, and as many rows leave the best probe .55."""
    d, found = 20, []
    for seed in range(20):
        states, labels, _ = drawn(400, seed, d=d, apart=3)
        eraser, fresh = fit_eraser(states, labels, shrinkages=()), drawn(2000, seed + 100, d=d, apart=3)
        folds = np.arange(2000) % 10 // 2
        reading = rows_needed(eraser, Metric.of(states, labels), fresh[0], fresh[1], folds)
        found.append(reading.value if reading.value is not None else 0.0)
    wanted = closed_form(eraser)
    assert wanted == math.ceil(4 * (d - 1) / (2 * norm.ppf(0.55) ** 2))
    assert np.mean(found) == pytest.approx(wanted, rel=0.2)
    left = []
    for seed in range(20):
        eraser = fit_eraser(*drawn(wanted, seed, d=d, apart=3)[:2], shrinkages=())
        spread = np.arange(1, d + 1) ** -0.3
        apart, written = np.eye(d)[0] * 3, np.linalg.qr(eraser.write.numpy() / spread[:, None])[0]
        left.append(float(apart @ apart - np.square(written.T @ apart).sum()))
    assert norm.cdf(math.sqrt(np.mean(left) / 2)) == pytest.approx(0.55, abs=0.01)


def test_unequal_classes_need_more_rows() -> None:
    states, labels, _ = drawn(100, 0)
    few = np.where(np.arange(100) < 20, labels, 0)
    assert closed_form(fit_eraser(states, few, shrinkages=())) > 2.5 * closed_form(fit_eraser(states, labels, shrinkages=()))


def test_rows_that_cannot_be_parted_are_told() -> None:
    with pytest.raises(InputError, match=r"^groups: they cannot be parted into rows for the eraser and for its certificate"):
        parted(np.arange(20) % 2, np.arange(20) % 2, 0, "k")
    with pytest.raises(InputError, match=r"^groups: got 1 that hold one of the classes, wanted at least 2"):
        Judging.of(np.arange(20) % 2, np.arange(20) % 2, None, 1, 5, np.random.default_rng(0))


# --- in a network ---


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return ss.load(tiny_chat.save_model(tmp_path_factory.mktemp("tiny")), dtype="float32", check="none")


@pytest.fixture(scope="module")
def examples() -> ss.Examples:
    return ss.Examples.from_rows(tiny_chat.rows(80, 16), "marks")


@pytest.fixture(scope="module")
def made(subject: Any, examples: ss.Examples) -> Erasure:
    return certify(subject, examples, "resid:0", permutations=2, prompts=8, texts=8)


def test_a_certificate_looks_at_groups_that_the_eraser_has_not_seen(subject: Any, examples: ss.Examples) -> None:
    """Rows of the certificate changed beyond recognition leave the eraser as it is, bit for bit."""
    acts = ss.capture(subject, examples, "resid:*")
    made = certify(subject, examples, "resid:0", permutations=1, prompts=2, texts=8, states=acts)
    assert sum(count for count, _ in (made.fitted, made.certified)) == 80
    assert made.fitted[1] + made.certified[1] == 16  # no group in both
    order = sorted(range(80), key=examples.row_digests.__getitem__)
    labels, groups = acts.labels[order], acts.groups[order]
    names: dict[int, int] = {}
    groups = np.array([names.setdefault(group, len(names)) for group in groups.tolist()])
    half = parted(labels, groups, 0, _key(examples, order, groups))
    states = acts.at("resid:0").float()[torch.tensor(order)]
    assert torch.equal(made.eraser.write, fit_eraser(states[half], labels[half], groups[half]).write)
    assert not torch.equal(made.eraser.write, fit_eraser(states, labels, groups).write)


def _key(examples: ss.Examples, order: list[int], groups: np.ndarray) -> str:
    from strandscope.provenance import digest

    return digest([examples.row_digests[row] for row in order], groups.tolist())


def test_later_blocks_are_read_with_the_edit_attached(subject: Any, examples: ss.Examples, made: Erasure) -> None:
    assert [(place.site, place.later) for place in made.places] == [
        (f"resid:{later}", later) for later in range(min(3, subject.blocks))
    ]
    assert all([leak.probe for leak in place.leaks] == list(KINDS) for place in made.places)
    found = network._under(subject, examples, [Site("resid", 0), Site("resid", 1)], "last", made.eraser)
    with attach(subject, edits=made.edits):
        wanted = ss.capture(subject, examples, "resid:0,resid:1")
    plain = ss.capture(subject, examples, "resid:0,resid:1")
    for site in ("resid:0", "resid:1"):
        assert torch.allclose(found[site], wanted.at(site).float(), atol=1e-5)
        assert (found[site] - plain.at(site).float()).abs().max() > 1e-3
    erased = edit_of(made.eraser)(plain.at("resid:0"))
    assert torch.allclose(found["resid:0"], erased.float(), atol=1e-4)


def test_the_concept_is_read_before_and_less_after(made: Erasure) -> None:
    linear = made.places[0].leaks[0]
    assert linear.before.value is not None and linear.after.value is not None
    assert linear.before.value > 0.95 and linear.after.value < linear.before.value - 0.1
    assert made.moved.value is not None and 0 < made.moved.value < 1 and made.less.value is not None


def test_damage_is_the_cost_at_all_positions_and_the_paired_rise_of_the_loss(subject: Any, made: Erasure) -> None:
    site, edit = Site.parse(made.site), edit_of(made.eraser)
    found = damage(subject, site, edit, prompts=8, texts=8)
    assert found == made.damage and found.kl.value is not None and found.kl.value > 0
    some = network.passages().subset(np.arange(8))
    losses = []
    for edits in ({}, {site: [(edit, Scope())]}):
        with torch.no_grad(), attach(subject, edits=edits):
            losses.append([_loss(subject, text[:400]) for text in some.texts()])
    assert found.loss.value == pytest.approx(np.mean(losses[0]), rel=1e-4)
    assert found.added.value == pytest.approx(np.mean(losses[1]) - np.mean(losses[0]), abs=1e-4)
    nothing = damage(subject, site, lambda states: states, prompts=8, texts=8)
    assert nothing.added.value == 0 and nothing.kl.value == pytest.approx(0, abs=1e-6)


def _loss(subject: Any, text: str) -> float:
    ids = torch.tensor([subject.tokenizer(text)["input_ids"]])
    said = subject.module(input_ids=ids).logits.float().log_softmax(-1)[0, :-1]
    return -float(said.gather(1, ids[0, 1:, None]).mean())


def test_the_same_seed_gives_the_same_certificate_and_order_does_not_matter(
    subject: Any, examples: ss.Examples, made: Erasure
) -> None:
    shuffled = examples.subset(np.random.default_rng(1).permutation(80))
    again = certify(subject, shuffled, "resid:0", permutations=1, prompts=2, texts=8)
    for one, other in zip(made.places, again.places, strict=True):
        for first, second in zip(one.leaks, other.leaks, strict=True):
            if first.probe != "MLP":  # whose fit is stopped early, so rounding shows
                assert first.after.value == pytest.approx(second.after.value, abs=0.01) and first.verdict == second.verdict


def test_at_the_last_block_and_with_three_classes_what_there_is_is_certified(subject: Any) -> None:
    rows = [
        row | {"label": number % 3, "text": f"{row['text']}{'.!?'[number % 3]}"}
        for number, row in enumerate(tiny_chat.rows(90, 15))
    ]
    rows = [row | {"group": f"g{number // 6}"} for number, row in enumerate(rows)]
    made = certify(subject, ss.Examples.from_rows(rows, "three"), "resid:3", permutations=1, prompts=2, texts=8)
    assert [place.site for place in made.places] == ["resid:3"] and made.bound is None
    assert made.needed.reason == "the law is of two classes" and made.eraser.rank >= 2
    assert "rows needed" in "\n".join(lines(erasure_entry(made))) and len(section([erasure_entry(made)])) == 6


def test_a_saved_eraser_of_a_network_is_refused_in_another(subject: Any, made: Erasure, tmp_path: Path) -> None:
    made.eraser.save(tmp_path / "marks.safetensors")
    again = Eraser.load(tmp_path / "marks.safetensors")
    again.check(subject.fingerprint)
    assert (again.site, again.position, again.name, again.classes) == ("resid:0", "last", "marks", made.classes)
    assert again.provenance["rows"] == made.fitted[0]
    with pytest.raises(TrustError):
        again.check("0" * 64)


@pytest.mark.parametrize(
    ("call", "sentence_"),
    [
        (lambda s, e: certify(s, e, "resid:99"), r"resid:99"),
        (lambda s, e: certify(s, e, "resid:0", permutations=0), r"^permutations: got 0, wanted at least 1"),
        (lambda s, e: certify(s, e.subset(np.arange(8)), "resid:0"), r"wanted at least 10"),
        (lambda s, e: certify(s, e, "resid:0", states=ss.capture(s, e, "resid:0", "mean")), r"^states: are of another network"),
    ],
)
def test_what_cannot_be_certified_is_told(subject: Any, examples: ss.Examples, call: Any, sentence_: str) -> None:
    with pytest.raises(InputError, match=sentence_):
        call(subject, examples)


def test_states_under_edits_are_refused(subject: Any, examples: ss.Examples, made: Erasure) -> None:
    with attach(subject, edits=made.edits):
        acts = ss.capture(subject, examples, "resid:*")
    with pytest.raises(InputError, match=r"^states: were captured under edits"):
        certify(subject, examples, "resid:0", states=acts)


# --- in a report ---


def test_the_record_holds_every_figure_and_is_shown_whole(made: Erasure) -> None:
    entry = erasure_entry(made, "marks.safetensors")
    again = from_json(ErasureEntry, json.dumps(as_json(entry)), "here")
    assert again == entry and entry.verdict == made.verdict
    told = "\n".join(lines(entry))
    assert all(kind in told for kind in KINDS) and "rows needed" in told and made.site in told
    page = "\n\n".join(section([entry]))
    assert page.count("| MLP |") == 1 and "### marks, erased at resid:0" in page and section([]) == []
    assert entry.worst.after.value == max(leak.after.value or 0 for leak in made.places[0].leaks)
    assert f"{made.fitted[0]} rows in {made.fitted[1]} groups" in sentence(entry)


def test_the_command_erases_saves_and_tells_what_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_chat.save_model(tmp_path / "model")
    rows = tiny_chat.write_jsonl(tmp_path / "marks.jsonl", tiny_chat.rows(80, 16))
    out = tmp_path / "e.safetensors"
    given = [str(model), str(rows), "--site", "resid:0", "--prompts", "4", "--texts", "8", "--permutations", "1", "--offline"]
    assert main(["erase", *given, "--out", str(out), "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert entry == json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert entry["file"] == "e.safetensors" and Eraser.load(out).fingerprint == entry["fingerprint"]
    for words, wanted in (
        ([str(model), str(rows), "x", "--site", "resid:0"], "wanted [MODEL] CONCEPT|FILE"),
        ([*given[:2], "--site", "resid:0", "--out", "e.json"], "ends in .safetensors"),
        ([*given[:2], "--site", "here"], "site 'here' is not understood"),
    ):
        assert main(["erase", *words]) == 2
        said = capsys.readouterr()
        assert said.out == "" and wanted in said.err
