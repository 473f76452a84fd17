"""Effects on generated text: what is paired, what is held against what, and that nothing that pushed is read."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import pushing
import strandscope as ss
import tiny_chat
from strandscope.capture.examples import Examples
from strandscope.capture.tokens import tokenise
from strandscope.capture.tokenwise import predicted
from strandscope.control import study as studying
from strandscope.control.bench import Bench
from strandscope.control.cost import NeutralText, cost_of, repeated
from strandscope.control.edit import Add
from strandscope.control.effect import Controls, made_from, measure
from strandscope.control.push import Push
from strandscope.control.readers import halves, pieces, state_reader, token_reader, word_reader
from strandscope.control.study import Spec, pairs_of, study
from strandscope.control.texts import replies
from strandscope.control.together import AddEach, Randoms, Sized, equal_cost, same_nats, texts_under
from strandscope.control.window import Point, half, window
from strandscope.errors import InputError
from strandscope.report import effects
from strandscope.report.record import as_json, from_json
from strandscope.statistics.effect import beyond, half_width, quantile, shift
from strandscope.subject.attach import Scope, attach
from strandscope.subject.site import Site
from strandscope.subject.subject import Subject

LAST = Site("resid", 3)
NATS = 2.0


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    made = pushing.opened(tiny_chat.save_model(tmp_path_factory.mktemp("effect")))
    with torch.no_grad():
        made.unembedding.mul_(3)  # type: ignore[union-attr]  # so sure of itself that any push can cost two nats
    return made


def pack(told: bool = True, n: int = 96, seed: int = 0) -> Examples:
    """Texts of random letters; a positive one is full of q's where `told`."""
    draw, made = np.random.default_rng(seed), []
    for i in range(n):
        letters = draw.choice(list("abcdefgh"), size=16)
        if told and i % 2:
            letters[draw.random(16) < 0.4] = "q"
        text = " ".join("".join(letters[k : k + 4]) for k in range(0, 16, 4))
        made.append({"text": text, "label": i % 2, "group": f"g{(i // 2) % 16}", "id": f"r{i}"})
    return Examples.from_rows(made, "letters")


def asked(count: int, start: int = 0, topics: int = 4) -> Examples:
    rows = [{"messages": [{"role": "user", "content": f"say {k} please"}], "group": f"t{k % topics}", "id": f"p{k}"}
            for k in range(start, start + count)]  # fmt: skip
    return Examples.from_rows(rows, "asked")


def letter(subject: Subject, text: str = "q") -> torch.Tensor:
    """The direction after the last block that raises this letter's logit and, as far as there is room, no other's."""
    assert subject.tokenizer is not None and subject.unembedding is not None
    (token,) = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = subject.unembedding.detach().double()
    wanted = torch.zeros(len(rows), 1, dtype=torch.float64)
    wanted[token] = 1
    found = torch.linalg.lstsq(rows, wanted).solution[:, 0]
    return (found / found.norm()).float()


# --- arithmetic ---


def test_a_shift_is_the_mean_move_less_that_of_the_others_with_their_share_and_rank() -> None:
    topics = np.repeat(np.arange(5), 4)
    moves = np.linspace(-0.15, 1.75, 20)
    others = np.stack([np.full(20, value) for value in (0.1, 0.2, 0.9)])
    found = shift(moves, others, topics, "u", "m")
    assert found.move.value == pytest.approx(0.8) and found.beyond.value == pytest.approx(0.8 - 0.4)
    assert found.move.null is not None and found.move.null.p == pytest.approx(2 / 4)
    assert found.wrong.value == pytest.approx(0.1)  # −.15 and −.05
    assert [q.value for q in found.quantiles] == pytest.approx(np.quantile(moves, [0.1, 0.5, 0.9]).tolist())
    assert all(q.low <= q.value <= q.high for q in found.quantiles)  # type: ignore[operator]


def test_one_other_direction_is_too_few_and_other_rows_are_refused() -> None:
    topics = np.repeat(np.arange(3), 2)
    assert beyond(np.ones(6), np.ones((1, 6)), topics, "u", "m").status == "not measured"
    with pytest.raises(InputError, match="the same rows"):
        shift(np.ones(6), np.ones((3, 5)), topics, "u", "m")
    with pytest.raises(InputError, match="at least 2"):
        half_width(np.ones(6), np.zeros(6, dtype=np.int64))


def test_the_interval_beyond_others_holds_the_truth_with_topics_and_directions_drawn_anew() -> None:
    """True difference 0.3; directions differ among one another as much as topics do."""
    draw, hits, plain = np.random.default_rng(0), 0, 0
    topics = np.repeat(np.arange(12), 4)
    for _ in range(400):
        shared = draw.normal(0, 1, 12)[topics]
        others = np.stack([draw.normal(0, 0.5) + 0.5 * shared + draw.normal(0, 1, 48) for _ in range(10)])
        moves = 0.3 + shared + draw.normal(0, 1, 48)
        found = beyond(moves, others, topics, "u", "m")
        hits += found.low <= 0.3 <= found.high  # type: ignore[operator]
        reach = half_width(moves - others.mean(0), topics) * 0.35  # far too short, to show that the count can fall
        plain += abs(float((moves - others.mean(0)).mean()) - 0.3) <= reach
    assert 370 <= hits <= 397 and plain < 300


def test_quantiles_hold_theirs() -> None:
    draw, hits = np.random.default_rng(1), 0
    topics = np.repeat(np.arange(20), 3)
    for _ in range(300):
        values = draw.normal(0, 0.7, 20)[topics] + draw.normal(0, 1, 60)
        found = quantile(values, topics, 0.9, "u", "m")
        hits += found.low <= 1.2816 * (0.49 + 1) ** 0.5 <= found.high  # type: ignore[operator]
    assert hits >= 275


# --- readers ---


@pytest.mark.parametrize(("words", "size", "sizes"), [(10, 4, [4, 6]), (11, 4, [4, 4, 3]), (3, 4, [3]), (1, 5, [1])])
def test_pieces_hold_every_word_once(words: int, size: int, sizes: list[int]) -> None:
    text = " ".join(f"w{k}" for k in range(words))
    made = pieces(text, size)
    assert " ".join(made) == text and [len(one.split()) for one in made] == sizes
    assert pieces("  ", 4) == []


def test_halves_share_no_group_and_hold_both_classes() -> None:
    first, second = halves(pack(), seed=3)
    assert not {row.group for row in first.rows} & {row.group for row in second.rows}
    assert len(first) + len(second) == 96 and min(len(set(part.labels.tolist())) for part in (first, second)) == 2


def test_readers_score_in_distances_between_classes_and_leave_empty_texts_unread(subject: Subject) -> None:
    rows, fresh = pack(), pack(seed=9)
    for reader in (word_reader(rows), state_reader(subject, rows)):
        assert reader.reads, reader
        scores = reader.score(fresh.texts())
        means = [scores[fresh.labels == code].mean() for code in (0, 1)]
        assert abs(means[0]) < 0.3 and 0.7 < means[1] < 1.6  # held-out rows set the scale; a fit on all of them reaches further
        long = reader.score([" ".join(fresh.texts()[1:8:2]), "", "   "])
        assert abs(long[0] - 1) < 0.5 and np.isnan(long[1:]).all()


def test_a_reader_of_nothing_says_that_it_does_not_read(subject: Subject) -> None:
    for reader in (
        word_reader(pack(told=False)),
        state_reader(subject, pack(told=False)),
        token_reader(subject, pack(told=False)),
    ):
        assert not reader.reads


def test_what_tells_groups_apart_is_no_evidence_that_a_reader_reads() -> None:
    """Each group has one label and a word of its own: to know the word is to know the label, of groups that were seen."""
    draw = np.random.default_rng(4)
    names = ["".join(draw.choice(list("klmnopqrstuvwxyz"), 6)) for _ in range(20)]
    codes = draw.permutation(np.repeat([0, 1], 10))
    rows = [
        {"text": f"{name} {' '.join(draw.choice(list('abcdefgh'), 8))}", "label": int(code), "group": name}
        for name, code in zip(names, codes, strict=True)
        for _ in range(6)
    ]
    assert not word_reader(Examples.from_rows(rows, "groups")).reads


def test_the_reader_of_tokens_scores_a_distribution_by_its_mean(subject: Subject) -> None:
    reader = token_reader(subject, pack())
    (token,) = subject.tokenizer("q", add_special_tokens=False)["input_ids"]  # type: ignore[misc, union-attr]
    assert reader.reads and reader.weights.argmax() == token
    said = torch.full((1, len(reader.weights)), 1 / len(reader.weights)).log()
    assert reader.expected(said)[0] == pytest.approx(reader.weights.mean(), abs=1e-6)


def test_states_are_read_from_the_plain_network_alone(subject: Subject) -> None:
    reader = state_reader(subject, pack())
    with attach(subject, edits={LAST: [(Add(torch.ones(32), 1.0), Scope())]}), pytest.raises(InputError, match="under edits"):
        reader.score(["abcd"])


def test_a_strand_of_other_rows_is_refused(subject: Subject) -> None:
    first, second = halves(pack())
    strand = ss.find(ss.capture(subject, first), permutations=0).best
    made_from(strand, first)
    with pytest.raises(InputError, match="not found on these rows"):
        made_from(strand, second)


# --- pushes together ---


def test_texts_of_many_pushes_in_one_batch_are_those_of_each_alone(subject: Subject) -> None:
    prompts = asked(3).texts()
    scope = Scope(phase="generation")
    made = [Push({LAST: pushing.vector(k, 2.0), Site("resid", 1): pushing.vector(k + 9)}, scope) for k in range(5)]
    sized = [Sized(push, 0.5 + k, 0.0) for k, push in enumerate(made)]
    together = texts_under(subject, prompts, sized, 6, chat=True)
    for one, texts in zip(sized, together, strict=True):
        with attach(subject, edits=one.push.edits(one.size)):
            assert texts == tuple(replies(subject, prompts, 6))
    assert len(set(together)) > 1
    with pytest.raises(InputError, match="differ in their sites"):
        texts_under(subject, prompts, [sized[0], Sized(Push({LAST: pushing.vector(1)}, scope), 1.0, 0.0)], 6, chat=True)
    with pytest.raises(InputError, match="wanted one a row"):
        AddEach(torch.ones(2, 32))(torch.zeros(3, 1, 32))


def test_random_directions_cost_what_was_asked_and_the_first_of_many_are_the_few(subject: Subject) -> None:
    bench = Bench.on(subject, asked(12))
    push = Push({LAST: pushing.vector(1), Site("resid", 1): pushing.vector(2)})
    randoms = Randoms.of(bench, push)
    for kind in ("matched", "isotropic"):
        few, many = randoms.draw(kind, 2), randoms.draw(kind, 4)
        assert [one.digest for one in few] == [one.digest for one in many[:2]] and len({one.digest for one in many}) == 4
        for sized in same_nats(bench, many, 0.05):
            assert bench.costs_under(sized.push.edits(sized.size)).mean() == pytest.approx(0.05, rel=0.05)
    with pytest.raises(InputError, match="no size of the push"):
        equal_cost(bench, few[0], 500.0, 1.0)


def test_matched_directions_have_the_states_covariance_and_isotropic_ones_do_not(subject: Subject) -> None:
    states = torch.randn(40, 32, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 32)
    randoms = Randoms({LAST: states}, Scope(), 0)
    spread = states.var(0)
    for kind, close in (("matched", True), ("isotropic", False)):
        drawn = torch.stack([one.directions[LAST] for one in randoms.draw(kind, 400)])
        assert (float(torch.corrcoef(torch.stack([drawn.var(0), spread]))[0, 1]) > 0.9) is close


# --- cost ---


def test_predicted_is_what_the_plain_pass_says_of_each_token(subject: Subject) -> None:
    rows = tokenise(subject, pack(n=24))
    said, hit = predicted(subject, rows)
    for row in (0, 7):
        with torch.no_grad():
            logits = subject.module(input_ids=torch.tensor([rows.ids[row]]), use_cache=False).logits[0, :-1].double()
        came = torch.tensor(rows.ids[row][1:])
        assert said[row] == pytest.approx(float(logits.log_softmax(-1).gather(1, came[:, None]).mean()), abs=1e-5)
        assert hit[row] == pytest.approx(float((logits.argmax(-1) == came).double().mean()))


def test_repeats_are_counted_and_costs_are_paired_with_the_plain_network(subject: Subject) -> None:
    assert repeated("a b c d a b c d") == pytest.approx(1 - 4 / 5) and np.isnan(repeated("a b c"))
    text = NeutralText.of(subject, pack(n=24), tokens=12)
    topics = np.repeat(np.arange(2), 2)
    none = cost_of(text, None, {}, (["a b c d e"] * 4, ["a b c d e"] * 4, topics))
    assert none.entropy.value == 0 and none.perplexity.value == 1 and none.accuracy.value == 0 and none.repetition.value == 0
    edits = Push({LAST: letter(subject)}).edits(50.0)
    found = cost_of(text, None, edits, (["a b c d e"] * 4, ["a b c d a b c d a b c d"] * 4, topics))
    said, _ = predicted(subject, text.rows, edits)
    assert found.entropy.value == pytest.approx(float((text.said - said).mean()))
    assert found.perplexity.value == pytest.approx(np.exp(found.entropy.value)) and found.perplexity.value > 1.2  # type: ignore[arg-type]
    assert found.repetition.value == pytest.approx(1 - 4 / 9) and found.reply.status == "not measured"


# --- the whole ---


@pytest.fixture(scope="module")
def controls(subject: Subject) -> Controls:
    return Controls(subject, Bench.on(subject, asked(12)), asked(16, start=20), new_tokens=24, texts=6, tokens=20)


def test_a_push_that_writes_the_concept_moves_its_texts_beyond_random_ones(subject: Subject, controls: Controls) -> None:
    _, second = halves(pack())
    readers = [state_reader(subject, second), word_reader(second), word_reader(pack(told=False))]
    tokens = token_reader(subject, second)
    push = Push({LAST: letter(subject)})
    sized = equal_cost(controls.bench, push, NATS, 1.0)
    found = measure(controls, sized, NATS, readers, tokens, "use the letter q")
    for read in (*found.reads[:2], found.next_token):
        for kind in ("matched", "isotropic"):
            assert read.against[kind].beyond.low > 0.2, (read.reader, kind)  # type: ignore[operator]
            assert read.against[kind].move.null.p <= 1 / 7 + 1e-9  # type: ignore[union-attr]
    pushed, plain = controls.texts_of([sized])[0], controls.plain
    others = [readers[1].score(texts).mean() for texts in controls.random_texts(push, NATS, "matched")]
    beside = found.reads[1].against["matched"]
    assert beside.move.value == pytest.approx((readers[1].score(pushed) - readers[1].score(plain)).mean())
    assert beside.beyond.value == pytest.approx(readers[1].score(pushed).mean() - np.mean(others))
    assert found.reads[2].against == {} and "measures nothing" in found.reads[2].reason
    assert found.reads[2].beyond.status == "not measured"
    assert found.reads[0].instruction.status == "measured" and found.prompts == 16 and found.topics == 4
    away = measure(
        controls, equal_cost(controls.bench, push.opposite(), NATS, 1.0), NATS, readers[1:2], tokens, kinds=("matched",)
    )
    assert away.next_token.against["matched"].beyond.high < 0  # type: ignore[operator]
    assert away.reads[0].instruction.status == "not measured"


def test_a_push_elsewhere_moves_nothing_beyond_random_ones(subject: Subject, controls: Controls) -> None:
    reader = word_reader(pack())
    (other,) = Randoms.of(controls.bench, Push({LAST: letter(subject)}), seed=5).draw("matched", 1)
    sized = equal_cost(controls.bench, other, NATS, 1.0)
    found = measure(controls, sized, NATS, [reader], None, kinds=("matched",))
    assert found.read("words").beyond.low < 0.2  # type: ignore[operator]
    assert found.next_token.reason == "no reader of tokens was given"


def test_prompts_of_the_dose_are_not_prompts_of_the_effect(subject: Subject) -> None:
    with pytest.raises(InputError, match="doses are found"):
        Controls(subject, Bench.on(subject, asked(12)), asked(4, start=11))


def test_prompts_with_an_empty_text_are_left_out_and_counted(
    subject: Subject, controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = word_reader(pack())
    sized = equal_cost(controls.bench, Push({LAST: letter(subject)}), NATS, 1.0)
    texts = list(controls.texts_of([sized])[0])
    whole = measure(controls, sized, NATS, [reader], None, kinds=("matched",))

    def emptied(self: Controls, pushes: list[Sized]) -> list[tuple[str, ...]]:
        assert pushes == [sized]
        return [("", *texts[1:])]

    monkeypatch.setattr(Controls, "texts_of", emptied)
    found = measure(controls, sized, NATS, [reader], None, kinds=("matched",))
    assert (whole.empty, found.empty) == (0, 1)
    assert found.reads[0].against["matched"].move.n == whole.reads[0].against["matched"].move.n - 1


# --- the window ---


def points(effects: list[float], rises: list[float]) -> tuple[list[Point], np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    topics, kinds = np.repeat(np.arange(10), 4), np.repeat(np.arange(8), 3)
    made = [
        Point(nats, effect + draw.normal(0, 0.1, 40), draw.normal(0, 0.1, (6, 40)), rise + draw.normal(0, 0.01, 24))
        for nats, effect, rise in zip((0.1, 0.3, 1.0, 3.0), effects, rises, strict=True)
    ]
    return made, topics, kinds


@pytest.mark.parametrize(
    ("effects", "rises", "verdict", "ends"),
    [
        ([0, 0.5, 0.8, 1], [0, 0.1, 0.2, 2], "a window", (0.3, 1.0)),
        ([0, 0, 0, 1], [0, 0.1, 0.9, 2], "no window: the effect costs more than the budget", (3.0, 0.3)),
        ([0, 0, 0, 0], [0, 0.1, 0.9, 2], "no effect at any dose", (None, 0.3)),
        ([1, 1, 1, 1], [2, 2, 2, 2], "no dose within budget", (0.1, None)),
        ([1, 1, 1, 1], [0, 2, 0, 0], "a window", (0.1, 0.1)),  # past a dose beyond the budget nothing is within it
    ],
)
def test_the_window_is_between_the_least_effect_and_the_budget(
    effects: list[float], rises: list[float], verdict: str, ends: tuple[float | None, float | None]
) -> None:
    found = window(*points(effects, rises))
    assert (found.verdict, found.least, found.greatest) == (verdict, *ends)


def test_the_window_is_chosen_on_one_half_and_read_on_the_other() -> None:
    made, topics, kinds = points([0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0])
    rows = half(topics, 0)
    changed = [Point(one.nats, np.where(rows, one.moves, -1.0), one.others, one.rises) for one in made]
    found, before = window(changed, topics, kinds), window(made, topics, kinds)
    assert (found.least, found.verdict) == (before.least, before.verdict) == (0.1, "a window")
    assert found.at_least is not None and found.at_least.beyond.value == pytest.approx(-1, abs=0.1)
    with pytest.raises(InputError, match="that rise"):
        window(made[::-1], topics, kinds)
    with pytest.raises(InputError, match="at least 4"):
        half(np.zeros(5, dtype=np.int64), 0)


# --- the record and the page ---


def test_the_page_says_what_was_measured_and_the_record_goes_there_and_back(subject: Subject, controls: Controls) -> None:
    _, second = halves(pack())
    sized = equal_cost(controls.bench, Push({LAST: letter(subject)}), NATS, 1.0)
    found = measure(controls, sized, NATS, [word_reader(second), word_reader(pack(told=False))], None, "use | q", ("matched",))
    pair = (controls.plain, controls.texts_of([sized])[0], controls.prompts.groups)
    cost = cost_of(NeutralText.of(subject, pack(n=24), tokens=12), None, sized.push.edits(sized.size), pair)
    made = effects.entry(found, cost, window(*points([0, 0.5, 0.8, 1], [0, 0.1, 0.2, 2])))
    assert from_json(effects.EffectEntry, json.dumps(as_json(made)), "here") == made
    assert effects.headline(made) == found.reads[0].beyond and effects.verdict(made) == "moves the texts"
    page, shown = "\n".join(effects.section(made)), "\n".join(effects.lines(made))
    for text in (page, shown):
        assert "measures nothing" in text and "window of use: a window" in text.replace("\\", "") and "0.3 to 1 nats" in text
        assert f"{found.reads[0].beyond.value:.2f}" in text
    assert controls.plain[0].strip() in page and "KL over a reply | not measured" in page
    against = found.reads[0].against["matched"]
    for low, value, high, said in ((-0.5, -0.4, -0.3, "moves the texts away"), (-0.09, 0.0, 0.09, "no effect beyond random"),
                                   (-0.2, 0.1, 0.4, "cannot tell")):  # fmt: skip
        seen = replace(against, beyond=replace(against.beyond, value=value, low=low, high=high))
        other = replace(found, reads=(replace(found.reads[0], against={"matched": seen}),))
        assert effects.verdict(effects.entry(other)) == said
    away = replace(found, reads=(replace(found.reads[1]),))
    assert effects.verdict(effects.entry(away)) == "not measured"


def test_a_study_finds_on_one_half_and_reads_by_the_other(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec(
        nats=0.05, prompts=8, dose_prompts=8, new_tokens=6, texts=2, tokens=3, passages=8, passage_tokens=16, replies=4,
        contexts=4, draws=8, use_controls=20,
    )  # fmt: skip
    told: list[str] = []
    rows, fitted = pack(n=192), []
    states, words, tokens = studying.state_reader, studying.word_reader, studying.token_reader
    monkeypatch.setattr(studying, "state_reader", lambda on, rows, seed: fitted.append(rows.digest) or states(on, rows, seed))
    monkeypatch.setattr(studying, "word_reader", lambda rows, seed: fitted.append(rows.digest) or words(rows, seed))
    monkeypatch.setattr(studying, "token_reader", lambda on, rows, seed: fitted.append(rows.digest) or tokens(on, rows, seed))
    found = study(subject, rows, spec, progress=lambda what, *_: told.append(what))
    first, second = halves(rows)
    made_from(found.strand, first)
    with pytest.raises(InputError):
        made_from(found.strand, second)
    assert [read.reader for read in found.effect.reads] == ["states", "words"] and found.effect.prompts == 8
    assert fitted == [second.digest] * 3 and found.effect.cost == pytest.approx(0.05, rel=0.1)
    assert found.verdict.strand == "letters" and found.cost.reply.status == "measured" and "costs" in told
    assert pairs_of(rows).tolist() == rows.groups.tolist()
    with pytest.raises(InputError, match="are left beside those of the dose"):
        study(subject, rows, replace(spec, prompts=293))
