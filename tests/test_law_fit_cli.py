"""`strandscope law fit`: what it reads, prints and writes, and the sentence for every table that it cannot use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from strandscope.cli.main import main

X = np.logspace(2, 5, 16)
Y = (0.5 + 8 * X**-0.4) * np.exp(0.02 * np.random.default_rng(5).normal(size=16))


def csv(tmp_path: Path, text: str) -> str:
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def table(tmp_path: Path, header: str = "n,loss", *columns: object) -> str:
    rows = zip(*(columns or (X, Y)), strict=True)  # type: ignore[call-overload]
    return csv(tmp_path, "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def test_it_fits_predicts_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["law", "fit", table(tmp_path), "--at", "1e6", "--compare", "--draws", "199", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.startswith("loss = E + A x^-α on 16 rows of runs.csv\n")
    assert "power+const predicts 0.5" in said.out and "] loss at n = 1e+06" in said.out
    assert "\npower: rejected; off by" in said.out and "\npower+const: stands; off by" in said.out
    assert str(out / "fit.json") in said.err
    written = json.loads((out / "fit.json").read_text(encoding="utf-8"))
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == written  # the same seed, the same figures
    assert {figure["title"].split(",")[0] for figure in written["figures"]} == {"loss against n", "residuals of log loss"}


def test_chinchilla_takes_two_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n, d = (part.ravel() for part in np.meshgrid(np.logspace(7, 10, 4), np.logspace(9, 11, 4)))
    loss = 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28
    file = table(tmp_path, "params,tokens,note,loss", n, d, d, loss)
    assert main(["law", "fit", file, "--form", "chinchilla", "--at", "1e11,1e12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["x"] == ["params", "tokens"]
    assert found["parameters"]["β"]["value"] == pytest.approx(0.28)
    assert found["predictions"][0]["at"] == {"params": 1e11, "tokens": 1e12}
    assert main(["law", "fit", file, "--x", "params", "--x", "note", "--form", "chinchilla", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["x"] == ["params", "note"]


def test_columns_are_found_by_name_and_errors_weigh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path, "SE,Run,test_loss,Size", 0.02 * Y, np.arange(16) // 2, Y, X)
    assert main(["law", "fit", file, "--json", "--draws", "199"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["x"], data["y"], data["errors"], data["groups"]) == (["Size"], "test_loss", True, 8)
    assert main(["law", "fit", file, "--x", "test_loss", "--y", "Size", "--noise", "additive", "--form", "power"]) == 0
    assert capsys.readouterr().out.startswith("Size = A x^-α")


GOOD = "x,y\n" + "\n".join(f"{x},{3 / x}" for x in range(1, 9))


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("", [], "runs.csv: the file is empty; wanted a header line"),
        ("x,y\n", [], "runs.csv: the file has a header and no rows"),
        ("1,2\n3,4\n", [], "runs.csv:1: the first line is numbers (1,2), wanted a header line"),
        ("x,x\n1,2\n", [], "runs.csv:1: column 'x' is empty or repeated"),
        (GOOD.replace("3,1.0", "3,"), [], "runs.csv:4: y is empty; fill it in or delete the row"),
        (GOOD.replace("3,1.0", "3,  "), [], "runs.csv:4: y is empty; fill it in or delete the row"),
        (GOOD.replace("3,1.0", "3"), [], "runs.csv:4: 1 cells under a header of 2"),
        (GOOD.replace("3,1.0", "3,one"), [], "runs.csv:4: y is 'one', wanted a finite number"),
        (GOOD.replace("3,1.0", "3,nan"), [], "runs.csv:4: y is 'nan', wanted a finite number"),
        (GOOD.replace("3,1.0", "3,-1"), [], "runs.csv:4: y is -1, wanted above 0 for multiplicative noise; mend the row, or say"),
        (GOOD.replace("3,1.0", "0,1.0"), [], "runs.csv:4: x is 0, wanted above 0"),
        ("x,y\n1,2\n2,1\n", [], "runs.csv: 2 rows; power+const has 3 parameters and wants at least 5 rows"),
        ("x,y\n" + "7,2\n7,1\n7,3\n" * 3, [], "runs.csv: x takes 1 value, power+const wants at least 3"),
        (GOOD, ["--y", "los"], "runs.csv:1: --y los: there is no such column, only x, y"),
        (GOOD.replace("x,y", "loss,z"), ["--y", "lost"], "only loss, z; is it loss?"),
        ("p,q,r\n1,2,3\n", [], "runs.csv:1: cannot tell which column is a size, of p, q, r; name 1 with --x"),
        ("x,b,c\n1,2,3\n", [], "runs.csv:1: cannot tell which column was measured, of b, c; name it with --y"),
        (GOOD, ["--form", "chinchilla"], "runs.csv:1: cannot tell which column is a size, of x, y; name 2 with --x"),
        (GOOD, ["--x", "x", "--x", "y"], "runs.csv: 2 columns of sizes named, this form wants 1; name --x once"),
        (GOOD, ["--x", "x", "--y", "x"], "runs.csv: columns x, x: one is used twice"),
        (GOOD, ["--at", "81"], "at: x = 81 is more than 10 times beyond the table's 1 to 8"),
        (GOOD, ["--at", "far"], "got 'far', wanted a number, or two with a comma"),
        (GOOD, ["--error", "y", "--y", "y"], "one is used twice"),
        ("x,y,se\n" + "\n".join(f"{x},{3 / x},0" for x in range(1, 9)), [], "runs.csv:2: se is 0, wanted a standard error"),
        ("x,y,run\n" + "\n".join(f"{x},{3 / x + x % 2},{x // 4}" for x in range(1, 9)), [], "3 groups, wanted at least 8"),
        ('x,y\n1,"2\n', [], "not CSV (unexpected end of data)"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, more: list[str], sentence: str
) -> None:
    assert main(["law", "fit", csv(tmp_path, text), *more]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.out == "" and "Traceback" not in said.err


def test_a_file_that_is_not_there_and_a_search_that_fails_have_their_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["law", "fit", str(tmp_path / "none.csv")]) == 3
    assert "there is no such file" in capsys.readouterr().err
    assert main(["law", "fit", table(tmp_path, "n,loss", X, 1 + X)]) == 4
    assert "power+const: no amplitude above 0 lowers the squares" in capsys.readouterr().err


def test_negative_figures_are_read_where_noise_is_additive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    y = 5 * X**-0.5 + 0.05 * np.random.default_rng(0).normal(size=16)
    assert (y < 0).any()
    assert main(["law", "fit", table(tmp_path, "n,loss", X, y), "--noise", "additive", "--form", "power", "--draws", "199"]) == 0
    assert re.search(r"scatter: 0\.0\d+ \[0\.0\d+, 0\.\d+\] loss\n", capsys.readouterr().out)


def test_far_is_said_to_go_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["law", "fit", table(tmp_path), "--at", "1e8", "--draws", "199"]
    assert main(words) == 2
    assert "choose a nearer place, add runs, or say --far" in capsys.readouterr().err
    assert main([*words, "--far"]) == 0
    assert "at n = 1e+08" in capsys.readouterr().out
