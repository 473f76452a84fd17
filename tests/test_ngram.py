"""Counting, smoothing, the longest match, the order at which counting stops, and the source whose entropies are known."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from strandscope.errors import InputError
from strandscope.laws.catalogue import markov
from strandscope.statistics.ngram import (
    Documents,
    KneserNey,
    NGramCounts,
    Trie,
    Unbounded,
    clustered_mean,
    effective_order,
)
from strandscope.statistics.ngram.kneser_ney import FALLBACK, modified_discounts
from strandscope.statistics.ngram.source import MarkovSource
from strandscope.statistics.ngram.suffix import SuffixArray, ranked

V = 30


def texts(documents: int = 20, length: int = 200, seed: int = 0, symbols: int = V) -> list[np.ndarray]:
    """Documents of uneven lengths that repeat themselves, as text does."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(documents):
        row = draw.zipf(1.4, length + number) % symbols
        start, size = draw.integers(0, length // 2), int(draw.integers(5, length // 3 + 1))
        row[-size:] = row[start : start + size]
        made.append(row)
    return made


def counted(documents: list[np.ndarray], order: int = 4, vocabulary: int = V) -> Trie:
    counts = NGramCounts(vocabulary, order)
    for document in documents:
        counts.update(document)
    return counts.result()


def brute(documents: list[np.ndarray], order: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(d[i : i + order].tolist()) for d in documents for i in range(len(d) - order + 1))


def same(one: Trie, other: Trie) -> bool:
    return all(np.array_equal(a, b) for a, b in zip((*one.keys, *one.counts), (*other.keys, *other.counts), strict=True))


# --- counts ---


def test_counts_are_those_of_a_dictionary() -> None:
    documents = texts()
    trie = counted(documents)
    for order in range(1, 5):
        found = {tuple(gram): int(often) for gram, often in zip(trie.grams(order).tolist(), trie.counts[order - 1], strict=True)}
        assert found == brute(documents, order)


def test_shards_merge_to_the_last_bit_in_any_order() -> None:
    documents = texts()
    parts = []
    for shard in (documents[12:], documents[:5], documents[5:12]):
        parts.append(NGramCounts(V, 4))
        for document in shard:
            parts[-1].update(document)
    before = parts[1].result()
    parts[0].merge(parts[2])
    parts[0].merge(parts[1])
    assert same(parts[0].result(), counted(documents)) and parts[1].result() is before


def test_counting_in_parts_is_counting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counted(texts())
    monkeypatch.setattr("strandscope.statistics.ngram.count._SETTLE", 300)
    assert same(counted(texts()), whole)


def test_state_goes_out_and_in() -> None:
    counts, again = NGramCounts(V, 3), NGramCounts(V, 3)
    for document in texts():
        counts.update(document)
    again.load_state_dict(counts.state_dict())
    assert same(again.result(), counts.result())
    with pytest.raises(InputError, match="order"):
        NGramCounts(V, 2).load_state_dict(counts.state_dict())


def test_documents_shorter_than_the_order_and_none_at_all() -> None:
    trie = counted([np.array([3]), np.array([], dtype=int), np.array([3, 4])])
    assert [len(keys) for keys in trie.keys] == [2, 1, 0, 0]
    assert KneserNey(trie).logprobs([np.array([3, 4, 5])]).shape == (4, 3)


def test_each_position_is_told_the_number_of_its_n_gram() -> None:
    documents = texts(6, 40)
    trie, rows = counted(documents), Documents.of([*texts(3, 30, seed=4), documents[1]], V)
    known = [{tuple(gram): number for number, gram in enumerate(trie.grams(n).tolist())} for n in range(1, 5)]
    for n, numbers in enumerate(trie.walk(rows), start=1):
        for at, number in enumerate(numbers.tolist()):
            inside = rows.place[at] >= n - 1
            assert number == (known[n - 1].get(tuple(rows.tokens[at - n + 1 : at + 1].tolist()), -1) if inside else -1)


def test_a_vocabulary_of_millions_overflows_nothing() -> None:
    row = np.array([3_999_999, 0, 3_999_999, 0, 3_999_999])
    trie = counted([row], order=5, vocabulary=4_000_000)
    assert trie.grams(5).tolist() == [row.tolist()]


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        (np.array([1.0, 2.0]), "wanted a vector of whole numbers"),
        (np.array([[1, 2]]), "wanted a vector of whole numbers"),
        (np.array([V]), f"wanted 0 to {V - 1}"),
        (np.array([-1]), f"wanted 0 to {V - 1}"),
    ],
)
def test_what_is_no_document_is_refused(document: np.ndarray, wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        NGramCounts(V, 2).update(document)


def test_counts_of_other_makes_do_not_merge() -> None:
    with pytest.raises(InputError, match="order is 3 here and 2 there"):
        NGramCounts(V, 3).merge(NGramCounts(V, 2))


# --- Kneser–Ney ---


def reference(documents: list[np.ndarray], order: int, vocabulary: int) -> dict[int, tuple[Counter, Counter, dict]]:
    """Counts a, context totals and discounts at each order, by dictionaries: the formula written out again."""
    levels = {}
    for n in range(1, order + 1):
        a = brute(documents, n) if n == order else Counter(gram[1:] for gram in brute(documents, n + 1))
        totals: Counter = Counter()
        for gram, often in a.items():
            totals[gram[:-1]] += often
        of = Counter(a.values())
        n1, n2, n3, n4 = (of[k] for k in (1, 2, 3, 4))
        discounts = dict(enumerate(FALLBACK, start=1))
        if min(n1, n2, n3, n4):
            y = n1 / (n1 + 2 * n2)
            found = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
            if all(0 <= d <= i for i, d in found.items()):
                discounts = found
        levels[n] = (a, totals, discounts)
    return levels


def by_hand(levels: dict, context: tuple[int, ...], token: int, order: int, vocabulary: int) -> float:
    if order == 0:
        return 1 / vocabulary
    context = context[len(context) - order + 1 :]
    a, totals, discounts = levels[order]
    below = by_hand(levels, context, token, order - 1, vocabulary)
    if not totals[context]:
        return below
    taken = sum(discounts[min(often, 3)] for gram, often in a.items() if gram[:-1] == context)
    often = a[(*context, token)]
    own = often - discounts[min(often, 3)] if often else 0.0
    return (own + taken * below) / totals[context]


def test_probabilities_are_those_of_the_formula_written_out_again() -> None:
    documents = texts(symbols=12)
    held = texts(1, 40, seed=5, symbols=12)[0]
    found = KneserNey(counted(documents, 3, 12)).logprobs([held])
    for order in (1, 2, 3):
        levels = reference(documents, order, 12)
        wanted = [by_hand(levels, tuple(held[:i].tolist()), int(held[i]), order, 12) for i in range(3, len(held))]
        np.testing.assert_allclose(np.exp(found[order - 1, 3:]), wanted, rtol=1e-12)


@pytest.mark.parametrize("documents", [texts(), texts(3, 20), [np.zeros(50, dtype=int)], [np.arange(V)]])
def test_probabilities_of_the_vocabulary_sum_to_one_in_every_context(documents: list[np.ndarray]) -> None:
    contexts = np.random.default_rng(1).integers(0, V, (40, 5))
    contexts[:10] = documents[0][:5]
    found = KneserNey(counted(documents)).distributions(contexts)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=0, atol=1e-12)
    assert found.min() > 0


def test_a_token_that_never_came_costs_a_finite_number_of_nats() -> None:
    found = KneserNey(counted(texts(symbols=5))).logprobs([np.array([1, 2, 29, 29, 29])])
    assert np.isfinite(found).all()


def test_a_short_context_is_scored_by_the_order_that_it_fills() -> None:
    found = KneserNey(counted(texts())).logprobs([np.array([1, 2, 1, 2, 1])])
    assert found[3, 0] == found[0, 0] and found[3, 1] == found[1, 1] and found[3, 4] != found[1, 4]


def test_documents_are_scored_apart() -> None:
    model, rows = KneserNey(counted(texts())), texts(4, 30, seed=3)
    together = model.logprobs(rows)
    np.testing.assert_array_equal(together, np.concatenate([model.logprobs([row]) for row in rows], axis=1))


def test_discounts_are_those_of_the_published_formula_or_the_stated_ones() -> None:
    (d1, d2, d3), fallen = modified_discounts(np.array([1000, 400, 200, 120]))
    y = 1000 / 1800
    assert not fallen and (d1, d2, d3) == pytest.approx((1 - 0.8 * y, 2 - 1.5 * y, 3 - 2.4 * y))
    assert modified_discounts(np.array([0, 3, 2, 1])) == (FALLBACK, True)
    assert modified_discounts(np.array([10, 1, 9, 1])) == (FALLBACK, True)  # D₂ would be below 0


# --- the longest match ---


def longest(documents: list[np.ndarray], context: list[int], token: int) -> tuple[int, int, int]:
    """Length, occurrences and hits of the longest context with a token after it, by looking everywhere."""
    rows = [document.tolist() for document in documents]
    best = (0, sum(map(len, rows)), sum(row.count(token) for row in rows))
    for size in range(1, len(context) + 1):
        places = [(row, i) for row in rows for i in range(len(row) - size) if row[i : i + size] == context[-size:]]
        if not places:
            break
        best = (size, len(places), sum(row[i + size] == token for row, i in places))
    return best


def test_the_longest_match_is_the_one_found_by_looking_everywhere() -> None:
    documents, held = texts(8, 80, symbols=6), Documents.of([*texts(2, 80, seed=9, symbols=6), texts(8, 80, symbols=6)[3]], V)
    array, places = SuffixArray(documents, V), np.arange(len(held.tokens))[::3]
    length, often = array.longest(held, places)
    hits = array.count(held, places, length + 1)
    for at, found in zip(places, zip(length, often, hits, strict=True), strict=True):
        context = held.tokens[at - held.place[at] : at].tolist()
        assert longest(documents, context, int(held.tokens[at])) == tuple(map(int, found))
    assert length.max() > 60  # the third held-out document was read: its matches have no bound


def test_suffixes_are_in_order() -> None:
    text = np.concatenate([np.tile([2, 1, 2, 2], 20), np.random.default_rng(0).integers(0, 3, 100), [-1]])
    found = [text[i:].tolist() for i in ranked(text)]
    assert found == sorted(found)


def test_the_unbounded_model_sums_to_one_and_beats_what_it_backs_off_to_on_text_that_it_has_seen() -> None:
    documents = texts(20, 120)
    model = Unbounded.of(documents, V, 3, np.random.default_rng(0))
    context = documents[2][40:60]
    every = [np.append(context, token) for token in range(V)]
    ends = np.cumsum([len(row) for row in every]) - 1
    assert np.exp(model.logprobs(every, ends)[0]).sum() == pytest.approx(1, abs=1e-12)
    seen = model.logprobs([documents[2]])[0].mean()
    assert seen > model.base.logprobs([documents[2]])[-1].mean() and model.weights.min() > 0


def test_where_nothing_was_seen_the_unbounded_model_is_kneser_ney() -> None:
    model = Unbounded.of(texts(symbols=10), V, 3, np.random.default_rng(0))
    row = np.array([20, 21, 22, 3])
    found, length = model.logprobs([row])
    assert length.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(found, model.base.logprobs([row])[-1])


def test_weights_of_the_unbounded_model_are_the_most_likely_ones() -> None:
    """Half of what follows a planted context is what followed it before: λ of such cells is near the share that copies."""
    draw = np.random.default_rng(0)
    source = draw.integers(0, 200, 20_000)
    documents = []
    for _ in range(40):
        start = draw.integers(0, len(source) - 50, 40)
        documents.append(np.concatenate([source[i : i + draw.integers(4, 12)] for i in start]))
    model = Unbounded.of(documents, 200, 2, np.random.default_rng(1))
    assert 0.6 < model.weights[3, 0] < 0.95  # matches of four: pieces of 4 to 11 tokens go on with chance 6/7 or so


def test_one_document_is_too_few_for_weights() -> None:
    with pytest.raises(InputError, match="at least 2"):
        Unbounded.of([np.arange(5)], V, 2, np.random.default_rng(0))


# --- losses over documents ---


def test_an_interval_over_documents_counts_documents() -> None:
    draw = np.random.default_rng(0)
    documents = np.repeat(np.arange(50), 100)
    alike = draw.normal(size=50)[documents]  # the tokens of a document say the same
    found = clustered_mean(alike, documents)
    assert found.value is not None and found.low is not None and found.n == 50
    assert (found.value - found.low) == pytest.approx(2.01 * np.std(alike[::100], ddof=1) / math.sqrt(50), rel=0.01)


def test_the_order_stops_before_the_first_gain_that_is_none() -> None:
    documents = np.repeat(np.arange(30), 20)
    noise = np.random.default_rng(0).normal(size=600)
    losses = [noise + level for level in (3.0, 2.0, 1.5, 1.495, 1.2)]
    found = effective_order(losses, documents)
    assert (found.value, found.low, found.high) == (3, 3, 3)  # what comes after a gain of .005 does not count
    assert effective_order(losses, documents, least=0.001).value == 5
    unsure = [*losses[:3], losses[2] - np.random.default_rng(1).normal(0.012, 0.1, 600)]
    assert (found := effective_order(unsure, documents)).low == 3 and found.high == 4


@pytest.mark.parametrize("values", [np.array([1.0, np.inf]), np.array([1.0])])
def test_losses_that_are_not_finite_or_too_few_are_refused(values: np.ndarray) -> None:
    with pytest.raises(InputError):
        clustered_mean(values, np.arange(2))


def test_one_document_has_no_interval() -> None:
    with pytest.raises(InputError, match="at least 2"):
        clustered_mean(np.ones(3), np.zeros(3, dtype=int))


# --- the source ---


def test_entropies_of_a_source_that_can_be_worked_out() -> None:
    """Two symbols that stay with chance .9 and .6: π = (.8, .2), h = .8 H(.1) + .2 H(.4)."""
    source = MarkovSource(np.array([[0.9, 0.1], [0.4, 0.6]]))
    np.testing.assert_allclose(source.stationary(), [0.8, 0.2])
    binary = lambda p: -(p * math.log(p) + (1 - p) * math.log(1 - p))  # noqa: E731
    assert source.entropies(3) == pytest.approx([binary(0.2), *[0.8 * binary(0.1) + 0.2 * binary(0.4)] * 2])


def test_a_sample_has_the_losses_that_the_entropies_say() -> None:
    source = MarkovSource.drawn(2, 4, np.random.default_rng(0))
    rows = source.sample(400, 300, np.random.default_rng(1))
    found = clustered_mean(-source.logprobs(rows)[:, 2:].ravel(), np.repeat(np.arange(400), 298), 0.9999)
    assert found.low is not None and found.high is not None and found.low < source.entropy_rate < found.high
    first = np.bincount(rows[:, 0], minlength=4) / 400
    np.testing.assert_allclose(first, source.stationary().sum(0), atol=0.1)  # from the stationary distribution at once


# --- the law ---


def test_the_law_of_a_source_s_order_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of its symbols, without networks; estimating then costs ten times as much, as is foretold."""
    for name, value in {"TRAINED": 200, "SCORED": 400, "learned": lambda train, test, _: markov.counted(train, test)}.items():
        monkeypatch.setattr(markov, name, value)
    result = markov.order.run(seed=3, level=0.95)
    checks = {check.what: check for check in result.checks}
    assert (result.verdict, result.control.verdict, result.control.found) == ("consistent", "passed", "violated")
    assert checks["n* of shuffled symbols"].reading.value == 1
    above = checks["CE_4 above the source's own loss"]
    assert above.predicted.value == pytest.approx(0.01792) and above.reading.value == pytest.approx(0.01792, rel=0.2)


def test_a_network_that_sees_one_symbol_comes_near_the_bigram() -> None:
    rows = MarkovSource.drawn(3, 8, np.random.default_rng(0), 0.7).sample(150, markov.LENGTH, np.random.default_rng(1))
    found = markov._network(rows[:100], rows[100:], 1, torch.Generator().manual_seed(0))
    assert found.shape == (50, markov.LENGTH - markov.ORDERS)
    unigram, bigram = (loss.mean() for loss in markov.counted(rows[:100], rows[100:])[:2])
    assert bigram - 0.01 < found.mean() < unigram - 0.5 * (unigram - bigram)
