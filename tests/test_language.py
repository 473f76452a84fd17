"""The loss given exactly k tokens, what is read off its curve, and the study on a tiny model from texts to the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import families
import strandscope as ss
import tiny_chat
from strandscope.capture import library
from strandscope.cli.main import cli
from strandscope.errors import InputError, MissingError
from strandscope.language import context as module
from strandscope.language import law, texts
from strandscope.language.context import Targets, context_losses, draw_targets
from strandscope.language.counted import Counted
from strandscope.language.curve import Decay, Losses
from strandscope.language.page import sentences
from strandscope.language.result import Counting, Curve, Point
from strandscope.laws.figure import Figure, Series
from strandscope.reading import Reading

# --- losses ---


def rows(count: int = 3, length: int = 90) -> list[np.ndarray]:
    return [np.random.default_rng(number).integers(3, 64, length) for number in range(count)]


TARGETS = Targets(np.array([0, 2]), np.array([70, 75]), 8)


def plain(subject: ss.Subject, context: np.ndarray, token: int) -> float:
    with torch.no_grad():
        logits = subject.module(input_ids=torch.tensor(context)[None]).logits[0, -1]
    return -float(logits.float().log_softmax(-1)[token])


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Mistral", "Mamba", "RWKV"])
def test_the_loss_given_k_tokens_is_that_of_a_plain_call_on_those_k_tokens(family: str) -> None:
    subject, ids = families.subject(family), rows()
    found = context_losses(subject, ids, TARGETS, (1, 3, 64), slack=0.0)
    for k, losses in zip((1, 3, 64), found, strict=True):
        for document, place, loss in zip(TARGETS.documents, TARGETS.places, losses, strict=True):
            assert loss == pytest.approx(plain(subject, ids[document][place - k : place], int(ids[document][place])), abs=2e-5)


@pytest.mark.parametrize("keeps", [True, False])  # whether the network can be asked for the last positions' logits alone
def test_targets_that_share_a_row_have_contexts_about_k_long(monkeypatch: pytest.MonkeyPatch, keeps: bool) -> None:
    subject, ids = families.subject("Llama"), rows()
    monkeypatch.setattr("strandscope.language.context.accepts", lambda *_: keeps)
    (found,) = context_losses(subject, ids, TARGETS, (32,))  # four targets a row: 31, 32, 33 and 34 tokens
    for number, (document, place, loss) in enumerate(zip(TARGETS.documents, TARGETS.places, found, strict=True)):
        k = 31 + number % 4
        assert loss == pytest.approx(plain(subject, ids[document][place - k : place], int(ids[document][place])), abs=2e-5)


def test_batch_size_changes_nothing_beyond_rounding() -> None:
    subject, ids = families.subject("Llama"), rows()
    one = context_losses(subject, ids, TARGETS, (2, 16, 64), batch_tokens=1)
    np.testing.assert_allclose(one, context_losses(subject, ids, TARGETS, (2, 16, 64), batch_tokens=4096), atol=2e-5)


def test_a_context_whose_far_part_is_another_document_s() -> None:
    subject, ids = families.subject("Llama"), rows()
    found = context_losses(subject, ids, TARGETS, (20,), slack=0.0, near=5)[0]
    for place, loss in zip(range(70, 78), found[:8], strict=True):
        far = ids[2][place + 5 - 20 : place + 5 - 5]  # as far before the other document's target
        assert loss == pytest.approx(plain(subject, np.append(far, ids[0][place - 5 : place]), int(ids[0][place])), abs=2e-5)


@pytest.mark.parametrize(
    ("family", "contexts", "wanted"),
    [
        ("ViT", (1,), "predicts no next token"),
        ("Llama", (0, 2), "at least 1 token"),
        ("Llama", (129,), "129 tokens, and .* holds 128"),
    ],
)
def test_what_cannot_be_measured_is_refused(family: str, contexts: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        context_losses(families.subject(family), rows(3, 200), Targets(np.array([0]), np.array([150]), 32), contexts)


@pytest.mark.parametrize("slack", [0.0, 1 / 8])
def test_a_network_is_given_as_many_tokens_as_it_holds(slack: float) -> None:
    """128 tokens of 128; with slack 16 targets would share a row of 136, so none do."""
    subject, ids, targets = families.subject("Llama"), rows(1, 200), Targets(np.array([0]), np.array([150]), 16)
    assert subject.context == 128
    (found,) = context_losses(subject, ids, targets, (128,), slack=slack)
    assert found[3] == pytest.approx(plain(subject, ids[0][153 - 128 : 153], int(ids[0][153])), abs=2e-5)


def test_a_row_is_shared_by_as_many_targets_as_the_network_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fed are 124 − 3 + 7 = 128 tokens with 8 targets, 124 − 7 + 15 = 132 with 16; the last target has 128 of them."""
    subject, ids, targets = families.subject("Llama"), rows(1, 200), Targets(np.array([0]), np.array([150]), 16)
    fed: list[tuple[int, ...]] = []
    losses = module._losses
    monkeypatch.setattr(module, "_losses", lambda one, rows, width: fed.append((*rows.shape, width)) or losses(one, rows, width))
    (found,) = context_losses(subject, ids, targets, (124,), slack=1 / 4)
    assert {(tokens, width) for _, tokens, width in fed} == {(129, 8)}
    assert found[7] == pytest.approx(plain(subject, ids[0][157 - 128 : 157], int(ids[0][157])), abs=2e-5)
    assert module.exact(128, 16, holds=128) and not module.exact(128, 16, holds=129) and not module.exact(128, 16)


def tokens(lengths: list[int], groups: list[str] | None = None) -> texts.Tokens:
    names = groups or [str(number) for number in range(len(lengths))]
    documents = tuple(texts.Document(f"{number}", group, "") for number, group in enumerate(names))
    return texts.Tokens(
        texts.Corpus("made up", "", documents), tuple(np.zeros(n, dtype=int) for n in lengths), (1,) * len(lengths)
    )


def test_targets_are_deep_enough_one_span_a_document_from_all_groups_alike() -> None:
    made = tokens([300, 90, 300, 300, 300, 300], ["a", "b", "a", "a", "b", "c"])
    found = draw_targets(made, 64, 3, seed=0)
    assert sorted({made.corpus.documents[n].group for n in found.document}) == ["a", "b", "c"]
    assert found.start.min() >= 68 and found.start.max() <= 300 - 32 and 1 not in found.document
    again = draw_targets(made, 64, 3, seed=0)
    assert np.array_equal(again.start, found.start) and not np.array_equal(draw_targets(made, 64, 3, seed=5).start, found.start)


def test_documents_that_are_too_short_are_said_to_be() -> None:
    with pytest.raises(InputError, match="1 documents of 100 tokens"):
        draw_targets(tokens([90, 300]), 64, 3, seed=0)


# --- texts ---


def test_no_package_is_both_counted_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {f"p{n}/m{m}.py": "x" * 100 for n in range(30) for m in range(3)} | {"encodings/cp437.py": "x" * 9000}
    monkeypatch.setattr(library, "sources", lambda: held)
    counted, scored = texts.standard_library(seed=1)
    packages = [{one.group for one in part.documents} for part in (counted, scored)]
    assert not packages[0] & packages[1] and packages[0] | packages[1] == {f"p{n}" for n in range(30)}
    assert len(packages[1]) == 8 and counted.digest != scored.digest
    assert texts.standard_library(seed=2)[1].digest != scored.digest == texts.standard_library(seed=1)[1].digest


def test_the_library_is_read_and_own_sources_hold_what_is_installed() -> None:
    paths = dict(library.modules())
    assert "class JSONDecoder" in paths["json/decoder.py"].read_text() and not any("test" in name.split("/") for name in paths)
    own = {one.name: one for one in texts.own_sources().documents}
    assert own["language/law.py"].text == Path(law.__file__).read_text() and own["language/law.py"].group == "language"
    assert len(texts.own_passages().documents) == 200


def test_files_are_documents_and_tables_hold_them_by_row(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one text")
    tiny_chat.write_jsonl(tmp_path / "b.jsonl", [{"text": "two", "group": "g"}, {"text": "three", "group": "g"}])
    found = texts.from_files([tmp_path / "a.md", tmp_path / "b.jsonl"])
    assert [one.text for one in found.documents] == ["one text", "two", "three"]
    with pytest.raises(MissingError):
        texts.from_files([tmp_path / "none.txt"])
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match="no text"):
        texts.from_files([tmp_path / "empty.txt"])


# --- what is read off a curve ---

CONTEXTS = (1, 2, 4, 8, 16, 32, 64, 128)


def planted(exponent: float = 0.7, stops: int = 10**9, noise: float = 0.02, documents: int = 40) -> Losses:
    """L(k) = 2 + 3 k^−γ up to `stops`, with a level of its own and little noise in each document; counts at 4, 3.2 and 3.1."""
    draw = np.random.default_rng(0)
    curve = 2 + 3 * np.minimum(CONTEXTS, stops).astype(float) ** -exponent
    level = draw.normal(0, 0.5, documents)
    model = curve[:, None] + level + draw.normal(0, noise, (len(CONTEXTS), documents))
    counted = np.array([4.0, 3.2, 3.1, 3.15])[:, None] + level
    return Losses.of(CONTEXTS, np.repeat(model, 4, 1), np.repeat(counted, 4, 1), 4, 0.95, 0)


def test_the_exponent_of_a_planted_fall_is_found() -> None:
    decay = planted().decay()
    assert isinstance(decay, Decay) and decay.exponent.low is not None and decay.exponent.high is not None
    assert decay.exponent.low < 0.7 < decay.exponent.high < 0.85 and decay.unsettled == 0
    assert decay.limit.value == pytest.approx(2, abs=0.25)


def test_the_interval_of_the_exponent_is_not_that_of_the_level() -> None:
    """Documents differ by half a nat, which says nothing of the exponent: it cancels within documents."""
    decay = planted(noise=0.001).decay()
    assert isinstance(decay, Decay) and decay.exponent.low is not None and decay.exponent.high is not None
    assert decay.exponent.high - decay.exponent.low < 0.02


def test_how_much_context_is_used() -> None:
    assert planted(stops=32).used().value == 32
    assert planted().used().value == 128
    assert planted(noise=3.0).used().value <= 4  # type: ignore[operator]


def test_a_context_is_worth_the_order_whose_loss_it_has_and_an_order_the_context() -> None:
    losses = planted(noise=0.0)
    exact = 2 + 3 * np.array(CONTEXTS) ** -0.7
    assert losses.equal_order(1).value == pytest.approx(1 + (4 - exact[1]) / 0.8)  # between 4 and 3.2
    assert losses.equal_order(0).reason.startswith("below 1") and losses.equal_order(5).reason.startswith("beyond 3")
    place = 1 + (exact[1] - 3.2) / (exact[1] - exact[2])  # between contexts 2 and 4
    assert losses.worth(1).value == pytest.approx(2**place)


def test_too_few_contexts_have_no_exponent() -> None:
    assert planted().decay(16) == "3 doublings of the context from 4 tokens on, wanted at least 4"
    assert isinstance(planted().decay(32), Decay)


def test_losses_that_rise_have_no_exponent() -> None:
    losses = planted()
    assert Losses(losses.contexts, losses.model[::-1], losses.counted, losses.draws, 0.95).decay() == "the losses do not fall"


def followed(curve: np.ndarray, noise: float = 0.02) -> Losses:
    """40 documents whose losses are the curve's and noise."""
    model = curve[:, None] + np.random.default_rng(0).normal(0, noise, (len(curve), 40))
    return Losses.of(CONTEXTS, np.repeat(model, 4, 1), np.zeros((4, 160)), 4, 0.95, 0)


def test_an_exponent_at_an_edge_of_the_search_is_none() -> None:
    """A step after 4 tokens is as steep as any power can be."""
    step = followed(np.where(np.array(CONTEXTS) < 8, 6.0, 3.0), 0.001).decay()
    assert isinstance(step, str) and step.startswith("the best exponent lies at an edge of the search")


def test_an_exponent_that_the_documents_do_not_bound_is_not_measured() -> None:
    decay = followed(3 + 3 * (np.array(CONTEXTS) / 4) ** -8.0, 0.1).decay()  # at 8 tokens 3.012, and below 3 in many resamples
    assert isinstance(decay, Decay) and decay.exponent.reason.startswith("the losses do not bound it: ")
    assert decay.limit.value == pytest.approx(3, abs=0.02)


def test_a_limit_of_loss_is_not_below_0() -> None:
    """A loss that falls by as much at every doubling goes below any limit: all resamples want one below 0."""
    decay = followed(6 - 0.5 * np.log2(CONTEXTS)).decay()
    assert isinstance(decay, Decay) and (decay.theta[:, 0] >= 0).all()
    assert decay.limit.reason == "the losses want a limit below 0; the form does not hold"
    power = followed(0.02 + 6 * np.array(CONTEXTS) ** -0.3).decay()  # some resamples do
    assert isinstance(power, Decay) and power.limit.low == 0 and 0 < power.limit.high < 0.5  # type: ignore[operator]


@pytest.mark.parametrize(
    ("height", "reason"), [(3.1, "perhaps beyond 3, the last there is"), (4.0, "perhaps below 1, the first there is")]
)
def test_an_interval_that_goes_on_beyond_the_last_order_or_the_first_is_not_measured(height: float, reason: str) -> None:
    """The network's loss is within the orders', for two fifths of resamples it is not."""
    draw = np.random.default_rng(1)
    off = draw.normal(0, 1, 40)
    off = 0.3 * (off - off.mean()) / off.std()
    inside = 0.01 if height == 3.1 else -0.01
    counted = np.repeat(np.array([[4.0], [3.2], [3.1], [3.15]]), 40, 1)
    made = Losses.of(CONTEXTS, np.repeat(np.tile(height + inside + off, (8, 1)), 4, 1), np.repeat(counted, 4, 1), 4, 0.95, 0)
    assert made.equal_order(0).reason == reason
    model = np.repeat(planted(noise=0.0, documents=40).model.mean(1)[:, None], 40, 1)
    ends = model[[-1, 0]][:, 0]
    rows = (ends[0] + 0.01 + off) if height == 3.1 else (ends[1] - 0.01 + off)
    made = Losses.of(CONTEXTS, np.repeat(model, 4, 1), np.repeat(rows[None], 4, 1), 4, 0.95, 0)
    assert made.worth(0).reason == reason.replace("3", "128")


# --- sentences ---


def read(value: float, low: float | None = None, high: float | None = None) -> Reading:
    return Reading(value, value if low is None else low, value if high is None else high, 0.95, 9, "x", None, "made up")


def curve(used: Reading, order: float) -> Curve:
    none = Reading.not_measured("why", unit="x", method="made up")
    points = tuple(Point(k, True, read(4), read(0.1), none) for k in (1, 2, 4))
    figure = Figure.of("", "", "", [Series.of("x", "guide", [1], [1])])
    rows = (Counting("bigram", 2, read(5), read(1), none), Counting("trigram", 3, read(4.5), read(0.5), read(2)))
    everywhere = (read(6), read(5), read(4.5))
    return Curve(
        "made up", "", "", 9, 90, 4.0, points, rows, used, none, none, read(order), everywhere, 2.0, None, figure
    )  # fmt: skip


@pytest.mark.parametrize(
    ("used", "wanted"),
    [
        (read(4), "uses 4 tokens of context, the doubling to 4 gains 0.100 [0.100, 0.100] nats a token; more were not tried."),
        (read(2, 2, 4), "uses 2 tokens of context, the doubling to 2 gains 0.100 [0.100, 0.100] nats a token; whether it uses 4"),
        (read(2), "nats a token, and no longer one."),
        (read(1, 1, 4), "too few documents to tell"),
    ],
)
def test_what_is_said_of_the_context_that_is_used(used: Reading, wanted: str) -> None:
    assert wanted in sentences(curve(used, 2))[1]


def test_what_is_said_of_counting() -> None:
    assert sentences(curve(read(4), 2))[0].startswith("Counting stops at order 2 [2, 2] (5.000")
    assert sentences(curve(read(4), 3))[0].startswith("Counting still gains at order 3, the last there is (4.500")
    assert "below that of the best count (trigram); 2.000 [2.000, 2.000] tokens" in sentences(curve(read(4), 2))[2]


# --- the study and its command ---

SOURCES = {
    f"p{n}/m.py": "".join(np.random.default_rng(n).choice(list("abcdefgh .\n"), size=700)) + "the end of it\n" for n in range(16)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small library, and own sources that are as small."""
    monkeypatch.setattr(library, "sources", lambda: SOURCES)
    own = tuple(texts.Document(name, name, text[::-1]) for name, text in SOURCES.items())
    monkeypatch.setattr(texts, "own_sources", lambda: texts.Corpus("own sources", "made up", own))


@pytest.mark.usefixtures("small")
def test_the_command_writes_its_data_and_its_page_and_says_what_came_out(folder: Path, tmp_path: Path) -> None:
    words = [str(folder), "--documents", "6", "--longest", "256", "--out", str(tmp_path / "out"), "--json", "--dtype", "float32"]
    done = CliRunner().invoke(cli, ["law", "context", *words])
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "out" / "context.json").read_text())
    assert json.loads(done.stdout) == data and data["schema"] == "strandscope/context/1"
    names = [curve["name"] for curve in data["curves"]]
    assert names == ["standard library", "own sources", "own passages"]
    first = data["curves"][0]
    assert [point["k"] for point in first["points"]] == [1, 2, 3, 4, 8, 16, 32, 64, 128, 256] and first["documents"] == 4
    assert [row["name"] for row in first["counting"]][-1] == "longest match" and len(first["everywhere"]) == 8
    assert first["points"][3]["gain"]["value"] == pytest.approx(
        first["points"][1]["loss"]["value"] - first["points"][3]["loss"]["value"]
    )
    assert [series["name"] for series in first["figure"]["series"]][:2] == ["network", "counted"]
    assert first["law"] is None or first["law"]["negative_control"]["expected"] == "violated"
    page = (tmp_path / "out" / "context.md").read_text()
    assert "## Standard library" in page and "| 256 ± 16 |" in page and page.count("Counting") == 3


@pytest.mark.usefixtures("small")
def test_texts_of_one_s_own_are_measured_alone(folder: Path, tmp_path: Path) -> None:
    for number, text in enumerate(list(SOURCES.values())[:3]):
        (tmp_path / f"{number}.txt").write_text(text)
    files = [word for number in range(3) for word in ("--texts", str(tmp_path / f"{number}.txt"))]
    words = ["law", "context", str(folder), *files, "--longest", "64", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "texts given: 3 documents, 96 target tokens" in done.stdout and "standard library:" not in done.stdout


@pytest.mark.usefixtures("small")
def test_a_study_is_repeatable_and_its_losses_are_those_of_the_targets(folder: Path) -> None:
    subject = ss.load(str(folder), check="none", dtype="float32")
    one, other = (law.study(subject, documents=4, longest=16, seed=3) for _ in range(2))
    assert one.curves == other.curves
    scored = texts.tokenised(subject, texts.standard_library(3)[1])
    targets = draw_targets(scored, 16, 4, 3)
    found = context_losses(subject, scored.ids, targets, (16,)).mean()
    assert one.curves[0].deepest.loss.value == pytest.approx(found)
    with pytest.raises(InputError, match="at least 2"):
        law.study(subject, documents=1)


def test_counts_are_scored_on_the_very_targets() -> None:
    draw = np.random.default_rng(0)
    trained = [draw.zipf(1.4, 300) % 40 for _ in range(12)]
    scored = [draw.zipf(1.4, 120) % 40 for _ in range(3)]
    made = [texts.Tokens(texts.Corpus("made up", "", ()), tuple(part), (1,) * len(part)) for part in (trained, scored)]
    counted = Counted.of(made[0], 64, seed=0)
    targets = Targets(np.array([0, 2]), np.array([70, 75]), 8)
    found, length = counted.at(made[1], targets)
    assert found.shape == (9, 16) and length.shape == (16,)
    for column, (document, place) in enumerate(zip(targets.documents, targets.places, strict=True)):
        until = [scored[document][: place + 1]]
        np.testing.assert_allclose(found[:8, column], -counted.smoothed.logprobs(until)[:, -1])
        np.testing.assert_allclose(found[8, column], -counted.longest.logprobs(until)[0][-1])


@pytest.mark.parametrize(("stops", "verdict"), [(10**9, "consistent"), (32, "violated")])
def test_the_law_holds_where_the_fall_goes_on_and_fails_where_it_stops(
    monkeypatch: pytest.MonkeyPatch, stops: int, verdict: str
) -> None:
    """From 4 to 32 tokens the fall is a power; what it does from there on is what is foretold."""
    losses = planted(stops=stops, noise=0.002)
    monkeypatch.setattr(law, "context_losses", lambda *_, **__: np.full((1, 40 * 4), 4.0))
    made, subject = tokens([300] * 40), families.subject("Llama")
    result = law._law(subject, made, Targets(np.arange(40), np.full(40, 200), 4), losses)
    assert result is not None and result.verdict == verdict
    assert result.control.found == "violated" and result.checks[0].what == "L(128)" and result.checks[1].what == "L(64)"
