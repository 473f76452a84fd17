"""Standards of counting: dictionaries and formulas written out again, and a source whose entropies are known.

An order-3 source of eight symbols has h_n in closed form from its stationary distribution; making order n ≤ 4 from N symbols
costs half a nat a free parameter, (S − 1) Sⁿ⁻¹/2N nats a symbol.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ..statistics.ngram import Documents, KneserNey, NGramCounts, clustered_mean, effective_order, gap, kneser_ney
from ..statistics.ngram import count as counting
from ..statistics.ngram.source import MarkovSource
from ..statistics.ngram.suffix import SuffixArray
from .mutation import Mutation
from .standard import Bands, Draw, Outcome, case

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Gram = tuple[int, ...]
V, SYMBOLS, MEMORY, STRENGTH = 20, 8, 3, 0.7
WRITTEN = "written out again with dictionaries, float64"
SOURCE = "stationary distribution of the chain of 512 contexts"


def documents(draw: Draw, count: int = 12, length: int = 60) -> list[Ints]:
    """Uneven documents of few words that repeat themselves."""
    made = []
    for number in range(count):
        row = draw.numpy.zipf(1.5, length + number) % V
        row[-15:] = row[5:20]
        made.append(row)
    return made


def grams(rows: list[Ints], n: int) -> Counter[Gram]:
    return Counter(tuple(row[i : i + n].tolist()) for row in rows for i in range(len(row) - n + 1))


def counted(rows: list[Ints] | Ints, vocabulary: int, order: int) -> KneserNey:
    counts = NGramCounts(vocabulary, order)
    for row in rows:
        counts.update(row)
    return KneserNey(counts.result())


@case(
    "n-grams of shards",
    "statistics.ngram.NGramCounts",
    "a dictionary's counts",
    Bands(error=0.0),
    (3, 10, 100),
    Mutation(
        "off by one: n-grams that begin in the document before",
        counting.counted,
        "documents.place >= n - 1",
        "documents.place >= n - 2",
    ),
    Mutation("merged without renumbering prefixes", counting.joined, "place[trie.prefix(n + 1)]", "trie.prefix(n + 1)"),
    source=WRITTEN,
    unit="largest difference of counts",
)
def shards(draw: Draw) -> Outcome:
    """Orders 1 to 4 of twelve documents in three shards, merged in another order."""
    rows = documents(draw)
    parts = [NGramCounts(V, 4) for _ in range(3)]
    for place, row in enumerate(rows):
        parts[place % 3].update(row)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    trie, worst = parts[2].result(), 0
    for n in range(1, 5):
        found = Counter(dict(zip(map(tuple, trie.grams(n).tolist()), trie.counts[n - 1].tolist(), strict=True)))
        wanted = grams(rows, n)
        worst = max([worst, *(abs(found[one] - wanted[one]) for one in found.keys() | wanted.keys())])
    return Outcome(float(worst))


@case(
    "smoothed probabilities of a vocabulary",
    "statistics.ngram.KneserNey",
    "Σ_w p(w | h) = 1",
    Bands(error=1e-12),
    (3, 10, 100),
    Mutation(
        "backed off where it should be mixed",
        kneser_ney._mixed,
        "return share + rest * below",
        "return np.where(share > 0, share, rest * below)",
    ),
    source="by definition",
    unit="",
)
def normal(draw: Draw) -> Outcome:
    """30 contexts of five words, seen and unseen, orders 1 to 4."""
    rows = documents(draw)
    contexts = np.concatenate([draw.numpy.integers(0, V, (20, 5)), [row[20:25] for row in rows[:10]]])
    return Outcome(float(np.abs(counted(rows, V, 4).distributions(contexts).sum(-1) - 1).max()))


@case(
    "modified Kneser–Ney, term by term",
    "statistics.ngram.KneserNey",
    "p of each held-out word",
    Bands(error=1e-10),
    (3, 10, 50),
    Mutation(
        "lower orders of raw counts",
        KneserNey.__init__,
        "_level(counts, n, seen_before[n - 1])",
        "_level(counts, n, counts.counts[n - 1])",
    ),
    Mutation("a factor of the third discount", kneser_ney.modified_discounts, "3 - 4 * y * n4 / n3", "3 - 3 * y * n4 / n3"),
    source=WRITTEN,
    unit="relative",
)
def terms(draw: Draw) -> Outcome:
    """A trigram model of forty documents, on forty words of another."""
    rows = documents(draw, 40)
    held = documents(draw, 1)[0][:40]
    found = np.exp(counted(rows, V, 3).logprobs([held])[-1, 2:])
    levels = [_level(rows, n, top=n == 3) for n in (1, 2, 3)]
    truth = [_probability(levels, tuple(held[max(0, i - 2) : i].tolist()), int(held[i])) for i in range(2, len(held))]
    return Outcome(float(np.abs(found / truth - 1).max()))


def _level(rows: list[Ints], n: int, *, top: bool) -> tuple[Counter[Gram], list[float]]:
    """a of each n-gram (its count, or how many words were seen before it), and D."""
    a = grams(rows, n) if top else Counter(gram[1:] for gram in grams(rows, n + 1))
    of = Counter(a.values())
    d = [0.5, 1.0, 1.5]
    if all(of[i] for i in (1, 2, 3, 4)):
        made = [i - (i + 1) * of[1] / (of[1] + 2 * of[2]) * of[i + 1] / of[i] for i in (1, 2, 3)]
        d = made if all(0 < one <= i for i, one in enumerate(made, start=1)) else d
    return a, d


def _probability(levels: list[tuple[Counter[Gram], list[float]]], context: Gram, word: int) -> float:
    p = 1 / V
    for n, (a, d) in enumerate(levels, start=1):
        here = context[len(context) - n + 1 :]
        following = {gram[-1]: often for gram, often in a.items() if gram[:-1] == here}
        total = sum(following.values())
        if total:
            freed = sum(d[min(often, 3) - 1] for often in following.values())
            own = following[word] - d[min(following[word], 3) - 1] if word in following else 0.0
            p = (own + freed * p) / total
    return p


@case(
    "longest match",
    "statistics.ngram.Unbounded",
    "length, occurrences, hits",
    Bands(error=0.0),
    (2, 5, 40),
    Mutation("the word that is foretold taken for context", SuffixArray.longest, "places - 1", "places"),
    Mutation(
        "occurrences at the end of a document counted",
        SuffixArray.longest,
        "self.followed[high] - self.followed[low]",
        "high - low",
    ),
    source="every place of every document looked at",
    unit="largest difference",
)
def match(draw: Draw) -> Outcome:
    """40 places in documents of which half was seen before, any length."""
    rows = documents(draw)
    held = Documents.of([np.concatenate([rows[0][10:50], row[:30]]) for row in documents(draw, 4)], V)
    array, places = SuffixArray(rows, V), draw.numpy.choice(len(held.tokens), 40, replace=False)
    length, often = array.longest(held, places)
    found = np.stack([length, often, array.count(held, places, length + 1)], axis=1)
    truth = [_looked_for(rows, held.tokens[at - held.place[at] : at].tolist(), int(held.tokens[at])) for at in places]
    return Outcome.farthest(found, truth, 1.0)


def _looked_for(rows: list[Ints], context: list[int], word: int) -> tuple[int, int, int]:
    lists = [row.tolist() for row in rows]
    best = (0, sum(map(len, lists)), sum(row.count(word) for row in lists))
    for size in range(1, len(context) + 1):
        after = [row[i + size] for row in lists for i in range(len(row) - size) if row[i : i + size] == context[-size:]]
        if not after:
            break
        best = (size, len(after), after.count(word))
    return best


def losses(draw: Draw, trained: int, scored: int, *, shuffled: bool = False) -> tuple[MarkovSource, Floats, Floats, Ints]:
    """A source; losses (orders 1 to 6, symbols) of its counts and the source's own (symbols,); each symbol's document."""
    length = 250
    source = MarkovSource.drawn(MEMORY, SYMBOLS, draw.numpy, STRENGTH)
    rows = source.sample((trained + scored) // length, length, draw.numpy)
    own = -source.logprobs(rows)
    if shuffled:
        rows = draw.numpy.permutation(rows.ravel()).reshape(rows.shape)
    cut = trained // length
    found = -counted(rows[:cut], SYMBOLS, 6).logprobs(rows[cut:]).reshape(6, -1, length)[:, :, 6:]
    document = np.repeat(np.arange(len(rows) - cut), length - 6)
    return source, found.reshape(6, -1), own[cut:, 6:].ravel(), document


def _after_estimating(source: MarkovSource, trained: int) -> float:
    return source.entropy_rate + (SYMBOLS - 1) * SYMBOLS**MEMORY / (2 * trained)


@case(
    "order-3 source, effective order",
    "statistics.ngram.effective_order",
    "n* = 4, both ends of its interval",
    Bands(error=0.0),
    (2, 5, 25),
    Mutation("off by one order", gap._first, "start=1", "start=2"),
    Mutation("gains of the wrong sign", gap.gains, "before - after", "after - before"),
    source=SOURCE,
    unit="symbols",
)
def stops(draw: Draw) -> Outcome:
    """Eight symbols, 100,000 counted and 50,000 scored, orders 1 to 6."""
    _, found, _, document = losses(draw, 100_000, 50_000)
    order = effective_order(list(found), document)
    return Outcome.farthest([order.value, order.low, order.high], [4, 4, 4], 1.0)


@case(
    "shuffled symbols, effective order",
    "statistics.ngram.effective_order",
    "n* = 1",
    Bands(error=0.0),
    (2, 5, 25),
    Mutation("a loss taken for a gain", gap._first, "gain <= least", "gain <= -least"),
    source="independent by construction",
    unit="symbols",
)
def none(draw: Draw) -> Outcome:
    """The same source with its symbols in random order: no context tells anything."""
    _, found, _, document = losses(draw, 100_000, 50_000, shuffled=True)
    return Outcome(effective_order(list(found), document).value or 0.0, 1.0)


@case(
    "order-3 source, nothing below its entropy",
    "statistics.ngram.KneserNey",
    "CE_n ≥ the source's own loss",
    Bands(error=0.0),
    (2, 5, 25),
    Mutation("mass added in place of shared", kneser_ney._mixed, "share + rest * below", "share + below"),
    source=SOURCE,
    unit="nats below it",
)
def floor(draw: Draw) -> Outcome:
    """Mean losses of orders 1 to 6 beside the source's own on the same 50,000 symbols."""
    _, found, own, _ = losses(draw, 100_000, 50_000)
    return Outcome(max(0.0, float((own.mean() - found.mean(1)).max())))


@case(
    "order-3 source, a million symbols",
    "statistics.ngram.KneserNey",
    "CE_4 = h + (S − 1)S³/2N",
    Bands(error=0.01),
    (0, 0, 3),
    Mutation("bits for nats", KneserNey.logprobs, "return np.log(made)", "return np.log2(made)"),
    source=SOURCE,
    unit="nats",
)
def rate(draw: Draw) -> Outcome:
    """A million symbols counted, 200,000 scored: at order 4 only the estimating is left above the entropy rate."""
    source, found, _, _ = losses(draw, 1_000_000, 200_000)
    return Outcome(float(found[MEMORY].mean()), _after_estimating(source, 1_000_000))


@case(
    "loss over documents",
    "statistics.ngram.clustered_mean",
    "the mean over documents to come",
    Bands(coverage=0.95),
    (300, 600, 4000),
    Mutation(
        "tokens taken for independent",
        clustered_mean,
        "math.sqrt(count / (count - 1) * float(apart @ apart))",
        "math.sqrt(len(rows)) * float(rows.std())",
    ),
    unit="nats",
)
def clustered(draw: Draw) -> Outcome:
    """60 documents of 20 to 60 tokens, a third of the variance between documents."""
    lengths = draw.numpy.integers(20, 61, 60)
    document = np.repeat(np.arange(60), lengths)
    values = 3 + draw.numpy.normal(0, 0.7, 60)[document] + draw.numpy.normal(0, 1, len(document))
    return Outcome.of(clustered_mean(values, document), 3.0)


STANDARDS = (shards, normal, terms, match, stops, none, floor, rate, clustered)
