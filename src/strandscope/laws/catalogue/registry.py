"""All laws of the catalogue by name."""

from __future__ import annotations

import difflib

from ...errors import InputError
from . import (
    catapult,
    collapse,
    double_descent,
    edge_of_stability,
    fact,
    fewshot,
    gcv,
    grokking,
    learnability,
    markov,
    model_hessian,
    nfa,
    ntk_width,
    overfitting,
    pl_rate,
    random_matrices,
    scaling,
    sharing,
    strands,
)
from .entry import Entry

ENTRIES: tuple[Entry, ...] = (
    # over-parameterised models, and what random matrices give
    double_descent.double_descent,
    overfitting.benign_overfitting,
    overfitting.tempered_overfitting,
    learnability.conservation_of_learnability,
    gcv.generalised_cross_validation,
    scaling.power_law_scaling,
    random_matrices.nulls_of_random_matrices,
    # wide networks and their training
    ntk_width.ntk_width,
    model_hessian.model_hessian,
    pl_rate.pl_rate,
    catapult.catapult,
    edge_of_stability.edge_of_stability,
    # features
    nfa.ansatz,
    fact.identity,
    collapse.collapse,
    grokking.grokking,
    fewshot.few_shot_direction,
    # strands
    strands.composition,
    strands.stack,
    strands.pooled,
    sharing.discrete,
    sharing.smooth,
    # language
    markov.order,
)

_BY_NAME = {entry.name: entry for entry in ENTRIES}
if len(_BY_NAME) != len(ENTRIES):
    raise ValueError("two laws share a name")


def law(name: str) -> Entry:
    """The entry called so; hyphens serve for the blanks of a name.

    Raises:
        InputError: there is none.
    """
    wanted = name.replace("-", " ").casefold()
    for entry in ENTRIES:
        if entry.name.replace("-", " ").casefold() == wanted:
            return entry
    near = "; ".join(difflib.get_close_matches(wanted, _BY_NAME, n=3, cutoff=0.3)) or "none"
    raise InputError(f"law {name!r}: there is none; the nearest are {near}; `strandscope law list` names all")
