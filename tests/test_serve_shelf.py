"""The shelf and the jobs by themselves: what changes while something else is under way."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_chat
from pushing import opened, strand_in
from strandscope.control.expression import Expression
from strandscope.serve import shelf as module
from strandscope.serve.jobs import Job, Jobs
from strandscope.serve.shelf import Shelf
from strandscope.subject.subject import Subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return opened(tiny_chat.save_model(tmp_path_factory.mktemp("shelf") / "model"))


def put(folder: Path, subject: Subject, name: str, file: str) -> Path:
    folder.mkdir(exist_ok=True)
    replace(strand_in(subject), name=name).save(folder / file)
    return folder


def test_what_was_made_of_files_that_are_gone_is_not_kept(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(subject, [put(tmp_path / "one", subject, "yes", "yes.safetensors")], prompts=4)
    expression, prepare = Expression.parse("0.5lengths*yes"), module.prepare

    def while_reloaded(*args: Any, **more: Any) -> Any:
        held = prepare(*args, **more)
        shelf.load()
        return held

    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare", while_reloaded)
        old = shelf.prepare(expression)
    assert shelf.ready(str(expression)) is None
    new = shelf.prepare(expression)
    assert new is not old and shelf.ready(str(expression)) is new


def test_of_two_files_of_a_name_in_two_folders_one_is_left_out(subject: Subject, tmp_path: Path) -> None:
    folders = [put(tmp_path / name, subject, name, "same.safetensors") for name in ("one", "two")]
    shelf = Shelf(subject, folders, prompts=4)
    assert [one.name for one in shelf.files.values()] == ["one"]
    assert [(broken.file, "another folder" in broken.sentence) for broken in shelf.broken] == [("same.safetensors", True)]


def test_a_load_that_begins_later_ends_later(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved before the second stays on the shelf, though the first reads on."""
    shelf = Shelf(subject, [put(tmp_path / "one", subject, "yes", "yes.safetensors")], prompts=4)
    take, begun, go_on = shelf._take, threading.Event(), threading.Event()

    def slow(*args: Any) -> None:
        take(*args)
        if not begun.is_set():
            begun.set()
            assert go_on.wait(10)

    monkeypatch.setattr(shelf, "_take", slow)
    first, second = threading.Thread(target=shelf.load), threading.Thread(target=shelf.load)
    first.start()
    assert begun.wait(10)
    replace(strand_in(subject), name="zoo").save(tmp_path / "one" / "zoo.safetensors")
    second.start()
    second.join(0.3)
    go_on.set()
    first.join(10)
    second.join(10)
    assert sorted(shelf.files) == ["yes.safetensors", "zoo.safetensors"]


def test_a_job_may_be_forgotten_while_another_is_asked_for() -> None:
    jobs = Jobs()

    class Popping:
        """The worker's thread, between two looks."""

        def done(self) -> bool:
            jobs._jobs.pop("other", None)
            return True

        cancel = done

    jobs._jobs |= {"one": Job("one", future=Popping()), "other": Job("other")}  # type: ignore[arg-type]
    assert jobs.submit("more", lambda _: 3).future.result(10) == 3
    jobs.stop()


def test_work_without_steps_is_carried_out_once_it_has_begun() -> None:
    jobs, begun, go_on = Jobs(), threading.Event(), threading.Event()

    def work(_: Any) -> int:
        begun.set()
        assert go_on.wait(10)
        return 3

    running, waiting = jobs.submit("a price", work), jobs.submit("another", work)
    assert begun.wait(10)
    for job in (running, waiting):
        job.cancel()
    go_on.set()
    assert running.future.result(10) == 3 and (running.status, waiting.status) == ("done", "cancelled")
    jobs.stop()
