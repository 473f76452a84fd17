"""Streams of rows: what is said of each, what a broken line does, and that nothing is kept but ranks; and the two commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import strandscope as ss
import tiny_chat
import watched
from strandscope.cli.main import main
from strandscope.cli.watch import _lines
from strandscope.errors import InputError
from strandscope.monitor.monitor import Monitor
from strandscope.monitor.states import StateRows
from strandscope.monitor.stream import Broken, Verdict, Watcher
from strandscope.subject.subject import Subject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return ss.load(folder, dtype="float32", check="none")


@pytest.fixture(scope="module")
def monitor(subject: Subject) -> Monitor:
    quiet = watched.texts(80, seed=1)
    return Monitor.calibrate(watched.three(subject), quiet, subject=subject, false_alarm=0.05, aggregation="max")


def lines(*rows: Any) -> list[tuple[int, bytes]]:
    return [(i, row if isinstance(row, bytes) else json.dumps(row).encode()) for i, row in enumerate(rows, start=1)]


def states_row(subject: Subject, ids: Sequence[int]) -> dict[str, Any]:
    found = watched.states_of(subject, ids)
    return {"states": {f"resid:{block}": found[block].tolist() for block in (1, 2)}}


# --- rows ---


def test_texts_and_states_say_what_the_monitor_says(subject: Subject, monitor: Monitor) -> None:
    rows = watched.texts(12, seed=5)
    wanted = monitor.scores(rows, subject)
    asked = [{"text": row.input, "id": row.id} for row in rows.rows]
    said = list(Watcher(monitor, subject, None).read(lines(*asked)))
    brought = list(Watcher(monitor, None, None).read(lines(*(states_row(subject, ids) for ids in watched.ids_of(subject, rows)))))
    for number, (one, other) in enumerate(zip(said, brought, strict=True)):
        assert isinstance(one, Verdict) and isinstance(other, Verdict)
        assert one.id == rows.rows[number].id and other.id == number + 1
        assert list(one.score.values()) == pytest.approx(wanted[number].tolist(), abs=1e-6)
        assert list(other.score.values()) == pytest.approx(wanted[number].tolist(), abs=1e-5)
        assert {n: a["token"] for n, a in one.alarm.items()} == {n: a["token"] for n, a in other.alarm.items()}
        assert set(one.alarm) == {n for n, t in zip(monitor.concepts, monitor.thresholds, strict=True) if one.score[n] > t}
        assert json.loads(one.as_json())["alarm"] == (one.alarm or None)


def test_the_token_of_an_alarm_is_the_first_above_the_threshold(subject: Subject, monitor: Monitor) -> None:
    rows = watched.texts(30, seed=7)
    monitor = watched.at(monitor, *np.median(monitor.scores(rows, subject), axis=0))
    fired = 0
    for said, ids in zip(
        Watcher(monitor, subject, None).read(lines(*({"text": row.input} for row in rows.rows))),
        watched.ids_of(subject, rows),
        strict=True,
    ):
        assert isinstance(said, Verdict)
        for concept, alarm in said.alarm.items():
            threshold = monitor.thresholds[monitor.concepts.index(concept)]
            scores = watched.own_scores(subject, watched.three(subject), concept, ids)[1:]
            assert alarm["token"] == 1 + int(np.flatnonzero(scores > threshold)[0])
            assert subject.tokenizer is not None and alarm["text"] == subject.tokenizer.decode([ids[alarm["token"]]])
            fired += 1
    assert fired == 30


def test_which_rows_stand_together_changes_nothing(subject: Subject, monitor: Monitor) -> None:
    asked = lines(*({"text": row.input} for row in watched.texts(20, seed=6).rows))
    together = [said for said in Watcher(monitor, subject, None).read(asked) if isinstance(said, Verdict)]
    watcher = Watcher(monitor, subject, None)
    alone = [said for line in asked for said in watcher.read([line]) if isinstance(said, Verdict)]
    for one, other in zip(together, alone, strict=True):
        assert one.line == other.line and one.alarm == other.alarm
        assert list(one.score.values()) == pytest.approx(list(other.score.values()), abs=1e-5)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (b'{"text": "x', "line 2: not JSON"),
        (b"[1]", "line 2: got a JSON list"),
        (b'\xff{"text": "x"}', "line 2: "),
        ({"words": "x"}, 'got none of them, wanted one of "text"'),
        ({"text": "x", "states": {}}, "got text and states"),
        ({"text": " "}, '"text" is empty'),
        ({"text": 3}, "of type int, wanted a string"),
        ({"text": "ab", "id": [1]}, '"id" is of type list'),
        ({"text": "a" * 2000}, "2000 tokens, and the context holds"),
        ({"text": "a"}, "none of them is in this slice"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "was calibrated on raw text"),
        ({"states": [[1.0]]}, '"states" is of type list'),
        ({"states": {"resid:1": [[0.0] * 32] * 3}}, '"states" lacks resid:2; wanted resid:1, resid:2'),
        ({"states": {"resid:1": [[0.0] * 32] * 3, "resid:2": [[0.0] * 32] * 2}}, "have 2 and 3 tokens at different sites"),
        ({"states": {"resid:1": [[0.0] * 31] * 3, "resid:2": [[0.0] * 32] * 3}}, r"got shape \(3, 31\), wanted \(tokens, 32\)"),
        ({"states": {"resid:1": [[0.0], [0.0, 1.0]], "resid:2": []}}, "are no list of finite states"),
        ({"states": {"resid:1": [[float("nan")] * 32] * 2, "resid:2": [[0.0] * 32] * 2}}, "are no list of finite states"),
        (
            {"states": {"resid:1": [[0.0] * 32], "resid:2": [[0.0] * 32]}},
            "1 tokens, and the first 1 of a sequence are not scored",
        ),
    ],
)
def test_a_broken_line_is_named_and_takes_no_other_along(subject: Subject, monitor: Monitor, row: Any, sentence: str) -> None:
    good = {"text": "xabcz"}
    said = list(Watcher(monitor, subject, monitor.drift()).read(lines(good, row, good, b"  ")))
    assert [type(one) for one in said] == [Verdict, Broken, Verdict]
    broken = said[1]
    assert isinstance(broken, Broken) and broken.line == 2 and "line 2" in broken.sentence
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(broken.sentence)


def test_texts_without_a_network_are_broken_lines(monitor: Monitor) -> None:
    (said,) = Watcher(monitor, None, None).read(lines({"text": "xabcz"}))
    assert isinstance(said, Broken) and "name the model" in said.sentence


def test_in_a_monitor_of_chats_a_text_is_what_a_user_says(subject: Subject) -> None:
    quiet = [{"messages": [{"role": "user", "content": row.input}]} for row in watched.texts(80, seed=1).rows]
    monitor = Monitor.calibrate(
        watched.strand(subject), ss.Examples.from_rows(quiet, "chats"), subject=subject, false_alarm=0.05, aggregation="max"
    )
    asked = lines({"text": "hello"}, {"messages": [{"role": "user", "content": "hello"}]})
    one, other = Watcher(monitor, subject, None).read(asked)
    assert isinstance(one, Verdict) and isinstance(other, Verdict) and one.score == pytest.approx(other.score, abs=1e-6)


# --- drift, memory ---


def test_drift_is_named_once_by_strand_and_site(subject: Subject, monitor: Monitor) -> None:
    """Traffic whose states have moved along one strand alone."""
    moved = watched.three(subject)[2]
    rows = [states_row(subject, ids) for ids in watched.ids_of(subject, watched.texts(60, seed=11))]
    for row in rows[20:]:
        row["states"]["resid:2"] = (torch.tensor(row["states"]["resid:2"]) + 6 * moved.basis[:, 0]).tolist()
    said = list(Watcher(monitor, None, monitor.drift()).read(lines(*rows)))
    alarms = [one for one in said if isinstance(one, Verdict) and one.drift is not None]
    assert len(alarms) == 1 and 20 < alarms[0].line < 45
    assert alarms[0].drift == {"strand": "first", "site": "resid:2", "sequences": alarms[0].line, "p": alarms[0].drift["p"]}
    assert alarms[0].drift["p"] <= 0.01


def test_memory_does_not_grow_with_the_stream(subject: Subject, monitor: Monitor) -> None:
    (row,) = lines(states_row(subject, watched.ids_of(subject, watched.texts(1, seed=3))[0]))
    watcher = Watcher(monitor, None, monitor.drift())
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        for number in range(100):
            for _said in watcher.read([(number, row[1])]):
                pass
        peaks.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert len(row[1]) > 8000 and peaks[-1] < 50_000  # three channels of ranks, and nothing of the rows


class Drip(io.RawIOBase):
    """A pipe that gives what it has been given, piece by piece, and counts how often it is asked."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.asked = list(pieces), 0

    def read1(self, _size: int) -> bytes:
        self.asked += 1
        return self.pieces.pop(0) if self.pieces else b""


def test_lines_are_given_as_they_come_and_none_is_waited_for() -> None:
    drip = Drip(b"one\ntw", b"o", b"\n", b"three\nfour\n", b"five")
    given = _lines(drip)
    assert next(given) == [(1, b"one")] and drip.asked == 1
    assert next(given) == [(2, b"two")] and drip.asked == 3
    assert list(given) == [[(3, b"three"), (4, b"four")], [(5, b"five")]]
    many = list(_lines(Drip(b"x\n" * 70)))
    assert [len(part) for part in many] == [32, 32, 6] and many[2][-1] == (70, b"x")


# --- the commands ---


Patch, Output = pytest.MonkeyPatch, pytest.CaptureFixture[str]


def watch(monkeypatch: Patch, capsys: Output, rows: bytes, *words: str) -> tuple[int, list[Any], str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows)))
    code = main(["watch", *words])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_watch_writes_a_line_a_row_and_says_at_the_end_that_one_was_broken(
    subject: Subject,
    monitor: Monitor,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = str(tmp_path / "m.safetensors")
    monitor.save(file)
    good = b'{"text": "xabcz", "id": "a"}\n'
    opened = (str(folder), "--monitor", file, "--dtype", "float32", "--device", "cpu")
    code, said, err = watch(monkeypatch, capsys, good + good, *opened)
    assert code == 0 and [row["id"] for row in said] == ["a", "a"] and "Error" not in err
    assert set(said[0]) == {"id", "score", "probability", "alarm", "drift"} and set(said[0]["score"]) == {"first", "second"}
    code, said, err = watch(monkeypatch, capsys, good + b"{broken\n" + good, *opened)
    assert code == 1 and len(said) == 2 and "Error: line 2: not JSON" in err and "1 of 3 lines were no rows" in err
    code, said, err = watch(monkeypatch, capsys, good, "--monitor", file)
    assert code == 1 and not said and "name the model" in err


def test_watch_refuses_a_monitor_of_another_network(monitor: Monitor, tmp_path: Path, monkeypatch: Patch, capsys: Output) -> None:
    file = str(tmp_path / "m.safetensors")
    monitor.save(file)
    other = str(tiny_chat.save_model(tmp_path / "other", vocabulary=65))
    words = (other, "--monitor", file, "--dtype", "float32")
    code, said, err = watch(monkeypatch, capsys, b'{"text": "xabcz"}\n', *words)
    assert code == 4 and not said and "was calibrated in the network" in err
    code, said, _ = watch(monkeypatch, capsys, b'{"text": "xabcz"}\n', *words, "--force")
    assert code == 0 and len(said) == 1
    assert watch(monkeypatch, capsys, b"", "--monitor", str(tmp_path / "none"))[0] == 3


def test_a_reader_that_has_had_enough_is_no_error(subject: Subject, monitor: Monitor, tmp_path: Path) -> None:
    monitor.save(tmp_path / "m.safetensors")
    row = json.dumps(states_row(subject, watched.ids_of(subject, watched.texts(1, seed=3))[0]))
    (tmp_path / "in.jsonl").write_text(f"{row}\n" * 300, encoding="utf-8")
    program = "from strandscope.cli.main import run; run()"
    command = f"{sys.executable} -c '{program}' watch --monitor m.safetensors < in.jsonl | head -n 2; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    first, second, code = ended.stdout.splitlines()
    assert json.loads(first)["id"] == 1 and json.loads(second)["id"] == 2 and code == "0" and not ended.stderr


def test_monitor_makes_what_watch_reads(folder: Path, tmp_path: Path, monkeypatch: Patch, capsys: Output) -> None:
    told = tiny_chat.write_jsonl(tmp_path / "told.jsonl", tiny_chat.rows(n=120, groups=60))
    quiet = [{"text": row.input, "group": row.group} for row in watched.texts(90, seed=1).rows]
    benign = tiny_chat.write_jsonl(tmp_path / "quiet.jsonl", quiet)
    file = str(tmp_path / "m.safetensors")
    words = ["monitor", str(folder), "--concept", str(told), "--benign", str(benign), "--out", file, "--dtype", "float32"]
    assert main([*words, "--false-alarm", "0.05"]) == 0
    out, err = capsys.readouterr()
    assert "at most 0.05 with confidence 0.95 (the largest of 75 benign groups, 75 rows)" in out and f"saved {file}" in err
    assert main([*words, "--false-alarm", "0.05", "--json"]) == 0
    made = json.loads(capsys.readouterr()[0])
    (concept,) = made["concepts"]
    assert concept["recall"]["value"] > 0 and concept["recall"]["n"] == 20 and made["sequences"] == 75 and made["file"] == file
    asked = [f"{row['text']}" for row in tiny_chat.rows(n=40, seed=5)]
    given = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in asked)
    code, said, _ = watch(monkeypatch, capsys, given, str(folder), "--monitor", file, "--dtype", "float32")
    loaded, network = Monitor.load(file), ss.load(folder, dtype="float32", check="none")
    alarms = loaded.alarms(loaded.scores(ss.Examples.from_rows([{"text": text} for text in asked]), network))[:, 0]
    assert code == 0 and [row["alarm"] is not None for row in said] == alarms.tolist() and 0 < alarms.sum() < 40
    chance = [row["probability"]["told"] for row in said]
    assert np.mean(chance[1::2]) > 0.6 > 0.4 > np.mean(chance[::2])  # those that end in an exclamation mark, and the others
    assert main(words) == 2
    assert "got 75 groups of sequences, wanted at least 299" in capsys.readouterr()[1]
    assert main(["monitor", str(folder), "--out", file]) == 2
    assert main([*words[:-3], "m.json"]) == 2


def test_a_file_of_states_calibrates_as_its_texts_do(
    subject: Subject, monitor: Monitor, folder: Path, tmp_path: Path, monkeypatch: Patch, capsys: Output
) -> None:
    quiet = watched.texts(80, seed=1)
    rows = [states_row(subject, ids) for ids in watched.ids_of(subject, quiet)]
    file = tiny_chat.write_jsonl(tmp_path / "states.jsonl", rows)
    made = Monitor.calibrate(watched.three(subject), StateRows(file), false_alarm=0.05, aggregation="max")
    assert made.thresholds == pytest.approx(monitor.thresholds, abs=1e-5) and made.template["format"] == "states"
    (said,) = Watcher(made, subject, None).read(lines({"text": "xabcz"}))
    assert isinstance(said, Broken) and "was calibrated on states" in said.sentence

    grouped = tiny_chat.write_jsonl(tmp_path / "grouped.jsonl", [{**row, "group": i % 40} for i, row in enumerate(rows)])
    with pytest.raises(InputError, match="got 35 groups of sequences beside 5 "):
        Monitor.calibrate(watched.three(subject), StateRows(grouped), false_alarm=0.05, aggregation="max")
    broken = tiny_chat.write_jsonl(tmp_path / "broken.jsonl", [*rows[:2], {"states": {"resid:1": rows[2]["states"]["resid:1"]}}])
    with pytest.raises(InputError, match=r'^broken.jsonl:3: "states" lacks resid:2'):
        Monitor.calibrate(watched.three(subject), StateRows(broken), false_alarm=0.05, aggregation="max")

    watched.strand(subject).save(tmp_path / "strand.safetensors")
    out = str(tmp_path / "m.safetensors")
    words = ["--strand", str(tmp_path / "strand.safetensors"), "--benign", str(file), "--out", out, "--false-alarm", "0.05"]
    assert main(["monitor", "no-such-model", *words]) == 0, "states need no network"
    capsys.readouterr()
    given = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    code, said_, _ = watch(monkeypatch, capsys, given, "--monitor", out, "--no-drift")
    alarms = sum(row["alarm"] is not None for row in said_)
    assert code == 0 and alarms == Monitor.load(out).threshold.order - 1 and all(row["drift"] is None for row in said_)
