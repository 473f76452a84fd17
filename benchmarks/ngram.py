"""Counting n-grams of a million tokens on one core, beside dictionaries, scikit-learn and tokengrams: time, and the same counts.

The tokens are words and signs of the Python standard library's sources, numbered. All get them ready-made. Dictionaries count
tuples; scikit-learn's CountVectorizer is given the tokens as its words; both count orders 1 to 4, as we do. tokengrams builds an
index of suffixes (in Rust), from which any n-gram can be asked; it stands beside our suffix array (numpy), and its answers beside
our counts, on tokens of one document, since it knows no other. The rate is of processor time, the ratios of wall time in pairs.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from common import Line, Results, Size, main, paired
from strandscope.capture import library
from strandscope.statistics.ngram import NGramCounts, Trie
from strandscope.statistics.ngram.suffix import SuffixArray

Ints = NDArray[np.int64]
ORDER, ASKED, RATE = 4, 2000, 1.0  # M tokens a second


def tokens(count: int) -> tuple[list[Ints], int]:
    """Documents of `count` tokens together, and the vocabulary."""
    numbers: dict[str, int] = {}
    documents, left = [], count
    for text in library.sources().values():
        row = [numbers.setdefault(word, len(numbers)) for word in re.findall(r"\w+|\S", text)[:left]]
        documents.append(np.array(row, dtype=np.int64))
        left -= len(row)
        if not left:
            break
    return documents, len(numbers)


def ours(documents: list[Ints], vocabulary: int) -> Trie:
    counts = NGramCounts(vocabulary, ORDER)
    for document in documents:
        counts.update(document)
    return counts.result()


def core_seconds(work: Callable[[], object]) -> float:
    """What one thread computed, whatever else the machine did."""
    start = time.process_time()
    work()
    return time.process_time() - start


def dictionaries(documents: list[list[int]]) -> list[Counter[Any]]:
    found: list[Counter[Any]] = [Counter() for _ in range(ORDER)]
    for row in documents:
        for order, counts in enumerate(found, start=1):
            counts.update(zip(*(row[start:] for start in range(order)), strict=False))
    return found


def vectorised(documents: list[list[str]]) -> Any:
    counter = CountVectorizer(tokenizer=list, preprocessor=list, token_pattern=None, lowercase=False, ngram_range=(1, ORDER))
    return counter.fit_transform(documents)


def tokengrams() -> Any:
    """The package, which imports `datasets` for a tool of its own; counting needs none of it."""

    class Absent(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return object

    sys.modules.setdefault("datasets", Absent("datasets"))
    import tokengrams

    return tokengrams


def largest_difference(trie: Trie, index: Any) -> int:
    """Between our counts and the peer's, of n-grams drawn from every order."""
    draw, worst = np.random.default_rng(0), 0
    for order in range(1, ORDER + 1):
        grams = trie.grams(order)
        for row in draw.choice(len(grams), min(ASKED, len(grams)), replace=False):
            worst = max(worst, abs(index.count(grams[row].tolist()) - int(trie.counts[order - 1][row])))
    return worst


def run(size: Size) -> Results:
    torch.set_num_threads(1)
    documents, vocabulary = tokens(size.of(1_000_000, 20_000))
    count = sum(map(len, documents))
    lists = [row.tolist() for row in documents]
    words = [[str(number) for number in row] for row in lists]
    ours(documents, vocabulary)
    rates = sorted(count / core_seconds(lambda: ours(documents, vocabulary)) / 1e6 for _ in range(size.of(7, 1)))
    lines = [
        Line(
            f"counted, orders 1 to {ORDER}", statistics.median(rates), rates[0], rates[-1], len(rates), "M tokens/s",
            least=RATE if size.full else None, note=f"{count:,} tokens, {vocabulary:,} of them different",
        )
    ]  # fmt: skip
    pairs = size.of(3, 1)
    lines.append(
        paired(lambda: ours(documents, vocabulary), lambda: dictionaries(lists), pairs).line("time / dictionaries", None)
    )
    lines.append(
        paired(lambda: ours(documents, vocabulary), lambda: vectorised(words), pairs).line("time / CountVectorizer", None)
    )
    peer = tokengrams()
    whole = np.concatenate(documents)
    flat = whole.tolist()
    built = paired(lambda: SuffixArray([whole], vocabulary), lambda: peer.InMemoryIndex(flat, vocab=vocabulary), pairs)
    lines.append(built.line(f"suffix array / index of tokengrams {version('tokengrams')}", None))
    trie = ours([whole], vocabulary)
    apart = largest_difference(trie, peer.InMemoryIndex(flat, vocab=vocabulary))
    lines.append(Line(f"largest difference of counts, {ASKED:,} n-grams of each order", apart, unit="", most=0))
    held = dictionaries([flat])
    same = all(
        len(counts) == len(trie.keys[order]) and sum(counts.values()) == int(trie.counts[order].sum())
        for order, counts in enumerate(held)
    )
    lines.append(Line("distinct n-grams and sums unlike those of dictionaries", float(not same), most=0))
    return Results(f"{count:,} tokens of the standard library's sources, orders 1 to {ORDER}, one thread.", tuple(lines))


if __name__ == "__main__":
    main("ngram", run, __doc__ or "")
