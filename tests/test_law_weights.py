"""Weight matrices against chance: a random network is chance, a planted direction is not, and wild entries are out of domain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import strandscope as ss
import tiny_chat
from families import vectors
from strandscope.census.weights import judged, weights
from strandscope.cli.main import main
from strandscope.errors import InputError
from strandscope.report.weights import as_json, lines
from strandscope.statistics.weights import weight_spectrum


@pytest.fixture
def subject() -> ss.Subject:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(60, 80), nn.Tanh(), nn.Linear(80, 80), nn.Tanh(), nn.Linear(80, 3))
    with torch.no_grad():
        for one in network.parameters():
            one.normal_(0, 0.1, generator=generator)
    return ss.load(network, batch=vectors, probe=list(torch.randn(4, 60, generator=generator)), check="none")


def test_random_weights_are_chance_and_a_planted_direction_is_not(subject: ss.Subject) -> None:
    names = judged(subject)
    assert names == ["0.weight", "2.weight"]  # the head has three rows: too few to judge
    assert [one.verdict for one in weights(subject)] == ["consistent", "consistent"]
    with torch.no_grad():
        signs = torch.randint(0, 2, (2, 80), generator=torch.Generator().manual_seed(2)) * 2 - 1
        left, right = signs / 80**0.5  # entries of either sign: a common mean would stand out in any order
        subject.module.get_parameter("2.weight").add_(8 * 0.1 * 80**0.5 * torch.outer(left, right))
    first, second = weights(subject)
    assert (first.verdict, second.verdict) == ("consistent", "violated")
    assert second.outliers.value == 1 and second.control.value == 0 and 0.3 < (second.held.value or 0) < 0.7


def test_entries_without_a_variance_are_out_of_domain(subject: ss.Subject) -> None:
    with torch.no_grad():
        subject.module.get_parameter("0.weight").cauchy_(generator=torch.Generator().manual_seed(1))
    (found,) = weights(subject, ["0.weight"])
    assert found.verdict == "out of domain" and found.reason


def halving(rows: int, columns: int, rank: int) -> torch.Tensor:
    """Eigenvalues that halve, then zeros: outliers are taken out one after another until zeros alone are left."""
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    matrix.diagonal()[:rank] = 0.5 ** (torch.arange(rank).double() / 2)
    return matrix


@pytest.mark.parametrize(
    "matrix",
    [
        torch.diag(torch.tensor([1.0] * 20 + [0.0] * 25)),
        torch.randn(64, 40, generator=torch.Generator().manual_seed(0)) * (torch.arange(40) < 15),
        torch.outer(torch.arange(1.0, 65).sqrt(), torch.arange(1.0, 41).log1p()),
        halving(400, 40, 25),
    ],
    ids=["a median of zero", "columns of zeros", "a product, rounded", "zeros beside outliers"],
)
def test_a_bulk_of_rounding_is_refused(matrix: torch.Tensor) -> None:
    with pytest.raises(InputError, match="rounding"):
        weight_spectrum(matrix)


def test_a_matrix_of_low_rank_does_not_end_the_others(subject: ss.Subject) -> None:
    with torch.no_grad():
        subject.module.get_parameter("0.weight")[:, 20:] = 0
    first, second = weights(subject)
    assert (first.verdict, second.verdict) == ("out of domain", "consistent") and "rounding" in first.reason
    assert first.bulk.status == "not measured"


def test_the_control_is_the_same_whoever_asks(subject: ss.Subject) -> None:
    assert [one.control for one in weights(subject)] == [one.control for one in weights(subject)]


def test_a_name_that_no_matrix_has_is_refused(subject: ss.Subject) -> None:
    with pytest.raises(InputError, match=r"holds q_proj"):
        list(weights(subject, ["q_proj"]))


def test_it_is_shown_and_written(subject: ss.Subject) -> None:
    found = list(weights(subject))
    text = "\n".join(lines(found))
    assert "0.weight" in text and "80 × 60" in text and "of 2 matrices: consistent 2" in text
    made = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert made["matrices"][0]["negative_control"]["outliers"]["value"] == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_chat.save_model(tmp_path / "model")
    assert main(["law", "weights", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "strandscope/weights/1"
    assert main(["law", "weights", str(model), "--only", "nothing-such"]) == 2
    assert "holds nothing-such" in capsys.readouterr().err
