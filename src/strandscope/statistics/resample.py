"""Folds over groups, and permutations of labels that respect groups.

A group is what would be drawn again if the data were collected again (a topic, a template, a person). It is never split between
training and evidence, and labels are exchanged only where the null says they are exchangeable.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Ints = NDArray[np.int64]


def group_folds(labels: Ints, groups: Ints, folds: int, generator: np.random.Generator) -> Ints:
    """Fold number of every row: whole groups, folds alike in the rows they hold of each class.

    Greedy: groups in random order, those with the most rows first, each to the fold that it leaves best balanced. Every fold
    holds every class, or it raises.
    """
    classes = int(labels.max()) + 1
    names, group_of = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise InputError(f"groups: got {len(names)}, wanted at least one per fold ({folds}); add groups or use fewer folds")
    counts = np.zeros((len(names), classes))
    np.add.at(counts, (group_of, labels), 1)
    order = generator.permutation(len(names))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    held = np.zeros((folds, classes))
    share = counts.sum(0)
    fold_of = np.empty(len(names), dtype=np.int64)
    for group in order:
        after = (held[None] + np.eye(folds)[:, :, None] * counts[group]) / share  # (candidate, fold, class)
        cost = (after**2).sum((1, 2))
        best = np.flatnonzero(cost <= cost.min() + 1e-12)
        fold_of[group] = best[generator.integers(len(best))]
        held[fold_of[group]] += counts[group]
    if (held == 0).any():
        fold, kind = np.argwhere(held == 0)[0]
        raise InputError(
            f"groups: fold {fold + 1} of {folds} would hold no row of class {kind}; the class sits in too few groups; "
            "add groups that hold it or use fewer folds"
        )
    return fold_of[group_of]


def permuted_labels(labels: Ints, groups: Ints, draws: int, generator: np.random.Generator, pairs: Ints | None = None) -> Ints:
    """(draws, rows): labels exchanged at the finest level that mixes them.

    Rows of a pair with different labels exchange them; pairs and single rows of one label exchange theirs inside their group, and
    groups of one label among each other, whole. What is mixed stays so, so every draw would have been permuted alike.

    Args:
        pairs: the same number for rows of a pair, which lie in one group; None where every row is single.
    """
    result = np.repeat(labels[None], draws, axis=0)
    whole: list[Ints] = []
    for rows in _split(np.arange(len(labels)), groups):
        if not _mixes(labels[rows]):
            whole.append(rows)
            continue
        blocks = list(rows[:, None]) if pairs is None else _split(rows, pairs)
        mixed = [block for block in blocks if _mixes(labels[block])]
        _exchange(result, labels, [block for block in blocks if not _mixes(labels[block])], generator)
        for block in mixed:
            _exchange(result, labels, list(block[:, None]), generator)
    _exchange(result, labels, whole, generator)
    return result


def _split(rows: Ints, codes: Ints) -> list[Ints]:
    """`rows` by their codes."""
    return [rows[codes[rows] == code] for code in np.unique(codes[rows])]


def _mixes(labels: Ints) -> bool:
    return bool((labels != labels[0]).any())


def _exchange(result: Ints, labels: Ints, blocks: list[Ints], generator: np.random.Generator) -> None:
    """Shuffle the labels of blocks of rows, each of one label, in every draw of `result`."""
    if blocks:
        values = labels[[block[0] for block in blocks]]
        shuffled = values[np.argsort(generator.random((len(result), len(blocks))), axis=1)]
        result[:, np.concatenate(blocks)] = np.repeat(shuffled, [len(block) for block in blocks], axis=1)


def relabelled(labels: Ints, groups: Ints, draws: int, generator: np.random.Generator) -> Ints:
    """(draws, rows): the classes of every group renamed at random (two classes: swapped or not).

    What rows of a group share stays, and so does how far they differ from group to group; nothing that groups have in common is
    left. A direction fitted to such labels is the noise of one fitted to the true ones. No null is made of them.
    """
    names, group = np.unique(groups, return_inverse=True)
    renamed = np.argsort(generator.random((draws, len(names), int(labels.max()) + 1)), axis=-1)
    return renamed[:, group, labels]


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (family-wise error, any dependence)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted.tolist()
