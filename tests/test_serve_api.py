"""The page's routes: the shelf, costs and prices as jobs, finding from pasted texts, settings, a training run."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

import tiny_chat
from hostile import STRINGS
from serving import Served, served
from strandscope.control.holding import Benches, prepare
from strandscope.errors import InputError
from strandscope.serve.jobs import Job, Jobs
from strandscope.strand.strand import Strand
from strandscope.subject.attach import hooks


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("api")) as one:
        yield one


def ask(server: Served, method: str, path: str, status: int = 200, **body: Any) -> Any:
    with server.http as http:
        answer = http.request(method, path, json=body if body or method in ("POST", "PUT") else None)
    assert answer.status_code == status, answer.text
    return answer.json()


def finished(server: Served, job: dict[str, Any]) -> dict[str, Any]:
    for _ in range(2000):
        if job["status"] not in ("waiting", "running"):
            return job
        time.sleep(0.01)
        job = ask(server, "GET", f"/api/jobs/{job['id']}")
    raise AssertionError(f"the job never ended: {job}")


def test_what_is_served_is_told(server: Served) -> None:
    about = ask(server, "GET", "/api/subject")
    assert (about["model"], about["fingerprint"], about["batched"]) == ("tiny", server.subject.fingerprint, True)
    assert about["anatomy"]["blocks"] == 4 and about["limits"]["rows"] == 8
    shelf = ask(server, "GET", "/api/strands")
    assert [(one["name"], one["site"], one["kind"], one["pushes"]) for one in shelf["strands"]] == [
        ("no", "resid:2", "strand", True),
        ("yes", "resid:1", "strand", True),
    ]
    assert {one["name"]: [c["concept"] for c in one["concepts"]] for one in shelf["monitors"]} == {
        "calm": ["first", "second"],
        "sharp": ["first", "second"],
    }
    assert [one["file"] for one in shelf["left_out"]] == ["broken.safetensors", "foreign.safetensors", "zz-yes-again.safetensors"]
    assert ask(server, "POST", "/api/strands/reload") == shelf


def test_the_cost_of_an_expression_is_a_job_and_then_at_hand(server: Served) -> None:
    job = finished(server, ask(server, "POST", "/api/cost", 202, edits="0.03nats*yes + set(no,1)"))
    assert job["status"] == "done" and job["error"] is None
    wanted = prepare(
        server.subject, "0.03nats*yes + set(no,1)", server.bench.shelf.strands, benches=Benches(server.subject, 8, 8)
    )
    assert job["result"]["cost"]["value"] == pytest.approx(wanted.cost.value)
    again = ask(server, "POST", "/api/cost", edits="0.03nats * yes+set(no, 1)")
    assert again["status"] == "done" and again["result"] == job["result"]
    assert "there are no, yes" in ask(server, "POST", "/api/cost", 400, edits="!joy")["error"]["message"]
    failed = finished(server, ask(server, "POST", "/api/cost", 202, edits="!yes + 1lengths*yes"))
    assert failed["status"] == "failed" and "one holds the coordinate" in failed["error"] and failed["result"] is None


def test_the_price_of_a_strand_has_its_edge(server: Served) -> None:
    job = finished(server, ask(server, "POST", "/api/price", 202, file="yes.safetensors", positions="last"))
    found = job["result"]
    assert found["chi"]["value"] > 0 and found["edge"]["unit"] and found["nats"]["unit"] and len(found["curve"]) > 10
    assert {"size", "predicted", "toward", "away", "rounded"} <= set(found["curve"][0])
    assert ask(server, "POST", "/api/price", 404, file="../x")["error"]["code"] == "unknown_strand"


def test_a_strand_is_found_from_pasted_texts_and_steers_at_once(server: Served) -> None:
    rows = tiny_chat.rows(60)
    texts = [[row["text"] for row in rows if row["label"] == label] for label in (1, 0)]
    asked = {"name": "shout", "positive": texts[0], "negative": texts[1], "permutations": 19, "save": True}
    job = finished(server, ask(server, "POST", "/api/find", 202, **asked))
    assert job["status"] == "done", job
    found = job["result"]
    assert found["readings"]["decodable"]["value"] > 0.9 and found["strand"]["file"] == "shout.safetensors"
    strand = Strand.load(server.folder / "shout.safetensors")
    assert (strand.name, strand.positive, strand.fingerprint) == ("shout", "yes", server.subject.fingerprint)
    assert "shout" in [one["name"] for one in ask(server, "GET", "/api/strands")["strands"]]
    pushed = server.chat(strandscope={"edits": "3lengths*shout"}).json()
    assert pushed["choices"] != server.chat().json()["choices"] and pushed["strandscope"]["edits"]["cost"]["value"] > 0
    wrong = [
        ({"name": "a/b"}, "letters, digits"),
        ({"positive": texts[0][:3]}, "has 3 rows, wanted at least 10"),
        ({"positive": [""]}, "texts that are not empty"),
        ({"at": "resid:99"}, "resid:0 to resid:3"),
        ({"permutations": 3}, "at least 19"),
        ({"position": "first"}, "last or mean"),
    ]
    for change, sentence in wrong:
        assert sentence in ask(server, "POST", "/api/find", 400, **{**asked, **change})["error"]["message"]


def finding(name: str, *, told: bool = True, save: bool = True) -> dict[str, Any]:
    rows = tiny_chat.rows(60, told=told)
    texts = [[row["text"] for row in rows if row["label"] == label] for label in (1, 0)]
    return {"name": name, "positive": texts[0], "negative": texts[1], "permutations": 19, "save": save}


def test_a_find_overwrites_nothing(server: Served) -> None:
    """Neither a file, though it be broken, nor what a name means to others."""
    strand = Strand.load(server.folder / "yes.safetensors")
    replace(strand, name="kept").save(server.folder / "elsewhere.safetensors")
    server.bench.shelf.load()
    before = {path: path.read_bytes() for path in server.folder.iterdir()}
    for name in ("yes", "kept", "foreign", "broken", "calm"):
        error = ask(server, "POST", "/api/find", 409, **finding(name))["error"]
        assert (error["param"], error["code"]) == ("name", "name_taken") and "already" in error["message"]
    assert finished(server, ask(server, "POST", "/api/find", 202, **finding("yes", save=False)))["status"] == "done"
    assert {path: path.read_bytes() for path in server.folder.iterdir()} == before
    (server.folder / "elsewhere.safetensors").unlink()
    server.bench.shelf.load()


def test_of_two_finds_of_a_name_the_first_is_kept(server: Served) -> None:
    jobs = [ask(server, "POST", "/api/find", 202, **finding("twice")) for _ in range(2)]
    first, second = (finished(server, job)["result"]["strand"] for job in jobs)
    assert (first["file"], first["not_saved"]) == ("twice.safetensors", None)
    assert second["file"] is None and second["not_saved"] == "there is a file twice.safetensors already"


def test_what_is_not_detected_is_not_saved(server: Served) -> None:
    found = finished(server, ask(server, "POST", "/api/find", 202, **finding("chance", told=False)))["result"]
    assert found["verdict"] == "not detected"
    assert found["strand"]["file"] is None and found["strand"]["not_saved"] == "it was not detected"
    assert not (server.folder / "chance.safetensors").exists()


def test_a_file_that_is_left_out_is_not_said_to_be_on_the_shelf(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    take = server.bench.shelf._take

    def but_one(file: Path, *more: Any) -> None:
        if file.stem == "unlucky":
            raise InputError("unlucky.safetensors: the disk has eaten it")
        take(file, *more)

    monkeypatch.setattr(server.bench.shelf, "_take", but_one)
    strand = finished(server, ask(server, "POST", "/api/find", 202, **finding("unlucky")))["result"]["strand"]
    assert strand["file"] is None and "left out. unlucky.safetensors: the disk has eaten it" in strand["not_saved"]
    (server.folder / "unlucky.safetensors").unlink()


def test_a_job_is_cancelled_whether_it_runs_or_waits(server: Served) -> None:
    drawn = np.random.default_rng(0)
    texts = ["".join(drawn.choice(list("abcdefgh "), size=80)) + str(number) for number in range(400)]
    asked = {"name": "slow", "positive": texts[:200], "negative": texts[200:], "permutations": 5000}
    first, second = (ask(server, "POST", "/api/find", 202, **asked) for _ in range(2))
    while not ask(server, "GET", f"/api/jobs/{first['id']}")["done"]:
        time.sleep(0.005)
    for job in (second, first):
        ask(server, "DELETE", f"/api/jobs/{job['id']}")
    assert [finished(server, ask(server, "GET", f"/api/jobs/{job['id']}"))["status"] for job in (first, second)] == [
        "cancelled"
    ] * 2
    assert {"slow", "find slow"} & {job["what"] for job in ask(server, "GET", "/api/jobs")["jobs"]}
    assert ask(server, "GET", "/api/jobs/nothing", 404)["error"]["code"] == "unknown_job"
    assert server.chat().status_code == 200


def test_each_piece_of_work_has_a_thread_of_its_own_that_ends_with_it() -> None:
    """A thread that stays would keep its pool of kernel workers, and the engine's kernels would wait for theirs to wake."""
    jobs = Jobs()
    first, second = (jobs.submit("look", lambda _: threading.current_thread()).future.result(20) for _ in range(2))
    assert first is not second and not first.is_alive() and not second.is_alive()
    jobs.stop()


@pytest.mark.parametrize(
    ("path", "asked", "step"),
    [
        ("/api/price", {"file": "yes.safetensors", "positions": "all"}, "prompts under pushes"),
        ("/api/cost", {"edits": "0.04nats*yes + 0.05nats*no"}, "dose of"),
    ],
)
def test_a_price_and_a_cost_are_cancelled_between_their_passes(
    server: Served, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any], step: str
) -> None:
    seen, go, begun, before = [], threading.Event(), threading.Event(), hooks(server.bench.shelf.subject.module)
    report = Job.report

    def slow(job: Job, stage: str, done: int, of: int) -> None:
        report(job, stage, done, of)
        seen.append(stage)
        if stage.startswith(step):
            begun.set()
            assert go.wait(20)

    monkeypatch.setattr(Job, "report", slow)
    job = ask(server, "POST", path, 202, **asked)
    begun.wait(20)
    assert ask(server, "GET", f"/api/jobs/{job['id']}")["stage"].startswith(step)
    ask(server, "DELETE", f"/api/jobs/{job['id']}")
    count = len(seen)
    go.set()
    assert finished(server, ask(server, "GET", f"/api/jobs/{job['id']}"))["status"] == "cancelled"
    assert len(seen) == count and hooks(server.bench.shelf.subject.module) == before


def test_chats_go_on_while_a_job_runs(server: Served) -> None:
    """What a job attaches to the network is not felt by who chats."""
    plain = server.chat(max_tokens=40).json()["choices"]
    job = ask(server, "POST", "/api/price", 202, file="no.safetensors", positions="all")
    seen = [server.chat(max_tokens=40).json()["choices"]]
    while ask(server, "GET", f"/api/jobs/{job['id']}")["status"] in ("waiting", "running") and len(seen) < 20:
        seen.append(server.chat(max_tokens=40).json()["choices"])
    assert all(one == plain for one in seen)
    finished(server, ask(server, "GET", f"/api/jobs/{job['id']}"))


def test_settings_are_kept_by_name(server: Served) -> None:
    held = {"strands": {"yes": 0.1}, "prompt": "</script><b>\u2028é", "deep": [[{"a": None}]], "n": 1.5}
    assert ask(server, "GET", "/api/settings") == {"settings": []}
    assert ask(server, "PUT", "/api/settings/one-two_3", **held) == {"saved": "one-two_3"}
    assert ask(server, "GET", "/api/settings/one-two_3") == held and ask(server, "GET", "/api/settings")["settings"] == [
        "one-two_3"
    ]
    for name in ("..", "a.b", ".x", "%2e%2e", "x" * 65):
        assert ask(server, "PUT", f"/api/settings/{name}", 404 if name == ".." else 400, a=1)
    assert ask(server, "GET", "/api/settings/none", 404)["error"]["code"] == "unknown_settings"
    assert ask(server, "DELETE", "/api/settings/one-two_3") and ask(server, "GET", "/api/settings") == {"settings": []}


def test_hostile_names_and_texts_leave_nothing_behind(server: Served) -> None:
    before = sorted(path.name for path in server.folder.parent.rglob("*") if path.is_file())
    with server.http as http:
        for sent in STRINGS[::4]:
            for path, body in (
                ("/api/cost", {"edits": sent}),
                ("/api/price", {"file": sent}),
                ("/api/find", {"name": sent, "positive": [sent], "negative": [sent], "save": True}),
                ("/api/cost", {sent: sent}),
            ):
                answer = http.post(path, json=body)
                assert answer.status_code in (400, 404, 429, 202) and not set("<>&") & set(answer.text) and answer.text.isascii()
                json.loads(answer.text)
            answer = http.put("/api/settings/" + quote(sent[:200], safe=""), json={})
            assert answer.status_code in (200, 400, 404, 405)
        for name in ask(server, "GET", "/api/settings")["settings"]:
            ask(server, "DELETE", f"/api/settings/{name}")
    assert sorted(path.name for path in server.folder.parent.rglob("*") if path.is_file()) == before


def test_a_run_is_read_as_it_grows(server: Served) -> None:
    none = ask(server, "GET", "/api/run")
    assert none["about"] is None and none["last"] == 0 and "there is no run here" in none["reason"]
    folder = server.bench.run
    assert folder is not None
    folder.mkdir()
    (folder / "run.json").write_text('{"schema": "strandscope/run/1", "name": "<b>"}')
    lines = [{"kind": "record", "step": step, "readings": {}} for step in range(3)]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]) + '{"kind": "rec')
    first = ask(server, "GET", "/api/run")
    assert first["about"]["name"] == "<b>" and [line["step"] for line in first["lines"]] == [0, 1] and first["last"] == 2
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    then = ask(server, "GET", f"/api/run?since={first['last']}")
    assert [line["step"] for line in then["lines"]] == [2] and then["last"] == 3
    assert ask(server, "GET", "/api/run?since=-1", 400)["error"]["param"] == "since"
    shutil.rmtree(folder)


@pytest.fixture
def run(server: Served) -> Iterator[Path]:
    """The folder of a run that has just begun."""
    folder = server.bench.run
    assert folder is not None
    folder.mkdir()
    (folder / "run.json").write_text('{"schema": "strandscope/run/1"}')
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_without_its_record_is_empty(server: Served, run: Path) -> None:
    assert run.is_dir()
    got = ask(server, "GET", "/api/run")
    assert got == {"about": {"schema": "strandscope/run/1"}, "lines": [], "last": 0, "again": False}


def test_a_run_that_went_back_is_given_again(server: Served, run: Path) -> None:
    def write(*lines: dict[str, Any]) -> None:
        with (run / "records.jsonl").open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def record(step: int) -> dict[str, Any]:
        return {"kind": "record", "step": step, "readings": {}, "losses": [[step - 1, 0.5], [step, 1.0]]}

    write(*(record(10 * number) for number in range(6)))
    got = ask(server, "GET", "/api/run")
    assert (got["last"], len(got["lines"]), got["again"]) == (6, 6, False)
    write({"kind": "resumed", "step": 19, "cut": 0})
    got = ask(server, "GET", "/api/run?since=6")
    assert got["again"] and [line["kind"] for line in got["lines"]] == ["record", "record", "losses", "resumed"]
    write(*(record(step) for step in range(21, 26)))  # more than were taken back
    late = ask(server, "GET", "/api/run?since=6")
    assert late["again"] and [line["step"] for line in late["lines"] if line["kind"] == "record"] == [0, 10, *range(21, 26)]
    then = ask(server, "GET", f"/api/run?since={got['last']}")
    assert not then["again"] and [line["step"] for line in then["lines"]] == [*range(21, 26)]
    first = ask(server, "GET", "/api/run")
    assert not first["again"] and first["lines"] == late["lines"]
    assert ask(server, "GET", "/api/run?since=99")["lines"] == late["lines"]  # of another run
    shutil.rmtree(run)
    gone = ask(server, "GET", "/api/run?since=9")
    assert (gone["about"], gone["last"], gone["again"]) == (None, 0, True)


def test_a_long_record_keeps_nobody_waiting(server: Served, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "records.jsonl").touch()
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path, *more: Any, **options: Any) -> bytes:
        if path.name == "records.jsonl":
            begun.set()
            assert go_on.wait(20)
        return read(path, *more, **options)

    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", slow)
    asking = threading.Thread(target=ask, args=(server, "GET", "/api/run"))
    asking.start()
    try:
        assert begun.wait(10)
        with server.http as http:
            assert http.get("/healthz", timeout=5).status_code == 200
    finally:
        go_on.set()
        asking.join(20)
